"""Checkpoints as models to average: the best that are there, adapters merged, none rounded before it is averaged."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_run import tiny_config

from shibolet.errors import RecipeError
from shibolet.model.averaging import weighted_mean
from shibolet.model.family import load_recogniser
from shibolet.model.lora import has_lora
from shibolet.model.parts import select
from shibolet.records.documents.training import DevScore
from shibolet.rounds import averaging
from shibolet.train.checkpoint import CheckpointStore
from shibolet.train.phases import add_adapters

WERS = {2: 0.3, 4: 0.1, 6: 0.2, 8: 0.05}


@pytest.fixture
def current(base_dir: Path, tmp_path: Path, monkeypatch):
    """A round with checkpoints of steps 2, 4 and 6, in which head and adapters trained; that of the best step went."""
    config, loaded = tiny_config(precision="bf16"), load_recogniser(str(base_dir))
    add_adapters(loaded.model, config, 5)
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (2, 4, 6):
        generator = torch.Generator().manual_seed(step)
        masters = {name: torch.randn(weight.shape, generator=generator)
                   for part in ("lora", "head") for name, weight in select(loaded.model, part).items()}  # fmt: skip
        store.save(step, {}, {"masters": masters})
    dev = [DevScore(step=step, phase="B", wer=wer, cer=wer) for step, wer in WERS.items()]
    monkeypatch.setattr(averaging, "TrainResult", SimpleNamespace(read=lambda path: SimpleNamespace(dev=dev)))
    return SimpleNamespace(
        recipe=SimpleNamespace(models=SimpleNamespace(base=str(base_dir)), train=config, seed=5),
        folder=SimpleNamespace(
            checkpoints=store.root, verified=lambda stage: "", train_result=None, prepared=tmp_path / "prepared"
        ),
    )


def test_the_best_checkpoints_that_are_there_are_averaged_with_their_adapters_merged(current, base_dir) -> None:
    sources = averaging.best_checkpoints(current, 2)
    assert [source.title for source in sources] == ["step 4", "step 6"]
    mean = weighted_mean([(source.load, 0.5) for source in sources])
    assert not has_lora(mean.model) and not mean.family.is_tied(mean.model)
    masters = [CheckpointStore(current.folder.checkpoints).at(step).weights() for step in (4, 6)]
    head = (masters[0]["lm_head.weight"] + masters[1]["lm_head.weight"]) / 2
    assert torch.allclose(mean.family.head(mean.model).weight, head, atol=1e-6), "not rounded to bfloat16 before"
    name = next(name for name in masters[0] if name.endswith("q_proj.lora_A.default.weight")).partition(".lora_A")[0]
    added = [
        2.0 * (one[f"{name}.lora_B.default.weight"] @ one[f"{name}.lora_A.default.weight"]) for one in masters
    ]  # alpha 8, rank 4
    before = load_recogniser(str(base_dir)).model.get_parameter(f"{name}.weight")
    assert torch.allclose(mean.model.get_parameter(f"{name}.weight"), before + sum(added) / 2, atol=1e-4)


@pytest.mark.parametrize("number", [1, 4])
def test_more_checkpoints_than_there_are_is_told_with_those_that_are(current, number) -> None:
    with pytest.raises(RecipeError, match=rf"--best {number}: .* has 3 checkpoints with a dev score \(steps 2, 4, 6\)"):
        averaging.best_checkpoints(current, number)
