"""The audit's tables: protects from a column that moves or changes its type, and from a field that nobody read."""

from dataclasses import fields

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audit_documents import audited

from shibolet.audit.signals import Signals
from shibolet.errors import DataError
from shibolet.records.audited import BATCH_ROWS, SCHEMA, Audited, AuditedRows, read_audited, write_audited
from shibolet.records.utterance import AudioRef

TEXTS = "id source recording speaker domain text".split()
NUMBERS = "speech_s text_logp text_score worst_score cer edge_cer length_ratio words_heard letters_per_s".split()


@pytest.fixture
def rows() -> list[Audited]:
    """More than are written together; every field is known of the first, and as few as can be of the last."""
    signals = {field.name: float(i) for i, field in enumerate(fields(Signals)) if field.name != "coverage"}
    signals |= {"num_words": 2, "num_letters": 7}
    whole = audited(
        "whole", recording="r", speaker="s", audio=AudioRef(path="a.wav", start_s=1.5, end_s=3.0), flags=("noisy",),
        is_low_quality=True, suspect="wrong_text", reasons=("so", "and so"), coverage=0.5, confidence=0.25,
        probability=0.125, length_mismatch=True, hypothesis="שלום", words=("שלום", "עולם"), starts_s=(0.0, 0.5),
        ends_s=(0.25, 0.75), **signals,
    )  # fmt: skip
    return [whole, *(audited(f"u{i}") for i in range(BATCH_ROWS)), audited("bare", flags=(), failure="undecodable")]


def test_the_columns_are_those_that_other_programs_read():
    """Names, order and types are what `export verdicts` hands out: a renamed field must be meant."""
    audio = [("path", pa.string()), ("row", pa.int64()), ("column", pa.string()), ("start_s", pa.float64())]
    strings, numbers = pa.list_(pa.string()), pa.list_(pa.float64())
    expected = [
        *((name, pa.string()) for name in TEXTS), ("duration_s", pa.float64()),
        ("audio", pa.struct([*audio, ("end_s", pa.float64())])), ("flags", strings), ("failure", pa.string()),
        ("is_low_quality", pa.bool_()), ("suspect", pa.string()), ("reasons", strings), ("coverage", pa.float64()),
        ("confidence", pa.float64()), ("probability", pa.float64()), ("length_mismatch", pa.bool_()),
        ("hypothesis", pa.string()), ("words", strings), ("starts_s", numbers), ("ends_s", numbers),
        ("num_words", pa.int64()), ("num_letters", pa.int64()),
        *((name, pa.float64()) for name in (*NUMBERS, "snr_db", "bandwidth_hz")),
    ]  # fmt: skip
    assert SCHEMA.equals(pa.schema(expected))
    assert {field.name for field in fields(Signals)} <= set(SCHEMA.names)


def test_what_was_written_is_read_and_written_again_to_the_same_bytes(rows, tmp_path):
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_audited(first, rows)
    assert list(read_audited(first)) == rows
    write_audited(second, read_audited(first))
    assert second.read_bytes() == first.read_bytes()
    assert list(read_audited(first, only={"bare", "whole"})) == [rows[0], rows[-1]]
    assert list(read_audited(first, only={"whole"})) == [rows[0]], "the second batch has none of them"
    write_audited(second, [])
    assert list(read_audited(second)) == []


def test_a_field_that_was_not_read_is_an_error_and_not_none(rows, tmp_path):
    """None would say that nobody knows it."""
    write_audited(tmp_path / "a.parquet", rows)
    short = next(read_audited(tmp_path / "a.parquet", short=True))
    assert (short.id, short.confidence, short.flags, short.cer) == ("whole", 0.25, ("noisy",), rows[0].cer)
    for name in ("audio", "reasons", "hypothesis", "words", "starts_s", "ends_s"):
        with pytest.raises(AttributeError):
            getattr(short, name)


def test_rows_of_several_tables_are_found_by_id(rows, tmp_path):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    write_audited(paths[0], rows[:5]), write_audited(paths[1], rows[5:])
    found = AuditedRows(paths)
    assert len(found) == len(rows) and list(found) == [row.id for row in rows]
    assert found["whole"] == rows[0] and found["bare"] == rows[-1]
    assert list(found.rows(list(found)[::-1])) == rows[::-1] and list(found.rows([])) == []
    assert list(found.rows(found)) == rows and list(found.rows(list(found)[1:])) == rows[1:]
    assert "nobody" not in found and found.get("nobody") is None


def test_a_table_of_an_earlier_version_is_told_in_a_sentence(rows, tmp_path):
    write_audited(tmp_path / "a.parquet", rows[:2])
    pq.write_table(pq.read_table(tmp_path / "a.parquet").drop_columns(["probability"]), tmp_path / "old.parquet")
    with pytest.raises(DataError, match=r"old\.parquet has no column 'probability': .* run 'shibolet audit' again"):
        list(read_audited(tmp_path / "old.parquet"))
