"""The audit's table: a row for each utterance that was heard, and for each row of the data that never became one.

Rows are written as they come and read back by column, so that memory does not grow with their number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shibolet.audit.calibration import Calibration
from shibolet.audit.clip import Evidence
from shibolet.audit.config import AuditConfig
from shibolet.audit.signals import Signals
from shibolet.audit.verdict import Verdict, is_foreign, judge
from shibolet.records.files import writing
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import Utterance
from shibolet.speech.text import get_language

UNREADABLE = "unreadable"  # the stratum of rows that never became utterances: known whole, all low quality
GROUP_ROWS = 1024  # in memory at a time
_AUDIO = pa.struct(
    [
        ("path", pa.string()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)
_TYPES = {
    "num_words": pa.int64(), "num_letters": pa.int64(), "audio": _AUDIO, "is_low_quality": pa.bool_(),
    "length_mismatch": pa.bool_(), "reasons": pa.list_(pa.string()), "words": pa.list_(pa.string()),
    "starts_s": pa.list_(pa.float64()), "ends_s": pa.list_(pa.float64()), "flags": pa.list_(pa.string()),
    **dict.fromkeys(
        ("id", "source", "recording", "speaker", "domain", "text", "failure", "suspect", "hypothesis"), pa.string()
    ),
}  # fmt: skip
_COLUMNS = (
    "id", "source", "recording", "speaker", "domain", "text", "duration_s", "audio", "flags", "failure",
    "is_low_quality", "suspect", "reasons", "coverage", "confidence", "probability", "length_mismatch",
    "hypothesis", "words", "starts_s", "ends_s",
    *(name for name in Signals.__dataclass_fields__ if name != "coverage"),
)  # fmt: skip


def row_of(
    u: Utterance, evidence: Evidence, calibration: Calibration, config: AuditConfig, language: str, run_dir: Path
) -> dict:
    """What the table says of an utterance; audio below `run_dir` is named relative to it."""
    verdict, rules = judge_all([evidence.signals], calibration, config)[0], get_language(language)
    foreign = is_foreign(u.text, rules) or is_foreign(evidence.hypothesis, rules)
    signals = evidence.signals.to_json() if evidence.signals else dict.fromkeys(Signals.__dataclass_fields__)
    probability = calibration.probability([evidence.signals]) if evidence.signals else None
    return {
        "id": u.id, "source": u.source, "recording": u.recording, "speaker": u.speaker, "domain": u.domain,
        "text": u.text, "duration_s": u.duration_s, "audio": asdict(u.audio.from_folder(run_dir)), "flags": u.flags,
        "failure": evidence.failure,
        "is_low_quality": verdict.low_quality if verdict else True,
        "suspect": ("other_language" if verdict.suspect and foreign else verdict.suspect) if verdict else None,
        "reasons": list(verdict.reasons) if verdict else [evidence.detail],
        "coverage": None if verdict is None or verdict.coverage is None else round(verdict.coverage, 5),
        "confidence": round(verdict.confidence, 5) if verdict else None,
        "probability": None if probability is None else round(float(probability[0]), 5),
        "length_mismatch": verdict.length_mismatch if verdict else None,
        "hypothesis": evidence.hypothesis,
        "words": list(rules.to_words(u.text).tokens) if evidence.signals else [],
        "starts_s": list(evidence.starts_s), "ends_s": list(evidence.ends_s),
        **{name: value for name, value in signals.items() if name != "coverage"},
    }  # fmt: skip


def unreadable_row(line: LedgerLine) -> dict:
    """A row of the data that never became an utterance."""
    return {
        "id": line.id, "source": line.source, "domain": UNREADABLE, "text": "", "duration_s": line.duration_s or 0.0,
        "failure": line.rule, "is_low_quality": True, "reasons": [line.detail], "hypothesis": "", "words": [],
        "starts_s": [], "ends_s": [],
    }  # fmt: skip


def judge_all(signals: Sequence[Signals | None], calibration: Calibration, config: AuditConfig) -> list[Verdict | None]:
    """Verdicts in order; None where nothing could be heard."""
    present = [s for s in signals if s]
    confidence = iter(calibration.confidence(present) if present else ())
    return [judge(s, float(next(confidence)), calibration, config) if s else None for s in signals]


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """Write a table whole or not at all."""
    schema = pa.schema([(name, _TYPES.get(name, pa.float64())) for name in _COLUMNS])
    rows = iter(rows)
    with writing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while group := list(islice(rows, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def read_columns(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a table: text as objects that equal ones share, None where missing; numbers, NaN where missing."""
    table = pq.read_table(path, columns=list(names), read_dictionary=list(names))
    columns = {}
    for name in names:
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            texts = [*column.dictionary.to_pylist(), None]
            columns[name] = np.array(texts, object)[column.indices.fill_null(len(texts) - 1).to_numpy()]
        else:
            columns[name] = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
    return columns
