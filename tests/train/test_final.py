"""The trained model on disk: protects from other bytes than the float32 weights give, and from work done twice."""

import errno
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from test_trainer import FallingWer, run
from tiny_run import tiny_config

from shibolet.errors import DiskError
from shibolet.model import weights
from shibolet.model.lora import has_lora, merge_lora
from shibolet.model.parts import select
from shibolet.model.qwen3_asr import save
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.train import checkpoint, host_copies, stage
from shibolet.train.checkpoint import CheckpointStore, average_weights, load_weights
from shibolet.train.keeper import Keeper
from shibolet.train.phases import add_adapters
from shibolet.train.writer import CheckpointWriter


def rebuilt(base: Path, out: Path, config, steps: list[int], path: Path, monkeypatch) -> dict[str, bytes]:
    """The files of a model made from the base in float32 and checkpoints, its weights written by the Hub's library."""
    loaded = load_recogniser(str(base))
    add_adapters(loaded.model, config, 5)
    store = CheckpointStore(out / "checkpoints")
    load_weights(loaded.model, average_weights([store.at(step) for step in steps]))
    if has_lora(loaded.model):
        merge_lora(loaded.model)
    with monkeypatch.context() as patch:
        size = weights.SHARD_SIZE
        patch.setattr(
            save, "write_sharded", lambda path, state: save_torch_state_dict(state, path, max_shard_size=size)
        )
        save.save_model(loaded, path)
    return contents(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The models that trainings load; large models are those of more than a MB."""
    loads = []
    plain = stage.load_recogniser
    monkeypatch.setattr(stage, "load_recogniser", lambda name, **kw: loads.append(name) or plain(name, **kw))
    monkeypatch.setattr(weights, "SHARD_SIZE", "1MB")
    return loads


# the last step; one within B when A has trained the encoder since; an average; all that the recipe may leave out
@pytest.mark.parametrize(
    ("changes", "wers", "steps"),
    [
        ({}, (0.5, 0.4, 0.3, 0.2), [6]),
        ({"precision": "bf16"}, (0.5, 0.1, 0.3, 0.2), [3]),
        ({"average_best": 2, "precision": "bf16"}, (0.6, 0.5, 0.4, 0.3, 0.2), [6, 4]),
        ({"average_best": 2}, (0.6, 0.5, 0.3, 0.4, 0.9), [4]),
        ({"fast": "off", "untie_head": False, "lora": None}, (0.5, 0.4, 0.3, 0.2), [6]),
    ],
    ids=["last", "of B", "average", "not the average", "tied"],
)
def test_the_model_in_memory_is_written_as_one_of_the_base_and_the_checkpoint_would_be(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch, counted, changes: dict, wers: tuple, steps: list
):
    base = tmp_path / "base"
    save.save_model(load_recogniser(str(base_dir)), base)  # in bfloat16, as models are published
    config = tiny_config(**changes)
    if not config.untie_head:
        phases = [
            phase.model_copy(update={
                "lr_by_part": {part: lr for part, lr in phase.lr_by_part.items() if part not in ("head", "lora")}
            })
            for phase in config.phases
        ]  # fmt: skip
        config = config.model_copy(update={"phases": tuple(phases)})
    result = run(base, prepared_dir, tmp_path / "out", config, score_dev=FallingWer(wers))
    assert list(result.weights_of) == steps and counted == [str(base)]
    final = contents(tmp_path / "out" / "final")
    assert sum(name.endswith(".safetensors") for name in final) > 1
    assert final == rebuilt(base, tmp_path / "out", config, steps, tmp_path / "rebuilt", monkeypatch)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_has_the_precision_of_its_training(base_dir: Path, tmp_path: Path, precision: str):
    """Rounded, the modules that trained whole beside it would not be those that dev scores are of."""
    config, loaded = tiny_config(precision=precision), load_recogniser(str(base_dir))
    add_adapters(loaded.model, config, 5)
    generator = torch.Generator().manual_seed(0)
    trained = {name: torch.randn(weight.shape, generator=generator)
               for part in ("lora", "head") for name, weight in select(loaded.model, part).items()}  # fmt: skip
    stage.write_adapter(str(base_dir), config, 5, trained, tmp_path / "adapter", "org/base")
    found = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    names = {f"base_model.model.{name.replace('.default', '')}": name for name in trained}
    assert found.keys() == names.keys() and any(name.endswith("lm_head.weight") for name in found)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert all(weight.dtype == dtype and weight.equal(trained[names[name]].to(dtype)) for name, weight in found.items())


def test_one_that_was_cut_off_before_its_result_loads_one_model_and_ends_with_the_same(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch, counted
):
    config = tiny_config()
    run(base_dir, prepared_dir, tmp_path / "whole", config)

    def cut_off(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_final", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run(base_dir, prepared_dir, tmp_path / "cut", config)
    counted.clear()
    run(base_dir, prepared_dir, tmp_path / "cut", config)
    assert len(counted) == 1 and contents(tmp_path / "cut" / "final") == contents(tmp_path / "whole" / "final")


@pytest.mark.parametrize(("wers", "step"), [((0.5, 0.1, 0.3, 0.2), 3), ((0.5, 0.4, 0.3, 0.2), 6)], ids=["B", "last"])
def test_the_result_is_written_while_the_last_checkpoint_is(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch, wers: tuple, step: int
):
    """Both are gigabytes: one after the other, nobody trains meanwhile, also where the result is long on disk."""
    plain, waited = checkpoint.write_weights, []

    def write(files, *args):
        if any("step-00000006" in str(path) for path in files):
            begun, final = time.monotonic(), tmp_path / "final"
            while not (there := final.is_dir()) and time.monotonic() < begun + 20:
                time.sleep(0.01)
            waited.append(there)
        return plain(files, *args)

    monkeypatch.setattr(checkpoint, "write_weights", write)
    result = run(base_dir, prepared_dir, tmp_path, tiny_config(), score_dev=FallingWer(wers))
    assert result.chosen_step == step and waited == [True]
    assert CheckpointStore(tmp_path / "checkpoints").latest().step == 6


def test_room_for_the_first_checkpoint_is_made_before_the_first_step(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch
):
    """Page-locked memory takes seconds to get: the loop must not wait for it at the first checkpoint."""
    told, plain = [], {}
    for owner, name in ((host_copies.HostCopies, "lay_out"), (host_copies, "_block"), (CheckpointWriter, "submit")):
        plain[name] = getattr(owner, name)

        def tell(*args, name=name, **kwargs):
            told.append(name)
            return plain[name](*args, **kwargs)

        monkeypatch.setattr(owner, name, tell)
    config = tiny_config(checkpoint_every_steps=1)
    run(base_dir, prepared_dir, tmp_path, config, on_step=lambda row: told.append(f"step {row.step}"))
    assert [one for one in told if one != "_block"] == [
        "lay_out", *(one for step in (1, 2, 3) for one in (f"step {step}", "submit")),
        "lay_out", *(one for step in (4, 5, 6) for one in (f"step {step}", "submit")),
    ]  # fmt: skip
    # Phase A trains what B does, and more: there is room for that from the start, and none is made during steps.
    assert "_block" in told and "_block" not in told[told.index("submit") :]


def test_a_result_without_the_last_checkpoint_is_none(base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch):
    """It may be that of an earlier step, and on disk first: what is cut off in between goes on and ends the same."""
    config, plain = tiny_config(), checkpoint.write_weights

    def write(files, *args):
        if any("step-00000006" in str(path) for path in files):
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(files, *args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_weights", write)
        with pytest.raises(DiskError, match="a checkpoint could not be written"):
            run(base_dir, prepared_dir, tmp_path / "cut", config, score_dev=FallingWer((0.5, 0.1, 0.3, 0.2)))
    assert (tmp_path / "cut/final").is_dir() and not (tmp_path / "cut/result.json").exists()
    assert CheckpointStore(tmp_path / "cut/checkpoints").latest().step == 4
    results = [
        run(base_dir, prepared_dir, tmp_path / name, config, score_dev=FallingWer(wers))
        for name, wers in (("cut", (0.2,)), ("whole", (0.5, 0.1, 0.3, 0.2)))
    ]
    assert results[0] == results[1] and results[0].chosen_step == 3
    assert contents(tmp_path / "cut/final") == contents(tmp_path / "whole/final")


def test_weights_that_never_trained_are_copied_before_the_model_goes_to_its_device(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch
):
    """From a GPU they come back at 1 GB/s, while nobody trains; what a roll-back goes to must be the same."""
    seen, plain = {}, Keeper.will_train

    def will_train(self, names):
        before, parameters = set(self._untrained), dict(self._model.named_parameters())
        plain(self, names)
        for name in self._untrained.keys() - before:
            seen[name] = self._untrained[name].equal(parameters[name])
        assert not self._untrained.keys() & self._expected.untrained.get().keys()  # each was taken from there

    monkeypatch.setattr(Keeper, "will_train", will_train)
    run(base_dir, prepared_dir, tmp_path, tiny_config())
    assert len(seen) > 20 and all(seen.values()) and any("lora_A" in name for name in seen)
