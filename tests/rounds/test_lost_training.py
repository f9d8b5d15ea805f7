"""Protects from a scheduler that begins a training again and again which loses a process at the same place."""

from pathlib import Path

from shibolet.errors import ProcessLost, RankLost
from shibolet.rounds.rank import _counted


def commit(out_dir: Path, step: int) -> None:
    folder = out_dir / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "COMPLETE").touch()


def test_the_third_loss_without_a_checkpoint_between_is_for_a_person(tmp_path: Path):
    lost = RankLost("rank 1 was ended by SIGKILL")
    commit(tmp_path, 500)
    assert [_counted(lost, tmp_path) for _ in range(2)] == [lost, lost]
    commit(tmp_path, 1000)
    assert [_counted(lost, tmp_path) for _ in range(2)] == [lost, lost]
    third = _counted(lost, tmp_path)
    assert isinstance(third, ProcessLost) and third.exit_code == 3
    assert str(third).startswith("rank 1 was ended by SIGKILL. But this is loss 3 after step 1,000")


def test_a_training_without_a_checkpoint_yet_counts_from_step_0(tmp_path: Path):
    lost = RankLost("rank 0 was ended by SIGABRT")
    assert [type(_counted(lost, tmp_path)) for _ in range(3)] == [RankLost, RankLost, ProcessLost]


def test_a_broken_count_begins_anew(tmp_path: Path):
    lost = RankLost("rank 0 was ended by SIGABRT")
    (tmp_path / "lost.json").write_text("{")
    assert [type(_counted(lost, tmp_path)) for _ in range(3)] == [RankLost, RankLost, ProcessLost]
