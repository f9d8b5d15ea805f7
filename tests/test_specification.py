"""docs/specification.md, its recipe and the product say the same: protects from a drift of any of the three.

Every row has a state of a fixed vocabulary and something that shows it; what the page names has to exist.
"""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from command_line import commands

from shibolet.recipe import Recipe, find_recipe, load_recipe, shipped_recipes

ROOT = Path(__file__).parents[1]
PAGE, ARTEFACTS = ROOT / "docs" / "specification.md", ROOT / "docs" / "artefacts.md"
VALUE = re.compile(r"`([\w.\[\]:-]+)` = `([^`]+)`")
NUM_VALUES = 118  # a row that loses its value must not pass unnoticed
UNSPECIFIED = {"name"}  # keys of the recipe that no item of the specification is about
SHOWN, NEEDS_REASON = {"done", "otherwise", "corrected", "ours"}, {"otherwise", "corrected", "left out"}
TO_COME = "not yet"
FILLED = {"hebrew-round3": ("models.base=builtin:round1", "models.baseline=builtin:round1")}
SUFFIXES = (".py", ".md", ".yaml", ".json", ".jsonl", ".html", "/")
KEY = re.compile(r"([a-z_]+(?:\.[\w\[\]:-]+)+)(?:: \w+)?")


def cells() -> list[list[str]]:
    """Number, item, specification, state, here, shown by and why of each row."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d", line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


ROWS = cells()
BY_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])


def values() -> list[tuple[str, object]]:
    return [(key, yaml.safe_load(value)) for row in ROWS for key, value in VALUE.findall(row[4])]


def names_in(row: list[str]) -> list[str]:
    """What stands in backticks in what is said of us, values of the recipe aside."""
    return [name for cell in row[4:] for name in re.findall(r"`([^`]+)`", VALUE.sub("", cell))]


def look_up(tree, key: str):
    """The value at a dotted key; names of parts contain dots themselves."""
    if isinstance(tree, dict) and key in tree:
        return tree[key]
    for i in (i for i, char in enumerate(key) if char == "."):
        head, tail = key[:i], key[i + 1 :]
        if isinstance(tree, dict) and head in tree:
            return look_up(tree[head], tail)
        if isinstance(tree, list) and head.isdigit():
            return look_up(tree[int(head)], tail)
    return tree[int(key)] if isinstance(tree, list) else tree[key]


def leaves(tree, prefix: str = ""):
    """Dotted keys of the values of plain data."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}{key}.")
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{prefix}{i}.")
    else:
        yield prefix[:-1]


def is_there(name: str) -> bool:
    """Whether a path is one of the repository, of the package, or of a run folder."""
    if any((root / name).exists() for root in (ROOT, ROOT / "src" / "shibolet")):
        return True
    return re.search(rf"^\| `(?:[^`]*/)?{re.escape(name)}` \|", ARTEFACTS.read_text("utf-8"), re.M) is not None


def test_every_row_is_whole_and_numbered_once():
    assert [row[0] for row in ROWS] == [str(i + 1) for i in range(len(ROWS))]
    assert all(len(row) == 7 and row[1] and row[2] and row[4] for row in ROWS)
    assert len(ROWS) > 130


@BY_ROW
def test_a_row_has_a_state_and_what_shows_it(row):
    """A claim that nothing shows is a promise; what is still to come is in the page's last section, and only there."""
    _, _, asked, state, here, shown, why = row
    assert state in SHOWN | NEEDS_REASON | {TO_COME}
    assert state not in NEEDS_REASON or why, "a departure needs its reason"
    assert state != "ours" or re.search("^not |based on", asked.strip('"')), "what is asked for is not ours"
    topic = re.match(rf"{TO_COME} \(([^)]+)\): |{TO_COME} \(([^)]+)\)$", here)
    assert (state == TO_COME) == (topic is not None) == (TO_COME in " ".join([here, shown, why]))
    if topic is not None:
        section = PAGE.read_text("utf-8").split("## What is to come")[1]
        assert f"- **{topic[1] or topic[2]}**: " in section and not shown
    elif state in SHOWN:
        evidence = re.findall(r"`(tests/[^`]+|shibolet [^`]+)`", shown)
        assert evidence or VALUE.search(here), "name a test or a command, or a value of the recipe"
        assert re.sub(r"`[^`]+`,? ?", "", shown) == "", "tests and commands alone"


def test_what_is_to_come_is_asked_for_in_a_row():
    section = PAGE.read_text("utf-8").split("## What is to come")[1]
    rows = " ".join(row[4] for row in ROWS)
    assert all(f"{TO_COME} ({topic})" in rows for topic in re.findall(r"- \*\*([^*]+)\*\*", section))


@BY_ROW
def test_files_and_tests_that_a_row_names_are_there(row):
    for name in names_in(row):
        path, _, test = name.partition("::")
        if " " in path or not path.endswith(SUFFIXES):
            continue
        assert is_there(path), path
        if test:
            assert re.search(rf"^def {test}\(", (ROOT / path).read_text("utf-8"), re.M), name


@cache
def recipes() -> list[dict]:
    """The recipes of both rounds, in full."""
    return [
        load_recipe(name, FILLED.get(name, ())).model_dump(mode="json") for name in ("hebrew-round2", "hebrew-round3")
    ]


@BY_ROW
def test_commands_options_and_keys_that_a_row_names_are_there(row):
    every = set.union(*commands().values())
    for name in names_in(row):
        words = name.split()
        if words[0] == "shibolet":
            assert words[1] in commands(), name
            assert {word for word in words if word.startswith("--")} <= commands()[words[1]], name
            assert all(word in shipped_recipes() for word in words if word.startswith("hebrew-")), name
        elif name.startswith("--"):
            assert words[0] in every, name
        keys = (
            [name]
            if KEY.fullmatch(name) and not name.endswith(SUFFIXES)
            else re.findall(r"--set ([\w.\[\]:-]+)=", name)
        )
        for key in keys:
            key = KEY.fullmatch(key)[1]
            if key.partition(".")[0] in Recipe.model_fields:
                assert any(is_key(tree, key) for tree in recipes()), key


def is_key(tree: dict, key: str) -> bool:
    try:
        look_up(tree, key)
    except (KeyError, TypeError, IndexError):
        return False
    return True


def test_the_recipe_has_the_values_of_the_page():
    recipe = load_recipe("hebrew-round2").model_dump(mode="json")
    listed = values()
    assert len(listed) == NUM_VALUES
    for key, value in listed:
        found = look_up(recipe, key)
        assert found == (float(value) if isinstance(found, float) else value), key  # YAML reads 1e-4 as text


def test_every_value_of_the_recipe_stands_on_the_page():
    written = yaml.safe_load(find_recipe("hebrew-round2").read_text(encoding="utf-8"))
    listed = {key for key, _ in values()}
    missing = [
        key for key in leaves(written)
        if key not in listed | UNSPECIFIED and not any(key.startswith(f"{parent}.") for parent in listed)
    ]  # fmt: skip
    assert not missing
