"""The audit with listeners that are known to be good, deaf or gullible; resumption; nothing skipped in silence."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ears import Deaf, Ears, Shouting

from shibolet.audit.config import AuditConfig, SelfTestConfig
from shibolet.audit.hearing import Listener
from shibolet.audit.sampling import SampleConfig
from shibolet.audit.stage import hear_rest, run_audit
from shibolet.audit.table import UNREADABLE
from shibolet.audit.verdict import is_foreign
from shibolet.errors import DataError
from shibolet.gate import GateConfig, run_gate
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import load
from shibolet.speech.text import get_language


def config(sample_frac: float = 1.0, num_clips: int = 60) -> AuditConfig:
    return AuditConfig(
        aligner="ears", recogniser="ears", sample=SampleConfig(sample_frac=sample_frac, shares={}, min_utterances=60),
        selftest=SelfTestConfig(num_clips=num_clips), chunk_utterances=16, num_workers=0,
    )  # fmt: skip


def audit(tmp_path: Path, utterances, ears, settings=None, ledger=()) -> dict:
    settings = settings or config()
    return run_audit(
        utterances, list(ledger), out_dir=tmp_path / "audit", listener=listener(tmp_path, ears, settings),
        config=settings, language="Hebrew",
    )  # fmt: skip


def listener(tmp_path: Path, ears: Ears, settings: AuditConfig) -> Listener:
    return Listener(Ears(), ears, tmp_path / "heard", load, settings)


def read_rows(tables: list[Path]) -> dict[str, dict]:
    return {row["id"]: row for table in tables for row in pq.read_table(table).to_pylist()}


def decision(tmp_path: Path) -> str:
    return run_gate(tmp_path / "audit", tmp_path / "gate.json", GateConfig())["decision"]


def test_wrong_texts_are_found_and_good_ones_left_alone(tmp_path: Path, corpus: list) -> None:
    report = audit(tmp_path, corpus, Ears())
    rows = read_rows([tmp_path / "audit" / "utterances.parquet"])
    flagged = {id for id, row in rows.items() if row["is_low_quality"]}
    assert {f"u{i:03d}" for i in range(10)} <= flagged
    assert len(flagged) <= 10 + 7  # 5% of 150
    assert report["total_samples"] == 160 == sum(d["count"] for d in report["domain_statistics"].values())
    assert report["self_test"]["damaged"]["swapped"] == {"hits": 60, "total": 60}
    assert decision(tmp_path) in ("PROCEED", "CAUTION")


def test_a_recogniser_that_believes_everything_is_invalid(tmp_path: Path, corpus: list) -> None:
    audit(tmp_path, corpus, Deaf())
    assert decision(tmp_path) == "INVALID"


def test_a_recogniser_that_believes_nothing_is_invalid(tmp_path: Path, corpus: list) -> None:
    audit(tmp_path, corpus, Shouting())
    assert decision(tmp_path) == "INVALID"


def test_unreadable_rows_count_as_low_quality_and_are_in_the_denominator(tmp_path: Path, corpus) -> None:
    lines = [LedgerLine(id=f"row {i}", source="s", stage="read", rule="missing_file") for i in range(40)]
    report = audit(tmp_path, corpus, Ears(), ledger=lines)
    assert report["total_samples"] == 200 and report["failures"] == {"missing_file": 40}
    assert report["strata"][UNREADABLE]["num_utterances"] == 40
    assert decision(tmp_path) == "STOP"


def test_audio_that_breaks_while_listening_is_a_failure_with_its_reason(tmp_path: Path, corpus) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    bad = [replace(corpus[20], audio=AudioRef(path=str(broken))), replace(corpus[21], text="hello 123"),
           replace(corpus[22], text="one two three four five six seven שלום")]  # fmt: skip
    report = audit(tmp_path, [*corpus[:20], *bad, *corpus[23:]], Ears())
    rows = read_rows([tmp_path / "audit" / "utterances.parquet"])
    assert rows["u020"]["failure"] == "undecodable" and rows["u020"]["is_low_quality"]
    assert rows["u021"]["failure"] == "no_words"
    assert rows["u022"]["is_low_quality"] and rows["u022"]["suspect"] == "other_language"
    assert report["num_scored"] == 158


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
    assert is_foreign("the quick brown fox שלום", hebrew) and is_foreign("привет мир", hebrew)
    for text in ("שלום לכולם", "שלום 10 20 30 40", "10 20", "", "שלום לכם hello"):
        assert not is_foreign(text, hebrew), text


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
