"""Our own files that went wrong, through each format's reader: documents, lines and tables.

What a reader lets through can be written again; the rest of the program relies on its types.
"""

import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import schemas
from examples import audited_table, documents, lines, shard
from harness import FEW, MANY, Kind, fuzz, how_many
from mutate import mutated_json, mutated_jsonl, mutated_parquet

from shibolet.demo.corpus import Spoken
from shibolet.records.answers import Given
from shibolet.records.audited import AuditedRows, audited_hash, read_audited
from shibolet.records.documents.base import Document
from shibolet.records.documents.timings import StageTime
from shibolet.records.documents.training import DevRates, DevScore, Event, Line, StepRow
from shibolet.records.hypotheses import HypothesisLine
from shibolet.records.ledger import LedgerLine
from shibolet.records.reading import read_lines
from shibolet.records.review import Answer
from shibolet.records.shards import SCHEMA, read_shard
from shibolet.report.audit_page import Sound

CLASSES = (
    "AlignmentReport", "Average", "Calibration", "CalibrationFile", "Checked", "Combined", "Comparison", "CutModel",
    "DecodingTable", "DoubtfulScores", "Extension", "Fetched", "GateVerdict", "Labelled", "Loop", "MirrorIndex",
    "MirrorState", "NgramMade", "NonSpeech", "Plan", "Prepared", "Provenance", "Reproduced", "Robustness",
    "RoundPlan", "Scores", "SearchTable", "StageMarker", "SystemsComparison", "TeacherTexts", "TrackerState",
    "TrainResult", "Truth", "VerifyReport", "Waterfall",
)  # fmt: skip
LINES = (HypothesisLine, LedgerLine, Sound, Spoken, StepRow, DevScore, Event, Answer, Given, StageTime)
whole_documents, whole_lines = cache(documents), cache(lines)


def test_every_document_and_every_kind_of_line_is_fuzzed():
    """One that is added has to be added here."""
    schemas.schemas()
    assert {one.__name__ for one in schemas.all_documents(Document)} == set(CLASSES) == whole_documents().keys()
    assert set(LINES) == whole_lines().keys() >= {one for one in Line.__subclasses__() if one is not DevRates}


def fuzz_documents(names: Sequence[str], num: int, folder: Path) -> None:
    whole = [(type(one), one.to_json()) for one in map(whole_documents().__getitem__, names)]
    contents = [json.dumps(content, ensure_ascii=False).encode() for _, content in whole]
    chosen = [0]

    def make(rng: random.Random) -> bytes:
        chosen[0] = rng.randrange(len(whole))
        return mutated_json(rng, contents[chosen[0]])

    def read(path: Path) -> None:
        kind = whole[chosen[0]][0]
        found = kind.read(path)
        path.write_bytes(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False).encode())
        assert kind.read(path) == found

    fuzz(Kind(make, read), folder / "x.json", num)


def fuzz_lines(kinds: Sequence[type], num: int, folder: Path) -> None:
    contents, chosen = [whole_lines()[kind] for kind in kinds], [0]

    def make(rng: random.Random) -> bytes:
        chosen[0] = rng.randrange(len(kinds))
        return mutated_jsonl(rng, contents[chosen[0]])

    fuzz(Kind(make, lambda path: read_lines(path, kinds[chosen[0]], "")), folder / "x.jsonl", num)


def test_some_documents(tmp_path: Path):
    fuzz_documents(CLASSES, FEW, tmp_path)


def test_some_lines(tmp_path: Path):
    fuzz_lines(LINES, FEW, tmp_path)


@pytest.mark.slow("fuzz", seconds=15)
@pytest.mark.parametrize("name", CLASSES)
def test_documents(name: str, tmp_path: Path):
    fuzz_documents([name], MANY, tmp_path)


@pytest.mark.slow("fuzz", seconds=10)
@pytest.mark.parametrize("kind", LINES, ids=lambda kind: kind.__name__)
def test_lines(kind: type, tmp_path: Path):
    fuzz_lines([kind], MANY, tmp_path)


def read_tables(path: Path) -> None:
    """As the stages do."""
    rows = list(read_audited(path))
    assert [row.id for row in read_audited(path, short=True)] == [row.id for row in rows]
    audited_hash(path)
    found = AuditedRows([path])
    assert all(found[id].id == id for id in found)


@how_many(100)
@pytest.mark.parametrize("name", ["audited", "shard"])
def test_tables(name: str, num: int, tmp_path: Path):
    content = {"audited": audited_table, "shard": shard}[name](tmp_path)
    read = read_tables if name == "audited" else lambda path: list(read_shard(path, *SCHEMA.names))
    fuzz(Kind(lambda rng: mutated_parquet(rng, content), read), tmp_path / "x.parquet", num)
