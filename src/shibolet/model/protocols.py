"""What the rest sees of a family's objects: prompts in words and tokens, packs, features, decoders, costs.

Shapes: A encoder states, L label positions, E encoder dim.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Ending = Literal["end", "limit", "loop"]  # the model's own end; as many tokens as it may write; the caller's stop


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is told beside the audio; each family says it in its own markup, or refuses what it cannot say."""

    language: str  # as in recipes: "Hebrew"
    context: str = ""  # names, terms, what was said before
    style: str = ""  # how to write it down


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How a family's `Decoder` writes."""

    prompt: Prompt
    clips_at_once: int | None = None  # None: as many as its share of memory allows
    beam_size: int = 1  # 1: greedy
    length_penalty: float = 1.0  # of beams
    ngram: Path | None = None  # ARPA file over the model's tokens, whose log-probabilities beams add ...
    ngram_weight: float = 0.0  # ... times this
    share: float = 1.0  # of the device, which others use at the same time
    keep_encoded: bool = False  # what a frozen encoder made of an array, for the next call with it, where that pays
    # Taken from the logit of a token that would go on with a phrase of up to 8 tokens which stands there 3 times in a
    # row, once more for each further time; not of beams.
    repeat_bias: float = 0.0


@dataclass(frozen=True, slots=True)
class SpecMask:
    """Stretches of an utterance's features that are set to 0: (first, number) of frames and of bins."""

    frames: tuple[tuple[int, int], ...] = ()
    bins: tuple[tuple[int, int], ...] = ()


class Movable(Protocol):
    """Tensors that go to a device together."""

    def to(self, device: "torch.device | str") -> Self: ...

    def pin_memory(self) -> Self: ...


class Pack(Movable, Protocol):
    """Utterances laid end to end, as a dataclass; `features` or `encoded` is put in by `dataclasses.replace`."""

    labels: "Tensor"  # [L]
    features: "Tensor | None"
    encoded: "Tensor | None"  # [A, E], what `Family.encode` gave before
    extras: tuple[Mapping[str, Any], ...]  # of each utterance, what the objective needs beside audio and text

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_utterances(self) -> int: ...


class Features(Protocol):
    """Makes the features of laid samples, where it computes."""

    num_bins: int

    def __call__(self, samples: Movable) -> "Tensor":
        """The features of a pack."""
        ...

    def split(self, features: "Tensor", num_frames: Sequence[int]) -> "list[Tensor]":
        """The features of each utterance of a pack ..."""
        ...

    def join(self, features: "Sequence[Tensor]") -> "Tensor":
        """... and back."""
        ...


TimedIds = tuple[float, float, Sequence[int]]  # start and end of a segment in seconds, and its tokens


class Frame(Protocol):
    """The tokens around the audio and the text of an utterance; a process that has it needs no tokenizer."""

    num_prefix: int  # labels before those of the text

    def num_tokens(self, num_audio_tokens: int, num_text: int) -> int:
        """Length of the sequence of a text of `num_text` tokens."""
        ...

    def num_targets(self, num_text: int) -> int:
        """Its labels: those before the text, the text, and its end."""
        ...

    def given(self, previous: Sequence[int], timed: bool) -> Self:
        """The same after a previous text of these tokens, of which the last count, and for a text between timestamps.

        For families that know the one or the other: `Outline.max_previous_tokens`, `Outline.writes_timestamps`.
        """
        ...

    def with_times(self, segments: Sequence[TimedIds], speed: float = 1.0, quiet_s: float = 0.0) -> list[int]:
        """A text between timestamps, of audio that is played so much faster, after quiet; always as many tokens."""
        ...


def each_of(frame: Frame | Sequence[Frame], num: int) -> Sequence[Any]:
    """A frame for each of so many utterances: the one for all, or those given."""
    if not isinstance(frame, Sequence):
        return [frame] * num
    if len(frame) != num:
        raise ValueError(f"{len(frame)} frames for {num} utterances")
    return frame


