"""The audited utterance: what the audit says of each, as its tables have it; the tables' schema is derived from it.

`utterances.parquet`, `rest.parquet`: rows are written as they come and read a batch at a time, so that memory does not
grow with their number.
"""

import hashlib
import json
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from operator import attrgetter
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from shibolet.records.files import writing
from shibolet.records.parquet import read_batches
from shibolet.records.utterance import AudioRef

UNREADABLE = "unreadable"  # the domain of rows that never became utterances: known whole, all low quality
BATCH_ROWS = 1024  # in memory at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """An utterance that was heard, or a row of the data that never became one; None is not known."""

    id: str
    source: str
    recording: str | None = None
    speaker: str | None = None
    domain: str
    text: str
    duration_s: float
    audio: AudioRef | None = None  # relative to the run folder where it lies below; None: of a row that cannot be read
    flags: tuple[str, ...] | None = None  # what people noted of it, as in `Utterance`
    failure: str | None = None  # why it could not be scored, a ledger rule: undecodable, no_words, ...
    is_low_quality: bool
    # A guess: wrong_text, text_missing, text_extra, audio_cut, no_speech, other_language; None: not low, or a failure.
    suspect: str | None = None
    reasons: tuple[str, ...] = ()  # sentences with the number that decided
    coverage: float | None = None  # share of words with evidence; None: nothing aligned it
    confidence: float | None = None  # the score that decides; no probability
    probability: float | None = None  # that text and audio belong together, in a stated mixture
    length_mismatch: bool | None = None
    hypothesis: str = ""
    words: tuple[str, ...] = ()  # of the text, as they are compared; W of them
    starts_s: tuple[float, ...] = ()  # of each word [W]; empty where nobody knows
    ends_s: tuple[float, ...] = ()
    num_words: int | None = None  # this and what follows: `audit/signals.py` says what each signal is
    num_letters: int | None = None
    speech_s: float | None = None
    text_logp: float | None = None
    text_score: float | None = None
    worst_score: float | None = None
    cer: float | None = None
    edge_cer: float | None = None
    length_ratio: float | None = None
    words_heard: float | None = None
    letters_per_s: float | None = None
    snr_db: float | None = None
    bandwidth_hz: float | None = None


_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_LONG = ("audio", "reasons", "hypothesis", "words", "starts_s", "ends_s")


def _required(hint: Any) -> Any:
    """A type hint less `| None`."""
    left = [one for one in get_args(hint) if one is not NoneType]
    return left[0] if NoneType in get_args(hint) else hint


def _arrow_type(hint: Any, strict: bool) -> pa.DataType:
    hint = _required(hint)
    if get_origin(hint) is tuple:
        return pa.list_(pa.field("item", _arrow_type(get_args(hint)[0], strict), nullable=not strict))
    return _SCALARS.get(hint) or pa.struct(_columns(hint, strict))


def _columns(kind: type, strict: bool = False) -> list[pa.Field]:
    """Columns of a dataclass; with `strict` those that are never None are not nullable, which no file of ours says."""
    hints = {field.name: get_type_hints(kind)[field.name] for field in fields(kind)}
    can_be_none = {name: not strict or NoneType in get_args(hint) for name, hint in hints.items()}
    return [pa.field(name, _arrow_type(hint, strict), can_be_none[name]) for name, hint in hints.items()]


SCHEMA = pa.schema(_columns(Audited))
_READ = pa.schema(_columns(Audited, strict=True))
_REMEDY = "run 'shibolet audit' again"
_LISTS = {field.name for field in SCHEMA if pa.types.is_list(field.type)}
_SHORT = [name for name in SCHEMA.names if name not in _LONG]


def to_table(rows: Iterable[Audited]) -> pa.Table:
    """Rows as the columns of `SCHEMA`."""
    rows = list(rows)
    return pa.table({name: _column(name, rows) for name in SCHEMA.names}, schema=SCHEMA)


