"""Two ranks are one training: the same losses, the same weights on both, a stop that both hear of."""

import json
from pathlib import Path

import pytest
import ranks
from killed import PREEMPTED
from ranks import train
from tiny_run import make_rows, rows, write_shard


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
