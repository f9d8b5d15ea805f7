"""Models that are opened at first use, from instructions that other processes can be given."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock, RLock
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from shibolet.errors import ModelError
from shibolet.listen.decoders import Decoders
from shibolet.listen.engine import Engine
from shibolet.listen.executor import Executor, Here

Model = TypeVar("Model")
_LOADING = RLock()  # transformers loads one model at a time: it changes torch's defaults meanwhile


class Lazy(Generic[Model]):
    """What `open_it` gives, opened once; another process opens its own, one for all that are sent there."""

    def __init__(self, open_it: Callable[[], Model]) -> None:
        """`open_it` must be a function of a module, or a partial one, to be sent."""
        self._open_it = open_it
        self._opened: Model | None = None
        self._is_warm, self._warming = False, Lock()

    def warm(self) -> None:
        """Open it, and have what takes time at its first use done, where it says how."""
        with self._warming:
            if not self._is_warm and hasattr(opened := self.get(), "warm"):
                opened.warm()
            self._is_warm = True

    def get(self) -> Model:
        with _LOADING:
            if self._opened is None:
                self._opened = self._open_it()
            return self._opened

    def __reduce__(self) -> tuple:
        return _of_this_process, (pickle.dumps(self._open_it),)


_SENT: WeakValueDictionary[bytes, Lazy] = WeakValueDictionary()


def _of_this_process(instructions: bytes) -> Lazy:
    if (found := _SENT.get(instructions)) is None:
        # Read at first use too: that loads the libraries.
        found = _SENT[instructions] = Lazy(lambda: pickle.loads(instructions)())
    return found


class LazyListener:
    """An aligner or recogniser that is loaded at its first clip: what was heard before needs none."""

    def __init__(self, identity: str, open_it: Callable[[], Any]) -> None:
        self.identity, self._listener = identity, Lazy(open_it)
        self._window_s: float | None = None

    def get(self) -> Any:
        """The listener, with the window that was set; ModelError where another model has its name here."""
        opened = self._listener.get()
        require_identity(opened, self.identity)
        if self._window_s is not None and hasattr(opened, "set_window"):
            opened.set_window(self._window_s)
        return opened

    @property
    def at_once(self) -> int:
        """Calls that compute at the same time."""
        return getattr(self.get(), "at_once", 1)

    def warm(self) -> None:
        """Load it, and have what takes time at its first clip done."""
        self._listener.warm()

    def align(self, clips: Sequence, words: Sequence[list[str]]) -> list:
        return self.get().align(clips, words)

    def hear(self, clips: Sequence, words: Sequence[list[str]]) -> list:
        return self.get().hear(clips, words)

    def choose_window(self, clips: Sequence, words: Sequence[list[str]]) -> float | None:
        """The window of a recogniser that can hear with several; None for any other."""
        choose = getattr(self.get(), "choose_window", None)
        return choose(clips, words) if choose else None

    def set_window(self, seconds: float) -> None:
        self._window_s = seconds


def require_identity(opened: Any, identity: str) -> None:
    """ModelError where what was opened by a name is not what has that name for who asked for it."""
    if (found := getattr(opened, "identity", identity)) != identity:
        raise ModelError(
            f"the model that is opened here has the content {found[:16]}, and the one of this name that was asked for "
            f"{identity[:16]}: every node needs the same models under the same paths"
        )


def load_now(*models: Any) -> None:
    """Load those that wait for their first use, and warm one while the next is loaded."""
    waiting = [model for model in models if isinstance(model, Lazy | LazyListener)]
    with ThreadPoolExecutor(len(waiting) or 1) as pool:
        for warmed in [pool.submit(model.warm) for model in waiting]:
            warmed.result()


@dataclass(frozen=True, slots=True)
class Loading:
    """The work without chunks: models are loaded and decoders start, before a work that needs both."""

    models: tuple[Any, ...]
    decoders: Decoders | None = None
    first: Callable[[], Any] | None = None  # what each decoder calls meanwhile

    @property
    def at_once(self) -> int:
        return 1

    @contextmanager
    def open(self) -> Iterator[Callable[[Any], None]]:
        if self.decoders is not None:
            self.decoders.start(self.first)
        load_now(*self.models)
        yield lambda chunk: None


@dataclass(frozen=True, slots=True)
class Engines:
    """A transcription engine in each process of an executor."""

    engine: Lazy[Engine]
    clips_at_once: int  # of each
    executor: Executor

    @classmethod
    def of(cls, engine: "Engine | Engines") -> "Engines":
        """One that is open is this process's."""
        return engine if isinstance(engine, Engines) else cls(Lazy(lambda: engine), engine.clips_at_once, Here())