def write_audited(path: Path, rows: Iterable[Audited]) -> None:
    """Write a table whole or not at all."""
    rows = iter(rows)
    with writing(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            writer.write_table(to_table(batch))


def read_audited(path: Path, *, short: bool = False, only: Container[str] | None = None) -> Iterator[Audited]:
    """The rows of a table in their order; of these ids `only`, where they are given.

    `short` rows are read without their audio, reasons, hypothesis, words and times: each of those is an AttributeError.
    """
    for batch in read_batches(path, _READ, _SHORT if short else SCHEMA.names, BATCH_ROWS, _REMEDY):
        if only is not None:
            batch = batch.take(_places(i for i, id in enumerate(batch["id"].to_pylist()) if id in only))
        yield from _rows(batch.schema.names, (column.to_pylist() for column in batch.columns))


def audited_hash(path: Path) -> str:
    """Content hash of a table, less where its sounds lie: a moved run folder, or another one, has the same."""
    digest, columns = hashlib.sha256(), [name for name in SCHEMA.names if name != "audio"]
    encode = json.JSONEncoder(ensure_ascii=False).encode
    for batch in read_batches(path, _READ, columns, BATCH_ROWS, _REMEDY):
        digest.update("".join(map(encode, batch.to_pylist())).encode())
    return digest.hexdigest()[:16]


def _places(numbers: Iterable[int]) -> pa.Array:
    """Of a list pyarrow would first import pandas, which takes half a second."""
    places = array("q", numbers)
    return pa.Array.from_buffers(pa.int64(), len(places), [None, pa.py_buffer(places)])


class AuditedRows(Mapping[str, Audited]):
    """Rows of tables by id, made when they are asked for: lists are large in Python."""

    def __init__(self, paths: Iterable[Path]) -> None:
        batches = [batch for path in paths for batch in read_batches(path, _READ, SCHEMA.names, BATCH_ROWS, _REMEDY)]
        tables = [SCHEMA.empty_table(), *(pa.Table.from_batches([batch]) for batch in batches)]
        table = pa.concat_tables(tables, promote_options="permissive").select(SCHEMA.names).combine_chunks()
        self._columns = table.columns
        self._place_of = {id: place for place, id in enumerate(table["id"].to_pylist())}

    def __getitem__(self, id: str) -> Audited:
        place = self._place_of[id]
        return next(_rows(SCHEMA.names, ([column[place].as_py()] for column in self._columns)))

    def rows(self, ids: Iterable[str]) -> Iterator[Audited]:
        """Those of some ids, in their order: of many at once each takes a sixth of the time.

        Rows that follow each other, as most do, are not copied first.
        """
        places = [self._place_of[id] for id in ids]
        if places and places == list(range(places[0], places[0] + len(places))):
            parts = [column.slice(places[0], len(places)) for column in self._columns]
        else:
            taken = _places(places)
            parts = [column.take(taken) for column in self._columns]
        return _rows(SCHEMA.names, (part.to_pylist() for part in parts))

    def __contains__(self, id: object) -> bool:
        return id in self._place_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._place_of)

    def __len__(self) -> int:
        return len(self._place_of)


def _column(name: str, rows: Sequence[Audited]) -> list:
    values = list(map(attrgetter(name), rows))
    return [audio and audio.to_json() for audio in values] if name == "audio" else values


def _rows(names: Sequence[str], columns: Iterable[list]) -> Iterator[Audited]:
    """Rows with those fields that were read; by columns, which takes a third of the time that a mapping a row takes."""
    columns = [_values(name, column) for name, column in zip(names, columns, strict=True)]
    put = [getattr(Audited, name).__set__ for name in names]  # the class is frozen
    for values in zip(*columns, strict=True):
        row = object.__new__(Audited)
        for set_field, value in zip(put, values):
            set_field(row, value)
        yield row


def _values(name: str, column: list) -> list:
    """A column as `Audited` has it."""
    if name in _LISTS:
        return [None if value is None else tuple(value) for value in column]
    return [value and AudioRef(**value) for value in column] if name == "audio" else column
