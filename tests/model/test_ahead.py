import threading

import pytest

from shibolet.model.ahead import one_ahead


def test_items_come_in_order_and_one_ahead_of_their_reader():
    """Protects from a reader that waits for work it could have had done, and from memory that grows with a list."""
    made = []
    ready = threading.Semaphore(0)

    def items():
        for i in range(4):
            made.append(i)
            ready.release()
            yield i

    reader = one_ahead(items())
    assert next(reader) == 0
    for expected in (1, 2, 3):
        ready.acquire(timeout=5)
        ready.acquire(timeout=5) if expected == 1 else None
        assert made == list(range(expected + 1)), "neither fewer nor more than one ahead"
        assert next(reader) == expected
    assert list(reader) == []


def test_what_making_an_item_raises_is_raised_here():
    def items():
        yield 1
        raise ValueError("no second item")

    reader = one_ahead(items())
    assert next(reader) == 1
    with pytest.raises(ValueError, match="no second item"):
        next(reader)
