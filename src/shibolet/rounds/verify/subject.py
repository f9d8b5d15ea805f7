"""What is verified: a model and some utterances of its language, decoded, with their texts in its tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from shibolet.errors import AudioError, DataError, RecipeError
from shibolet.listen.batches import by_audio, pack_audio_s
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Prompt
from shibolet.records.documents.verified import CheckState
from shibolet.records.files import hash_json
from shibolet.records.reading import fault
from shibolet.records.store import is_url
from shibolet.records.utterance import Utterance
from shibolet.speech import audio
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language

FEWEST, MOST = 20, 256  # utterances; the first `FEWEST` of those taken are compared, all are trained on
MIN_S, MAX_S = 0.5, 15.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check came to."""

    state: CheckState
    sentences: tuple[str, ...]
    numbers: dict[str, float] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)  # seconds


def outcome(faults: Sequence[str], notes: Sequence[str], good: str, numbers: dict[str, float]) -> Outcome:
    """Failed where there are faults, a warning where there are notes alone, else passed with the sentence `good`."""
    state: CheckState = "failed" if faults else "warning" if notes else "passed"
    return Outcome(state, (*faults, *notes) or (good,), numbers)


@dataclass(frozen=True, slots=True)
class Clip:
    """An utterance with its samples `[S]` and its text as training has it."""

    utterance: Utterance
    samples: np.ndarray
    text: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / audio.SAMPLE_RATE_HZ

    def as_piece(self, language: str) -> Utterance:
        """The utterance as `prepare` keeps it."""
        return replace(self.utterance, text=self.text, duration_s=self.seconds, language=language)


def read_clips(data: str, language: str, most: int = MOST) -> list[Clip]:
    """At most `most` utterances of 0.5 to 15 s with words, always the same ones; DataError when they are too few."""
    try:
        key = "manifest" if is_url(data) or Path(data).exists() else "hub"
        source = DataSource(name=Path(data).name, **{key: data})
    except ValidationError as error:
        raise RecipeError(
            f"'{data}' is neither a file here nor a data set of the Hub with known columns and split: {fault(error)}"
        ) from error
    spoken, clips = get_language(language), []
    with TemporaryDirectory() as scratch:
        utterances, _ = read_source(source, Path(scratch), None, language)
        usable = [one for one in utterances if MIN_S <= one.duration_s <= MAX_S and spoken.to_scoring(one.text).strip()]
        for utterance in sorted(usable, key=lambda one: hash_json(one.id)):
            try:
                samples = audio.load(utterance.audio)
            except AudioError:
                continue
            clips.append(Clip(utterance, samples, spoken.to_target(utterance.text)))
            if len(clips) == most:
                break
    if len(clips) < FEWEST:
        raise DataError(
            f"'{data}' has {len(clips)} utterances of {MIN_S:g} to {MAX_S:g} s with words that can be decoded; verify "
            f"needs {FEWEST}"
        )
    return clips


@dataclass(frozen=True, slots=True)
class Told:
    """What a model makes of a given text: of each of its tokens, and of its end."""

    losses: np.ndarray  # [U], nats
    likeliest: np.ndarray  # [U], the id that the model would have written there

    @property
    def mean(self) -> float:
        """Loss of a token, nats."""
        return float(self.losses.mean())


@torch.inference_mode()
def logits_of(
    loaded: LoadedModel, language: str, clips: Sequence[np.ndarray], ids: Sequence[Sequence[int]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each clip with the tokens of a text: logits `[L, V]` and the labels `[L]` that they predict, in packs."""
    family, model = loaded.family, loaded.model
    frame = family.targets(loaded.tokenizer, Prompt(language)).frame
    features = family.features(loaded.extractor, model.device)
    for first, last in by_audio(clips, pack_audio_s(model.device)):
        heard, written = clips[first:last], ids[first:last]
        pack = family.lay_out(frame, written, [family.num_frames(len(clip)) for clip in heard])
        pack = family.with_audio(pack, heard, features, model.device)
        counts = [frame.num_targets(len(text)) for text in written]
        logits = family.logits(model, pack)
        yield from zip(logits.split(counts), pack.labels.split(counts), strict=True)


def tell(loaded: LoadedModel, language: str, clips: Sequence[np.ndarray], ids: Sequence[Sequence[int]]) -> list[Told]:
    """Each clip with the tokens of a text."""
    before = loaded.family.targets(loaded.tokenizer, Prompt(language)).frame.num_prefix
    return [
        Told(
            F.cross_entropy(logits.float(), labels, reduction="none").cpu().numpy()[before:],
            logits.argmax(-1).cpu().numpy()[before:],
        )
        for logits, labels in logits_of(loaded, language, clips, ids)
    ]


def mean_loss(told: Sequence[Told]) -> float:
    """Over all tokens, nats."""
    return float(np.concatenate([one.losses for one in told]).mean())
