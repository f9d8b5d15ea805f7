"""Parquet files of ours, read by their schema: a batch holds what the schema says, or it is an error.

A field that is not nullable has a value in every row, and numbers are finite. Sources of data have their own readers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shibolet.errors import DataError


def read_batches(
    path: Path, schema: pa.Schema, columns: Sequence[str], batch_rows: int, remedy: str
) -> Iterator[pa.RecordBatch]:
    """These columns of a file, so many rows at a time; DataError when it is not whole or of another schema."""
    with _reading(path, remedy):
        file = _opened(path, schema, columns, remedy)
        for batch in file.iter_batches(batch_rows, columns=list(columns)):
            batch.validate(full=True)
            for name in columns:
                if fault := _fault(batch.column(name), schema.field(name)):
                    raise DataError(f"{path}: column '{name}' {fault}; {remedy}")
            yield batch


def num_rows(path: Path, remedy: str) -> int:
    """Rows of a file, by its footer."""
    with _reading(path, remedy):
        return _opened(path, pa.schema([]), (), remedy).metadata.num_rows


def column_names(path: Path, remedy: str) -> set[str]:
    """Names of a file's columns, whatever their types."""
    with _reading(path, remedy):
        return set(_opened(path, pa.schema([]), (), remedy).schema_arrow.names)


def _opened(path: Path, schema: pa.Schema, columns: Sequence[str], remedy: str) -> pq.ParquetFile:
    if path.exists() and not path.is_file():
        raise DataError(f"{path} cannot be read: it is no file; {remedy}")
    file = pq.ParquetFile(path)
    found = file.schema_arrow
    for name in columns:
        if name not in found.names:
            raise DataError(f"{path} has no column '{name}': an earlier version wrote it; {remedy}")
        if not (kind := found.field(name).type).equals(wanted := _as_written(schema.field(name).type)):
            raise DataError(f"{path}: column '{name}' holds {kind} instead of {wanted}; {remedy}")
    return file


def _as_written(kind: pa.DataType) -> pa.DataType:
    """A type as files have it, where everything may be missing."""
    if pa.types.is_list(kind):
        return pa.list_(_as_written(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _as_written(field.type)) for field in kind.fields])
    return kind


@contextmanager
def _reading(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}; {remedy}") from error
    except (OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path} is not whole ({said[:200]}); {remedy}") from error


def _fault(array: pa.Array, field: pa.Field) -> str | None:
    """What a column has that its field does not allow, or None."""
    if array.null_count and not field.nullable:
        return "lacks values"
    if pa.types.is_floating(field.type):
        return None if pc.all(pc.is_finite(array)).as_py() is not False else "has a number that is not finite"
    if pa.types.is_list(field.type):
        return _fault(array.flatten(), field.type.value_field)
    if pa.types.is_struct(field.type):
        there = array.filter(array.is_valid()) if array.null_count else array
        faults = (_fault(there.field(i), field.type.field(i)) for i in range(field.type.num_fields))
        return next(filter(None, faults), None)
    return None
