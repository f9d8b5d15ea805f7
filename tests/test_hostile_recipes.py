"""Recipes from elsewhere: protects time and memory from small files, folders from names, people from tracebacks."""

import json
import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shibolet.errors import RecipeError
from shibolet.recipe import Recipe, load_recipe
from shibolet.records.names import check_name
from shibolet.records.settings import _all_keys, read_yaml

SMALL = {
    "name": "small",
    "models": {"base": "builtin:round1", "baseline": "builtin:round1"},
    "data": {"train": [{"name": "one", "manifest": "one.jsonl"}]},
    "evaluate": {"sets": [{"name": "clean", "manifest": "clean.jsonl"}]},
    "audit": {"recogniser": "builtin:ctc"},
    "train": {"phases": [{"name": "B", "num_epochs": 1, "lr_by_part": {"projector": 1e-3}}], "lora": None},
    "publish": None,
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def refused(path: Path | str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    sentence = str(caught.value)
    assert len(sentence) < 3000 and not any(c for c in sentence if not c.isprintable() and c != "\n")
    return sentence


def doubling(levels: int, pair: str) -> str:
    """YAML in which each line holds the one before twice."""
    lines = ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} " + pair.replace("*", f"*a{i - 1}") for i in range(1, levels))]
    return "\n".join(lines)


HOSTILE = {
    "doubling": (doubling(26, "[*, *]"), "has more than 50,000 values"),
    "doubling-maps": (doubling(26, "{a: *, b: *}"), "has more than 50,000 values"),
    "doubling-merges": (doubling(26, "{<<: [*, *]}"), "has more than 50,000 values"),
    "of-itself": ("a: &a [*a]", "has more than 50,000 values"),
    "deep-lists": ("[" * 200_000, "nested too deeply"),
    "deep-maps": ("{a: " * 50_000, "nested too deeply"),
    "wide": ("x: [" + "a," * 60_000 + "]", "has more than"),
    "long": ("#" * (1 << 20), "has more than 512 KiB"),
    "huge-number": ("seed: " + "9" * 100_000, "more than 64 bits"),
    "no-text-as-key": ("1: 2", "key 1 is not text"),
    "nothing-as-key": ("? \n: 2", "key None is not text"),
    "list-as-key": ("? [a]\n: b", "is not text"),
    "twice": ("name: a\nname: b", "key 'name' is given twice"),
    "binary": ("name: !!binary aGVsbG8=", "could not determine a constructor"),
    "set": ("name: !!set {a, b}", "could not determine a constructor"),
    "python": ("name: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    "int-tag": ("seed: !!int abc", "not what it should be"),
    "bool-tag": ("seed: !!bool abc", "not what it should be"),
    "map-tag": ("seed: !!map abc", "not what it should be"),
    "nul": ('name: "a\\0b"', "control character U+0000"),
    "escape": ('name: "a\\e[2J"', "control character U+001B"),
    "half-a-character": ('name: "\\ud800"', "U+D800"),
    "two-documents": ("name: a\n--- \nname: b", "single document"),
    "tabs": ("name:\n\t- a", "not YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_yaml_that_does_harm_is_one_sentence_in_no_time(name: str, tmp_path: Path):
    """304 bytes of aliases that double cost 17 s."""
    content, sentence = HOSTILE[name]
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    started = time.process_time()
    said = refused(path)
    assert sentence in said and str(path) in said and "\n" not in said
    assert time.process_time() - started < 8


VALUES = ["[" * 5000, "9" * 5000, "!!int x", '"\0"', "&a [*a]", "!!binary x", "1: 2: 3", "{1: 2}"]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_on_the_command_line_are_read_as_strictly(small: Path, value: str):
    assert refused(small, f"seed={value}").startswith("--set seed=")


def test_an_alias_is_read_and_a_date_is_text(small: Path):
    """What people write stays possible."""
    small.write_text(
        "name: 2026-11-28\ndata: {train: [&a {name: one, manifest: a.jsonl}]}\n"
        "audit: &b {recogniser: 'builtin:ctc'}\nmodels: {base: &m 'builtin:round1', baseline: *m}\n"
    )
    assert load_recipe(small).models.baseline == "builtin:round1" and load_recipe(small).name == "2026-11-28"


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    """A `recipe.yaml` of somebody's run folder may be one, and opening it never ends."""
    os.mkfifo(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match="not a regular file"):
        read_yaml(tmp_path / "recipe.yaml")


def test_what_is_no_file_is_one_sentence(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", "/dev/zero", "x" * 5000, "a\0b", "", "a\nb", tmp_path / "none" / "x"):
        assert "neither a file here nor one of" in refused(path)


NAMES = [
    ".", "..", "a/b", "../a", "/a", "-a", ".a", "a.", "a ", " a", "a\\b", "", "x" * 201, "ש" * 101, "a:b", "a\nb",
    "con\t",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["name", "data.train.0.name", "evaluate.sets.0.name"])
def test_names_that_cannot_be_folders_are_refused(small: Path, key: str, name: str):
    """`..` as the name of a set wrote its scores over those of another place."""
    said = refused(small, f"{key}={json.dumps(name)}")
    assert key.partition(".0")[0] in said


def test_names_that_one_folder_would_have_are_refused(small: Path):
    two = "data.train.1={name: ONE, manifest: b.jsonl}"
    assert "'one' and 'ONE' differ only in case" in refused(small, two)
    assert "one named twice" in refused(small, two.replace("ONE", "one"))
    assert "too long to name a folder" in refused(small, f"title={'x' * 300}")
    good = load_recipe(small, ["name=round 2 (b)".replace(" (b)", "b"), "data.train.0.name=שמע_1.a-b"])
    assert good.data.train[0].name == "שמע_1.a-b" and good.name == "round 2b"


@pytest.mark.parametrize("label", [*NAMES, "round1", "Round1"])
def test_labels_of_hypotheses_are_names_of_folders(label: str, small: Path, run_cli, tmp_path: Path):
    (tmp_path / "h.jsonl").write_text("{}\n")
    code, _, said = run_cli(
        "evaluate", str(small), "-o", str(tmp_path / "run"), "--hypotheses", f"{label}={tmp_path / 'h.jsonl'}"
    )
    assert code in (2, 3) and "Traceback" not in said
    assert not (tmp_path / "run" / "evaluate").exists()


NUMBERS = [-1, 0, 1, 10**18, -(10**18), 1.5, float("nan"), float("inf"), -float("inf"), 1e308]
TEXTS = ["", "x", "-1", "NaN", "1e400", "..", "a\nb", "x" * 3000, "http://x"]
NESTED = [[], [[]], [None], {}, {"a": {}}, {"": None}, [{}], ["a", "a"], [1, 2], [3, 2, 1]]
ODD = [None, True, False, *NUMBERS, *TEXTS, *NESTED]
FREE = {"train.phases.0.lr_by_part.projector", "audit.sample.shares.x", "publish.licenses.x"}
KEYS = sorted(FREE.union(_all_keys(Recipe)))


def check(path: Path, overrides: list[str]) -> bool:
    """Whether a recipe is read; the only other end is a sentence."""
    try:
        recipe = load_recipe(path, overrides)
    except RecipeError as error:
        assert all(len(line) < 1500 for line in str(error).splitlines())
        return False
    json.dumps(recipe.model_dump(mode="json"), allow_nan=False)  # as it is written and shown
    return True


def write(value) -> str:
    """A value in YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**18, {"a": {}}, "a\nb"], ids=str)
def test_no_key_takes_an_odd_value_with_a_traceback(small: Path, value):
    assert len(KEYS) > 150
    assert (
        sum(check(small, [f"{key}={write(value)}"]) for key in KEYS[:: 1 if isinstance(value, float) else 5])
        < len(KEYS) / 2
    )


@pytest.mark.slow("fuzz", seconds=60)
def test_no_key_takes_any_odd_value_with_a_traceback(small: Path):
    read = sum(check(small, [f"{key}={write(value)}"]) for key in KEYS for value in ODD)
    assert 500 < read < len(KEYS) * len(ODD) / 2


@pytest.mark.slow("fuzz", seconds=60)
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    content=st.text(alphabet="abn:-[]{}&*!?|>'\"#%@,. \n\t0159~<=\\", max_size=40)
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
def test_ten_thousand_files_are_recipes_or_refused(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    assert not check(path, [])


@pytest.mark.slow("fuzz", seconds=60)
@settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_recipes_with_several_odd_values_are_read_or_refused(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "odd.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(ODD)), min_size=1, max_size=4))
    check(path, [f"{key}={write(value)}" for key, value in pairs])


def test_names_of_folders_as_people_give_them():
    for name in ("Kan (clean)", "test+dev", "a b", "eval-d1", "עברית", "R&D, part 2", "x"):
        check_name("evaluate.sets", name)
    for name in ("CON", "nul", "com1.txt", "a.", "a ", " a", "-a", ".a", "a/b", "a\\b", "a:b", "a\tb", "", ".."):
        with pytest.raises(RecipeError, match="cannot name a folder"):
            check_name("evaluate.sets", name)
