"""A Qwen3-ASR as others compute it: transformers here, qwen-asr in an environment of its own."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from shibolet.errors import ModelError
from shibolet.model.protocols import Prompt
from shibolet.model.qwen3_asr.features import log_mel
from shibolet.model.qwen3_asr.lengths import CHUNK_FRAMES, num_audio_tokens
from shibolet.model.qwen3_asr.load import open_folder, read_model
from shibolet.model.qwen3_asr.prompt import ASR_TEXT, END_OF_TURN, IGNORED, TranscriptionPrompt
from shibolet.model.qwen3_asr.save import convert
from shibolet.records.files import write_json


class Transformers:
    """Its forward on one padded clip, its features, its `generate`.

    A legacy folder's weights come under the configuration that we make of its own.
    """

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


class QwenAsr:
    """What the qwen-asr package of another environment says of some clips, asked for all at once; in float32."""

    model = None

    def __init__(
        self, name: str, prompt: Prompt, python: Path, clips: Sequence[np.ndarray], texts: Sequence[str],
        limits: Sequence[int], *, device: str,
    ) -> None:  # fmt: skip
        """`limits` are tokens that may be written. ModelError where the environment lacks qwen-asr, or fails."""
        folder = open_folder(name)
        own = TranscriptionPrompt(folder.tokenizer, prompt)
        with TemporaryDirectory() as scratch:
            path, legacy = Path(scratch), folder.path.absolute()
            if not folder.legacy:
                legacy = path / "legacy"
                convert(name, legacy, "legacy", [prompt.language])
            ids = own.encode(texts)
            labels = [[*own.frame.prefix, *text, own.end_id] for text in ids]
            request = {
                "model": str(legacy), "device": device, "texts": list(texts), "limits": list(limits),
                "num_labels": list(map(len, labels)), "prefix": f"language {prompt.language}{ASR_TEXT}",
                "end": END_OF_TURN, "end_ids": sorted({own.end_id, folder.tokenizer.pad_token_id}),
                "pad_id": folder.tokenizer.pad_token_id,
            }  # fmt: skip
            write_json(path / "request.json", request)
            np.savez(path / "clips.npz", *clips)
            _run(python, path)
            answers = np.load(path / "answers.npz")
            self.title = f"qwen-asr {answers['title']}"
            self._logits, self._written = {}, {}
            for i, clip in enumerate(clips):
                if answers[f"labels{i}"].tolist() != labels[i]:
                    raise ModelError(f"{self.title} gives the text of clip {i + 1} other tokens than this tokenizer")
                self._logits[clip.tobytes()] = torch.from_numpy(answers[f"logits{i}"])
                self._written[clip.tobytes()] = answers[f"written{i}"].tolist()

    def logits(self, clip: np.ndarray, ids: Sequence[int]) -> Tensor:
        return self._logits[clip.tobytes()]

    def write(self, clip: np.ndarray, limit: int) -> list[int]:
        return self._written[clip.tobytes()]


def _run(python: Path, folder: Path) -> None:
    """Carry out `official.py` on a folder; ModelError with its last line where it fails."""
    command = [str(python), "-P", str(Path(__file__).with_name("official.py")), str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    except OSError as error:
        raise ModelError(f"'{python}' cannot be started ({error.strerror}); name a Python that has qwen-asr") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ModelError(f"qwen-asr under '{python}' failed: {lines[-1] if lines else 'no message'}")
