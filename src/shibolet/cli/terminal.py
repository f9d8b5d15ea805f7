"""What a person sees in the terminal: sentences and progress on the error output, tables on standard output."""

import shlex
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from shibolet.report.wording import visible
from shibolet.scoring.wording import shown_pct

if TYPE_CHECKING:
    from shibolet.records.documents.beforehand import Finding

LINE_S = 60.0  # between lines of progress in a log
_BESIDE_BAR = 44  # columns that amounts, their unit and the time left take beside title and bar
OUT, ERR = Console(highlight=False), Console(stderr=True, highlight=False)  # `--quiet` makes ERR quiet


def tell(sentence: str) -> None:
    """A sentence about what is going on."""
    _print(ERR, sentence)


def _print(console: Console, sentence: str, indent: str = "") -> None:
    """Broken between words on a terminal, one line in a log; a longer path stays whole, so that it can be copied."""
    said = visible(sentence)
    if console.is_terminal:
        how = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
        said = "\n".join(textwrap.fill(line, console.width, **how) for line in said.split("\n"))
    console.print(said, markup=False, soft_wrap=True)


def say(result: str) -> None:
    """A sentence that is a result."""
    _print(OUT, result)


def warn(sentence: str) -> None:
    """What went wrong, or may; said also where the user wants quiet."""
    was_quiet, ERR.quiet = ERR.quiet, False
    try:
        tell(sentence)
    finally:
        ERR.quiet = was_quiet


def tell_next(what: str, *command: str, opening: str = "Next") -> None:
    """The end of a command: what to do now, and on a line of its own the command for it."""
    tell(f"{opening}: {what}{':' if command else '.'}")
    if command:
        ERR.print(f"  {visible(shlex.join(command))}", markup=False, soft_wrap=True)


@contextmanager
def track(title: str, unit: str = "utterances") -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is fed with (done, in all), 0: not known; away from a terminal, a line a minute.

    When it ends well, a line says how much of `unit` was done in what time.
    """
    started, amount = time.monotonic(), (0, 0)

    def took() -> float:
        return time.monotonic() - started

    with _bar(title, unit) if ERR.is_terminal else _lines(title, unit, took) as show:

        def progress(done: int, total: int) -> None:
            nonlocal amount
            amount = done, total
            show(done, total)

        yield progress
    if amount[0]:
        tell(f"{title}: {_counted(*amount, unit)} in {in_time(took())}")
    elif took() >= 1 or not ERR.is_terminal:
        tell(f"{title}: {in_time(took())}")


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A line that is drawn anew and is gone at the end; the bar comes once it is known how much there is to do."""
    width = max(6, min(20, ERR.width - cell_len(title) - _BESIDE_BAR))
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False),
        _Bar(width),
        _Amount(unit),
    )
    with Progress(*columns, console=ERR, transient=True) as bars:
        task = bars.add_task(visible(title), total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total or None)


@contextmanager
def _lines(title: str, unit: str, took: Callable[[], float]) -> Iterator[Callable[[int, int], None]]:
    """A line at the beginning, and one a minute."""
    tell(f"{title} ...")
    last = 0.0

    def show(done: int, total: int) -> None:
        nonlocal last
        if took() - last >= LINE_S:
            last = took()
            tell(f"{title}: {_counted(done, total, unit)} after {in_time(last)}")

    yield show


class _Bar(BarColumn):
    """A bar, and nothing where the end is not known."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total else Text()


class _Amount(ProgressColumn):
    """`64 of 320 utterances, 27 s left`; the time so far where the end is not known."""

    max_refresh = 0.5

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        shown = []
        if task.completed:
            shown.append(_counted(int(task.completed), int(task.total or 0), self._unit))
        if task.total and task.time_remaining is not None:
            shown.append(f"{in_time(task.time_remaining)} left")
        elif not task.total:
            shown.append(in_time(task.elapsed or 0.0))
        return Text(", ".join(shown), no_wrap=True)


def _counted(done: int, total: int, unit: str) -> str:
    return f"{done:,} of {total:,} {unit}" if total and total != done else f"{done:,} {unit}"


def in_time(seconds: float) -> str:
    """A duration in the unit that people would use."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; columns whose header begins with a blank are numbers, which are not broken where names can be."""
    OUT.print(visible(title), style="bold", markup=False)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    cells = [[_cell(str(cell)) for cell in row] for row in rows]
    columns = [[cell_len(row[place]) for row in cells] for place in range(len(header))]
    widths = [max([cell_len(name.strip()), *column]) for name, column in zip(header, columns, strict=True)]
    is_tight = sum(widths) + 2 * (len(widths) - 1) > OUT.width
    for name, column in zip(header, columns, strict=True):
        if name.startswith(" "):  # its title is broken before its numbers are
            least = max([*map(cell_len, name.split()), *column]) if is_tight else None
            grid.add_column(name.strip(), justify="right", overflow="fold", width=least)
        else:
            grid.add_column(name, overflow="fold")
    for row in cells:
        grid.add_row(*row)
    OUT.print(grid)


def finding(one: "Finding") -> None:
    """One line of a check, as soon as it is known."""
    _print(OUT, f"{one.state:<8} {one.what}: {one.found}", " " * 9)


def facts(lines: Sequence[tuple[str, str]]) -> None:
    """Names, and beside each what is to be said, folded to the width of the terminal."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, said in lines:
        grid.add_row(_cell(name), _cell(said))
    OUT.print(grid)


def explained(names: Sequence[tuple[str, str]]) -> None:
    """Names, and below each what is to be said of it, folded to the width of the terminal."""
    whole = {"width": OUT.width, "break_long_words": False, "break_on_hyphens": False, "subsequent_indent": " " * 4}
    for name, said in names:
        OUT.print(textwrap.fill(visible(name), **whole), markup=False, soft_wrap=True)
        OUT.print(textwrap.fill(visible(said), initial_indent=" " * 4, **whole), markup=False, soft_wrap=True)


def _cell(text: str) -> str:
    """Text of data in a table: no markup, and nothing that a terminal obeys."""
    return escape(visible(text))


def pct(rate: float | None) -> str:
    return shown_pct(rate) or "-"
