"""Titles and labels: protects from two rounds in one folder, and from folders that today's run folders do not have."""

import pytest

from shibolet.errors import RecipeError
from shibolet.recipe import load_recipe
from shibolet.records.candidate import label_of, named
from shibolet.rounds.shared import open_round


@pytest.mark.parametrize(
    ("title", "label"),
    [
        ("Round 2", "round2"),
        ("Round 3, codecs", "round3codecs"),
        ("v1.2-b", "v1.2-b"),
        ("סבב 3", "סבב3"),
        ("../..", ""),
    ],
)
def test_a_label_is_a_title_without_blanks_and_names_a_folder(title: str, label: str) -> None:
    assert label_of(title) == named(title).label == label


def test_titles_that_name_no_folder_or_the_same_one_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"title and models\.baseline_title are both 'Round 1'"):
        load_recipe("demo", ["title=Round 1"])
    with pytest.raises(RecipeError, match=r"title: '\.\.' has no letter or digit"):
        load_recipe("demo", ["title=.."])


def test_a_round_knows_its_two_sides_and_whether_one_comes_from_the_other(tmp_path) -> None:
    third = ["models.base=builtin:round1", "models.baseline=builtin:round1"]
    for changes, parent in ((third, "round2"), ([*third[:1], "models.baseline=builtin:ctc"], None)):
        with open_round(load_recipe("hebrew-round3", changes), tmp_path / "run", "run", print) as current:
            baseline, candidate = current.names
            assert (baseline.label, candidate.label, candidate.title) == ("round2", "round3", "Round 3")
            assert candidate.parent == parent
            servers = current.recipe.evaluate.servers
            assert current.server("round3") is servers.candidate and current.server("whisper") is None
