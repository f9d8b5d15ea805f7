"""Trying again what may go better the next time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def retried(
    action: Callable[[], T],
    may_pass: Callable[[Exception], bool],
    *,
    attempts: int = 4,
    first_wait_s: float = 5.0,
    wait: Callable[[float], None] = time.sleep,
) -> T:
    """What `action` returns; an error that may pass is waited out, twice as long each time, the last one is raised."""
    for attempt in range(attempts - 1):
        try:
            return action()
        except Exception as error:
            if not may_pass(error):
                raise
        wait(first_wait_s * 2**attempt)
    return action()
