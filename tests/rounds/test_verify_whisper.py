"""`shibolet verify` of a Whisper: against transformers, and where the two differ the place is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from whisper_models import SENTENCES, save_whisper

from shibolet.model.family import load_recogniser
from shibolet.model.protocols import Prompt
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds.verify.comparing import compare_hypotheses, compare_logits
from shibolet.rounds.verify.files import check_files, check_tokens
from shibolet.rounds.verify.saving import check_saving
from shibolet.rounds.verify.subject import Clip


@pytest.fixture
def clips() -> list[Clip]:
    rng, made = np.random.default_rng(0), []
    for i, text in enumerate(SENTENCES[:3]):
        samples = (0.1 * rng.standard_normal(16000 + 4000 * i)).astype(np.float32)
        said = Utterance(id=str(i), audio=AudioRef(path="no"), text=text, duration_s=len(samples) / 16000, source="")
        made.append(Clip(said, samples, text))
    return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_whisper(tmp_path / "model")


def changed(model: Path, path: Path, name: str) -> Path:
    """A copy in which one weight is another."""
    weights = load_file(model / "model.safetensors")
    weights[name] = weights[name] * 3 + 0.1
    path.mkdir()
    for file in model.iterdir():
        if file.name != "model.safetensors":
            (path / file.name).symlink_to(file)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_a_sound_model_is_as_transformers_has_it(model, clips):
    files, loaded = check_files(str(model), "cpu")
    assert files.state == "warning" and "suppresses no tokens" in files.sentences[0]  # nothing else is odd
    assert check_tokens(loaded, "Hebrew", clips).state == "passed"
    reference = loaded.family.reference(str(model), Prompt("Hebrew"), dtype=torch.float32, device="cpu")
    found = compare_logits(loaded, reference, "Hebrew", clips)
    assert found.state == "passed" and found.numbers["max_difference"] < 1e-3 * found.numbers["std_of_logits"]
    heard, said = compare_hypotheses(loaded, reference, "Hebrew", clips[:1])
    assert heard.numbers["equal"] == 1 and len(said) == 1


@pytest.mark.parametrize("name", ["model.encoder.layers.1.fc1", "model.decoder.layers.0.fc1"])
def test_where_it_differs_is_named(name, model, clips, tmp_path):
    """Its layers are computed from their parts, so a comparison of whole layers once had nothing to compare."""
    other, loaded = changed(model, tmp_path / "other", f"{name}.weight"), load_recogniser(str(model))
    reference = loaded.family.reference(str(other), Prompt("Hebrew"), dtype=torch.float32, device="cpu")
    found = compare_logits(loaded, reference, "Hebrew", clips)
    assert found.state == "failed" and f"The first layer that differs is '{name}'" in found.sentences[0]


def test_saving_leaves_out_a_layout_that_nothing_reads_back(model, clips, tmp_path):
    found = check_saving(model, "Hebrew", clips[:1], "cpu", tmp_path)
    assert found.state == "passed" and found.sentences == ("the same logits bit by bit: saved",)
