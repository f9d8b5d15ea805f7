"""Protects from processes that wait for hours, and from a training that waits for them."""

import pytest

from shibolet.records.ahead import before_end


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("shibolet.records.ahead.time.perf_counter", lambda: now[0])
    return now


def test_it_comes_once_shortly_before_the_end_by_the_rate_so_far(clock):
    seen, called = [], []
    progress = before_end(lambda done, total: seen.append((done, total)), lambda: called.append(clock[0]))
    for second in range(0, 1001, 10):
        clock[0] = 100.0 + second
        progress(second, 1000)
    assert called == [1060.0]  # 40 s are left
    assert seen == [(second, 1000) for second in range(0, 1001, 10)]


def test_what_was_done_before_says_nothing_of_the_rate(clock):
    """An audit that goes on has most of its clips at once."""
    called = []
    progress = before_end(lambda done, total: None, lambda: called.append(clock[0]))
    for second in range(0, 101):
        clock[0] = 100.0 + second
        progress(900 + second, 1000)
    assert called == [160.0]


def test_an_end_that_is_not_known_calls_nothing(clock):
    called = []
    progress = before_end(lambda done, total: None, lambda: called.append(clock[0]))
    progress(0, 0)
    assert not called
