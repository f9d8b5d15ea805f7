"""Two ranks are one training: the same losses, the same weights on both, a stop that both hear of."""

import json
import os
import time
from pathlib import Path

import pytest
import ranks
from killed import PREEMPTED
from ranks import train
from test_final import contents, rebuilt
from tiny_run import make_rows, rows, write_shard

from shibolet.errors import DataError, DiskError
from shibolet.model import weights
from shibolet.records.documents.training import TrainResult
from shibolet.records.provenance import versions
from shibolet.train.ranks import by_main, join_ranks, leave_ranks
from shibolet.train.stage import run_train


def same(one: Path, other: Path, rel: float) -> None:
    """The same losses and gradient norms, step by step."""
    for a, b in zip(rows(one), rows(other), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=rel), b["step"]
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=rel), b["step"]


@pytest.mark.slow("train", seconds=170)
def test_ranks_packs_and_memory_change_nothing_over_20_steps(base_dir: Path, tmp_path: Path):
    """Through the switch; 17 utterances in steps of 8, so that the last of an epoch has one and a rank has none.

    Rates are a tenth of the other tests': an untrained model at high rates magnifies the last bits of a sum.
    """
    write_shard(tmp_path / "prepared" / "train-0.parquet", make_rows(17, seed=3))
    phases = tuple(
        phase.model_copy(update={
            "num_epochs": epochs, "lr_by_part": {part: lr / 10 for part, lr in phase.lr_by_part.items()}
        })
        for phase, epochs in zip(ranks.CONFIG.phases, (3, 4), strict=True)
    )  # fmt: skip
    whole = ranks.CONFIG.model_copy(update={"phases": phases, "pack_tokens": 4096})
    quarters = whole.model_copy(update={"pack_tokens": 150})
    for name, world_size, config, failures in (
        ("one", 1, whole, {}), ("packs", 1, quarters, {}), ("ranks", 2, whole, {}),
        ("forward", 2, whole, {"forward": 5}), ("backward", 2, whole, {"backward": 290}),
    ):  # fmt: skip
        codes = train(world_size, base_dir, tmp_path / "prepared", tmp_path / name, config, failing=failures)
        assert codes == [0] * world_size
    assert [row["utterances"] for row in rows(tmp_path / "ranks")] == [8, 8, 1] * 7
    for name in ("packs", "ranks", "forward", "backward"):
        same(tmp_path / "one", tmp_path / name, rel=1e-5)
    for name, steps in (("forward", [4]), ("backward", [7])):  # in one rank, agreed on by both
        events = [json.loads(line) for line in (tmp_path / name / "events.jsonl").read_text().splitlines()]
        assert [(event["step"], event["event"]) for event in events] == [(step, "out_of_memory") for step in steps]
    for name in ("ranks", "forward", "backward"):
        assert all(phase["begun_early"] > 10 for rank in (0, 1) for phase in ranks.phases(tmp_path / name, rank))
        held = [[phase["digest"] for phase in ranks.phases(tmp_path / name, rank)] for rank in (0, 1)]
        assert len(held[0]) == 2 and held[0] == held[1]  # after B and after A, the newly thawed layers included


@pytest.mark.slow("train", seconds=50)
def test_a_signal_to_one_rank_stops_both_and_any_number_continues(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    assert train(1, base_dir, prepared_dir, tmp_path / "whole") == [0]
    assert train(2, base_dir, prepared_dir, tmp_path / "cut", terminate_at=3) == [PREEMPTED] * 2
    assert [row["step"] for row in rows(tmp_path / "cut")] == [1, 2, 3, 4]
    assert train(1, base_dir, prepared_dir, tmp_path / "cut") == [0]
    for a, b in zip(rows(tmp_path / "whole"), rows(tmp_path / "cut"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)


@pytest.mark.slow("train", seconds=30)
def test_the_result_of_two_ranks_is_that_of_their_checkpoint(base_dir, prepared_dir, tmp_path: Path, monkeypatch):
    """Their weights lie in one tensor, which no file may take for one weight."""
    assert train(2, base_dir, prepared_dir, tmp_path / "out") == [0, 0]
    monkeypatch.setattr(weights, "SHARD_SIZE", ranks.SHARD_SIZE)
    steps = TrainResult.read(tmp_path / "out" / "result.json").weights_of
    expected = rebuilt(base_dir, tmp_path / "out", ranks.CONFIG, steps, tmp_path / "rebuilt", monkeypatch)
    assert contents(tmp_path / "out" / "final") == expected and len(expected) > 10


def test_ranks_with_other_packages_or_other_code_do_not_train_together(base_dir, prepared_dir, tmp_path, monkeypatch):
    """Each would compute other gradients, and nothing on disk would say so."""
    monkeypatch.setattr("shibolet.train.ranks.of_all", lambda made: [made, made | {"torch": "0.1"}])
    with pytest.raises(DataError, match=r"rank 1 trains with another torch than the main rank; .* packages"):
        run_train(
            prepared_dir=prepared_dir, base=str(base_dir), config=ranks.CONFIG, language="Hebrew", seed=1,
            out_dir=tmp_path, score_dev=None, about={}, num_threads=1,
        )  # fmt: skip
    assert "the code of shibolet" in versions()


def wait_as_rank(rank: int, port: int, out: Path) -> None:
    """Two jobs of the main rank: one takes two seconds, the other finds the disk full."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip

    def fail() -> None:
        raise OSError(28, "No space left on device", "train/final")

    join_ranks()
    began, began_cpu = time.monotonic(), time.process_time()
    by_main(lambda: time.sleep(2))
    spent = {"s": time.monotonic() - began, "cpu_s": time.process_time() - began_cpu}
    try:
        by_main(fail)
    except DiskError as error:
        spent["error"] = str(error)
    (out / f"{rank}.json").write_text(json.dumps(spent))
    leave_ranks()


@pytest.mark.slow("train", seconds=12)
def test_ranks_are_idle_while_the_main_one_writes_and_end_with_its_sentence(tmp_path: Path):
    port = ranks.free_port()
    processes = [ranks.FORK.Process(target=wait_as_rank, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    main, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert other["s"] > 1.8 and other["cpu_s"] < 0.05 * other["s"]
    assert main["error"] == other["error"] and "train/final could not be written: No space left" in main["error"]
