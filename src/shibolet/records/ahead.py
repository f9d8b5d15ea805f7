"""Work that begins before its result is needed."""

from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

Result = TypeVar("Result")


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
