"""The audit with listeners that are known to be good, deaf or gullible; resumption; nothing skipped in silence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ears import Deaf, Ears, Shouting

from shibolet.audit.config import AuditConfig, SelfTestConfig
from shibolet.audit.hearing import Listener
from shibolet.audit.sampling import SampleConfig
from shibolet.audit.stage import NO_ALIGNER, hear_rest, run_audit
from shibolet.audit.verdict import is_foreign
from shibolet.errors import DataError
from shibolet.gate.config import GateConfig
from shibolet.gate.stage import run_gate
from shibolet.records.audited import UNREADABLE
from shibolet.records.documents.alignment import AlignmentReport, Tally
from shibolet.records.documents.calibration import Calibration, CalibrationFile, ErrorRates, MadeOf
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import load
from shibolet.speech.text import get_language


def config(sample_frac: float = 1.0, num_clips: int = 60) -> AuditConfig:
    return AuditConfig(
        aligner="ears", recogniser="ears", sample=SampleConfig(sample_frac=sample_frac, shares={}, min_utterances=60),
        selftest=SelfTestConfig(num_clips=num_clips), chunk_utterances=16, num_workers=0,
    )  # fmt: skip


def audit(tmp_path: Path, utterances, ears, settings=None, ledger=()) -> AlignmentReport:
    settings = settings or config()
    report = run_audit(
        utterances, list(ledger), out_dir=tmp_path / "audit", listener=listener(tmp_path, ears, settings),
        config=settings, language="Hebrew",
    )  # fmt: skip
    report.write(tmp_path / "audit" / "alignment_report.json")
    return report


def listener(tmp_path: Path, ears: Ears, settings: AuditConfig) -> Listener:
    return Listener(Ears() if settings.aligner else None, ears, tmp_path / "heard", load, settings, "Hebrew")


def read_rows(tables: list[Path]) -> dict[str, dict]:
    return {row["id"]: row for table in tables for row in pq.read_table(table).to_pylist()}


def verdict(tmp_path: Path) -> GateVerdict:
    return run_gate(tmp_path / "audit", tmp_path / "gate.json", GateConfig())


def decision(tmp_path: Path) -> str:
    return verdict(tmp_path).decision


def with_wrong_texts(utterances: list, frac: float) -> list:
    """This share of the utterances has the text of another."""
    texts, places = [u.text for u in utterances], np.random.default_rng(0).permutation(len(utterances))
    wrong = set(places[: round(frac * len(utterances))].tolist())
    return [replace(u, text=texts[(i + 37) % len(texts)]) if i in wrong else u for i, u in enumerate(utterances)]


def test_wrong_texts_are_found_and_good_ones_left_alone(tmp_path: Path, corpus: list) -> None:
    report = audit(tmp_path, corpus, Ears())
    rows = read_rows([tmp_path / "audit" / "utterances.parquet"])
    flagged = {id for id, row in rows.items() if row["is_low_quality"]}
    assert {f"u{i:03d}" for i in range(10)} <= flagged
    assert len(flagged) <= 10 + 7  # 5% of 150
    assert report.total_samples == 160 == sum(d.count for d in report.domain_statistics.values())
    assert report.self_test.damaged["swapped"] == Tally(hits=60, total=60)
    assert decision(tmp_path) in ("PROCEED", "CAUTION")


def test_a_recogniser_that_believes_everything_is_invalid(tmp_path: Path, corpus: list) -> None:
    report = audit(tmp_path, corpus, Deaf())
    assert report.low_quality_count < 10, "it flags nothing, so only the self-test can tell"
    found = verdict(tmp_path)
    assert found.decision == "INVALID" and "of 30 'swapped' clips" in found.recommendation


def test_a_recogniser_that_believes_nothing_is_invalid(tmp_path: Path, corpus: list) -> None:
    audit(tmp_path, corpus, Shouting())
    found = verdict(tmp_path)
    assert found.decision == "INVALID" and "the instrument cannot be believed" in found.recommendation


def test_data_of_which_a_quarter_is_wrong_are_a_stop_and_of_which_most_are_wrong_no_verdict(tmp_path, corpus) -> None:
    """Clips that stand for good must not be the wrong ones, or the worst data would pass."""
    report = audit(tmp_path / "quarter", with_wrong_texts(corpus[10:], 0.25), Ears())
    assert decision(tmp_path / "quarter") == "STOP"
    assert report.calibration.num_left_out >= 10 and report.low_quality_count >= 37
    audit(tmp_path / "most", with_wrong_texts(corpus[10:], 0.7), Ears())
    assert decision(tmp_path / "most") == "INVALID"


def test_most_texts_wrong_is_a_stop_where_a_calibration_from_elsewhere_says_so(tmp_path, corpus) -> None:
    """The judged clips' own copies cannot tell bad texts from speech that is not understood; clean clips can."""
    clean, judged = [u for u in corpus[10:] if int(u.recording[1:]) % 2], corpus[10:]
    made = config()
    audit(tmp_path / "clean", clean, Ears(), made)
    calibration = Calibration.read(tmp_path / "clean" / "audit" / "calibration.json")
    detector = {"sensitivity": 1.0, "specificity": 0.95, "num_damaged": 60, "num_clean": 60, "measured_on": "clean"}
    CalibrationFile(
        calibration=calibration.model_copy(update={"kind": "clean"}), detector=ErrorRates(**detector),
        made_of=MadeOf(utterances=(30, 30), recordings=(8, 8), trials=(60, 60), foreign=0), language="Hebrew",
        budget=None, table=(), left_out=(), ablation=(),
    ).write(tmp_path / "calibration.json")  # fmt: skip
    settings = made.model_copy(update={"calibration": tmp_path / "calibration.json"})
    audit(tmp_path / "bad", with_wrong_texts(judged, 0.7), Ears(), settings)
    found = verdict(tmp_path / "bad")
    assert found.decision == "STOP" and 60 < found.low_quality_pct.rate < 80


