"""The transcription engine on this machine: a model of a family, greedy or with beam search."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shibolet.listen.batches import made_up_clips, own_stream
from shibolet.listen.engine import Engine, Written
from shibolet.listen.loops import LOOP_CHARS_PER_S, is_loop
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Decoding, Prompt, Texts
from shibolet.speech.audio import SAMPLE_RATE_HZ

MAX_CHARS_PER_TOKEN = 4  # of a loop that is found at once; one in longer tokens is found a little later
WARM_S = 480.0  # of audio, as much as enters a GPU's rows at once
WARM_TOKENS = 8


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
        ngram: Path | None = None,
        ngram_weight: float = 0.0,
        share: float = 1.0,
        keep_encoded: bool = False,
    ) -> None:
        """`batch_utterances` clips at once; the rest as in `Decoding`."""
        self.identity = loaded.identity
        self._max_new_tokens_per_s, self._min_samples = max_new_tokens_per_s, loaded.family.min_samples
        self._decoder = loaded.family.decoder(
            loaded,
            Decoding(
                prompt=Prompt(language), clips_at_once=batch_utterances, beam_size=beam_size,
                length_penalty=length_penalty, ngram=ngram, ngram_weight=ngram_weight, share=share,
                keep_encoded=keep_encoded,
            ),
        )  # fmt: skip
        self.clips_at_once = self._decoder.clips_at_once
        self._device = loaded.model.device
        self._stream = own_stream(self._device, urgent=True)

    def write(self, clips: Sequence[np.ndarray]) -> list[Written]:
        """Longest clips first, so that those decoded together are of similar length."""
        return self.write_and_score(clips, None)

    def write_and_score(
        self,
        clips: Sequence[np.ndarray],
        texts_of: Callable[[Sequence[tuple[int, str]]], Callable[[], Texts]] | None,
    ) -> list[Scored]:
        """The same, with scores of the texts (token ids) that `texts_of` finds for places and texts of clips."""
        if not clips:
            return []
        order = sorted(range(len(clips)), key=lambda i: (-len(clips[i]), i))
        longest_first = [clips[i] for i in order]
        durations_s = [len(clip) / SAMPLE_RATE_HZ for clip in longest_first]

        def loops(place: int, ids: list[int]) -> bool:
            if len(ids) * MAX_CHARS_PER_TOKEN < LOOP_CHARS_PER_S * durations_s[place]:
                return False
            return is_loop(self._decoder.text(ids), durations_s[place])

        texts: dict[int, str] = {}

        def ask(some: Sequence[tuple[int, list[int]]]) -> Callable[[], Texts]:
            texts.update((place, self._decoder.text(ids)) for place, ids in some)
            return texts_of([(order[place], texts[place]) for place, _ in some])

        found: dict[int, Scored] = {}
        with self._stream():
            limits = list(map(self._limit, longest_first))
            for one in self._decoder.decode(longest_first, limits, loops, texts_of and ask):
                text = texts[one.place] if one.place in texts else self._decoder.text(one.ids)
                ending = "loop" if is_loop(text, durations_s[one.place]) else one.ending
                found[order[one.place]] = Scored(text, ending, one.logps)
        return [found[i] for i in range(len(clips))]

    def warm(self) -> None:
        """On a GPU do now what takes time at first use; what is written later is the same with and without it."""
        if self._device.type != "cuda":
            return
        clips = made_up_clips(WARM_S)
        with self._stream():
            texts = lambda some: lambda: [[[0] * WARM_TOKENS]] * len(some)  # noqa: E731
            for _ in self._decoder.decode(clips, [WARM_TOKENS] * len(clips), lambda place, ids: False, texts):
                pass

    def _limit(self, clip: np.ndarray) -> int:
        """Tokens that may be written for a clip."""
        return math.ceil(self._max_new_tokens_per_s * max(len(clip), self._min_samples) / SAMPLE_RATE_HZ)
