"""What a person sees in the terminal: sentences and progress on the error output, tables on standard output."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from shibolet.report.wording import visible
from shibolet.scoring.wording import shown_pct

if TYPE_CHECKING:
    from shibolet.records.documents.beforehand import Finding

LINE_S = 60.0  # between lines of progress in a log
OUT, ERR = Console(highlight=False), Console(stderr=True, highlight=False)


def tell(sentence: str) -> None:
    """A sentence about what is going on."""
    ERR.print(visible(sentence), markup=False, soft_wrap=True)


@contextmanager
def track(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is fed with (done, in all), 0: not known; away from a terminal, a line a minute."""
    if not ERR.is_terminal:
        tell(f"{title} ...")
        started = last = time.monotonic()

        def say(done: int, total: int) -> None:
            nonlocal last
            if (now := time.monotonic()) - last >= LINE_S:
                last = now
                tell(f"{title}: {done:,}{f' of {total:,}' if total else ''} after {now - started:.0f} s")

        yield say
        tell(f"{title}: {time.monotonic() - started:.0f} s")
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total or None)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; columns whose header begins with a blank are numbers."""
    OUT.print(visible(title), style="bold", markup=False)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for name in header:
        grid.add_column(name.strip(), justify="right" if name.startswith(" ") else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(str(cell)) for cell in row))
    OUT.print(grid)


def finding(one: "Finding") -> None:
    """One line of a check, as soon as it is known."""
    OUT.print(visible(f"{one.state:<8} {one.what}: {one.found}"), markup=False, soft_wrap=True)


def facts(lines: Sequence[tuple[str, str]]) -> None:
    """Names, and beside each what is to be said, folded to the width of the terminal."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, said in lines:
        grid.add_row(_cell(name), _cell(said))
    OUT.print(grid)


def _cell(text: str) -> str:
    """Text of data in a table: no markup, and nothing that a terminal obeys."""
    return escape(visible(text))


def pct(rate: float | None) -> str:
    return shown_pct(rate) or "-"
