"""A Qwen3-ASR as a second opinion: its greedy transcript, and the text's teacher-forced likelihood against that."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from shibolet.listen.batches import by_audio, forward_lock, pack_audio_s
from shibolet.listen.protocols import Hearing
from shibolet.listen.transcribe import Transcriber
from shibolet.model.features import PackedLogMel, num_audio_tokens, num_mel_frames
from shibolet.model.load import LoadedModel
from shibolet.model.packed import pack_clips, packed_logits
from shibolet.model.prompt import TranscriptionPrompt

LOGIT_ROWS = 2048  # at once: 150,000 tokens each are 1.2 GB in float32


class QwenRecogniser:
    """`Recogniser` over a Qwen3-ASR; a model that was trained on the judged clips has learned their errors too."""

    def __init__(
        self,
        loaded: LoadedModel,
        language: str,
        *,
        max_pack_s: float | None = None,
        transcriber: Transcriber | None = None,
    ) -> None:
        self.identity = loaded.identity
        self._loaded, self._max_pack_s = loaded, max_pack_s or pack_audio_s(loaded.model.device)
        self._prompt = TranscriptionPrompt(loaded.tokenizer, language)
        self._features = PackedLogMel(loaded.extractor, loaded.model.device)
        self._transcriber = transcriber or Transcriber(loaded, language)
        self._forward = forward_lock(loaded.model.device)

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        texts = [" ".join(said) for said in words]
        # One audio under several texts is transcribed once.
        unique = {id(clip): clip for clip in clips}
        with self._forward:
            written = dict(zip(unique, self._transcriber.transcribe(list(unique.values())), strict=True))
        hypotheses = [written[id(clip)] for clip in clips]
        given, free = self.log_likelihood(clips, texts), self.log_likelihood(clips, hypotheses)
        return [
            Hearing(hypothesis=h, text_score=(g - f) / max(1, sum(map(len, said))))
            for h, g, f, said in zip(hypotheses, given, free, words, strict=True)
        ]

    @torch.inference_mode()
    def log_likelihood(self, clips: Sequence[np.ndarray], texts: Sequence[str]) -> list[float]:
        """Of each text, language prefix and end of turn included, given its clip."""
        model, found = self._loaded.model, []
        for first, last in by_audio(clips, self._max_pack_s):
            nums_audio = [num_audio_tokens(num_mel_frames(len(clip))) for clip in clips[first:last]]
            sequences = self._prompt.examples(nums_audio, texts[first:last])
            pack = pack_clips(sequences, clips[first:last], self._features, self._prompt.audio_id, shift=True)
            counts = [sum(label >= 0 for label in sequence.labels) for sequence in sequences]
            with self._forward:  # packed attention is a state of the model
                logits = packed_logits(model, pack)
            rows = zip(logits.split(LOGIT_ROWS), pack.labels.split(LOGIT_ROWS), strict=True)
            loss = torch.cat([F.cross_entropy(part.float(), labels, reduction="none") for part, labels in rows])
            found += (-np.add.reduceat(loss.cpu().numpy(), np.cumsum([0, *counts[:-1]]))).tolist()
        return found
