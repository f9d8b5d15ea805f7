"""Short work on each of many files: who does it is for the caller to say."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from threading import Event
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_AT_ONCE = 1024  # files that wait for a thread
_ROWS = 8192  # whose files are looked at together
_KNOWN_FILES = 200_000  # whose results are remembered, some 250 bytes each


class ForEach(Protocol):
    """Who does it: the results of a function of a module come in the order of the files."""

    def __call__(self, function: Callable[[str], Result], paths: Sequence[str]) -> Generator[Result, None, None]: ...


def at_once(function: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> list[Result]:
    """`function` of each, in order, by threads that wait for the network; after an error no other is begun."""
    failed = Event()  # this thread may be late to cancel the others

    def unless_failed(item: Item) -> Result | None:
        if failed.is_set():
            return None  # which nobody sees: the error is raised in place of all results
        try:
            return function(item)
        except BaseException:
            failed.set()
            raise

    pool = ThreadPoolExecutor(num_threads)
    try:
        futures = [pool.submit(unless_failed, item) for item in items]
        wait(futures, return_when=FIRST_EXCEPTION)
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def in_threads(function: Callable[[str], Result], paths: Sequence[str]) -> Generator[Result, None, None]:
    """`function` of each, by threads of this process: they wait for the disk."""
    with ThreadPoolExecutor(8) as pool:
        for first in range(0, len(paths), _AT_ONCE):
            yield from pool.map(function, paths[first : first + _AT_ONCE])


def for_each_row(for_each: ForEach, function: Callable[[str], Result], paths: Iterable[str]) -> Iterator[Result]:
    """`function` of the file of each row; a file is looked at once, unless it comes again after very many others."""
    known: dict[str, Result] = {}  # those that were asked for last are the last ones
    paths = iter(paths)
    while rows := list(islice(paths, _ROWS)):
        these = {path: known.pop(path) for path in dict.fromkeys(rows) if path in known}
        new = [path for path in dict.fromkeys(rows) if path not in these]
        with closing(for_each(function, new)) as results:
            these.update(zip(new, results, strict=True))
        yield from (these[path] for path in rows)
        known.update(these)
        for path in list(islice(known, max(0, len(known) - _KNOWN_FILES))):
            del known[path]
