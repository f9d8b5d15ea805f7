"""A Qwen3-ASR as transformers computes it: its forward on one padded clip, its features, its `generate`."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from shibolet.model.protocols import Prompt
from shibolet.model.qwen3_asr.features import CHUNK_FRAMES, log_mel, num_audio_tokens
from shibolet.model.qwen3_asr.load import open_folder, read_model
from shibolet.model.qwen3_asr.prompt import IGNORED, TranscriptionPrompt


class Transformers:
    """The family's `Reference`; of a legacy folder with the configuration that we make of its own."""

    title = f"transformers {transformers.__version__}"

    def __init__(self, name: str, prompt: Prompt, *, dtype: torch.dtype, device: str) -> None:
        folder = open_folder(name)
        self.model, self._extractor = read_model(folder, dtype, device)
        self._prompt = TranscriptionPrompt(folder.tokenizer, prompt)
        self._stop_ids = sorted({self._prompt.end_id, folder.tokenizer.pad_token_id})
        self._pad_id = folder.tokenizer.pad_token_id

    @torch.inference_mode()
    def logits(self, clip: np.ndarray, ids: Sequence[int]) -> Tensor:
        inputs, num_audio = self._audio(clip)
        sequence = self._prompt.frame.sequence(num_audio, ids)
        logits = self.model(**inputs, **self._tokens(sequence.input_ids)).logits[0]
        at = (torch.tensor(sequence.labels) != IGNORED).nonzero().squeeze(-1) - 1
        return logits[at.to(logits.device)]

    @torch.inference_mode()
    def write(self, clip: np.ndarray, limit: int) -> list[int]:
        inputs, num_audio = self._audio(clip)
        prompt = self._prompt.request(num_audio)
        written = self.model.generate(
            **inputs, **self._tokens(prompt), do_sample=False, num_beams=1, max_new_tokens=limit,
            eos_token_id=self._stop_ids, pad_token_id=self._pad_id,
        )  # fmt: skip
        return written[0, len(prompt) :].tolist()

    def _audio(self, clip: np.ndarray) -> tuple[dict[str, Tensor], int]:
        """Features of a clip, padded to whole seconds, with their mask; and its number of audio tokens."""
        mel = log_mel(clip, self._extractor)
        padded = F.pad(mel, (0, -mel.shape[1] % CHUNK_FRAMES))[None].to(self.model.device, self.model.dtype)
        mask = (torch.arange(padded.shape[2]) < mel.shape[1]).long()[None].to(self.model.device)
        return {"input_features": padded, "input_features_mask": mask}, num_audio_tokens(mel.shape[1])

    def _tokens(self, ids: Sequence[int]) -> dict[str, Tensor]:
        tokens = torch.tensor([list(ids)], device=self.model.device)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