def test_an_audit_without_an_aligner_decides_all_the_same_and_says_what_it_does_not_know(tmp_path, corpus) -> None:
    """Coverage that nobody measured must not be in the table as full, nor in the calibration."""
    settings = config().model_copy(update={"aligner": None})
    report = audit(tmp_path, corpus, Ears(), settings)
    rows = read_rows([tmp_path / "audit" / "utterances.parquet"])
    assert {row["coverage"] for row in rows.values()} == {None}
    assert report.coverage_distribution == {} and report.domain_statistics["kan_clean"].mean_coverage is None
    assert report.calibration.models == ("ears",) and NO_ALIGNER in report.notes
    flagged = {id for id, row in rows.items() if row["is_low_quality"]}
    assert {f"u{i:03d}" for i in range(10)} <= flagged and len(flagged) <= 10 + 7
    assert report.judged_by == "text and audio" and decision(tmp_path) in ("PROCEED", "CAUTION")
    assert NO_ALIGNER not in audit(tmp_path / "aligned", corpus, Ears()).notes


def test_unreadable_rows_count_as_low_quality_and_are_in_the_denominator(tmp_path: Path, corpus) -> None:
    lines = [LedgerLine(id=f"row {i}", source="s", stage="read", rule="missing_file") for i in range(40)]
    report = audit(tmp_path, corpus, Ears(), ledger=lines)
    assert report.total_samples == 200 and report.failures == {"missing_file": 40}
    assert report.strata[UNREADABLE].num_utterances == 40
    assert decision(tmp_path) == "STOP"


def test_audio_that_breaks_while_listening_is_a_failure_with_its_reason(tmp_path: Path, corpus) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    bad = [replace(corpus[20], audio=AudioRef(path=str(broken))), replace(corpus[21], text="hello www3"),
           replace(corpus[22], text="one two three four five six seven שלום")]  # fmt: skip
    report = audit(tmp_path, [*corpus[:20], *bad, *corpus[23:]], Ears())
    rows = read_rows([tmp_path / "audit" / "utterances.parquet"])
    assert rows["u020"]["failure"] == "undecodable" and rows["u020"]["is_low_quality"]
    assert rows["u021"]["failure"] == "no_words"
    assert rows["u022"]["is_low_quality"] and rows["u022"]["suspect"] == "other_language"
    assert report.num_scored == 158


def test_a_second_run_hears_nothing_again_and_writes_the_same_bytes(tmp_path: Path, corpus) -> None:
    first, second = Ears(), Ears()
    audit(tmp_path, corpus, first)
    files = ("utterances.parquet", "alignment_report.json", "calibration.json")
    before = [(tmp_path / "audit" / name).read_bytes() for name in files]
    sorted((tmp_path / "heard").rglob("*.jsonl"))[3].unlink()  # what a crash had not written
    audit(tmp_path, corpus, second)
    assert [(tmp_path / "audit" / name).read_bytes() for name in files] == before
    assert 0 < second.num_heard <= 16 < first.num_heard


