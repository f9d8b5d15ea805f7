"""Work that begins before its result is needed."""

from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Ahead(Generic[Result]):
    """What a function comes to, in a thread of its own from now on.

    The thread ends with the process, so that Ctrl-C waits for nothing.
    """

    def __init__(self, function: Callable[[], Result]) -> None:
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], Result]) -> None:
        try:
            self._result = function()
        except BaseException as error:  # raised where the result is asked for
            self._error = error

    def get(self) -> Result:
        """The result, once it is there; what the function raised is raised here."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result
