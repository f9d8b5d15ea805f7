"""What is said of a key comes from its field: protects the reference of recipes from words of another field."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from shibolet.records.config import Config
from shibolet.records.reference import OF_ITS_KEYS, REQUIRED, sections


class Inner(Config):
    """One of several.

    In two paragraphs.
    """

    width: Annotated[float, Field(ge=6, le=128)] = 8.0  # how wide it is


class Outer(Config):
    """All of them."""

    # This stands alone,
    # on two lines.
    above: int | None = Field(None, gt=0)
    beside: str = "a"  # `noqa` is a mark; null: nothing
    bare: bool = False
    folded: tuple[tuple[str, float], ...] = (
        ("short", 0.5),  # at the end of
        ("long", 5.0),
    )  # fmt: skip
    # Of rates.
    rates: Mapping[str, Annotated[float, Field(gt=0, lt=1)]] = {}
    kinds: tuple[Literal["x", "y", "z"], ...] = Field(("x",), min_length=1)  # which
    steps: tuple[Annotated[int, Field(ge=6, le=128)], ...] = Field((8,), min_length=1)  # each
    file: Path  # where it lies.
    single: Inner = Inner()
    several: tuple[Inner, ...] = (Inner(width=9.0), Inner())  # some


class Further(Outer):
    """... and one more."""

    last: Inner | None = None  # another


FOUND = {section.place: section for section in sections(Further)}
KEYS = {key.name: key for key in FOUND[""].keys}


def test_a_comment_is_that_of_its_field_alone():
    said = {name: key.meaning for name, key in KEYS.items()}
    assert said == {
        "above": "This stands alone, on two lines.",
        "beside": "`noqa` is a mark; null: nothing.",
        "bare": "",
        "folded": "At the end of.",
        "rates": "Of rates.",
        "kinds": "Which.",
        "steps": "Each.",
        "file": "Where it lies.",
        "single": "One of several. In two paragraphs.",
        "several": "Some.",
        "last": "Another.",
    }


def test_types_and_limits_are_words():
    assert {name: key.kind for name, key in KEYS.items()} == {
        "above": "whole number, over 0, or `null`",
        "beside": "text",
        "bare": "`true` or `false`",
        "folded": "list of [text, number]",
        "rates": "mapping of text to number (over 0 and under 1)",
        "kinds": "list of `x`, `y` or `z`, not empty",
        "steps": "list of whole numbers (6 to 128), not empty",
        "file": "path",
        "single": "section",
        "several": "list of sections",
        "last": "section, or `null`",
    }


def test_defaults_are_as_one_writes_them():
    said = {name: key.default for name, key in KEYS.items()}
    assert said["above"] == "null" and said["beside"] == "a" and said["bare"] == "false"
    assert said["folded"] == "[[short, 0.5], [long, 5.0]]" and said["rates"] == "{}" and said["kinds"] == "[x]"
    assert said["file"] == REQUIRED and said["single"] == OF_ITS_KEYS and said["several"] == "[{width: 9.0}, {}]"


def test_a_section_follows_the_one_that_it_is_in():
    assert list(FOUND) == ["", "single", "several[]", "last"]
    assert FOUND["single"].keys[0].kind == "number, 6 to 128" and FOUND["several[]"].like == "single"
    assert not FOUND["several[]"].keys and not FOUND["several[]"].about
    assert KEYS["several"].section == "several[]" and KEYS["above"].section is None
