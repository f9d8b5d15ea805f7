"""The legacy export, read by qwen-asr's own classes, computes what ours computes: prompt, features, logits and texts.

`golden/qwen_asr.json` and `golden/card_texts.json` were written by that package (`make golden`); here the same
checkpoints are built and read again.
"""

import importlib.util
from pathlib import Path

import pytest
import soundfile as sf
import torch

from shibolet.listen.transcribe import Transcriber
from shibolet.model.qwen3_asr.features import log_mel
from shibolet.model.qwen3_asr.lengths import CHUNK_FRAMES, num_audio_tokens
from shibolet.model.qwen3_asr.load import load_aligner, load_recogniser
from shibolet.model.qwen3_asr.prompt import AlignmentPrompt, TranscriptionPrompt
from shibolet.records.files import read_json

GOLDEN = Path(__file__).parent / "golden"


def _module(name: str):
    spec = importlib.util.spec_from_file_location(name, GOLDEN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny_models, speech_models = _module("tiny_models"), _module("speech_models")


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


def test_the_code_of_a_legacy_card_writes_what_we_write(tmp_path: Path):
    """qwen-asr once printed "language Hebrew" before every text: a token was marked special."""
    golden = read_json(GOLDEN / "card_texts.json")
    assert golden["qwen-asr"] == "0.0.6"
    speech_models.export(tmp_path)
    assert golden["code"] == (tmp_path / "code.py").read_text(encoding="utf-8")
    clips = [sf.read(path, dtype="float32")[0] for path in sorted((tmp_path / "speech").iterdir())]
    texts = Transcriber(load_recogniser(str(tmp_path / "org" / "name")), "Hebrew").transcribe(clips)
    assert len(set(texts)) > 15 and texts == golden["texts"]
