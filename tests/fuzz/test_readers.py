"""Inputs that went wrong, through each format's reader: they are read or refused in a sentence, soon, in little memory.

What a reader lets through can be written again; the rest of the program relies on its types.
"""

import json
import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import schemas
import yaml
from examples import audited_table, documents, lines, shard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutate import ODD, mutated_bytes, mutated_json, mutated_jsonl, mutated_value

from shibolet.demo.corpus import Spoken
from shibolet.errors import ShiboletError
from shibolet.recipe import Recipe, load_recipe, recipe_yaml, shipped_recipes, write_recipe
from shibolet.records.audited import AuditedRows, audited_hash, read_audited
from shibolet.records.documents.base import Document
from shibolet.records.documents.training import DevRates, DevScore, Event, Line, StepRow
from shibolet.records.hypotheses import HypothesisLine
from shibolet.records.ledger import LedgerLine
from shibolet.records.reading import read_lines
from shibolet.records.review import Answer
from shibolet.records.settings import _all_keys
from shibolet.records.shards import SCHEMA, read_shard
from shibolet.report.audit_page import Sound

CPU_S, MEMORY_KB = 10.0, 1_000_000  # beyond what a good input takes
FEW, MANY = 200, 10_000


@dataclass(frozen=True)
class Kind:
    """A kind of input: how it is made from a seed, and who reads it."""

    make: Callable[[random.Random], bytes]
    read: Callable[[Path], object]


def fuzz(kind: Kind, path: Path, num: int) -> None:
    """So many inputs of a kind; the same ones every time."""
    outcomes = {True: 0, False: 0}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=num, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        path.write_bytes(kind.make(random.Random(seed)))
        started = time.process_time()
        try:
            kind.read(path)
        except ShiboletError as error:
            assert str(error) and error.exit_code in (2, 3)
            outcomes[False] += 1
        else:
            outcomes[True] += 1
        assert time.process_time() - started < CPU_S

    check()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEMORY_KB
    assert outcomes[True] and outcomes[False], "a reader that takes all or nothing is not tested by this"


def how_many(seconds: int) -> Callable:
    """Few inputs in the ordinary suite, many in the slow one, which take so long."""
    return pytest.mark.parametrize("num", [FEW, pytest.param(MANY, marks=pytest.mark.slow("fuzz", seconds=seconds))])


CLASSES = (
    "AlignmentReport", "Calibration", "CalibrationFile", "Checked", "Comparison", "DecodingTable", "Extension",
    "Fetched", "GateVerdict", "Plan", "Prepared", "Provenance", "Reproduced", "Scores", "StageMarker",
    "SystemsComparison", "TrainResult", "Truth",
)  # fmt: skip
LINES = (HypothesisLine, LedgerLine, Sound, Spoken, StepRow, DevScore, Event, Answer)
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
    fuzz(Kind(lambda rng: mutated_bytes(rng, content), read), tmp_path / "x.parquet", num)


def mutated_recipe(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.3:
        return mutated_bytes(rng, content)
    value = mutated_value(rng, yaml.safe_load(content))
    return yaml.safe_dump(value, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def override(rng: random.Random) -> str:
    """A change of the command line, mostly of a key that there is."""
    key = (
        rng.choice(KEYS) if rng.random() < 0.9 else rng.choice(("x", "", "..", "train.phases.x", "data.train.99.name"))
    )
    value = rng.choice(ODD)
    text = value if isinstance(value, str) else json.dumps(value)
    return rng.choice((f"{key}={text}", f"{key}={text}", f"{key}={text}", f"{key}={text[:-1]}", key, f"{key}=[{text}"))


KEYS = list(_all_keys(Recipe, ""))


@how_many(300)
def test_recipes(num: int, tmp_path: Path):
    content = shipped_recipes()["demo"].read_bytes()

    def read(path: Path) -> None:
        recipe = load_recipe(path, changes.pop())
        recipe_yaml(recipe)
        write_recipe(recipe, tmp_path / "again.yaml")
        assert load_recipe(tmp_path / "again.yaml") == recipe

    changes: list[list[str]] = []

    def make(rng: random.Random) -> bytes:
        has_changes = rng.random() < 0.3
        changes.append([override(rng) for _ in range(rng.choice((1, 2)))] if has_changes else [])
        return content if has_changes else mutated_recipe(rng, content)

    fuzz(Kind(make, read), tmp_path / "x.yaml", num)
