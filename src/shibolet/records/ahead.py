"""Work that begins before its result is needed."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Event, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
LANES_BESIDE = 2
_BEFORE_END_S = 40.0  # libraries of a training take half of it to load


class Ahead(Generic[Result]):
    """What a function comes to, in a thread of its own from now on.

    Python waits for the thread before it ends: one that is cut off within torch would take the process down with it.
    One that `may_be_cut_off` is nobody's concern at the end.
    """

    def __init__(self, function: Callable[[], Result], *, may_be_cut_off: bool = False) -> None:
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, args=(function,), daemon=may_be_cut_off)
        self._thread.start()

    def _run(self, function: Callable[[], Result]) -> None:
        try:
            self._result = function()
        except BaseException as error:  # raised where the result is asked for
            self._error = error

    def wait(self) -> None:
        """Until it is done, whatever came of it."""
        self._thread.join()

    def get(self) -> Result:
        """The result, once it is there; what the function raised is raised here."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._result


def in_lanes(
    function: Callable[[Item], Result], items: Sequence[Item], num_lanes: int, hurry: Event | None = None
) -> list[Result]:
    """`function` of each item in order, `num_lanes` at once, where there is one `LANES_BESIDE` before `hurry` is set.

    An error is raised when all have ended; after it no other item is begun.
    """
    found: dict[int, Result] = {}
    waiting = deque(range(len(items)))

    def go() -> None:
        while waiting:
            try:
                at = waiting.popleft()
            except IndexError:  # another lane was faster
                return
            try:
                found[at] = function(items[at])
            except BaseException:
                waiting.clear()
                raise

    with ExitStack() as lanes:
        for number in range(min(num_lanes, len(items))):
            while hurry and number >= LANES_BESIDE and waiting and not hurry.wait(0.05):
                pass
            lanes.callback(Ahead(go).get)
    return [found[at] for at in range(len(items))]


def before_end(progress: Callable[[int, int], None], then: Callable[[], None]) -> Callable[[int, int], None]:
    """`progress`, with a call of `then` once what is left will take `_BEFORE_END_S` seconds or less."""
    since: tuple[float, int] | None = None
    is_called = False

    def both(done: int, total: int) -> None:
        nonlocal since, is_called
        progress(done, total)
        now = time.perf_counter()
        since = since or (now, done)
        left_s = (total - done) * (now - since[0]) / (done - since[1]) if done > since[1] else math.inf
        if not is_called and left_s <= _BEFORE_END_S:
            is_called = True
            then()

    return both
