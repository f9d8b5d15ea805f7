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
        num_read, promised = 0, file.metadata.num_rows
        for batch in file.iter_batches(batch_rows, columns=list(columns)):
            num_read += batch.num_rows
            batch.validate(full=True)
            for name in columns:
                if fault := _fault(batch.column(name), schema.field(name)):
                    raise DataError(f"{path}: column '{name}' {fault}; {remedy}")
            yield batch
        if num_read != promised:  # pyarrow passes over a page of a kind that it does not know
            raise DataError(f"{path} is not whole ({num_read:,} of {promised:,} rows can be read); {remedy}")


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
        raise DataError(f"{path} cannot be read: it is not a file; {remedy}")
    file = pq.ParquetFile(path)
    found = file.schema_arrow
    for name in columns:
        if name not in found.names:
            raise DataError(f"{path} has no column '{name}': an earlier version wrote it; {remedy}")
        if not _fits(kind := found.field(name).type, schema.field(name)):
            raise DataError(f"{path}: column '{name}' holds {kind} instead of {schema.field(name).type}; {remedy}")
    return file


def _fits(found: pa.DataType, field: pa.Field) -> bool:
    """Whether a column of a file can be this field: everything may be missing in it that need not have a value."""
    if field.nullable and pa.types.is_null(found):
        return True
    if pa.types.is_list(field.type):
        return pa.types.is_list(found) and _fits(found.value_type, field.type.value_field)
    if pa.types.is_struct(field.type):
        if not pa.types.is_struct(found):
            return False
        there, wanted = {one.name: one.type for one in found.fields}, {one.name: one for one in field.type.fields}
        needed = {name for name, one in wanted.items() if not one.nullable}
        return needed <= there.keys() <= wanted.keys() and all(_fits(there[name], wanted[name]) for name in there)
    return found.equals(field.type)


@contextmanager
def _reading(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}; {remedy}") from error
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # text: of a column's name
        said = " ".join(str(error).split())
        raise DataError(f"{path} is not whole ({said[:200]}); {remedy}") from error


def _fault(array: pa.Array, field: pa.Field) -> str | None:
    """What a column has that its field does not allow, or None."""
    if array.null_count and not field.nullable:
        return "lacks values"
    if pa.types.is_floating(array.type):
        return None if pc.all(pc.is_finite(array)).as_py() is not False else "has a number that is not finite"
    if pa.types.is_list(array.type):
        return _fault(array.flatten(), field.type.value_field)
    if pa.types.is_struct(array.type):
        there = array.filter(array.is_valid()) if array.null_count else array
        faults = (_fault(there.field(name), field.type.field(name)) for name in (one.name for one in array.type.fields))
        return next(filter(None, faults), None)
    return None
