"""Short work on each of many files: who does it is for the caller to say."""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_AT_ONCE = 1024  # files that wait for a thread


class ForEach(Protocol):
    """Who does it: the results of a function of a module come in the order of the files."""

    def __call__(self, function: Callable[[str], Result], paths: Sequence[str]) -> Generator[Result, None, None]: ...


def at_once(function: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> list[Result]:
    """`function` of each, in order, by threads that wait for the network; after an error no other is begun."""
    pool = ThreadPoolExecutor(num_threads)
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)


def in_threads(function: Callable[[str], Result], paths: Sequence[str]) -> Generator[Result, None, None]:
    """`function` of each, by threads of this process: they wait for the disk."""
    with ThreadPoolExecutor(8) as pool:
        for first in range(0, len(paths), _AT_ONCE):
            yield from pool.map(function, paths[first : first + _AT_ONCE])
