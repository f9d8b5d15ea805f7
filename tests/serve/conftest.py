"""Servers that end with their test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from serving import Running, running


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., Running]]:
    """Starts servers that end with the test."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ExitStack() as stack:
        yield lambda *args, **settings: stack.enter_context(running(*args, **settings))
