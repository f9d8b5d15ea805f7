"""`docs/recipe-reference.md` has every key, as the classes have it."""

from collections.abc import Iterator
from typing import Any

import pytest
import recipe_reference
import yaml

from shibolet.recipe import Recipe, shipped_recipes
from shibolet.records.reference import Key, Section, sections

BY_PLACE = {section.place: section for section in sections(Recipe)}


def test_the_page_is_that_of_the_classes():
    """A default that was changed, and an old one on the page, would cost somebody a training."""
    assert recipe_reference.PAGE.read_text(encoding="utf-8") == recipe_reference.page(), "run 'make schemas'"


def test_every_key_has_a_meaning_of_more_than_its_name():
    keys = [(section.place, key) for section in BY_PLACE.values() for key in section.keys]
    bare = [f"{place}.{key.name}" for place, key in keys if len(key.meaning.split()) < 2]
    assert len(keys) > 200 and not bare, f"say in a comment beside the field what it means: {bare}"


def keys_of(section: Section) -> dict[str, Key]:
    """All keys of a section, with those that it takes from another."""
    taken = keys_of(BY_PLACE[section.like]) if section.like is not None else {}
    return {**taken, **{key.name: key for key in section.keys}}


def unknown(given: Any, place: str) -> Iterator[str]:
    """Keys of a part of a recipe that the reference does not have at their place."""
    for entry in given if isinstance(given, list) else [given]:
        known = keys_of(BY_PLACE[place])
        for name, value in entry.items():
            if name not in known:
                yield f"{place}.{name}"
            elif known[name].section is not None and value is not None:
                yield from unknown(value, known[name].section)


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_keys_of_a_shipped_recipe_are_at_their_places(name):
    """Protects from a section that the walk over the classes misses, or puts somewhere else."""
    content = yaml.safe_load(shipped_recipes()[name].read_text(encoding="utf-8"))
    assert len(content) > 3 and not list(unknown(content, ""))


def test_a_key_is_described_once():
    """Sections with one class refer to the first of them, so that a reader sees what is the same."""
    assert BY_PLACE["evaluate.sets[]"].like == BY_PLACE["data.unlabelled[]"].like == "data.train[]"
    assert [key.name for key in BY_PLACE["evaluate.sets[]"].keys] == ["domain", "baseline_wer_pct", "optional"]
    assert BY_PLACE["evaluate.servers.candidate"].like == "evaluate.servers.baseline"
    assert not BY_PLACE["evaluate.servers.candidate"].keys