class Targets(Protocol):
    """A prompt in tokens, and texts as what is to be written after it."""

    frame: Frame

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text; markup in it stays text."""
        ...


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a model wrote for a clip, and how likely it finds other texts of it."""

    place: int  # of the clip in its list
    ids: list[int]
    ending: Ending
    # Of each text that was asked for, the log-probabilities of its tokens and its end, each given those before it.
    # None: nothing was asked, or the decoder cannot say.
    logps: tuple[np.ndarray, ...] | None
    logp: float | None = None  # of `ids`; None: nobody drew


@dataclass(frozen=True, slots=True)
class Draw:
    """A text that was written for a clip, greedily or drawn token by token."""

    ids: list[int]
    logp: float  # sum of its tokens' log-probabilities, its end's too, at temperature 1; barred tokens have none
    ending: Ending


@dataclass(frozen=True, slots=True)
class Sampled:
    """The greedy text of a clip, and texts that were drawn from the same encoding and prompt."""

    place: int  # of the clip in its list
    greedy: Draw
    texts: tuple[Draw, ...]


# Of each of some clips, the ids of the texts that are to be scored on it.
Texts = Sequence[Sequence[Sequence[int]]]
# Places of clips with the ids written for them -> a call that waits until their texts are found, and gives them.
TextsOf = Callable[[Sequence[tuple[int, list[int]]]], Callable[[], Texts]]


class Decoder(Protocol):
    """Writes down what is said in clips."""

    clips_at_once: int

    def decode(
        self,
        clips: Sequence[np.ndarray],
        limits: Sequence[int],
        is_loop: Callable[[int, list[int]], bool],
        texts_of: TextsOf | None = None,
    ) -> Iterator[Decoded]:
        """What is written for each clip, at most `limits` ids; in any order.

        Clips come the longest first. `is_loop` may be shown what was written so far, and may end it there. A decoder
        that can scores the texts that `texts_of` gives, on the audio that it has heard already. It asks for them as
        soon as a clip has ended, and takes them when it scores them.
        """
        ...

    def sample(
        self,
        clips: Sequence[np.ndarray],
        limits: Sequence[int],
        is_loop: Callable[[int, list[int]], bool],
        *,
        num: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> Iterator[Sampled]:
        """The greedy text of each clip and `num` drawn ones, in any order of clips; whatever the beam size is.

        Each token is drawn from the softmax of its logits over `temperature`; at 0 it is the likeliest. What is drawn
        for a clip follows from its own seed, and not from what is decoded together with it. The rest as in `decode`.
        """
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The words of written ids."""
        ...


class PackSize(Protocol):
    """The numbers of a pack that decide what it costs."""

    tokens: int


class Cost(Protocol):
    """Operations and kept bytes of one model in which certain parameters train."""

    def size_of(self, utterances: Iterable[tuple[int, int, int]]) -> PackSize:
        """The size of a pack of utterances of (tokens, frames, labels)."""
        ...

    def operations(self, size: PackSize, encoder: bool = True) -> int:
        """Of one forward and backward pass; without the encoder's where its output is kept."""
        ...

    def kept(self, size: PackSize, encoder: bool = True) -> list[tuple[str, int, int]]:
        """(part, bytes that its forward keeps, bytes that its backward needs besides), in the order of the forward."""
        ...

    def loss_bytes(self, size: PackSize) -> tuple[int, int]:
        """Bytes while the loss is computed: its gradients, which stay, and logits, which go."""
        ...


@dataclass(frozen=True, slots=True)
class Oddity:
    """What a model's files say that its family does not expect, in a sentence; a fault, or only worth knowing."""

    sentence: str
    is_fault: bool = True


class Reference(Protocol):
    """A model as another library computes it: what ours is compared with, a clip at a time, in float32 or as asked."""

    title: str  # "transformers 5.23.0"
    model: "torch.nn.Module | None"  # None: in another process

    def logits(self, clip: np.ndarray, ids: Sequence[int]) -> "Tensor":
        """Logits `[L, V]` that predict the labels of a text of these tokens."""
        ...

    def write(self, clip: np.ndarray, limit: int) -> list[int]:
        """The ids that greedy decoding writes, at most `limit`."""
        ...
