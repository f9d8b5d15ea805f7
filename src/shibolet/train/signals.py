"""SIGTERM and SIGINT as a flag that the loop reads at the step boundary."""

import signal
import threading
from types import FrameType


class StopSignals:
    """Within it the first signal sets `received`; a second one acts as it did before.

    With `deaf` it does nothing: a rank gets the same signal from its launcher and from the scheduler, and who wants it
    gone at once tells the launcher twice.
    """

    def __init__(self, *, deaf: bool = False) -> None:
        self.received = False
        self._deaf = deaf
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._set)
        return self

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if not self._deaf:
            signal.signal(number, self._before[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
