"""The loss on dev beside its WER, and the share of a GPU that a step uses."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from tiny_run import PHASE_A, PHASE_B, make_rows, tiny_config, write_shard
from training_documents import step_row

from shibolet.evaluate.config import EvaluateConfig
from shibolet.model.family import LoadedModel
from shibolet.records.documents.training import DevScore
from shibolet.rounds import rank
from shibolet.tracking.config import Tracking, TrackingConfig
from shibolet.train import utilisation as module
from shibolet.train.config import PhaseConfig
from shibolet.train.data import TrainExample
from shibolet.train.label_loss import DevLoss, label_losses, read_dev_examples
from shibolet.train.memory import GPUS
from shibolet.train.plan import operations_per_token
from shibolet.train.utilisation import Utilisation, utilisation_of


@pytest.fixture(scope="module")
def with_dev(prepared_dir: Path, tmp_path_factory) -> Path:
    """The training split with six dev utterances."""
    folder = Path(shutil.copytree(prepared_dir, tmp_path_factory.mktemp("with_dev") / "prepared"))
    write_shard(folder / "dev-00000.parquet", make_rows(6, seed=3))
    return folder


def test_the_loss_on_dev_is_that_of_the_utterances_that_are_scored(loaded: LoadedModel, with_dev: Path):
    """A loss of other utterances than those of WER would move where WER does not, for no reason of the model's."""
    loaded.model.eval()
    chosen = [e for e in read_dev_examples(loaded, with_dev, "Hebrew", {}) if e.id in ("u0001", "u0004")]
    found = label_losses(loaded, chosen, "Hebrew")
    expected = sum(one.loss for one in found) / sum(one.labels for one in found)
    loss = DevLoss(with_dev, "Hebrew", {}, {"u0001", "u0004"})
    assert len(chosen) == 2 and loss(loaded) == pytest.approx(expected, abs=1e-5)
    assert DevLoss(with_dev, "Hebrew", {}, {"none of them"})(loaded) is None
    with torch.no_grad():  # the next score is of the model as it is then
        next(loaded.model.lm_head.parameters()).mul_(1.5)
    assert abs(loss(loaded) - expected) > 1e-3
    with torch.no_grad():
        next(loaded.model.lm_head.parameters()).fill_(math.nan)
    assert loss(loaded) is None  # JSON has no such number


def test_a_training_keeps_and_shows_the_loss_on_dev_beside_its_wer(
    base_dir: Path, with_dev: Path, tmp_path: Path, monkeypatch
):
    """WER alone says late what the loss says early: that a model begins to learn its training set by heart."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told: list = []
    tracking = Tracking(settings=TrackingConfig(), folder=tmp_path / "tracking", name="r", group="g", tags=())
    job = rank.TrainJob(
        run_dir=tmp_path, prepared_dir=with_dev, out_dir=tmp_path / "train", base=str(base_dir),
        train=tiny_config(eval_every_steps=3),
        evaluate=EvaluateConfig(dev_utterances=4), language="Hebrew", seed=0, num_threads=1, about={},
        tracking=tracking,
    )  # fmt: skip
    rank.carry_out(job, told.append)
    scores = DevScore.read_all(tmp_path / "train" / "dev.jsonl")
    losses = [(score.step, score.loss) for score in scores]
    assert len(losses) > 2 and all(0 < loss < 20 for _, loss in losses) and losses[0][1] != losses[-1][1]
    events = EventAccumulator(str(tmp_path / "tracking" / "tensorboard"))
    events.Reload()
    shown = {key: [(one.step, one.value) for one in events.Scalars(key)] for key in ("dev/loss", "dev/wer")}
    assert shown["dev/loss"] == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in losses]
    assert [step for step, _ in shown["dev/wer"]] == [step for step, _ in losses]


def test_a_step_takes_the_share_of_its_operations(loaded: LoadedModel, examples: list[TrainExample], monkeypatch):
    """1,000 tokens of 3 GFLOP in 2 s are 1.5 TFLOP/s: a tenth of a GPU of 15."""
    row = step_row(1, phase="B", tokens=1000)
    row = row.model_copy(update={"timing": row.timing.model_copy(update={"step_s": 2.0})})
    assert Utilisation({"B": 3e9}, 15e12).mfu(row) == pytest.approx(0.1)
    phases = [
        PhaseConfig(name=name, num_epochs=1, lr_by_part={part: lr for part, lr in rates.items() if part != "lora"})
        for name, rates in (("B", PHASE_B), ("A", PHASE_A))
    ]
    config = tiny_config(precision="bf16", phases=tuple(phases))
    found = operations_per_token(config, loaded.model, examples)
    assert found.keys() == {"B", "A"} and 0 < found["B"] < found["A"]  # A trains parts of the encoder too
    twice = operations_per_token(config, loaded.model, [*examples, *examples])
    assert twice == pytest.approx(found)  # of a token, not of the set
    assert utilisation_of(config, loaded.model, examples, torch.device("cpu"), 1) is None
    monkeypatch.setattr(module, "known_gpu", lambda device: "H200")
    two = utilisation_of(config, loaded.model, examples, torch.device("cuda"), 2)
    writing = config.model_copy(update={"phases": (phases[0].model_copy(update={"objective": "min_wer"}), phases[1])})
    own = utilisation_of(writing, loaded.model, examples, torch.device("cuda"), 1)
    assert own.operations.keys() == {"A"} and own.mfu(row) is None, "what it writes is not among the tokens of a step"
    assert two.rate == 2 * GPUS["H200"].bf16_tflops * 1e12 and two.operations == found
    assert (
        utilisation_of(config.model_copy(update={"precision": "fp32"}), loaded.model, examples, torch.device("cuda"), 2)
        is None
    )
