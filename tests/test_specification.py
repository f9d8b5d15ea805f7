"""docs/specification.md and recipes/hebrew-round2.yaml say the same: the recipe cannot drift from what was asked."""

import re
from pathlib import Path

import yaml

from shibolet.recipe import find_recipe, load_recipe

PAGE = Path(__file__).parents[1] / "docs" / "specification.md"
VALUE = re.compile(r"`([\w.\[\]:-]+)` = `([^`]+)`")
NUM_VALUES = 104  # a row that loses its value must not pass unnoticed
UNSPECIFIED = {"name"}  # keys of the recipe that no item of the specification is about


def rows() -> list[list[str]]:
    """Cells of the page's table rows, headers and rules left out."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d", line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def values() -> list[tuple[str, object]]:
    return [(key, yaml.safe_load(value)) for row in rows() for key, value in VALUE.findall(row[3])]


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


def test_every_row_is_whole_and_numbered_once():
    table = rows()
    assert [row[0] for row in table] == [str(i + 1) for i in range(len(table))]
    assert all(len(row) == 5 and row[1] and row[2] and row[3] for row in table)
    assert len(table) > 130


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
