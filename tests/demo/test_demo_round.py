"""A whole round on a small synthetic corpus: protects from stages that work alone and not together."""

from functools import partial

import pytest
from second_implementation import differences

from shibolet.demo import round as demo
from shibolet.demo.corpus import CorpusConfig, build_corpus
from shibolet.records.documents.truth import Truth

CHANGES = [
    "gate.proceed_below_pct=2",  # so few utterances prove a STOP, and what is kept an open gate
    "gate.stop_above_pct=4",
    "gate.min_selftest_recall=0.5",
    "gate.max_harmless_changed_frac=0.3",
    "audit.sample.min_utterances=60",
    "audit.selftest.num_clips=40",
    "train.phases.0.num_epochs=1",
    "train.phases.1.num_epochs=1",
    "num_threads=1",
]


@pytest.mark.slow("demo", seconds=90)
def test_a_round_repairs_trains_compares_and_opens_the_truth(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    size = CorpusConfig(num_train=160, num_long=3, num_test=24)
    monkeypatch.setattr(demo, "build_corpus", partial(build_corpus, config=size))
    told = []
    play = partial(demo.run_demo, 3, tmp_path / "run", CHANGES, without_prepare=True, tell=told.append)
    summary = play()

    assert summary.gate.decision == "STOP" and summary.gate_prepared.next == "continue"
    assert summary.exit_code in (0, 40) and summary.compare.is_kept == (summary.exit_code == 0)
    truth = summary.truth
    assert sum(row.utterances for row in truth.rows) == 163
    found = {kind: [row for row in truth.rows if row.kind == kind] for kind in ("swapped", "silent", "clean")}
    assert all(row.flagged == row.utterances for row in found["swapped"] + found["silent"])
    assert all(row.flagged < 0.2 * row.utterances for row in found["clean"])
    assert truth.after_prepare.kept_damaged_pct < 10
    assert set(truth.without_prepare) == {"clean", "whatsapp"}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "synthetic" in page and str(tmp_path) not in page

    made = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.safetensors")}
    told.clear()
    assert play().exit_code == summary.exit_code
    assert any("train: done before" in sentence for sentence in told)
    assert made == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.safetensors")}
    assert Truth.read(tmp_path / "run" / "truth.json") == truth
    assert differences(tmp_path / "run") == []
