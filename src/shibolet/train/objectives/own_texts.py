"""Texts that a model in training writes for its utterances, and packs in which they stand as labels.

What is written follows from the weights, the seed of the recipe, the step and the utterance: not from packs or ranks.
The model hears what is recorded there, and what the epoch makes of it where it is trained.

Shapes: A encoder states, E encoder dim, L labels.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import Family
from shibolet.model.protocols import Draw, Frame, Pack
from shibolet.records.cores import usable_cores
from shibolet.speech.audio import load
from shibolet.train.data import TrainExample
from shibolet.train.objectives.cost import WRITING_SHARE
from shibolet.train.objectives.given import NUM_FRAMES, Given, examples_in
from shibolet.train.packing import packs_of

_DECODERS = 8  # threads
CLIPS_AT_ONCE = 64  # at most: what rows keep stays reserved beside the steps


class Writer:
    """Writes with the model in training as transcription does, so with its loops ended."""

    def __init__(self, given: Given, *, num: int, temperature: float) -> None:
        """Of each utterance a greedy text and `num` drawn ones."""
        self._given, self._num, self._temperature = given, num, temperature
        self._transcribers: dict[tuple[str, str], Transcriber] = {}  # by language and style of the prompt
        self._markup = frozenset(given.loaded.tokenizer.added_tokens_decoder)

    def begin(self) -> None:
        """Forget rows and graphs, which hold the addresses of weights."""
        self._transcribers.clear()

    def write(self, examples: Sequence[TrainExample], clips: Sequence[np.ndarray], step: int) -> list[tuple[Draw, ...]]:
        """Of each utterance, as it is recorded, the greedy text, then the drawn ones."""
        found: dict[int, tuple[Draw, ...]] = {}
        model = self._given.loaded.model
        was_training = model.training
        model.eval()
        try:
            asked = [(self._given.language_of(example), example.style) for example in examples]
            for one in dict.fromkeys(asked):
                places = [place for place, other in enumerate(asked) if other == one]
                seeds = [self._seed(examples[place], step) for place in places]
                own = [clips[place] for place in places]
                drawn = self._transcriber(*one).draw(own, num=self._num, temperature=self._temperature, seeds=seeds)
                found |= {place: (draws.greedy, *draws.texts) for place, draws in zip(places, drawn, strict=True)}
        finally:
            model.train(was_training)
        return [found[place] for place in range(len(examples))]

    def is_text(self, text: "Text") -> bool:
        """Whether it can stand as labels: an untrained model may write the token that stands for audio, or a time."""
        return self._markup.isdisjoint(text.ids)

    def text(self, example: TrainExample, draw: Draw) -> str:
        """The words of a written text."""
        return self._transcriber(self._given.language_of(example), example.style).text(draw.ids)

    def _transcriber(self, language: str, style: str) -> Transcriber:
        if (language, style) not in self._transcribers:
            self._transcribers[language, style] = Transcriber(
                self._given.loaded, language, batch_utterances=CLIPS_AT_ONCE, share=WRITING_SHARE, style=style
            )
        return self._transcribers[language, style]

    def _seed(self, example: TrainExample, step: int) -> int:
        own = int.from_bytes(hashlib.blake2b(example.id.encode(), digest_size=8).digest(), "little")
        return int(np.random.SeedSequence([self._given.seed, step, own]).generate_state(1, np.uint64)[0])


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is to be labels, of an utterance by its place in a pack."""

    place: int
    ids: tuple[int, ...]
    is_whole: bool  # whether its end belongs to it: the model wrote one

    @property
    def num_labels(self) -> int:
        """Those that were written."""
        return len(self.ids) + self.is_whole

    @classmethod
    def of(cls, place: int, draw: Draw) -> "Text":
        """What was written, without its end."""
        is_whole = draw.ending == "end"
        return cls(place, tuple(draw.ids[:-1] if is_whole else draw.ids), is_whole)


class Continued:
    """Lays texts out as labels of a pack's utterances."""

    def __init__(self, given: Given) -> None:
        self._family: Family = given.family
        self._frame = given.frame

    def frame(self, example: TrainExample) -> Frame:
        """The prompt of an utterance."""
        return example.frame or self._frame

    def groups(self, pack: Pack, texts: Sequence[Text]) -> list[list[int]]:
        """Places in `texts` of those that make a pack, none longer than the given one."""
        if not texts:
            return []
        examples, frames = examples_in(pack), num_frames_in(pack)
        lengths = [
            self.frame(examples[text.place]).num_tokens(
                self._family.num_audio_tokens(frames[text.place]), len(text.ids)
            )
            for text in texts
        ]
        return packs_of(range(len(texts)), lengths, max(pack.num_tokens, *lengths))

    def lay_out(self, pack: Pack, texts: Sequence[Text], num_frames: Sequence[int], states: Sequence[Tensor]) -> Pack:
        """A pack of texts on what the encoder made of their utterances, which have so many frames."""
        examples, places = examples_in(pack), [text.place for text in texts]
        laid = self._family.lay_out(
            [self.frame(examples[place]) for place in places], [text.ids for text in texts],
            [num_frames[place] for place in places],
        )  # fmt: skip
        return with_states(laid.to(states[0].device), torch.cat([states[place] for place in places]))

    def split(self, encoded: Tensor, num_frames: Sequence[int]) -> list[Tensor]:
        """The encoder's output of each utterance."""
        return list(encoded.split([self._family.num_states(num) for num in num_frames]))

    def weights(self, pack: Pack, texts: Sequence[Text]) -> list[Tensor]:
        """Of each text 1 for a label that was written and 0 for the prompt's, and for an end that was not."""
        examples, found = examples_in(pack), []
        for text in texts:
            num_prefix = self.frame(examples[text.place]).num_prefix
            found.append(torch.tensor([0.0] * num_prefix + [1.0] * len(text.ids) + [float(text.is_whole)]))
        return found


def recorded(examples: Sequence[TrainExample]) -> list[np.ndarray]:
    """Samples of utterances, decoded by threads: decoders let go of Python's lock."""
    with ThreadPoolExecutor(min(_DECODERS, usable_cores())) as pool:
        return list(pool.map(load, [example.audio for example in examples]))


def with_states(pack: Pack, encoded: Tensor) -> Pack:
    """A pack with the encoder's output `[A, E]` in place of features."""
    return replace(pack, encoded=encoded, features=None)


def num_frames_in(pack: Pack) -> list[int]:
    """Frames of each utterance as the model in training hears it."""
    return [extras[NUM_FRAMES] for extras in pack.extras]
