"""The model's one thread: recordings that wait are decoded together, a few pieces of each at a time."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Thread

from shibolet.errors import RecipeError
from shibolet.listen.engine import Engine
from shibolet.listen.lazy import Lazy, load_now
from shibolet.listen.protocols import Aligner
from shibolet.listen.recordings import Clip, Piece, hear_pieces
from shibolet.serve.config import is_full
from shibolet.speech.text import get_language

MAX_ENGINES = 2  # a model's rows and graphs are kept for each way to ask it: for the usual one and the last other
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What the model is asked with; recordings that are asked for in the same way can be decoded together."""

    language: str  # as in recipes: "Hebrew"
    context: str = ""
    with_words: bool = False  # find the times of words


@dataclass(slots=True)
class _Job:
    told: Told
    waiting: deque[tuple[int, Clip]]
    pieces: list[Piece | None]
    done: Future = field(default_factory=Future)

    def put(self, number: int, piece: Piece) -> None:
        self.pieces[number] = piece
        if None not in self.pieces:
            with suppress(InvalidStateError):  # whoever asked has gone
                self.done.set_result(self.pieces)

    def fail(self, error: Exception) -> None:
        self.waiting.clear()
        with suppress(InvalidStateError):
            self.done.set_exception(error)


class Desk:
    """Takes recordings from any thread and has them transcribed by one, which owns the model."""

    def __init__(
        self,
        make_engine: Callable[[Told], Engine],
        usual: Told,
        *,
        max_waiting_s: float,
        aligner: Aligner | None = None,
    ) -> None:
        """`make_engine` is called by one thread at a time; `aligner` is of the language that words are asked in."""
        self._make_engine, self._usual = make_engine, usual
        self._aligner, self._max_waiting_s = aligner, max_waiting_s
        self._engines: dict[tuple[str, str], Engine] = {}
        self._jobs: deque[_Job] = deque()
        self._changed = Condition()

    def start(self) -> None:
        """Load the model; raises what that raises."""
        loaded: Future = Future()
        Thread(target=self._run, args=(loaded,), daemon=True, name="decoder").start()
        loaded.result()

    def submit(self, told: Told, clips: Sequence[Clip]) -> Future:
        """The pieces of a recording, once they are there; Refused where too much waits. It may be cancelled."""
        job = _Job(told, deque(enumerate(clips)), [None] * len(clips))
        asked_s = sum(clip.duration_s for clip in clips)
        with self._changed:
            waiting_s = self.waiting_s()
            if waiting_s and waiting_s + asked_s > self._max_waiting_s:  # an empty desk takes any that is allowed
                raise is_full(f"{waiting_s:,.0f} s of audio wait for the model")
            self._jobs.append(job)
            self._changed.notify()
        return job.done

    def waiting_s(self) -> float:
        """Seconds of audio that nobody has begun with."""
        with self._changed:
            self._drop_cancelled()
            return sum(clip.duration_s for job in self._jobs for _, clip in job.waiting)

    def _run(self, loaded: Future) -> None:
        try:
            load_now(Lazy(lambda: self._engine(self._usual)), self._aligner)
        except Exception as error:
            loaded.set_exception(error)
            return
        loaded.set_result(None)
        while True:
            with self._changed:
                while not self._drop_cancelled():
                    self._changed.wait()
                told = self._jobs[0].told
            self._transcribe(told)

    def _drop_cancelled(self) -> int:
        """How many jobs have something that waits."""
        self._jobs = deque(job for job in self._jobs if job.waiting and not job.done.cancelled())
        return len(self._jobs)

    def _transcribe(self, told: Told) -> None:
        """The next batch of those that are asked for in one way."""
        try:
            engine = self._engine(told)
        except Exception as error:
            self._fail([job for job in list(self._jobs) if job.told == told], error)
            return
        batch = self._take(told, engine.clips_at_once)
        try:
            language, aligner = get_language(told.language), self._aligner if told.with_words else None
            pieces = hear_pieces([clip for _, _, clip in batch], engine, language, aligner)
        except Exception as error:
            self._fail([job for job, _, _ in batch], error)
            return
        for (job, number, _), piece in zip(batch, pieces, strict=True):
            job.put(number, piece)

    def _take(self, told: Told, at_once: int) -> list[tuple[_Job, int, Clip]]:
        """Pieces of all that are asked for in one way, one of each in turn: a long recording holds up no short one."""
        with self._changed:
            chosen = [job for job in self._jobs if job.told == told]
            batch: list[tuple[_Job, int, Clip]] = []
            while len(batch) < at_once and (left := [job for job in chosen if job.waiting]):
                batch += [(job, *job.waiting.popleft()) for job in left[: at_once - len(batch)]]
            others = [job for job in self._jobs if job.told != told]
            self._jobs = deque([*others, *(job for job in chosen if job.waiting)])  # who had a turn goes behind
            return batch

    def _fail(self, jobs: Sequence[_Job], error: Exception) -> None:
        if not isinstance(error, RecipeError):
            _LOG.error("the model failed; the server goes on", exc_info=error)
        with self._changed:
            for job in jobs:
                job.fail(error)

    def _engine(self, told: Told) -> Engine:
        key = told.language, told.context
        if key not in self._engines:
            if len(self._engines) == MAX_ENGINES:
                self._engines.pop(list(self._engines)[1])  # the first is the usual one
            self._engines[key] = self._make_engine(told)
        return self._engines[key]
