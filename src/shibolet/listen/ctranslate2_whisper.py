"""A Whisper in CTranslate2's format, as faster-whisper loads it, as a second opinion."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import WhisperFeatureExtractor

from shibolet.errors import ModelError
from shibolet.listen.batches import forward_lock
from shibolet.listen.encoder_decoder import EncoderDecoderRecogniser
from shibolet.listen.forced_text import check_tokenizer
from shibolet.model.folders import NEEDS_CTRANSLATE2, identity_of, read_config
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.text import get_language

FULL_S = 30.0
POSITIONS = 448  # of Whisper's decoder
HOP = 160  # samples of a mel frame
FRAME_S = 0.02  # of the encoder's states, two mel frames each
ALIGNED_ROWS = 16  # at once
MIN_FRAMES = 20  # of mel, that a path is sought in


class CTranslate2Whisper(EncoderDecoderRecogniser[np.ndarray]):
    """`Recogniser` with 8 bit weights on a CPU and half precision on a GPU; times come from the cross-attention.

    Shapes: states [clips, frames, width].
    """

    def __init__(self, name: str, path: Path, language: str, *, device: str = "cpu") -> None:
        super().__init__(language, FULL_S, device)
        self.identity = identity_of(path)
        self._tokenizer = _tokenizer(name, path)
        self._model = _model(name, path, device)
        self._extractor = WhisperFeatureExtractor(feature_size=self._model.n_mels)
        self._end = self._tokenizer.token_to_id("<|endoftext|>")
        self._prefix = self._prefix_ids(name, get_language(language).code)
        self._device = torch.device(device)
        self._forward = forward_lock(self._device)
        self._aligns = "alignment_heads" in read_config(str(path))[1]  # older conversions name none
        check_tokenizer(
            name,
            range(self._end),
            self._tokenizer.decode_batch,
            lambda texts: [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)],
        )

    def _prefix_ids(self, name: str, code: str) -> list[int]:
        """Start, language and task where the model has several, and that no times are to be written."""
        spoken = [f"<|{code}|>", "<|transcribe|>"] if self._model.is_multilingual else []
        tokens = ["<|startoftranscript|>", *spoken, "<|notimestamps|>"]
        ids = [self._tokenizer.token_to_id(token) for token in tokens]
        if None in ids or self._end is None:
            missing = "<|endoftext|>" if self._end is None else tokens[ids.index(None)]
            raise ModelError(
                f"model '{name}': its tokenizer has no token {missing}; it is not a Whisper for this language"
            )
        return ids

    def _encode(self, clips: list[np.ndarray], window_s: float) -> np.ndarray:
        from ctranslate2 import StorageView

        features = self._extractor(
            clips, sampling_rate=SAMPLE_RATE_HZ, max_length=int(window_s * SAMPLE_RATE_HZ), return_tensors="np",
            device=self._device.type,
        )["input_features"]  # fmt: skip
        features = np.ascontiguousarray(features, np.float32)
        with self._forward:
            # A row is repeated for each text that is scored on it, which needs an array.
            return np.array(self._model.encode(StorageView.from_array(features), to_cpu=True))

    def _write(self, states: np.ndarray, limits: list[int]) -> list[list[int]]:
        from ctranslate2 import StorageView

        with self._forward:
            results = self._model.generate(
                StorageView.from_array(states), [self._prefix] * len(states), beam_size=1, max_length=2 * max(limits)
            )  # which allows half of it
        return [result.sequences_ids[0] for result in results]

    def _force(self, states: np.ndarray, rows: list[int], texts: list[list[int]]) -> list[np.ndarray]:
        """By writing the text as a prompt: log-probabilities come with each of its steps.

        (Those of `align` are shares of the tokens of text alone: what runs on after the speech has ended looks likely.)
        """
        from ctranslate2 import StorageView

        with self._forward:
            results = self._model.generate(
                StorageView.from_array(np.ascontiguousarray(states[rows])),
                [self._prefix + text for text in texts],
                beam_size=1,
                max_length=2 * (1 + max(map(len, texts))),
                return_logits_vocab=True,
                suppress_blank=False,
                suppress_tokens=[],
            )
            return [self._read(result.logits[0], text) for result, text in zip(results, texts, strict=True)]

    def _read(self, logits: list, text: list[int]) -> np.ndarray:
        from ctranslate2 import DataType, Device

        steps = zip(logits, [*text, self._end])  # a text without its end goes on in more steps
        rows = ((np.asarray(step.to(DataType.float32).to_device(Device.cpu)), token) for step, token in steps)
        return np.array([row[token] - _log_sum_exp(row) for row, token in rows])

    def _char_spans_s(self, states: np.ndarray, rows: list[int], texts: list[str], nums: list[int]) -> list[np.ndarray]:
        encoded = [self._tokenizer.encode(" " + text, add_special_tokens=False) for text in texts]
        found = [np.zeros((0, 2)) for _ in texts]
        fit = [i for i in range(len(texts)) if 0 < len(encoded[i].ids) <= self._max_tokens()] if self._aligns else []
        fit.sort(key=lambda i: (len(encoded[i].ids), i))
        for first in range(0, len(fit), ALIGNED_ROWS):
            batch = fit[first : first + ALIGNED_ROWS]
            own = np.ascontiguousarray(states[[rows[i] for i in batch]])
            times = self._token_times_s(own, [encoded[i].ids for i in batch], [nums[i] for i in batch])
            for i, times_s in zip(batch, times, strict=True):
                found[i] = _char_spans_s(encoded[i].offsets, times_s)[1:]  # without the space at the start
        return found

    def _token_times_s(self, states: np.ndarray, ids: list[list[int]], nums: list[int]) -> list[np.ndarray]:
        """When each token of each text begins, and the last one ends `[tokens + 1]`."""
        from ctranslate2 import StorageView

        # Fewer frames than the median filter is wide are no path.
        frames = [min(2 * states.shape[1], max(MIN_FRAMES, num // HOP)) for num in nums]
        with self._forward:
            results = self._model.align(StorageView.from_array(states), self._prefix[:-1], ids, frames)
        paths = [np.array(result.alignments) for result in results]  # token, frame
        return [path[np.append(True, np.diff(path[:, 0]) > 0), 1] * FRAME_S for path in paths]

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode([i for i in ids if i < self._end])

    def _max_tokens(self) -> int:
        return POSITIONS - len(self._prefix) - 1


def _tokenizer(name: str, path: Path) -> Tokenizer:
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ModelError(
            f"model '{name}': there is no tokenizer.json in {path}; convert the model again with --copy_files "
            "tokenizer.json, or copy it from the model that this one was converted from"
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library has no narrower one
        raise ModelError(f"model '{name}': {file} is not whole ({error}); download it again") from error


def _model(name: str, path: Path, device: str) -> Any:
    try:
        from ctranslate2.models import Whisper
    except ImportError as error:
        raise ModelError(f"model '{name}' {NEEDS_CTRANSLATE2}") from error
    try:
        return Whisper(
            str(path),
            device=device,
            compute_type="int8" if device == "cpu" else "float16",
            intra_threads=torch.get_num_threads(),
        )
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"model '{name}': CTranslate2 cannot open {path}: {error}") from error


def _log_sum_exp(row: np.ndarray) -> float:
    highest = row.max()
    return float(highest + np.log(np.exp(row - highest).sum()))


def _char_spans_s(offsets: list[tuple[int, int]], times_s: np.ndarray) -> np.ndarray:
    """Start and end `[characters, 2]` from the characters of each token; several tokens may share one."""
    spans = np.zeros((max(end for _, end in offsets), 2))
    seen = 0
    for (first, last), start_s, end_s in zip(offsets, times_s[:-1], times_s[1:], strict=True):
        spans[max(first, seen) : last, 0] = start_s
        spans[first:last, 1] = end_s
        seen = max(seen, last)
    return spans