def test_the_rest_is_judged_by_the_same_calibration(tmp_path: Path, corpus) -> None:
    settings = config(sample_frac=0.5)
    audit(tmp_path, corpus, Ears(), settings)
    num_rest = hear_rest(
        corpus, audit_dir=tmp_path / "audit", out_path=tmp_path / "rest.parquet",
        listener=listener(tmp_path, Ears(), settings), config=settings, language="Hebrew",
    )  # fmt: skip
    assert num_rest == 80
    both = read_rows([tmp_path / "audit" / "utterances.parquet", tmp_path / "rest.parquet"])
    assert both.keys() == {u.id for u in corpus}
    assert pq.read_schema(tmp_path / "rest.parquet") == pq.read_schema(tmp_path / "audit" / "utterances.parquet")


def test_another_script_is_told_and_another_language_in_the_same_script_is_not() -> None:
    """A label that nothing can show would be a promise; what the letters show is said."""
    hebrew = get_language("Hebrew")
    for text in ("the quick brown fox שלום", "привет мир"):
        assert is_foreign(hebrew.to_words(text)), text
    for text in ("שלום לכולם", "שלום 10 20 30 40", "10 20", "", "שלום לכם hello"):
        assert not is_foreign(hebrew.to_words(text)), text


def test_a_larger_sample_changes_no_verdict_on_what_was_heard(tmp_path: Path, corpus) -> None:
    """Or a review of the smaller one is about verdicts that nobody gave."""
    before, after = [], []
    for sample_frac, kept in ((0.5, before), (0.9, after)):
        audit(tmp_path, corpus, Ears(), config(sample_frac=sample_frac))
        kept += read_rows([tmp_path / "audit" / "utterances.parquet"]).items()
    assert len(before) == 80 and len(after) == 144
    assert dict(before).items() <= dict(after).items()


def test_audio_in_the_run_folder_is_named_relative_to_it(tmp_path: Path, corpus) -> None:
    inside = tmp_path / "corpus" / "u000.wav"
    inside.parent.mkdir()
    inside.write_bytes(Path(corpus[0].audio.path).read_bytes())
    audit(tmp_path, [replace(corpus[0], audio=AudioRef(path=str(inside))), *corpus[1:]], Ears())
    rows = read_rows([tmp_path / "audit" / "utterances.parquet"])
    assert rows["u000"]["audio"]["path"] == "corpus/u000.wav"  # so that a moved run folder has the same bytes
    assert rows["u001"]["audio"]["path"] == corpus[1].audio.path


def test_too_few_clips_to_calibrate_is_an_error(tmp_path: Path, corpus) -> None:
    with pytest.raises(DataError, match="calibration needs 10"):
        audit(tmp_path, corpus[:6], Ears(), config())


def test_the_probability_stands_beside_the_confidence_and_moves_no_verdict(tmp_path, corpus, monkeypatch) -> None:
    """It is another reading of the same score: rising with it, absent where nothing was heard."""
    bad = [replace(corpus[20], audio=AudioRef(path=str(tmp_path / "gone.wav")))]
    utterances = [*corpus[:20], *bad, *corpus[21:]]
    report = audit(tmp_path / "with", utterances, Ears())
    rows = read_rows([tmp_path / "with" / "audit" / "utterances.parquet"])
    heard = sorted((row for row in rows.values() if not row["failure"]), key=lambda row: row["confidence"])
    probabilities = [row["probability"] for row in heard]
    assert probabilities == sorted(probabilities) and 0 < probabilities[0] < 0.2 and 0.8 < probabilities[-1] < 1
    assert rows["u020"]["probability"] is None
    found = report.probability
    assert found.sentence.startswith("If 80% of the clips are right") and found.expected_error < 0.1
    assert sum(line.num_clips for line in found.table) == sum(found.num_clips.values()) > 500
    monkeypatch.setattr("shibolet.audit.stage.recalibrate", lambda examples: None)
    assert audit(tmp_path / "without", utterances, Ears()).probability is None
    without = read_rows([tmp_path / "without" / "audit" / "utterances.parquet"])
    kept = ("id", "is_low_quality", "confidence", "reasons")
    assert {row["probability"] for row in without.values()} == {None}
    assert [[row[k] for k in kept] for row in without.values()] == [[row[k] for k in kept] for row in rows.values()]


def test_wrong_texts_of_the_data_do_not_stand_for_good_in_the_probability(tmp_path: Path, corpus) -> None:
    """A quarter of the data would say that the lowest scores are good one time in two."""
    audit(tmp_path, with_wrong_texts(corpus[10:], 0.25), Ears(), config(num_clips=150))
    rows = read_rows([tmp_path / "audit" / "utterances.parquet"])
    text_of = {u.id: u.text for u in corpus}
    wrong = [row["probability"] for id, row in rows.items() if row["text"] != text_of[id]]
    assert len(wrong) > 30 and np.mean(wrong) < 0.15
