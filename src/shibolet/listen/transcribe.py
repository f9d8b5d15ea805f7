"""The transcription engine on this machine: a model of a family, greedy, with beams, or the best of samples."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shibolet.listen.batches import made_up_clips, own_stream
from shibolet.listen.engine import Engine, Written
from shibolet.listen.loops import LOOP_CHARS_PER_S, is_loop
from shibolet.listen.mbr import TEMPERATURE, least_risk
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Decoder, Decoding, Ending, Prompt, Sampled, Texts
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.text import get_language

MAX_CHARS_PER_TOKEN = 4  # of a loop that is found at once; one in longer tokens is found a little later
WARM_S = 480.0  # of audio, as much as enters a GPU's rows at once
WARM_TOKENS = 8
AGAIN_AT_ONCE = 4  # clips of loops that are written again; they are few


@dataclass(frozen=True, slots=True)
class Scored(Written):
    """With the log-probabilities of each text that was asked for, as `Decoded.logps`."""

    logps: tuple[np.ndarray, ...] | None


class Transcriber(Engine):
    """Transcription in one language, which is given to the model and not guessed by it."""

    def __init__(
        self,
        loaded: LoadedModel,
        language: str,
        *,
        batch_utterances: int | None = None,
        max_new_tokens_per_s: float = 25.0,
        beam_size: int = 1,
        length_penalty: float = 1.0,
        mbr_samples: int | None = None,
        mbr_temperature: float = TEMPERATURE,
        repeat_bias: float = 0.0,
        loop_bias: float = 0.0,
        ngram: Path | None = None,
        ngram_weight: float = 0.0,
        share: float = 1.0,
        keep_encoded: bool = False,
        style: str = "",
        context: str = "",
    ) -> None:
        """`batch_utterances` clips at once, `style` and `context` as in `Prompt`; the rest as in `Decoding`.

        With `mbr_samples` so many texts of a clip are drawn at `mbr_temperature`. Of these and the greedy one the text
        of minimum Bayes risk is written. What is drawn follows from the clip's audio alone. With `loop_bias` a text
        that ends as a loop is written again, greedily, with this `repeat_bias`, and stays where that one loops too.
        """
        self.identity = loaded.identity
        self._max_new_tokens_per_s, self._min_samples = max_new_tokens_per_s, loaded.family.min_samples
        self._loaded, self._loop_bias = loaded, loop_bias
        self._decoder_again: Decoder | None = None
        self._how = Decoding(
            prompt=Prompt(language, context, style), clips_at_once=batch_utterances, beam_size=beam_size,
            length_penalty=length_penalty, repeat_bias=repeat_bias, ngram=ngram, ngram_weight=ngram_weight,
            share=share, keep_encoded=keep_encoded,
        )  # fmt: skip
        self._decoder = loaded.family.decoder(loaded, self._how)
        self._num_samples, self._temperature = mbr_samples, mbr_temperature
        self._language = get_language(language) if mbr_samples else None  # says how texts are scored
        self.clips_at_once = self._decoder.clips_at_once
        self._device = loaded.model.device
        self._stream = own_stream(self._device, urgent=True)

    def write(self, clips: Sequence[np.ndarray]) -> list[Written]:
        """Longest clips first, so that those decoded together are of similar length."""
        written = self._by_least_risk(clips) if self._num_samples else self.write_and_score(clips, None)
        loops = [i for i, one in enumerate(written) if one.ending == "loop"] if self._loop_bias else []
        for i, text in zip(loops, self._again([clips[i] for i in loops]), strict=True):
            if not is_loop(text, len(clips[i]) / SAMPLE_RATE_HZ):
                written[i] = Written(text, "again")
        return written

    def _again(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Texts of clips in which the model looped, with the bias for that."""
        if not clips:
            return []
        if self._decoder_again is None:  # there are seldom any
            how = replace(
                self._how, beam_size=1, length_penalty=1.0, ngram=None, ngram_weight=0.0, keep_encoded=False,
                repeat_bias=self._loop_bias, clips_at_once=AGAIN_AT_ONCE,
            )  # fmt: skip
            self._decoder_again = self._loaded.family.decoder(self._loaded, how)
        order, texts = _longest_first(clips), [""] * len(clips)
        with self._stream():
            for one in self._decoder_again.decode(*self._given(clips, order)):
                texts[order[one.place]] = self._decoder_again.text(one.ids)
        return texts

    def write_and_score(
        self,
        clips: Sequence[np.ndarray],
        texts_of: Callable[[Sequence[tuple[int, str]]], Callable[[], Texts]] | None,
    ) -> list[Scored]:
        """The same without samples, with scores of the texts (token ids) that `texts_of` finds for places and texts."""
        order = _longest_first(clips)
        texts: dict[int, str] = {}

        def ask(some: Sequence[tuple[int, list[int]]]) -> Callable[[], Texts]:
            texts.update((place, self._decoder.text(ids)) for place, ids in some)
            return texts_of([(order[place], texts[place]) for place, _ in some])

        found: dict[int, Scored] = {}
        with self._stream():
            for one in self._decoder.decode(*self._given(clips, order), texts_of and ask) if clips else ():
                text = texts[one.place] if one.place in texts else self._decoder.text(one.ids)
                at = order[one.place]
                found[at] = Scored(text, _ending(text, clips[at], one.ending), one.logps)
        return [found[i] for i in range(len(clips))]

    def draw(self, clips: Sequence[np.ndarray], *, num: int, temperature: float, seeds: Sequence[int]) -> list[Sampled]:
        """Of each clip the greedy text and `num` that are drawn by its seed, as token ids (`text` has their words)."""
        order = _longest_first(clips)
        given = self._given(clips, order)
        ordered = [seeds[i] for i in order]
        found: dict[int, Sampled] = {}
        with self._stream():
            for one in self._decoder.sample(*given, num=num, temperature=temperature, seeds=ordered) if clips else ():
                found[order[one.place]] = one
        return [found[i] for i in range(len(clips))]

    def text(self, ids: Sequence[int]) -> str:
        """The words of written ids."""
        return self._decoder.text(ids)

    def _by_least_risk(self, clips: Sequence[np.ndarray]) -> list[Written]:
        drawn = self.draw(
            clips, num=self._num_samples, temperature=self._temperature, seeds=[_seed(clip) for clip in clips]
        )
        found = []
        for clip, one in zip(clips, drawn, strict=True):
            draws = (one.greedy, *one.texts)
            texts = [self.text(draw.ids) for draw in draws]
            best = least_risk(texts[0], texts[1:], self._language)
            found.append(Written(texts[best], _ending(texts[best], clip, draws[best].ending)))
        return found

    def _given(self, clips: Sequence[np.ndarray], order: Sequence[int]) -> tuple:
        """What a decoder is given of clips in this order: themselves, their limits, and who says what a loop is."""
        ordered = [clips[i] for i in order]

        def loops(place: int, ids: list[int]) -> bool:
            duration_s = len(ordered[place]) / SAMPLE_RATE_HZ
            if len(ids) * MAX_CHARS_PER_TOKEN < LOOP_CHARS_PER_S * duration_s:
                return False
            return is_loop(self._decoder.text(ids), duration_s)

        return ordered, list(map(self._limit, ordered)), loops

    def warm(self) -> None:
        """On a GPU do now what takes time at first use; what is written later is the same with and without it."""
        if self._device.type != "cuda":
            return
        clips = made_up_clips(WARM_S)
        with self._stream():
            texts = lambda some: lambda: [[[0] * WARM_TOKENS]] * len(some)  # noqa: E731
            given = clips, [WARM_TOKENS] * len(clips), lambda place, ids: False
            if self._num_samples:
                drawing = {"num": self._num_samples, "temperature": self._temperature}
                written = self._decoder.sample(*given, seeds=[0] * len(clips), **drawing)
            else:
                written = self._decoder.decode(*given, texts)
            for _ in written:
                pass

    def _limit(self, clip: np.ndarray) -> int:
        """Tokens that may be written for a clip."""
        return math.ceil(self._max_new_tokens_per_s * max(len(clip), self._min_samples) / SAMPLE_RATE_HZ)


def _longest_first(clips: Sequence[np.ndarray]) -> list[int]:
    return sorted(range(len(clips)), key=lambda i: (-len(clips[i]), i))


def _ending(text: str, clip: np.ndarray, ending: Ending) -> Ending:
    return "loop" if is_loop(text, len(clip) / SAMPLE_RATE_HZ) else ending


def _seed(clip: np.ndarray) -> int:
    """By the samples of a clip: whatever list, process or order it is written in, the same is drawn for it."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(clip).data, digest_size=8).digest(), "little")
