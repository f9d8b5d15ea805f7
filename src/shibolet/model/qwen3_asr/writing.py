"""Clips to the ids of their texts: prompts around them, greedy decoding, samples or beams, and ids back to words."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from shibolet.model.choosing import samples_of
from shibolet.model.family import LoadedModel
from shibolet.model.ngram.fusion import fusion_of
from shibolet.model.protocols import Decoded, Decoding, Sampled, Texts, TextsOf
from shibolet.model.qwen3_asr.decoding import GreedyDecoder, Request, generate_padded
from shibolet.model.qwen3_asr.features import PackedLogMel
from shibolet.model.qwen3_asr.lengths import num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt


class ClipDecoder:
    """The family's `Decoder`; beams are not asked whether they are in a loop."""

    def __init__(self, loaded: LoadedModel, how: Decoding) -> None:
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._features = PackedLogMel(loaded.extractor, loaded.model.device)
        self._prompt = TranscriptionPrompt(loaded.tokenizer, how.prompt)
        self._stop_ids = {self._prompt.end_id, loaded.tokenizer.pad_token_id}
        self._markup_ids = set(loaded.tokenizer.added_tokens_decoder)  # <asr_text>, <|audio_pad|>...: never words
        self._beam_size, self._length_penalty = how.beam_size, how.length_penalty
        self.clips_at_once = how.clips_at_once or loaded.family.clips_at_once(loaded.model.device.type, how.beam_size)
        self._fusion = fusion_of(loaded, how, [self._prompt.end_id, loaded.tokenizer.pad_token_id])
        self._new_decoder = partial(
            GreedyDecoder,
            loaded.model,
            self._features,
            audio_id=self._prompt.audio_id,
            stop_ids=self._stop_ids,
            max_rows=how.clips_at_once,
            share=how.share,
            repeat_bias=how.repeat_bias,
        )
        self._greedy = self._new_decoder()  # takes memory at its first call

    def decode(
        self,
        clips: Sequence[np.ndarray],
        limits: Sequence[int],
        is_loop: Callable[[int, list[int]], bool],
        texts_of: TextsOf | None = None,
    ) -> Iterator[Decoded]:
        """As `Decoder.decode`; with beams at most `clips_at_once` neighbours are decoded together, and none scored."""
        if self._beam_size == 1:
            labels_of = texts_of and (lambda some: partial(self._labels, texts_of(some)))
            yield from self._by_rows((), self._requests(clips, limits), clips, limits, is_loop, labels_of)
            return
        for first in range(0, len(clips), self.clips_at_once):
            batch = slice(first, first + self.clips_at_once)
            found = generate_padded(
                self._model,
                self._features,
                list(self._requests(clips[batch], limits[batch])),
                stop_ids=sorted(self._stop_ids),
                pad_id=self._tokenizer.pad_token_id,
                num_beams=self._beam_size,
                length_penalty=self._length_penalty,
                fusion=self._fusion,
            )
            yield from (Decoded(place, ids, ending, None) for place, (ids, ending) in enumerate(found, first))

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
        """As `Decoder.sample`; a prompt is read once, and its keys and values are copied into a row for each text."""
        temperatures = (0.0, *[temperature] * num)
        found = self._by_rows(temperatures, self._requests(clips, limits, seeds), clips, limits, is_loop)
        return samples_of(found, len(temperatures))

    def _by_rows(
        self,
        temperatures: Sequence[float],
        requests: Iterator[Request],
        clips: Sequence[np.ndarray],
        limits: Sequence[int],
        is_loop: Callable[[int, list[int]], bool],
        labels_of: TextsOf | None = None,
    ) -> Iterator[Decoded]:
        if self._greedy.temperatures != temperatures:
            self._greedy = self._new_decoder(temperatures=temperatures)  # the rows of the other go
        positions = max(
            len(self._prompt.request(num_audio_tokens(num_mel_frames(len(clip))))) + limit
            for clip, limit in zip(clips, limits, strict=True)
        )
        yield from self._greedy.decode(requests, positions, is_loop, labels_of)

    def _labels(self, texts: Callable[[], Texts]) -> list[list[list[int]]]:
        """Texts with their end."""
        return [[[*text, self._prompt.end_id] for text in own] for own in texts()]

    def _requests(
        self, clips: Sequence[np.ndarray], limits: Sequence[int], seeds: Sequence[int] = ()
    ) -> Iterator[Request]:
        for clip, limit, seed in zip(clips, limits, seeds or [0] * len(clips), strict=True):
            yield Request(self._prompt.request(num_audio_tokens(num_mel_frames(len(clip)))), clip, limit, seed)

    def text(self, ids: Sequence[int]) -> str:
        """The words before the end of the turn. Letters that look like markup are letters and stay."""
        end = next((i for i, token in enumerate(ids) if token in self._stop_ids), len(ids))
        return self._tokenizer.decode([i for i in ids[:end] if i not in self._markup_ids]).strip()
