"""What a model hears in the utterances of a set: batches decided by the list alone, wherever each is transcribed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from shibolet.errors import AudioError, ProcessLost
from shibolet.evaluate.config import EvaluateConfig
from shibolet.listen.lazy import Engines, Lazy
from shibolet.listen.processes import WorkerLost
from shibolet.records.documents.scores import Failure
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech import audio
from shibolet.speech.activity import estimate_snr_db

Progress = Callable[[int, int], None]  # utterances done, utterances in all


class Hearer(Protocol):
    """What evaluation needs of a transcriber."""

    clips_at_once: int

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]: ...

    def transcribe_long(self, samples: np.ndarray, max_piece_s: float) -> str: ...


class Heard(NamedTuple):
    """Of each utterance in the set's order."""

    hypotheses: list[str]  # empty where the audio could not be decoded
    failures: list[Failure]
    snrs_db: list[float | None]  # None: not known


@dataclass(frozen=True, slots=True)
class HeardUtterance:
    """The text, empty where the audio cannot be decoded; then `failure` is the reason and its detail."""

    text: str = ""
    snr_db: float | None = None
    failure: tuple[str, str] | None = None


def hear(
    transcriber: Hearer | Engines, utterances: Sequence[Utterance], config: EvaluateConfig, on_progress: Progress | None
) -> Heard:
    """Transcribe a set; audio of one batch is in memory at a time.

    ProcessLost when a batch cannot be transcribed: a set is scored whole.
    """
    engines = Engines.of(transcriber)
    batches = batches_of(utterances, engines.clips_at_once)
    chunks = ([utterances[i].audio for i in batch] for batch in batches)
    heard: dict[int, HeardUtterance] = {}
    with closing(engines.executor.map(HearBatch(engines.engine, config.max_piece_s), chunks)) as results:
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
    return Heard([one.text for one in in_order], failures, [one.snr_db for one in in_order])


def batches_of(utterances: Sequence[Utterance], at_once: int) -> list[list[int]]:
    """Places of utterances heard together, the longest first: who shares a batch changes the last bits of a logit."""
    order = sorted(range(len(utterances)), key=lambda i: (-utterances[i].duration_s, i))
    return [order[first : first + at_once] for first in range(0, len(order), at_once)]


@dataclass(frozen=True, slots=True)
class HearBatch:
    """The work: decode the utterances of a batch and transcribe them together."""

    engine: Lazy[Hearer]
    max_piece_s: float

    @property
    def at_once(self) -> int:
        return 1

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[AudioRef]], list[HeardUtterance]]]:
        yield partial(self._hear, self.engine.get())

    def _hear(self, engine: Hearer, refs: Sequence[AudioRef]) -> list[HeardUtterance]:
        heard: dict[int, HeardUtterance] = {}
        clips: dict[int, np.ndarray] = {}
        for i, ref in enumerate(refs):
            try:
                samples = audio.load(ref)
            except AudioError as error:
                heard[i] = HeardUtterance(failure=(error.reason, error.detail))
                continue
            if len(samples) > self.max_piece_s * audio.SAMPLE_RATE_HZ:
                text = engine.transcribe_long(samples, self.max_piece_s)
                heard[i] = HeardUtterance(text, round(estimate_snr_db(samples), 1))
            else:
                clips[i] = samples
        for (i, samples), text in zip(clips.items(), engine.transcribe(list(clips.values())), strict=True):
            heard[i] = HeardUtterance(text, round(estimate_snr_db(samples), 1))
        return [heard[i] for i in range(len(refs))]


def snr_db(utterance: Utterance) -> float | None:
    """Signal over noise; None where the audio cannot be decoded."""
    try:
        return round(estimate_snr_db(audio.load(utterance.audio)), 1)
    except AudioError:
        return None
