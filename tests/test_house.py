"""The house rules: protects the layers, the size of files and functions, and documents with types from slow decay.

`python tests/test_house.py` prints where string subscripts stand.
"""

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pydantic
import pytest
import schemas
from training_documents import training_plan

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "shibolet"
FILE_LINES, FUNCTION_LINES, SUBSCRIPTS = 400, 60, 60

# Modules whose strings in brackets are names that others gave. Everything else speaks of our own documents.
FOREIGN = {
    "evaluate/imported.py": "hypotheses that other systems wrote",
    "demo/tiny.py": "the JSON of the tokenizers library",
    "listen/ctc.py": "what a processor of transformers gives",
    "listen/ctranslate2_whisper.py": "what a processor of transformers gives",
    "listen/on_ray.py": "what Ray says of a node",
    "listen/open.py": "a model's config.json",
    "listen/seq2seq.py": "what a tokenizer of transformers gives",
    "listen/server.py": "a server's answer",
    "model/folders.py": "the index of a model's weights",
    "model/lora.py": "the configurations and layers of peft",
    "model/qwen3_asr/": "configurations, tokenizers, state dicts and adapters of transformers and peft",
    "model/tokens.py": "what a tokenizer of transformers gives",
    "model/whisper/": "configurations, tokenizers, state dicts and adapters of transformers and peft",
    "records/reading.py": "pydantic's errors",
    "records/store.py": "what drivers of stores say of an object",
    "records/settings.py": "YAML, and pydantic's errors",
    "rounds/reviewing/label_studio.py": "tasks of Label Studio",
    "rounds/reviewing/server.py": "the headers of a request",
    "serve/": "requests of HTTP clients, and answers in OpenAI's form",
    "speech/hub.py": "the cache of datasets",
    "speech/lhotse.py": "Lhotse's manifests",
    "speech/manifests.py": "NeMo's and Common Voice's manifests",
    "speech/sources.py": "YAML, and the columns of tables on the Hub",
    "speech/tables.py": "the cells of Hugging Face's audio columns",
}


def modules() -> dict[Path, ast.Module]:
    """The syntax tree of every file of the package."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_imports_go_down_only_and_every_module_has_its_layer():
    # In a process of its own: import-linter configures logging and with that disables every logger there is.
    command = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def imports_of(tree: ast.Module, names: set[str]) -> Iterator[str]:
    """Modules of ours that a module imports, at its top or within a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module in names:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from members & names or {node.module}


def test_no_modules_import_each_other_in_a_circle():
    trees = {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): tree
        for path, tree in modules().items()
    }
    graph = {name: set(imports_of(tree, trees.keys())) for name, tree in trees.items()}
    assert sum(map(len, graph.values())) > 500
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_what_tests_and_benchmarks_import_is_there():
    """Benchmarks run rarely and import late: a module that was renamed would be missed on a rented machine first."""
    known = {}
    for path, tree in modules().items():
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        defined |= {
            node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        imported = [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
        known[name] = defined | {alias.asname or alias.name for alias in imported}
    lost, read = [], 0
    for path in sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "shibolet":
                names, read = known.get(node.module, set()), read + 1
                strange = [one.name for one in node.names if one.name not in names]
                strange = [name for name in strange if f"{node.module}.{name}" not in known]
                lost += [f"{path.relative_to(ROOT)}:{node.lineno}: {node.module}.{name}" for name in strange]
    assert read > 500 and not lost, "\n".join(lost)


def test_no_file_and_no_function_is_long():
    long = []
    for path, tree in modules().items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES and "kernels" not in path.name:
            long.append(f"{place(path)}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{place(path)}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def string_subscripts(tree: ast.Module) -> int:
    """How often `x["name"]` and `x.get("name")` stand in a module, types and the environment aside."""
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and is_text(node.slice):
            of = node.value
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
            and node.args and is_text(node.args[0])
        ):  # fmt: skip
            of = node.func.value
        else:
            continue
        found += ast.unparse(of) not in ("Literal", "os.environ")
    return found


def own_subscripts() -> dict[str, int]:
    """String subscripts by file, most first, without files that read what others wrote."""
    found = {place(path): string_subscripts(tree) for path, tree in modules().items()}
    own = {name: count for name, count in found.items() if count and not name.startswith(tuple(FOREIGN))}
    return dict(sorted(own.items(), key=lambda item: -item[1]))


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names: of two with one name it collects the first, and stops at the other."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) > 100 and not [name for name, num in Counter(names).items() if num > 1]


def test_documents_are_read_by_attributes():
    total = sum(own_subscripts().values())
    assert total < SUBSCRIPTS, f"{total} string subscripts; 'python tests/test_house.py' lists them"


def test_the_list_of_foreign_formats_has_no_idle_entry():
    found = {place(path) for path, tree in modules().items() if string_subscripts(tree)}
    assert not [name for name in FOREIGN if not any(path.startswith(name) for path in found)]


@pytest.mark.skipif(
    f"pydantic=={pydantic.VERSION}\n" not in (ROOT / "constraints.txt").read_text(encoding="utf-8"),
    reason="another pydantic than the tested one writes the same schemas in other words",
)
def test_schemas_are_those_of_the_documents():
    written = {path.name: path.read_text(encoding="utf-8") for path in schemas.FOLDER.iterdir()}
    assert len(written) > 3
    assert written == schemas.schemas(), "run 'make schemas'"


def test_a_document_of_docs_schemas_is_what_its_schema_says():
    """A schema that says less than the file has, or more, would mislead whoever reads our files with it."""
    content = training_plan().to_json()
    schema = json.loads((schemas.FOLDER / "plan.json").read_text(encoding="utf-8"))
    assert list(schema["properties"]) == list(content) and set(schema["required"]) == set(content)
    assert schema["properties"]["format"]["const"] == content["format"]


def test_paths_that_the_architecture_names_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w./-]+(?:/|\.\w+))`", text)
    paths = {name for name in named if name.endswith("/") or name.rpartition(".")[2] in ("py", "md", "yaml", "jinja")}
    assert len(paths) > 30
    assert not sorted(name for name in paths if not any((root / name).exists() for root in (ROOT, PACKAGE)))


if __name__ == "__main__":
    for name, count in own_subscripts().items():
        print(f"{count:4} {name}")
    print(f"{sum(own_subscripts().values()):4} in all")
