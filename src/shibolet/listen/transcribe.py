"""The transcription engine on this machine: a Qwen3-ASR, greedy or with beam search."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from shibolet.listen.engine import Engine, Written
from shibolet.listen.loops import LOOP_CHARS_PER_S, is_loop
from shibolet.model.qwen3_asr.decoding import CPU_ROWS, CUDA_ROWS, GreedyDecoder, Request, generate_padded
from shibolet.model.qwen3_asr.features import MIN_SAMPLES, PackedLogMel, num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.load import LoadedModel
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt
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
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._features = PackedLogMel(loaded.extractor, loaded.model.device)
        self._prompt = TranscriptionPrompt(loaded.tokenizer, language)
        self._stop_ids = {self._prompt.end_id, loaded.tokenizer.pad_token_id}
        self._markup_ids = set(loaded.tokenizer.added_tokens_decoder)  # <asr_text>, <|audio_pad|>...: never words
        self._beam_size, self._length_penalty = beam_size, length_penalty
        self._max_new_tokens_per_s = max_new_tokens_per_s
        self.clips_at_once = clips_at_once(loaded.model.device.type, batch_utterances, beam_size)
        self._greedy = GreedyDecoder(
            loaded.model,
            self._features,
            audio_id=self._prompt.audio_id,
            stop_ids=self._stop_ids,
            max_rows=self.clips_at_once,
        )

    def write(self, clips: Sequence[np.ndarray]) -> list[Written]:
        """Longest clips first, so that those decoded together are of similar length."""
        if not clips:
            return []
        order = sorted(range(len(clips)), key=lambda i: (-len(clips[i]), i))
        longest_first = [clips[i] for i in order]
        write = self._write_greedily if self._beam_size == 1 else self._write_with_beams
        written: dict[int, Written] = {order[place]: one for place, one in write(longest_first)}
        return [written[i] for i in range(len(clips))]

    def _write_greedily(self, clips: list[np.ndarray]) -> Iterator[tuple[int, Written]]:
        durations_s = [len(clip) / SAMPLE_RATE_HZ for clip in clips]

        def loops(index: int, ids: list[int]) -> bool:
            if len(ids) * MAX_CHARS_PER_TOKEN < LOOP_CHARS_PER_S * durations_s[index]:
                return False
            return is_loop(self._text(ids), durations_s[index])

        positions = max(
            len(self._prompt.request(num_audio_tokens(num_mel_frames(len(clip))))) + self._limit(clip) for clip in clips
        )
        for index, ids, ending in self._greedy.decode(self._requests(clips), positions, loops):
            text = self._text(ids)
            yield index, Written(text, "loop" if is_loop(text, durations_s[index]) else ending)

    def _write_with_beams(self, clips: list[np.ndarray]) -> Iterator[tuple[int, Written]]:
        for first in range(0, len(clips), self.clips_at_once):
            batch = clips[first : first + self.clips_at_once]
            found = generate_padded(
                self._model,
                self._features,
                list(self._requests(batch)),
                stop_ids=sorted(self._stop_ids),
                pad_id=self._tokenizer.pad_token_id,
                num_beams=self._beam_size,
                length_penalty=self._length_penalty,
            )
            for index, (clip, (ids, ending)) in enumerate(zip(batch, found, strict=True), first):
                text = self._text(ids)
                yield index, Written(text, "loop" if is_loop(text, len(clip) / SAMPLE_RATE_HZ) else ending)

    def _requests(self, clips: list[np.ndarray]) -> Iterator[Request]:
        for clip in clips:
            prompt = self._prompt.request(num_audio_tokens(num_mel_frames(len(clip))))
            yield Request(prompt, clip, self._limit(clip))

    def _limit(self, clip: np.ndarray) -> int:
        """Tokens that may be written for a clip."""
        return math.ceil(self._max_new_tokens_per_s * max(len(clip), MIN_SAMPLES) / SAMPLE_RATE_HZ)

    def _text(self, ids: list[int]) -> str:
        """The words before the end of the turn. Letters that look like markup are letters and stay."""
        end = next((i for i, token in enumerate(ids) if token in self._stop_ids), len(ids))
        return self._tokenizer.decode([i for i in ids[:end] if i not in self._markup_ids]).strip()


def clips_at_once(device: str, batch_utterances: int | None = None, beam_size: int = 1) -> int:
    """How many clips a transcriber decodes together on a device; None: as many as memory allows."""
    return batch_utterances or max(1, (CUDA_ROWS if device == "cuda" else CPU_ROWS) // beam_size)
