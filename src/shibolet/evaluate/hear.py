"""What an engine hears in the utterances of a set: audio is decoded batch by batch, the longest first."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from shibolet.errors import AudioError
from shibolet.evaluate.config import EvaluateConfig
from shibolet.records.documents.scores import Failure
from shibolet.records.utterance import Utterance
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


def hear(
    transcriber: Hearer, utterances: Sequence[Utterance], config: EvaluateConfig, on_progress: Progress | None
) -> Heard:
    """Transcribe a set; audio of one batch is in memory at a time."""
    texts, failures = [""] * len(utterances), {}
    snrs_db: list[float | None] = [None] * len(utterances)
    done = 0
    for batch in batches_of(utterances, transcriber.clips_at_once):
        clips: dict[int, np.ndarray] = {}
        for i in batch:
            try:
                samples = audio.load(utterances[i].audio)
            except AudioError as error:
                failures[i] = Failure(id=utterances[i].id, reason=error.reason, detail=error.detail)
                continue
            snrs_db[i] = round(estimate_snr_db(samples), 1)
            if len(samples) > config.max_piece_s * audio.SAMPLE_RATE_HZ:
                texts[i] = transcriber.transcribe_long(samples, config.max_piece_s)
            else:
                clips[i] = samples
        for i, text in zip(clips, transcriber.transcribe(list(clips.values())), strict=True):
            texts[i] = text
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(utterances))
    return Heard(texts, [failures[i] for i in sorted(failures)], snrs_db)


def batches_of(utterances: Sequence[Utterance], at_once: int) -> list[list[int]]:
    """Places of utterances heard together, the longest first: who shares a batch changes the last bits of a logit."""
    order = sorted(range(len(utterances)), key=lambda i: (-utterances[i].duration_s, i))
    return [order[first : first + at_once] for first in range(0, len(order), at_once)]


def snr_db(utterance: Utterance) -> float | None:
    """Signal over noise; None where the audio cannot be decoded."""
    try:
        return round(estimate_snr_db(audio.load(utterance.audio)), 1)
    except AudioError:
        return None
