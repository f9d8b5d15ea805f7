"""The legacy export, read by qwen-asr's own classes, computes what ours computes: prompt, features and logits.

`golden/qwen_asr.json` was written by that package (`make golden`); here the same checkpoints are built and read again.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from shibolet.model.qwen3_asr.features import CHUNK_FRAMES, log_mel, num_audio_tokens
from shibolet.model.qwen3_asr.load import load_aligner, load_recogniser
from shibolet.model.qwen3_asr.prompt import AlignmentPrompt, TranscriptionPrompt
from shibolet.records.files import read_json

GOLDEN = Path(__file__).parent / "golden"
_spec = importlib.util.spec_from_file_location("tiny_models", GOLDEN / "tiny_models.py")
tiny_models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny_models)


@pytest.mark.parametrize("kind", tiny_models.KINDS)
def test_logits_equal_those_of_the_qwen_asr_package(kind: str, tmp_path: Path):
    values = read_json(GOLDEN / "qwen_asr.json")
    assert values["qwen-asr"] == "0.0.6"
    tiny_models.export_legacy(kind, tmp_path / kind)
    loaded = (load_aligner if kind == "aligner" else load_recogniser)(str(tmp_path / kind))
    for clip, golden in zip(tiny_models.clips(), values[kind], strict=True):
        mel = log_mel(clip, loaded.extractor)
        num_audio = num_audio_tokens(mel.shape[1])
        if kind == "aligner":
            prompt = AlignmentPrompt(loaded.tokenizer)
            (sequence,) = prompt.examples([num_audio], [tiny_models.TEXT.split()], [None])
        else:
            prompt = TranscriptionPrompt(loaded.tokenizer, "Hebrew")
            (sequence,) = prompt.examples([num_audio], [tiny_models.TEXT])
        ids = sequence.input_ids
        expected = torch.tensor(golden["logits"])
        assert len(ids) == golden["num_tokens"] and ids[-len(expected) :] == golden["input_ids"]
        padding = -mel.shape[1] % CHUNK_FRAMES
        with torch.no_grad():
            logits = loaded.model(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                input_features=torch.nn.functional.pad(mel, (0, padding))[None],
                input_features_mask=(torch.arange(mel.shape[1] + padding) < mel.shape[1]).long()[None],
            ).logits[0]
        found = logits[-len(expected) :, :: values["column_step"]]
        assert expected.numel() >= 48 and expected.std() > 0.1
        assert (found - expected).abs().max() < 1e-5
