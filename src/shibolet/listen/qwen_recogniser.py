"""A Qwen3-ASR as a second opinion: its greedy transcript, and the text's teacher-forced likelihood against that."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from shibolet.listen.batches import by_audio, forward_lock, pack_audio_s
from shibolet.listen.forced_text import judge, writings_of
from shibolet.listen.protocols import Hearing
from shibolet.listen.transcribe import Transcriber
from shibolet.model.qwen3_asr.features import PackedLogMel, num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.load import LoadedModel
from shibolet.model.qwen3_asr.packed import pack_clips, packed_logits
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt

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
        self._language, self._prompt = language, TranscriptionPrompt(loaded.tokenizer, language)
        self._features = PackedLogMel(loaded.extractor, loaded.model.device)
        self._transcriber = transcriber or Transcriber(loaded, language)
        self._forward = forward_lock(loaded.model.device)

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        # One audio under several texts is transcribed once.
        unique = {id(clip): clip for clip in clips}
        with self._forward:
            written = dict(zip(unique, self._transcriber.transcribe(list(unique.values())), strict=True))
        heard = [written[id(clip)] for clip in clips]
        plans = [writings_of(said, text, self._language) for said, text in zip(words, heard, strict=True)]
        # Each text of an audio is scored once; the same text comes with several plans.
        asked = {
            (id(clip), text): clip
            for clip, plan, hypothesis in zip(clips, plans, heard, strict=True)
            for text in (*plan, hypothesis)
        }
        logps = dict(zip(asked, self._token_logps(list(asked.values()), [text for _, text in asked]), strict=True))
        judged = [
            judge([logps[id(clip), text] for text in plan], logps[id(clip), hypothesis])
            for clip, plan, hypothesis in zip(clips, plans, heard, strict=True)
        ]
        return [
            Hearing(hypothesis=h, text_logp=j.text_logp, text_score=j.text_score, worst_score=j.worst_score)
            for h, j in zip(heard, judged, strict=True)
        ]

    def log_likelihood(self, clips: Sequence[np.ndarray], texts: Sequence[str]) -> list[float]:
        """Of each text, end of turn included, given its clip."""
        return [float(logps.sum()) for logps in self._token_logps(clips, texts)]

    @torch.inference_mode()
    def _token_logps(self, clips: Sequence[np.ndarray], texts: Sequence[str]) -> list[np.ndarray]:
        """Of each text's tokens and its end of turn; the language before them is given."""
        model, found, num_prefix = self._loaded.model, [], len(self._prompt.frame.prefix)
        for first, last in by_audio(clips, self._max_pack_s):
            nums_audio = [num_audio_tokens(num_mel_frames(len(clip))) for clip in clips[first:last]]
            sequences = self._prompt.examples(nums_audio, texts[first:last])
            pack = pack_clips(sequences, clips[first:last], self._features, self._prompt.audio_id, shift=True)
            counts = [sum(label >= 0 for label in sequence.labels) for sequence in sequences]
            with self._forward:  # packed attention is a state of the model
                logits = packed_logits(model, pack)
            rows = zip(logits.split(LOGIT_ROWS), pack.labels.split(LOGIT_ROWS), strict=True)
            loss = torch.cat([F.cross_entropy(part.float(), labels, reduction="none") for part, labels in rows])
            found += [-own[num_prefix:] for own in np.split(loss.cpu().numpy(), np.cumsum(counts[:-1]))]
        return found
