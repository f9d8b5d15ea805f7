"""Phases of all objectives in one training: cut off anywhere it goes on to the same weights, and two ranks are one."""

from pathlib import Path

import pytest
import ranks
from killed import dev_score
from test_ranks import same
from test_trainer import rows, run
from tiny_run import make_rows, outcome, save_base, tiny_config, write_shard

from shibolet.train.config import PhaseConfig
from shibolet.train.objectives.config import DistilConfig, MinWerConfig
from shibolet.train.stage import Reached
from shibolet.train.teacher_cache import TeacherCache

RATES = {"projector": 1e-4, "decoder.layers[2:4]": 1e-4, "head": 1e-4}
CONFIG = tiny_config(
    phases=tuple(
        PhaseConfig(name=name, num_epochs=1, lr_by_part=RATES, objective=name)
        for name in ("distil", "on_policy", "min_wer", "transcribe")
    ),
    lora=None, utterances_per_step=3, distil=DistilConfig(top_k=4), min_wer=MinWerConfig(num_samples=2),
    checkpoint_every_steps=1, eval_every_steps=100,
)  # fmt: skip


@pytest.fixture(scope="module")
def few_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("few")
    write_shard(path / "train-0.parquet", make_rows(5, seed=2, high_s=1.0))
    return path


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("teacher"), seed=1)


@pytest.mark.slow("resume", seconds=40)
def test_a_training_that_was_cut_off_in_every_phase_comes_to_the_same(
    base_dir, few_dir, teacher_dir, tmp_path: Path, monkeypatch
):
    """What is drawn follows from the step; the teacher's pass is not done again, by another training either."""
    about = {"teacher": str(teacher_dir), "score_dev": dev_score}
    run(base_dir, few_dir, tmp_path / "whole", CONFIG, **about)
    fills, fill = [], TeacherCache.fill
    monkeypatch.setattr(TeacherCache, "fill", lambda self, *args, **more: fills.append(1) or fill(self, *args, **more))
    for step in (1, 3, 5, 7):
        with pytest.raises(Reached):
            run(base_dir, few_dir, tmp_path / "cut", CONFIG, until_step=step, **about)
    run(base_dir, few_dir, tmp_path / "cut", CONFIG, **about)
    whole, cut = outcome(tmp_path / "whole"), outcome(tmp_path / "cut")
    assert not fills, "the first training's is there"
    assert len(whole["metrics"]) == 8 and whole["metrics"] == cut["metrics"]
    names = [name for name in whole if name.startswith("final/")]
    assert len(names) > 4 and all(whole[name] == cut[name] for name in names)


@pytest.mark.slow("train", seconds=60)
def test_two_ranks_are_one(base_dir, few_dir, teacher_dir, tmp_path: Path):
    """5 utterances in steps of 3: in the second step of an epoch each rank has one. Both draw what one would."""
    assert ranks.train(1, base_dir, few_dir, tmp_path / "one", CONFIG, teacher=teacher_dir) == [0]
    assert ranks.train(2, base_dir, few_dir, tmp_path / "two", CONFIG, teacher=teacher_dir) == [0, 0]
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow("train", seconds=60)
def test_two_nodes_are_one(base_dir, few_dir, teacher_dir, tmp_path: Path):
    """Another node's disk cannot be read: each has to keep all that the teacher expects, and not a share."""
    assert ranks.train(1, base_dir, few_dir, tmp_path / "one", CONFIG, teacher=teacher_dir) == [0]
    nodes = ranks.train(2, base_dir, few_dir, tmp_path / "two", CONFIG, teacher=teacher_dir, num_nodes=2)
    assert nodes == [0, 0]
    assert_same(tmp_path / "one", tmp_path / "two")
    main, other = (few_dir.parent / name for name in ("teacher_cache", "teacher_cache-node1"))
    files = [path.relative_to(main) for path in main.rglob("*.bin")]
    assert len(files) == 3 and all((main / name).read_bytes() == (other / name).read_bytes() for name in files)


def assert_same(one: Path, two: Path) -> None:
    same(one, two, rel=1e-4)
    for a, b in zip(rows(one), rows(two), strict=True):
        assert a["numbers"] == pytest.approx(b["numbers"], rel=1e-3, abs=1e-6)
