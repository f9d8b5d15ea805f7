"""Our Parquet files: protects from a traceback, and from a value that no row of ours has, in a file that changed."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audit_documents import audited

from shibolet.errors import DataError
from shibolet.prepare import shards as written
from shibolet.records import shards
from shibolet.records.audited import SCHEMA, AuditedRows, audited_hash, read_audited, write_audited
from shibolet.records.parquet import read_batches
from shibolet.records.utterance import AudioRef
from shibolet.speech import tables

ROW = {"id": "a", "audio": {"bytes": b"x", "path": None}, "text": "t", "duration_s": 1.0, "origin_id": "a"} | {
    "origin_start_s": 0.0, "origin_end_s": 1.0, "sha256": "0", "origin_sha256": "0", "origin_offset_s": 0.0,
}  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "utterances.parquet"
    words = {"words": ("a", "b"), "starts_s": (0.0, 1.0), "ends_s": (0.5, 1.5)}
    write_audited(path, [audited(f"u{i}", audio=AudioRef(path="x.wav"), **words) for i in range(40)])
    return path


def change(path: Path, name: str, values: list, kind: pa.DataType | None = None) -> None:
    """Write the file again with another column."""
    found = pq.read_table(path)
    column = pa.array(values * len(found), kind or found.schema.field(name).type)
    pq.write_table(found.set_column(found.schema.get_field_index(name), name, column), path)


def readers(path: Path):
    yield lambda: list(read_audited(path))
    yield lambda: audited_hash(path)
    yield lambda: AuditedRows([path])


@pytest.mark.parametrize(
    ("name", "values", "kind", "said"),
    [
        ("id", [5], pa.int64(), "column 'id' holds int64 instead of string"),
        ("words", ["a b"], pa.string(), "column 'words' holds string instead of list"),
        ("id", [None], None, "column 'id' lacks values"),
        ("duration_s", [float("nan")], None, "column 'duration_s' has a number that is not finite"),
        ("confidence", [float("inf")], None, "column 'confidence' has a number that is not finite"),
        ("words", [["a", None]], None, "column 'words' lacks values"),
        ("starts_s", [[0.0, float("nan")]], None, "column 'starts_s' has a number that is not finite"),
    ],
)
def test_a_column_that_holds_something_else_is_named(table: Path, name: str, values: list, kind, said: str):
    """Nothing else notices a null or a NaN: a rate would be of fewer utterances, or none."""
    change(table, name, values, kind)
    for read in readers(table):
        with pytest.raises(DataError, match=rf"utterances\.parquet: {said}.*; run 'shibolet audit' again"):
            read()


def test_a_place_without_a_path_is_found_below_rows_that_have_no_place(table: Path):
    place = {"row": None, "column": "audio", "start_s": 0.0, "end_s": None}
    change(table, "audio", [None, {"path": "x.wav", **place}][:1])
    assert next(read_audited(table)).audio is None
    change(table, "audio", [{"path": None, **place}])
    with pytest.raises(DataError, match="column 'audio' lacks values"):
        list(read_audited(table))


def test_what_is_no_table_is_a_sentence(table: Path):
    whole = table.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-1], whole[4:], b"{}", whole[:-8] + b"\xff" * 8):
        table.write_bytes(content)
        for read in readers(table):
            with pytest.raises(DataError, match=r"utterances\.parquet is not whole .*; run 'shibolet audit' again"):
                read()
    table.unlink()
    with pytest.raises(DataError, match="there is no "):
        list(read_audited(table))
    table.mkdir()
    with pytest.raises(DataError, match="it is not a file"):
        list(read_audited(table))


def test_text_that_is_not_utf8_is_found(table: Path):
    """A flipped bit in a text: pyarrow hands it out and Python cannot make a string of it."""
    found = pq.read_table(table).drop_columns(["text"])
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    pq.write_table(found.append_column("text", pa.chunked_array([text] * 40)), table)
    for read in readers(table):
        with pytest.raises(DataError, match=r"not whole .*Invalid UTF8"):
            read()


def test_no_changed_byte_of_a_page_loses_rows(tmp_path: Path):
    """pyarrow passes over a page of a kind that it does not know, and the table ends there without a word."""
    path, values = tmp_path / "x.parquet", [f"u{i}" for i in range(40)]
    pq.write_table(pa.table({"id": values}), path)
    whole, lost = path.read_bytes(), 0
    for at in range(4, len(whole) - 8 - pq.read_metadata(path).serialized_size):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 10]) + whole[at + 1 :])
        try:
            lost += len(pq.read_table(path)) < len(values)
        except (OSError, pa.ArrowException):
            continue
        for read in (
            lambda: sum(batch.num_rows for batch in read_batches(path, pa.schema({"id": "string"}), ["id"], 8, "")),
            lambda: sum(batch.num_rows for batch in tables.ParquetTable(path).batches(["id"])),
            lambda: len(values) * isinstance(tables.ParquetTable(path).cell(3, "id"), str),
        ):
            try:
                assert read() == len(values)
            except (DataError, ValueError) as error:
                assert "0 of 40 rows" in str(error)
    assert lost, "no byte of this file ends a column early"


def test_the_tables_columns_are_those_that_are_read(table: Path):
    assert pq.read_schema(table).equals(SCHEMA)
    assert [field.name for field in shards.SCHEMA] == written.SCHEMA.names
    path = table.with_name("train-00000.parquet")
    pq.write_table(pa.Table.from_pylist([ROW, ROW], schema=written.SCHEMA), path)
    assert (
        list(shards.read_shard(path, *shards.SCHEMA.names))
        == [tuple(b"x" if name == "audio" else ROW.get(name) for name in shards.SCHEMA.names)] * 2
    )
    assert shards.num_rows(path) == 2 and shards.has_columns(path, "sha256") and not shards.has_columns(path, "x")


@pytest.mark.parametrize("name", ["text", "duration_s", "audio"])
def test_a_shard_without_a_value_is_named_with_the_command_that_makes_it_again(tmp_path: Path, name: str):
    path = tmp_path / "train-00000.parquet"
    pq.write_table(pa.Table.from_pylist([ROW, {**ROW, name: None}], schema=written.SCHEMA), path)
    with pytest.raises(DataError, match=rf"column '{name}' lacks values; 'shibolet prepare RECIPE' makes it again"):
        list(shards.read_shard(path, "id", name))
    path.write_bytes(path.read_bytes()[:-1])
    for read in (shards.read_shard, shards.has_columns):
        with pytest.raises(DataError, match="not whole"):
            list(read(path, "id"))
    with pytest.raises(DataError, match="not whole"):
        shards.num_rows(path)
