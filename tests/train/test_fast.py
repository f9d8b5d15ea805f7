"""`train.fast`: protects from faster layers and a faster loss that train another model, and from a switch that does
nothing."""

from pathlib import Path

import pytest
import torch
from tiny_run import tiny_config

from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.qwen3_asr.fused import is_fused
from shibolet.recipe import load_recipe
from shibolet.records.files import read_jsonl
from shibolet.train.checkpoint import CheckpointStore
from shibolet.train.config import LoraSettings, PhaseConfig
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.stage import run_train

TOLERANCE = 1e-5  # relative; float32 products in another order over six steps


def train(base_dir: Path, prepared_dir: Path, out_dir: Path, monkeypatch, fast: str) -> tuple[list[dict], set]:
    """The rows of the steps, and for each pack whether the layers and the loss were the faster ones."""
    seen, plain = set(), Transcribe.loss

    def loss(self, model, pack, step):
        seen.add((is_fused(model), self._cross_entropy is summed_cross_entropy))
        return plain(self, model, pack, step)

    with monkeypatch.context() as patch:
        patch.setattr(Transcribe, "loss", loss)
        lora = LoraSettings(part="decoder.layers[0:2]", rank=4, alpha=8, dropout=0.0)
        run_train(
            prepared_dir=prepared_dir, out_dir=out_dir, base=str(base_dir), config=tiny_config(lora=lora, fast=fast),
            language="Hebrew", seed=5, score_dev=None, about={}, num_threads=1,
        )  # fmt: skip
    return read_jsonl(out_dir / "metrics.jsonl"), seen


def test_fast_and_plain_training_have_the_same_losses(base_dir, prepared_dir, tmp_path, monkeypatch):
    fast, fast_seen = train(base_dir, prepared_dir, tmp_path / "auto", monkeypatch, "auto")
    plain, plain_seen = train(base_dir, prepared_dir, tmp_path / "off", monkeypatch, "off")
    assert fast_seen == {(True, True)} and plain_seen == {(False, False)}
    assert len(fast) == len(plain) == 6 and fast[0]["loss"] > 1.01 * fast[-1]["loss"]
    for one, other in zip(fast, plain, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=TOLERANCE)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=100 * TOLERANCE)


def test_a_training_has_the_same_bits_for_any_number_of_threads(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    """Sums in the gradients of convolutions and norms would be divided among threads, and round differently."""
    rates = {"encoder.conv": 1e-3, "encoder.layers[0:6]": 1e-3, "projector": 1e-3, "head": 1e-3}
    phases = (PhaseConfig(name="A", num_epochs=1, lr_by_part=rates),)
    rows, weights = [], []
    for num_threads in (1, 2):
        out_dir = tmp_path / str(num_threads)
        result = run_train(
            prepared_dir=prepared_dir, out_dir=out_dir, base=str(base_dir), language="Hebrew", seed=5, score_dev=None,
            config=tiny_config(phases=phases, lora=None, num_threads=num_threads), about={}, num_threads=1,
        )  # fmt: skip
        assert result.num_threads == num_threads and torch.get_num_threads() == 1
        rows.append([(row["loss"], row["grad_norm"]) for row in read_jsonl(out_dir / "metrics.jsonl")])
        weights.append(CheckpointStore(out_dir / "checkpoints").latest().weights())
    assert rows[0] == rows[1] and len(rows[0]) == 3
    assert weights[0].keys() == weights[1].keys() and "model.audio_tower.conv2d2.weight" in weights[0]
    assert [name for name, weight in weights[0].items() if not torch.equal(weight, weights[1][name])] == []


def test_the_switch_is_read_from_yaml_and_makes_no_other_training():
    """YAML reads a bare `off` as false; and what rounds differently is not trained again."""
    changes = ["train.fast=off", "train.num_threads=7"]
    auto, off = load_recipe("demo").train, load_recipe("demo", changes).train
    assert (auto.fast, off.fast) == ("auto", "off") and auto.identity() == off.identity()
