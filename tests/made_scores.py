"""Scores and comparisons as the stages write them, from a few rows, for tests that only need to have some."""

from collections.abc import Sequence

from shibolet.compare import CompareConfig, compare
from shibolet.evaluate.describe import describe
from shibolet.records.candidate import named
from shibolet.records.documents.comparison import Comparison, Named
from shibolet.records.documents.scores import Overlap, Scores
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.rows import ScoredRow, score_row
from shibolet.scoring.slices import BUCKETS_S
from shibolet.speech.text import get_language

ROUNDS = named("Round 1"), named("Round 2")
SAID = ["call two six eight", "nobody heard this at all", "room five", "it is late"]


def scored_rows(heard: Sequence[str], set_name: str = "held", domain: str | None = None) -> list[ScoredRow]:
    """The sentences of `SAID` in turn, each of a recording of its own, and what was heard of them."""
    return [
        score_row(
            Utterance(
                id=f"u{i}", audio=AudioRef(path=""), text=SAID[i % len(SAID)], duration_s=2.0, source=set_name,
                recording=f"r{i}", domain=domain,
            ),
            text, set=set_name, normaliser=get_language("en").to_scoring,
        )
        for i, text in enumerate(heard)
    ]  # fmt: skip


def scores_of(heard: Sequence[str] = SAID, title: str = "Round 2", language: str = "en", **changes) -> Scores:
    """The scores of one set of English sentences; `changes` are fields of the document."""
    measured = describe(scored_rows(heard), get_language(language), BUCKETS_S)
    fields = {
        "label": named(title).label, "title": title, "identity": "0", "set": "held", "failures": (),
        "unreadable_rows": (), "overlap": None, "inputs": {}, **dict(measured),
    }  # fmt: skip
    return Scores(**fields | changes)


def comparison_of(
    baseline: Sequence[str], candidate: Sequence[str], names: tuple[Named, Named] = ROUNDS, domain: str = "clean"
) -> Comparison:
    """Two that heard these sentences, compared by the default rule with few draws."""
    rows = scored_rows(baseline, domain=domain), scored_rows(candidate, domain=domain)
    return compare(rows, names, CompareConfig(bootstrap_samples=200))


def overlap_of(utterances: int = 0, set_name: str = "held", note: str | None = None, of: int = 60) -> Overlap:
    """What a set shares with training data."""
    sentence = f"{utterances} of {of} utterances of set '{set_name}' are in the training data." if utterances else None
    return Overlap(
        utterances=utterances, of=of, ids=(), recordings=(0, 0), speakers=(0, 0), sentence=sentence, note=note
    )
