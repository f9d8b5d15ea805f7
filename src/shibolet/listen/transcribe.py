"""The transcription engine on this machine: a model of a family, greedy or with beam search."""

import math
from collections.abc import Sequence

import numpy as np

from shibolet.listen.engine import Engine, Written
from shibolet.listen.loops import LOOP_CHARS_PER_S, is_loop
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Prompt
from shibolet.speech.audio import SAMPLE_RATE_HZ

MAX_CHARS_PER_TOKEN = 4  # of a loop that is found at once; one in longer tokens is found a little later


class Transcriber(Engine):
    """Transcription in one language, which is given to the model and not guessed by it."""

    def __init__(
        self,
        loaded: LoadedModel,
        language: str,
        *,
        batch_utterances: int | None = None,  # None: as many as memory allows
        max_new_tokens_per_s: float = 25.0,
        beam_size: int = 1,
        length_penalty: float = 1.0,
    ) -> None:
        self.identity = loaded.identity
        self._max_new_tokens_per_s, self._min_samples = max_new_tokens_per_s, loaded.family.min_samples
        self._decoder = loaded.family.decoder(
            loaded, Prompt(language), clips_at_once=batch_utterances, beam_size=beam_size, length_penalty=length_penalty
        )
        self.clips_at_once = self._decoder.clips_at_once

    def write(self, clips: Sequence[np.ndarray]) -> list[Written]:
        """Longest clips first, so that those decoded together are of similar length."""
        if not clips:
            return []
        order = sorted(range(len(clips)), key=lambda i: (-len(clips[i]), i))
        longest_first = [clips[i] for i in order]
        durations_s = [len(clip) / SAMPLE_RATE_HZ for clip in longest_first]

        def loops(place: int, ids: list[int]) -> bool:
            if len(ids) * MAX_CHARS_PER_TOKEN < LOOP_CHARS_PER_S * durations_s[place]:
                return False
            return is_loop(self._decoder.text(ids), durations_s[place])

        written: dict[int, Written] = {}
        for place, ids, ending in self._decoder.decode(longest_first, list(map(self._limit, longest_first)), loops):
            text = self._decoder.text(ids)
            written[order[place]] = Written(text, "loop" if is_loop(text, durations_s[place]) else ending)
        return [written[i] for i in range(len(clips))]

    def _limit(self, clip: np.ndarray) -> int:
        """Tokens that may be written for a clip."""
        return math.ceil(self._max_new_tokens_per_s * max(len(clip), self._min_samples) / SAMPLE_RATE_HZ)
