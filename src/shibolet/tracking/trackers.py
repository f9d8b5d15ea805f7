"""All trackers of a process, fed from threads of their own: none can stop a round or make it wait."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from shibolet.tracking.config import Shown
from shibolet.tracking.keys import require

LOG = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes numbers and texts by key, documents, and folders by name."""

    def begin(self, after_step: int, training: str) -> None:
        """Steps after this one follow; another `training` takes steps anew that may have been shown before."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers that come together at a step; the first is there every time, and they are known by its key."""

    def text(self, key: str, value: str, step: int) -> None: ...
    def alert(self, title: str, text: str, step: int) -> None: ...
    def document(self, shown: Shown) -> None: ...

    def folder(self, name: str, step: int, path: Path) -> None:
        """A folder as it is after a step: the next version of that name."""

    def close(self) -> None: ...


class Trackers:
    """The first failure of one is reported and silences it; so is one that falls `_MOST_WAITING` calls behind."""

    def __init__(self, starters: Mapping[str, Callable[[], Tracker]] = MappingProxyType({})) -> None:
        """What starts each tracker, by its name for people."""
        self._feeds = [_Feed(name, start) for name, start in starters.items()]

    def begin(self, after_step: int, training: str) -> None:
        self._each("begin", after_step, training)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        require("number", values)
        self._each("scalars", dict(values), step)

    def text(self, key: str, value: str, step: int) -> None:
        require("text", [key])
        self._each("text", key, value, step)

    def alert(self, title: str, text: str, step: int) -> None:
        self._each("alert", title, text, step)

    def document(self, shown: Shown) -> None:
        require("number", shown.numbers)
        require("text", shown.texts)
        require("table", shown.tables)
        self._each("document", shown)

    def folder(self, name: str, step: int, path: Path) -> None:
        self._each("folder", name, step, path)

    def close(self) -> None:
        """Let them finish, for at most `_CLOSE_S` seconds each."""
        self._each("close")
        for feed in self._feeds:
            feed.join()
        self._feeds = []

    def _each(self, method: str, *args: Any) -> None:
        for feed in self._feeds:
            feed.put(method, *args)


_MOST_WAITING = 10_000  # calls: hours of steps
_CLOSE_S = 60.0


class _Feed:
    """A tracker and the thread that calls it."""

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self._calls: queue.Queue[tuple[str, tuple]] = queue.Queue(_MOST_WAITING)
        self._dead = False
        self._name = name
        self._thread = threading.Thread(target=self._run, args=(start,), name="tracker", daemon=True)
        self._thread.start()

    def put(self, method: str, *args: Any) -> None:
        if self._dead:
            return
        try:
            self._calls.put_nowait((method, args))
        except queue.Full:
            self._die("it does not keep up")

    def join(self) -> None:
        self._thread.join(0 if self._dead else _CLOSE_S)
        if self._thread.is_alive() and not self._dead:
            self._die(f"it did not finish within {_CLOSE_S:.0f} s")

    def _run(self, start: Callable[[], Tracker]) -> None:
        try:
            tracker = start()
            method = ""
            while method != "close" and not self._dead:
                method, args = self._calls.get()
                getattr(tracker, method)(*args)
        except Exception as error:  # an outside service must not end the round
            self._die(f"{type(error).__name__}: {error}")

    def _die(self, why: str) -> None:
        self._dead = True
        LOG.warning("tracker %s is left out from here on, and nothing else: %s", self._name, why)
