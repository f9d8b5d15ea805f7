"""Clips to the ids of their texts: greedy, in batches that begin and end together, or beams by transformers.

Of a batch the windows are encoded first, a few at a time; then its clips are written together (`rows`). Rows do not
take another clip when theirs has ended: the encoder takes most of the time whatever is said, so little could be won.
Texts are not scored: an audit opens a Whisper by `listen/seq2seq.py` (`Outline.listens`), and nothing else asks for it.
What is computed together follows from the list of clips alone.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from shibolet.model.ahead import one_ahead
from shibolet.model.choosing import samples_of
from shibolet.model.family import LoadedModel
from shibolet.model.ngram.fusion import fusion_of
from shibolet.model.protocols import Decoded, Decoding, Ending, Sampled, TextsOf
from shibolet.model.whisper.features import LogMel, PaddedSamples, lay_samples
from shibolet.model.whisper.packed import encoder_states
from shibolet.model.whisper.prompt import TranscriptionPrompt
from shibolet.model.whisper.rows import Rows, num_rows_of

ENCODED_AT_ONCE = {"cpu": 1, "cuda": 32}  # windows in one forward of the encoder
STEPS = {"cpu": 1, "cuda": 4}  # between two looks at which rows have ended
LAG = {"cpu": 0, "cuda": 1}  # looks under way while the host reads the one before them
LOOP_STEPS = 32  # between two questions whether a row is in a loop
KEPT_BYTES = {
    "cpu": 1 << 30,
    "cuda": 0,
}  # of encoded windows, for `keep_encoded`: a GPU is as fast as what fetches them

Kept = dict[int, tuple[np.ndarray, Tensor]]  # what a window was encoded to, by the identity of an array that lives


class ClipDecoder:
    """The family's `Decoder`; it scores no texts, and asks of no beams whether they are in a loop."""

    def __init__(self, loaded: LoadedModel, how: Decoding) -> None:
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._features = LogMel(loaded.extractor, loaded.model.device)
        self._frame = TranscriptionPrompt(loaded.tokenizer, how.prompt).frame
        self._beam_size, self._length_penalty, self._kind = how.beam_size, how.length_penalty, loaded.model.device.type
        self.clips_at_once = how.clips_at_once or loaded.family.clips_at_once(self._kind, how.beam_size)
        self._num_clips, self._share = how.clips_at_once or max(1, int(how.share * self.clips_at_once)), how.share
        self._fusion = fusion_of(loaded, how, [self._frame.end_id])
        self._max_new_tokens = loaded.model.config.max_target_positions - len(self._frame.prompt)
        self._repeat_bias = how.repeat_bias
        self._rows: Rows | None = None  # kept from one call to the next
        self._to_keep = KEPT_BYTES[self._kind] if how.keep_encoded else 0  # bytes
        self._kept: Kept = {}

    @torch.inference_mode()
    def decode(
        self,
        clips: Sequence[np.ndarray],
        limits: Sequence[int],
        is_loop: Callable[[int, list[int]], bool],
        texts_of: TextsOf | None = None,
    ) -> Iterator[Decoded]:
        """As `Decoder.decode`; ModelError for a clip over 30 s. No text is longer than the model has positions for."""
        yield from self._decode(clips, limits, is_loop, self._rows_for(()) if self._beam_size == 1 else None)

    @torch.inference_mode()
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
        """As `Decoder.sample`; the texts of a clip share the keys and values of its window."""
        rows = self._rows_for((0.0, *[temperature] * num))
        yield from samples_of(self._decode(clips, limits, is_loop, rows, seeds), rows.each)

    def _rows_for(self, temperatures: Sequence[float]) -> Rows:
        if self._rows is None or self._rows.temperatures != temperatures:
            self._rows = None  # free before more is taken
            each = max(1, len(temperatures))
            num_rows = num_rows_of(self._model, self._num_clips * each, self._share, each)
            self._rows = Rows(
                self._model, self._frame, num_rows, repeat_bias=self._repeat_bias, temperatures=temperatures
            )
        return self._rows

    def _decode(
        self,
        clips: Sequence[np.ndarray],
        limits: Sequence[int],
        is_loop: Callable[[int, list[int]], bool],
        rows: Rows | None,
        seeds: Sequence[int] = (),
    ) -> Iterator[Decoded]:
        """By rows, or by beams without them; where a clip has several rows, their places follow each other."""
        limits = [min(limit, self._max_new_tokens) for limit in limits]
        size = rows.num_clips if rows else self.clips_at_once
        parts = [range(first, min(first + size, len(clips))) for first in range(0, len(clips), size)]
        kept = dict(self._kept)  # before this call: the thread that lays samples must know the same
        with closing(one_ahead(self._laid(clips, parts, kept))) as laid:
            for part in parts:
                groups = ([clips[place] for place in group] for group in self._groups(part))
                states = (self._encoded(group, laid, kept) for group in groups)
                own = limits[part.start : part.stop]
                if rows:
                    rows.begin(states, own, seeds[part.start : part.stop])
                    yield from self._by_rows(rows, part, own, is_loop)
                else:
                    yield from self._by_beams(part, torch.cat(list(states)), own)

    def _groups(self, part: range) -> list[range]:
        """Clips whose windows are encoded together."""
        at_once = ENCODED_AT_ONCE[self._kind]
        return [part[first : first + at_once] for first in range(0, len(part), at_once)]

    def _laid(self, clips: Sequence[np.ndarray], parts: Sequence[range], kept: Kept) -> Iterator[PaddedSamples]:
        """Samples of the groups that are encoded."""
        for group in (group for part in parts for group in self._groups(part)):
            own = [clips[place] for place in group]
            if not _holds(kept, own):
                laid = lay_samples(own, num_bins=self._features.num_bins)
                yield laid.pin_memory() if self._kind == "cuda" else laid

    def _encoded(self, clips: Sequence[np.ndarray], laid: Iterator[PaddedSamples], kept: Kept) -> Tensor:
        """States of the windows of a group, kept ones or those of the next samples."""
        if _holds(kept, clips):
            return torch.cat([kept[id(clip)][1] for clip in clips])
        states = encoder_states(self._model, self._features(next(laid)))
        if states.nbytes <= self._to_keep and not _holds(self._kept, clips):  # an array that comes twice is kept once
            self._to_keep -= states.nbytes
            self._kept |= {id(clip): (clip, one) for clip, one in zip(clips, states.split(1), strict=True)}
        return states

    def _by_rows(
        self,
        rows: Rows,
        part: range,
        limits: Sequence[int],
        is_loop: Callable[[int, list[int]], bool],
    ) -> Iterator[Decoded]:
        # row -> place
        writing, looks = dict(enumerate(range(part.start * rows.each, part.stop * rows.each))), deque()
        while writing:
            looks.append(rows.look())
            if len(looks) > LAG[self._kind]:
                yield from self._ended(rows, writing, *looks.popleft()(), limits, is_loop)
            if writing:
                rows.steps(STEPS[self._kind])

    def _ended(
        self,
        rows: Rows,
        writing: dict[int, int],
        written: np.ndarray,  # [R, tokens]
        logps: np.ndarray | None,  # [R]
        limits: Sequence[int],
        is_loop: Callable[[int, list[int]], bool],
    ) -> list[Decoded]:
        """Rows that had ended at a look, or are ended here as loops; they are writing no more."""
        found, num = [], written.shape[1]
        may_loop = num > 1 and num % LOOP_STEPS == 1
        for row, place in list(writing.items()):
            ids, ending = self._cut(written[row].tolist(), limits[row // rows.each])
            if ending is None and may_loop and is_loop(place // rows.each, ids):
                rows.end(row)
                ending = "loop"
            if ending:
                del writing[row]
                found.append(Decoded(place, ids, ending, None, None if logps is None else float(logps[row])))
        return found

    def _cut(self, ids: list[int], limit: int) -> tuple[list[int], Ending | None]:
        """What was written up to the end, or to the limit; an ending of None: it goes on."""
        ids = ids[:limit]
        if self._frame.end_id in ids:
            return ids[: ids.index(self._frame.end_id) + 1], "end"
        return ids, "limit" if len(ids) == limit else None

    def _by_beams(self, part: range, states: Tensor, limits: Sequence[int]) -> Iterator[Decoded]:
        settings, end_id = copy.copy(self._model.generation_config), self._frame.end_id
        settings.update(
            do_sample=False, num_beams=self._beam_size, length_penalty=self._length_penalty, eos_token_id=end_id,
            pad_token_id=end_id, max_length=len(self._frame.prompt) + max(limits),
        )  # fmt: skip
        prompt = torch.tensor([self._frame.prompt] * len(part), device=states.device)
        # Whisper's own `generate` would decide about segments and languages, which are given here.
        written = GenerationMixin.generate(
            self._model,
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device),  # none is missing
            decoder_input_ids=prompt,
            generation_config=settings,
            logits_processor=self._fusion and self._fusion.processors(prompt.shape[1]),
        )[:, prompt.shape[1] :]
        for place, ids, limit in zip(part, written.tolist(), limits, strict=True):
            ids, ending = self._cut(ids, limit)
            yield Decoded(place, ids, ending or "limit", None)

    def text(self, ids: Sequence[int]) -> str:
        """The words of written ids: what stands behind the end of a text in the vocabulary is markup or a time."""
        words = [token for token in ids if token < self._frame.end_id]
        # A limit may lie within a character.
        return self._tokenizer.decode(words, clean_up_tokenization_spaces=False).rstrip("\ufffd").strip()


def _holds(kept: Kept, clips: Sequence[np.ndarray]) -> bool:
    return all(id(clip) in kept for clip in clips)
