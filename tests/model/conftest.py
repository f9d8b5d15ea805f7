from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2Tokenizer, Qwen3ASRFeatureExtractor

from shibolet.demo import tiny
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.model.qwen3_asr.save import save_model

SENTENCES = ["שלום עולם", "הילד הלך אל הים ביום חם מאוד", "בית", "ספר גדול על השולחן"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return SENTENCES


@pytest.fixture(scope="session")
def tokenizer() -> Qwen2Tokenizer:
    return tiny.train_tokenizer(SENTENCES * 10)


@pytest.fixture
def recogniser(tokenizer: Qwen2Tokenizer):
    return tiny.new_recogniser(tokenizer, seed=1).eval()


@pytest.fixture
def native_dir(recogniser, tokenizer: Qwen2Tokenizer, tmp_path: Path) -> Path:
    """A tiny recogniser in the native layout, float32."""
    path = tmp_path / "native"
    extractor = Qwen3ASRFeatureExtractor()
    save_model(LoadedModel(recogniser, tokenizer, extractor, path, ""), path, dtype=torch.float32)
    return path


@pytest.fixture(scope="session")
def clips() -> list[np.ndarray]:
    """Noise of 0.3 s (padded), 1.7 s, 8.01 s and 17.2 s (beyond one and two attention windows of the encoder)."""
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(int(16000 * s))).astype(np.float32) for s in (0.3, 1.7, 8.01, 17.2)]


@pytest.fixture(scope="module")
def loud() -> LoadedModel:
    """The shipped recogniser with larger weights: its texts are long, differ, and hang on the audio."""
    loaded = load_recogniser("builtin:round1")
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            if "language_model.layers" in name and weight.ndim > 1:
                weight.mul_(1.6)
    return loaded
