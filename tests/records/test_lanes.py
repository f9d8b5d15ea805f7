"""Protects a checkpoint whose files cannot be written from being waited for until the training ends."""

from threading import Event, Timer

import pytest

from shibolet.records.ahead import in_lanes


def test_results_come_in_the_order_of_the_items():
    assert in_lanes(lambda number: number**2, range(20), 3) == [number**2 for number in range(20)]


def test_an_error_is_raised_though_nobody_hurries():
    """Both lanes of a full disk have ended then, with files that nobody will begin."""
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        raise OSError("No space left on device")

    hurry = Event()
    timer = Timer(5, hurry.set)  # where the error waits for it, others are begun
    timer.start()
    with pytest.raises(OSError, match="No space left"):
        in_lanes(fail, range(12), 8, hurry)
    timer.cancel()
    assert len(begun) <= 2
