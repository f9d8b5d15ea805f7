"""What a model hears in the utterances of a set: batches decided by the list alone, wherever each is transcribed."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
import scipy.ndimage  # noqa: F401  # not by threads: two that begin with one library can lock each other out

from shibolet.errors import AudioError, ProcessLost
from shibolet.evaluate.config import EvaluateConfig
from shibolet.listen.dispatch import UNSEEN, require_seen
from shibolet.listen.engine import Written
from shibolet.listen.lazy import Engines, Lazy, load_now
from shibolet.listen.processes import WorkerLost
from shibolet.records.cores import usable_cores
from shibolet.records.documents.scores import Failure
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech import audio
from shibolet.speech.activity import estimate_snr_db

MAX_THREADS = 16  # that decode
Progress = Callable[[int, int], None]  # utterances done, utterances in all
Change = Callable[[np.ndarray], np.ndarray]  # samples [S] at 16 kHz to what is heard in their place, such as a `Dose`


class Hearer(Protocol):
    """What evaluation needs of a transcriber."""

    clips_at_once: int

    def write(self, clips: Sequence[np.ndarray]) -> list[Written]: ...

    def write_long(self, samples: np.ndarray, max_piece_s: float) -> Written: ...


class Heard(NamedTuple):
    """Of each utterance in the set's order."""

    hypotheses: list[str]  # empty where the audio could not be decoded
    failures: list[Failure]
    snrs_db: list[float | None]  # None: not known
    written_again: frozenset[int] = frozenset()  # places of those in which the model looped at first


@dataclass(frozen=True, slots=True)
class HeardUtterance:
    """The text, empty where the audio cannot be decoded; then `failure` is the reason and its detail."""

    text: str = ""
    snr_db: float | None = None
    failure: tuple[str, str] | None = None
    written_again: bool = False  # the model looped at first
    unseen: str | None = None  # the file that was not there


def hear(
    transcriber: Hearer | Engines,
    utterances: Sequence[Utterance],
    config: EvaluateConfig,
    on_progress: Progress | None,
    change: Change | None = None,
) -> Heard:
    """Transcribe a set, or what `change` makes of its clips; audio of two batches is in memory at a time.

    ProcessLost when a batch cannot be transcribed: a set is scored whole. DataError where a node does not see a file.
    """
    engines = Engines.of(transcriber)
    batches = batches_of(utterances, engines.clips_at_once)
    chunks = ([utterances[i].audio for i in batch] for batch in batches)
    heard: dict[int, HeardUtterance] = {}
    with closing(engines.executor.map(HearBatch(engines.engine, config.max_piece_s, change), chunks)) as results:
        for batch, found in zip(batches, results, strict=True):
            if isinstance(found, WorkerLost):
                raise ProcessLost(
                    f"a batch of {len(batch)} utterances, the first of which is '{utterances[batch[0]].id}', could not "
                    f"be transcribed: {found}"
                )
            heard |= zip(batch, found, strict=True)
            if on_progress is not None:
                on_progress(len(heard), len(utterances))
    in_order = [heard[i] for i in range(len(utterances))]
    failures = [
        Failure(id=utterance.id, reason=one.failure[0], detail=one.failure[1])
        for utterance, one in zip(utterances, in_order, strict=True)
        if one.failure
    ]
    again = frozenset(i for i, one in enumerate(in_order) if one.written_again)
    return Heard([one.text for one in in_order], failures, [one.snr_db for one in in_order], again)


def batches_of(utterances: Sequence[Utterance], at_once: int) -> list[list[int]]:
    """Places of utterances heard together, the longest first: who shares a batch changes the last bits of a logit."""
    order = sorted(range(len(utterances)), key=lambda i: (-utterances[i].duration_s, i))
    return [order[first : first + at_once] for first in range(0, len(order), at_once)]


@dataclass(frozen=True, slots=True)
class HearBatch:
    """The work: decode the utterances of a batch, while the one before is transcribed, and transcribe them together."""

    engine: Lazy[Hearer]
    max_piece_s: float
    change: Change | None = None  # of the samples, before anything is measured or heard

    @property
    def at_once(self) -> int:
        return 2

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[AudioRef]], list[HeardUtterance]]]:
        load_now(self.engine)
        threads = ThreadPoolExecutor(min(MAX_THREADS, usable_cores()))
        try:
            yield partial(self._hear, self.engine.get(), Lock(), threads)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def keep(self, found: list[HeardUtterance]) -> list[HeardUtterance]:
        """DataError where who heard does not see a file that is here: known where it is known which node that was."""
        require_seen(one.unseen for one in found if one.unseen)
        return found

    def _hear(
        self, engine: Hearer, turn: Lock, threads: ThreadPoolExecutor, refs: Sequence[AudioRef]
    ) -> list[HeardUtterance]:
        decoded = list(threads.map(partial(_decode, change=self.change), refs))
        with turn:
            written = self._written(engine, [samples for samples, _ in decoded])
        return [
            replace(heard, text=one.text, written_again=one.ending == "again") if one else heard
            for (_, heard), one in zip(decoded, written, strict=True)
        ]

    def _written(self, engine: Hearer, clips: Sequence[np.ndarray | None]) -> list[Written | None]:
        """What is said in each clip; those that are longer than a piece come one by one."""
        is_long = [clip is not None and len(clip) > self.max_piece_s * audio.SAMPLE_RATE_HZ for clip in clips]
        short = [clip for clip, long in zip(clips, is_long, strict=True) if clip is not None and not long]
        written = iter(engine.write(short))
        return [
            None if clip is None else engine.write_long(clip, self.max_piece_s) if long else next(written)
            for clip, long in zip(clips, is_long, strict=True)
        ]


def _decode(ref: AudioRef, change: Change | None = None) -> tuple[np.ndarray | None, HeardUtterance]:
    """Samples, and what is known without a text; None where the audio cannot be decoded."""
    try:
        samples = audio.load(ref)
    except AudioError as error:
        unseen = ref.path if error.reason == UNSEEN else None
        return None, HeardUtterance(failure=(error.reason, error.detail), unseen=unseen)
    samples = samples if change is None else change(samples)
    return samples, HeardUtterance(snr_db=round(estimate_snr_db(samples), 1))


def snr_db(utterance: Utterance) -> float | None:
    """Signal over noise; None where the audio cannot be decoded."""
    return _decode(utterance.audio)[1].snr_db
