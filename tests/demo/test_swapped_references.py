"""The builtin instrument on a test set with swapped references: protects from a claim on them that nobody questions."""

import random
from pathlib import Path

import pytest

from shibolet.demo.corpus import CorpusConfig, build_corpus
from shibolet.demo.round import demo_recipe
from shibolet.records.documents.doubtful import DoubtfulScores
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.rounds import auditing, scoring
from shibolet.rounds.shared import open_round

NUM_TEST = 60
CHANGES = [
    "audit.num_workers=0", "audit.sample.min_utterances=100", "audit.selftest.num_clips=30",
    "evaluate.max_new_tokens_per_s=6", "compare.bootstrap_samples=100",
]  # fmt: skip


def swap(manifest: Path) -> set[str]:
    """Give every text of 5% of the rows to another one of them; their ids."""
    rows = list(read_jsonl(manifest))
    chosen = random.Random(5).sample(rows, len(rows) // 20)
    texts = [row["text"] for row in chosen]
    assert len(set(texts)) == len(texts)
    for row, text in zip(chosen, [*texts[1:], texts[0]], strict=True):
        row["text"] = text
    write_jsonl(manifest, rows)
    return {row["id"] for row in chosen}


@pytest.mark.slow("demo", seconds=60)
def test_the_swapped_five_percent_are_listed_and_hardly_any_other(tmp_path) -> None:
    corpus, told = tmp_path / "corpus", []
    build_corpus(corpus, 3, CorpusConfig(num_train=160, num_long=2, num_test=NUM_TEST))
    swapped = {name: swap(corpus / f"test_{name}" / "manifest.jsonl") for name in ("clean", "whatsapp")}
    with open_round(demo_recipe(corpus, 0, CHANGES), tmp_path / "run", "run", told.append) as current:
        auditing.do_audit(current)
        assert auditing.do_gate(current).decision == "STOP"
        scoring.do_evaluate(current, scoring.candidates_of(current, candidate="builtin:round1"))
        compared = scoring.do_compare(current)
        found = {name: DoubtfulScores.read(current.folder.doubtful_scores("round1", name)) for name in swapped}
    for name, one in found.items():
        listed = {reference.id for reference in one.references}
        assert swapped[name] <= listed and len(listed - swapped[name]) <= NUM_TEST // 10
        assert one.wer.rate > one.wer_without.rate and one.judged == NUM_TEST
    assert compared.verdict == "reject" and compared.overall.utterances == 2 * NUM_TEST
    assert compared.doubtful.overall.utterances == 2 * NUM_TEST - sum(len(one.references) for one in found.values())
