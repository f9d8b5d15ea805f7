"""Rows of cells, as spreadsheets and scripts write them: TSV, and CSV with `,` or `;`.

A cell is quoted where it begins and ends with `"` and every quote inside is doubled. Other quotes are characters: many
files have sentences with quotation marks as they stand, and a quote that is never closed must not swallow rows.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from shibolet.speech.textfiles import MAX_LINE_BYTES, BadRow

DELIMITERS = ("\t", ",", ";")
MAX_CELL_LINES = 100  # that a quoted cell may have

Line = tuple[int, str | BadRow]


@dataclass(frozen=True, slots=True)
class Header:
    """Names of the columns, and what stands between cells."""

    names: tuple[str, ...]
    delimiter: str


def headers(first: str | BadRow) -> list[Header]:
    """A first line as the header that it may be, by each delimiter that it has; the one with most columns first."""
    if isinstance(first, BadRow) or first.lstrip()[:1] in "{[":
        return []
    line = first.rstrip("\r\n")
    found = [Header(tuple(name.strip() for name in split(line, own)), own) for own in DELIMITERS if own in line]
    return sorted(found, key=lambda header: -len(header.names))


def split(line: str, delimiter: str) -> list[str]:
    """The cells of a line, with the quotes of quoted ones undone."""
    return line.split(delimiter) if '"' not in line else [_plain(cell) for cell in _cell(delimiter).findall(line)]


def rows(lines: Iterable[Line], header: Header, text: str | None) -> Iterator[tuple[int, dict[str, str] | BadRow]]:
    """Each row after the header: the number of its first line, and its cells by column.

    Empty cells at the end of a row may be missing, and be too many. `text` is a column that no row may lack: one that
    ends in it, and seems to go on in the next line or ends the file without a line end, may have lost half of its text.
    """
    waiting, lines, width = deque(), iter(lines), len(header.names)
    place = -1 if text is None else header.names.index(text)
    next(lines, None)
    while waiting or (line := next(lines, None)):
        number, line = waiting.popleft() if waiting else line
        if isinstance(line, BadRow):
            yield number, line
            continue
        has_end, cells = line.endswith(("\n", "\r")), _fitted(line, header)
        if _open_quote(line, header.delimiter):
            cells = _over_lines(line, waiting, lines, header, is_row=len(cells) == width) or cells
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        if 0 < place + 1 == len(cells) < width and (not has_end or _goes_on(cells, _peek(waiting, lines), header)):
            yield number, BadRow("not_a_row", f"{len(cells)} cells under a header of {width}, the text seems cut")
            continue
        if not place < len(cells) <= width:
            yield number, BadRow("not_a_row", f"{len(cells)} cells under a header of {width}")
            continue
        yield number, dict(zip(header.names, cells + [""] * (width - len(cells))))


def _fitted(line: str, header: Header) -> list[str]:
    """The cells of a line; where it has as many as the header only with all quotes taken as characters, these."""
    line = line.rstrip("\r\n")
    cells = split(line, header.delimiter)
    if len(cells) != len(header.names) and '"' in line:
        plain = line.split(header.delimiter)
        return plain if len(plain) == len(header.names) else cells
    return cells


def _over_lines(
    line: str, waiting: deque[Line], lines: Iterator[Line], header: Header, *, is_row: bool
) -> list[str] | None:
    """The cells of a row of which one goes over several lines, taken from `waiting` and `lines`; None: it is none.

    Where the line could be a row by itself (`is_row`), its quote a character, lines that could be rows are left alone.
    """
    joined, taken = line, []
    while len(taken) < MAX_CELL_LINES and len(joined) < MAX_LINE_BYTES and (after := _peek(waiting, lines)):
        if isinstance(after[1], BadRow):
            break
        if is_row and after[1].count(header.delimiter) + 1 >= len(header.names):
            break
        taken.append(waiting.popleft())
        joined += after[1]
        if '"' in after[1]:
            cells = split(joined.rstrip("\r\n"), header.delimiter)
            if len(cells) <= len(header.names) and not _open_quote(joined, header.delimiter):
                return cells
    waiting.extendleft(reversed(taken))
    return None


def _peek(waiting: deque[Line], lines: Iterator[Line]) -> Line | None:
    """The line that comes next."""
    if not waiting and (line := next(lines, None)):
        waiting.append(line)
    return waiting[0] if waiting else None


def _goes_on(cells: list[str], after: Line | None, header: Header) -> bool:
    """Whether a row that ends in its text seems to have its other half in the line after it."""
    if after is None or isinstance(after[1], BadRow):
        return False
    rest = _fitted(after[1], header)
    return len(rest) < len(cells) or len(cells) + len(rest) == len(header.names) + 1


def _open_quote(line: str, delimiter: str) -> bool:
    """Whether a cell begins with a quote that the line does not close."""
    if '"' not in line:
        return False
    return any(cell[:1] == '"' and not _is_quoted(cell) for cell in _cell(delimiter).findall(line.rstrip("\r\n")))


@lru_cache
def _cell(delimiter: str) -> re.Pattern[str]:
    own = re.escape(delimiter)
    return re.compile(rf'(?:(?<={own})|^)(?:"(?:[^"]|"")*+"(?={own}|\Z)|[^{own}]*)')


def _is_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")


def _plain(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if _is_quoted(cell) else cell
