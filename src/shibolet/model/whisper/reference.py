"""A Whisper as transformers computes it: its features, its forward on one clip, its greedy `generate`."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import GenerationMixin

from shibolet.model.protocols import Prompt
from shibolet.model.whisper.load import open_folder, read_model
from shibolet.model.whisper.prompt import TranscriptionPrompt
from shibolet.speech.audio import SAMPLE_RATE_HZ


class Transformers:
    """The library's model with nothing of ours in it."""

    title = f"transformers {transformers.__version__}"

    def __init__(self, name: str, prompt: Prompt, *, dtype: torch.dtype, device: str) -> None:
        folder = open_folder(name)
        self.model, self._extractor = read_model(folder, dtype, device), folder.extractor
        self._prompt = TranscriptionPrompt(folder.tokenizer, prompt).frame.prompt

    @torch.inference_mode()
    def logits(self, clip: np.ndarray, ids: Sequence[int]) -> Tensor:
        logits = self.model(input_features=self._features(clip), decoder_input_ids=self._ids(ids), use_cache=False)
        return logits.logits[0, len(self._prompt) - 1 :]

    @torch.inference_mode()
    def write(self, clip: np.ndarray, limit: int) -> list[int]:
        settings, most = copy.copy(self.model.generation_config), self.model.config.max_target_positions
        settings.update(do_sample=False, num_beams=1, max_length=min(len(self._prompt) + limit, most))
        # Whisper's own `generate` would put the prompt together from the configuration.
        written = GenerationMixin.generate(
            self.model, input_features=self._features(clip), decoder_input_ids=self._ids(()),
            generation_config=settings,
        )  # fmt: skip
        return written[0, len(self._prompt) :].tolist()

    def _features(self, clip: np.ndarray) -> Tensor:
        features = self._extractor(clip, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_features
        return features.to(self.model.device, self.model.dtype)

    def _ids(self, text: Sequence[int]) -> Tensor:
        return torch.tensor([[*self._prompt, *text]], device=self.model.device)
