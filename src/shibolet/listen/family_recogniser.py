"""A family's model as a second opinion: its greedy transcript, and the text's teacher-forced likelihood against it."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from shibolet.listen.batches import by_audio, forward_lock, pack_audio_s
from shibolet.listen.forced_text import judge, writings_of
from shibolet.listen.protocols import Hearing
from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Prompt

LOGIT_ROWS = 2048  # at once: 150,000 tokens each are 1.2 GB in float32


class FamilyRecogniser:
    """`Recogniser` over a model of a family; one that was trained on the judged clips has learned their errors too."""

    def __init__(
        self,
        loaded: LoadedModel,
        language: str,
        *,
        max_pack_s: float | None = None,
        transcriber: Transcriber | None = None,
    ) -> None:
        self.identity = loaded.identity
        self._loaded, self._family, self._language = loaded, loaded.family, language
        self._max_pack_s = max_pack_s or pack_audio_s(loaded.model.device)
        self._targets = self._family.targets(loaded.tokenizer, Prompt(language))
        self._features = self._family.features(loaded.extractor, loaded.model.device)
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
        logps = dict(zip(asked, self.token_logps(list(asked.values()), [text for _, text in asked]), strict=True))
        judged = [
            judge([logps[id(clip), text] for text in plan], logps[id(clip), hypothesis])
            for clip, plan, hypothesis in zip(clips, plans, heard, strict=True)
        ]
        return [
            Hearing(hypothesis=h, text_logp=j.text_logp, text_score=j.text_score, worst_score=j.worst_score)
            for h, j in zip(heard, judged, strict=True)
        ]

    @torch.inference_mode()
    def token_logps(self, clips: Sequence[np.ndarray], texts: Sequence[str]) -> list[np.ndarray]:
        """Log-probabilities of each text's tokens and its end, given its clip and the labels before them."""
        model, family, frame, found = self._loaded.model, self._family, self._targets.frame, []
        for first, last in by_audio(clips, self._max_pack_s):
            heard, written = clips[first:last], self._targets.encode(texts[first:last])
            pack = family.lay_out(frame, written, [family.num_frames(len(clip)) for clip in heard])
            pack = family.with_audio(pack, heard, self._features, model.device)
            counts = [frame.num_targets(len(ids)) for ids in written]
            with self._forward:  # packed attention is a state of the model
                logits = family.logits(model, pack)
            rows = zip(logits.split(LOGIT_ROWS), pack.labels.split(LOGIT_ROWS), strict=True)
            loss = torch.cat([F.cross_entropy(part.float(), labels, reduction="none") for part, labels in rows])
            found += [-own[frame.num_prefix :] for own in np.split(loss.cpu().numpy(), np.cumsum(counts[:-1]))]
        return found
