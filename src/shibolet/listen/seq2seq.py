"""Any sequence-to-sequence speech recogniser of transformers (Whisper and its like) as a second opinion."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from shibolet.listen.batches import forward_lock
from shibolet.listen.pieces import cut_at_pauses
from shibolet.listen.protocols import Hearing
from shibolet.model.load import dtype_on, identity_of
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.text import get_language

TOKENS_PER_S = 12.0  # of what a model may write; a loop ends there
BATCH_CLIPS = 16


class Seq2SeqRecogniser:
    """`Recogniser` over a greedy transcript, and the teacher-forced likelihood of the text against the transcript's.

    A clip longer than the model takes (30 s) is transcribed in pieces and has no score: its text is not cut with it.
    """

    def __init__(self, path: Path, language: str, *, device: str = "cpu") -> None:
        self.identity = identity_of(path)
        self._processor = AutoProcessor.from_pretrained(path)
        self._model = AutoModelForSpeechSeq2Seq.from_pretrained(path, dtype=dtype_on(device)).to(device).eval()
        self._language = get_language(language).name.lower()
        extractor = self._processor.feature_extractor
        self._fixed_s = getattr(extractor, "chunk_length", None)  # Whisper pads everything to it
        self._max_s = self._fixed_s or 30.0
        self._forward = forward_lock(self._model.device)

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        hypotheses = self.transcribe(clips)
        short = [i for i, clip in enumerate(clips) if len(clip) <= self._max_s * SAMPLE_RATE_HZ]
        own = [clips[i] for i in short]
        given = dict(zip(short, self.log_likelihood(own, [" ".join(words[i]) for i in short]), strict=True))
        free = dict(zip(short, self.log_likelihood(own, [hypotheses[i] for i in short]), strict=True))
        return [
            Hearing(
                hypothesis=hypothesis,
                text_score=(given[i] - free[i]) / max(1, sum(map(len, words[i]))) if i in given else None,
            )
            for i, hypothesis in enumerate(hypotheses)
        ]

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Greedy text of each clip (mono float32, 16 kHz); one audio given twice is transcribed once."""
        pieces, owners = [], []
        for index, clip in {id(clip): clip for clip in clips}.items():
            spans = cut_at_pauses(clip, self._max_s)
            pieces += [clip[start:end] for start, end in spans]
            owners += [index] * len(spans)
        texts: dict[int, list[str]] = {}
        written = self._batched(lambda batch: self._generate([pieces[i] for i in batch]), pieces)
        for owner, text in zip(owners, written, strict=True):
            texts.setdefault(owner, []).append(text)
        return [" ".join(text for text in texts[id(clip)] if text) for clip in clips]

    def log_likelihood(self, clips: Sequence[np.ndarray], texts: Sequence[str]) -> list[float]:
        """Of each text, with its end, given its clip."""
        return self._batched(lambda batch: self._force([clips[i] for i in batch], [texts[i] for i in batch]), clips)

    def _batched(self, run: Callable[[list[int]], list], clips: Sequence[np.ndarray]) -> list:
        order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
        found: dict[int, object] = {}
        for first in range(0, len(order), BATCH_CLIPS):
            batch = order[first : first + BATCH_CLIPS]
            found.update(zip(batch, run(batch), strict=True))
        return [found[i] for i in range(len(clips))]

    def _inputs(self, clips: list[np.ndarray]) -> dict[str, torch.Tensor]:
        padding = "max_length" if self._fixed_s else True
        inputs = self._processor.feature_extractor(
            clips, sampling_rate=SAMPLE_RATE_HZ, padding=padding, return_attention_mask=True, return_tensors="pt"
        )
        device, dtype = self._model.device, self._model.dtype
        return {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in inputs.items()}

    @torch.inference_mode()
    def _generate(self, clips: list[np.ndarray]) -> list[str]:
        longest_s = max(len(clip) for clip in clips) / SAMPLE_RATE_HZ
        spoken = {"language": self._language, "task": "transcribe"} if self._is_multilingual else {}
        limit = min(int(TOKENS_PER_S * longest_s) + 8, self._model.config.max_target_positions // 2)
        with self._forward:
            ids = self._model.generate(
                **self._inputs(clips), **spoken, do_sample=False, num_beams=1, max_new_tokens=limit
            )
        return [text.strip() for text in self._processor.batch_decode(ids, skip_special_tokens=True)]

    @torch.inference_mode()
    def _force(self, clips: list[np.ndarray], texts: list[str]) -> list[float]:
        model, tokenizer = self._model, self._processor.tokenizer
        prefix = self._prefix()
        targets = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
        room = model.config.max_target_positions - len(prefix)
        longest = min(room, max(map(len, targets)))
        ids = torch.full((len(texts), len(prefix) + longest), tokenizer.eos_token_id)
        labels = torch.full_like(ids, -100)
        ids[:, : len(prefix)] = torch.tensor(prefix)
        for row, own in enumerate(targets):
            own = own[:room]
            ids[row, len(prefix) : len(prefix) + len(own)] = torch.tensor(own)
            labels[row, len(prefix) : len(prefix) + len(own)] = torch.tensor(own)
        with self._forward:
            logits = model(**self._inputs(clips), decoder_input_ids=ids[:, :-1].to(model.device)).logits
        loss = F.cross_entropy(logits.float().transpose(1, 2).cpu(), labels[:, 1:], reduction="none", ignore_index=-100)
        return (-loss.sum(-1)).tolist()

    @property
    def _is_multilingual(self) -> bool:
        return bool(getattr(self._model.generation_config, "is_multilingual", False))

    def _prefix(self) -> list[int]:
        """What the decoder is given before the text: start, and language and task where the model has them."""
        start = [self._model.config.decoder_start_token_id]
        tokenizer = self._processor.tokenizer
        if self._is_multilingual:
            return tokenizer.convert_tokens_to_ids(
                [
                    "<|startoftranscript|>",
                    f"<|{get_language(self._language).code}|>",
                    "<|transcribe|>",
                    "<|notimestamps|>",
                ]
            )
        silent = tokenizer.convert_tokens_to_ids("<|notimestamps|>")
        return start + ([silent] if silent not in (None, tokenizer.unk_token_id) else [])
