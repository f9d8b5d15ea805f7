"""A training on two nodes, each of its own folder and process group on loopback: one training, whoever starts it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent / "train"))
from ranks import free_port
from train_command import RECIPE, SHIBOLET, end, prepared, rows, save_recipe, train, wait_for

from shibolet.errors import RankLost
from shibolet.train.checkpoint import CheckpointStore
from shibolet.train.copies import COPY_MARKER

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# Rates are a tenth of other tests': an untrained model at high rates magnifies the last bits of a sum.
PHASES = [
    {**phase, "lr_by_part": {part: lr / 10 for part, lr in phase["lr_by_part"].items()}}
    for phase in RECIPE["train"]["phases"]
]
CHECKPOINTS_EVERY = 4
LOST_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changed = {"phases": PHASES, "checkpoint_every_steps": CHECKPOINTS_EVERY, "encoder_cache": True}
    return save_recipe(tmp_path_factory.mktemp("nodes"), {**RECIPE, "train": {**RECIPE["train"], **changed}})


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same training by one process."""
    run = prepared(tmp_path_factory.mktemp("alone") / "run")
    assert end(train(SHIBOLET, recipe, run))[0] == 0
    return run


def folders(path: Path) -> list[Path]:
    """Of the main node, with what is prepared, and of another one that has nothing yet."""
    return [prepared(path / "main"), path / "other"]


def by_torchrun(recipe: Path, runs: list[Path], ranks: int, *options: str) -> list:
    nodes = ["--nnodes", str(len(runs)), "--nproc-per-node", str(ranks), "--master-addr", "127.0.0.1"]
    nodes += ["--master-port", str(free_port())]
    return [
        train([*TORCHRUN, *nodes, "--node-rank", str(node), "-m", "shibolet.cli", "train"], recipe, run, *options)
        for node, run in enumerate(runs)
    ]


def by_shibolet(recipe: Path, runs: list[Path], ranks: int, *options: str, given: Sequence[str] = ()) -> list:
    """`given`: what each node has in its environment, as `{node}` numbers it."""
    main = f"127.0.0.1:{free_port()}"
    nodes = ["--nodes", str(len(runs)), "--gpus", str(ranks), "--main", main]
    return [
        train(["env", *(one.format(node=node) for one in given), *SHIBOLET], recipe, run, *nodes, "--node", str(node),
              *options)
        for node, run in enumerate(runs)
    ]  # fmt: skip


def assert_same(found: Path, expected: Path) -> None:
    """Losses, norms, and weights and moments in the last checkpoint, within 1e-5.

    Left out are biases of keys, whose gradient is 0 but for its rounding.
    """
    for a, b in zip(rows(expected), rows(found), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5), b["step"]
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-5), b["step"]
    one, other = (CheckpointStore(run / "train" / "checkpoints").at(18) for run in (expected, found))
    for kind in ("masters", "moments"):
        ours, theirs = one.tensors(kind), other.tensors(kind)
        assert len(ours) > 20 and ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert "k_proj.bias" in name or (theirs[name] - tensor).norm() <= 1e-5 * tensor.norm(), name


def end_all(commands: list, within_s: float = 180.0) -> list[tuple[int, str]]:
    return [end(command, within_s) for command in commands]


def kill_node(command) -> None:
    """All of a node's processes at once, as when its power fails."""
    family = [psutil.Process(command.pid), *psutil.Process(command.pid).children(recursive=True)]
    for process in family:
        process.send_signal(signal.SIGKILL)


@pytest.mark.slow("nodes", seconds=160)
def test_two_nodes_of_two_ranks_are_one_training_which_others_go_on_with(recipe: Path, alone: Path, tmp_path: Path):
    """Stopped in phase B on 2x2, in A on 1x4, ended on 1x1; a signal to one node ends both with a checkpoint."""
    runs = folders(tmp_path)
    commands = by_shibolet(recipe, runs, 2)
    wait_for(lambda: len(rows(runs[0])) >= 3, commands[0])
    os.kill(commands[1].pid, signal.SIGTERM)
    ended = end_all(commands)
    assert [code for code, _ in ended] == [75, 75], ended
    assert len(rows(runs[0])) < 9
    assert (runs[1] / COPY_MARKER).exists() and not (runs[1] / "train" / "metrics.jsonl").exists()
    [four] = by_shibolet(recipe, runs[:1], 4)
    wait_for(lambda: len(rows(runs[0])) >= 11, four)
    os.kill(four.pid, signal.SIGTERM)
    assert end(four)[0] == 75
    code, errors = end(train(SHIBOLET, recipe, runs[0]))
    assert code == 0 and "continuing after step" in errors, errors
    assert_same(runs[0], alone)


@pytest.mark.slow("nodes", seconds=80)
def test_torchrun_on_two_nodes_through_the_switch(recipe: Path, alone: Path, tmp_path: Path):
    """Each node keeps encoder states of its own, and the other folder is filled from the main one's."""
    runs = folders(tmp_path)
    ended = end_all(by_torchrun(recipe, runs, 2))
    assert [code for code, _ in ended] == [0, 0], ended
    assert_same(runs[0], alone)
    shards = [sorted((run / "prepared").iterdir()) for run in runs]
    assert [file.name for file in shards[0]] == [file.name for file in shards[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*shards, strict=True))
    assert (runs[0] / "train" / "encoder_cache").exists() and (runs[1] / "train" / "encoder_cache-node1").exists()
    code, errors = end(train(SHIBOLET, recipe, runs[1]))
    assert code == 3, errors  # a copy is no run


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
@pytest.mark.parametrize(("ranks", "own"), [(1, ["CUDA_VISIBLE_DEVICES={node}"]), (2, [])], ids=["2x1", "2x2"])
def test_two_nodes_over_nccl_are_one_training(recipe: Path, alone: Path, tmp_path: Path, ranks: int, own: list[str]):
    """By sockets, as between machines: NCCL takes processes of other host ids for another machine's.

    A GPU each, and two ranks each on the same two GPUs, which NCCL refuses within one machine.
    """
    runs = folders(tmp_path)
    ended = end_all(by_shibolet(recipe, runs, ranks, given=["NCCL_HOSTID=node{node}", "NCCL_SOCKET_IFNAME=lo", *own]))
    assert [code for code, _ in ended] == [0, 0], ended
    assert_same(runs[0], alone)


@pytest.mark.slow("nodes", seconds=240)
def test_a_node_that_is_lost_ends_the_other_and_the_same_commands_go_on(recipe: Path, alone: Path, tmp_path: Path):
    """The second one in phase B, the main one in phase A; what is on disk then is good."""
    runs = folders(tmp_path)
    for lost, step in ((1, 5), (0, 13)):
        commands = by_shibolet(recipe, runs, 1)
        wait_for(lambda step=step: len(rows(runs[0])) >= step, commands[0])
        kill_node(commands[lost])
        killed_at = time.monotonic()
        code, errors = end(commands[1 - lost])
        assert code == 76 and time.monotonic() - killed_at < LOST_WITHIN_S, errors
        assert f"node {lost} was lost" in errors and "Traceback" not in errors, errors
        commands[lost].communicate()
    ended = end_all(by_shibolet(recipe, runs, 1))
    assert [code for code, _ in ended] == [0, 0], ended
    assert "continuing after step 12" in ended[0][1], ended[0]
    assert_same(runs[0], alone)
    assert json.loads((runs[0] / "train" / "result.json").read_text())["steps"] == 18


@pytest.fixture
def cable() -> Iterator[list[list[str]]]:
    """Two network namespaces with a link between them; the commands that start a process in each."""
    spaces, links = ("shibolet-t0", "shibolet-t1"), ("shibolet-t0", "shibolet-t1")
    ip = [["ip", "netns", "add", space] for space in spaces]
    ip += [["ip", "link", "add", links[0], "netns", spaces[0], "type", "veth", "peer", links[1], "netns", spaces[1]]]
    for number, space in enumerate(spaces):
        ip += [["ip", "-n", space, "addr", "add", f"10.78.0.{number + 1}/24", "dev", links[number]]]
        ip += [["ip", "-n", space, "link", "set", device, "up"] for device in ("lo", links[number])]
    try:
        for command in ip:
            subprocess.run(command, check=True)
        yield [["ip", "netns", "exec", space, "env", f"GLOO_SOCKET_IFNAME={space}"] for space in spaces]
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space])


@pytest.mark.slow("nodes", seconds=90)
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and ip")
def test_a_cut_cable_ends_both_nodes(recipe: Path, tmp_path: Path, cable: list[list[str]]):
    """As when a machine loses its power: nobody closes a connection, and the others would wait for an hour."""
    runs = folders(tmp_path)
    commands = [
        train([*cable[node], *SHIBOLET], recipe, run, "--nodes", "2", "--node", str(node), "--main", "10.78.0.1:29500",
              "--set", "train.phases.0.num_epochs=300")
        for node, run in enumerate(runs)
    ]  # fmt: skip
    wait_for(lambda: len(rows(runs[0])) >= 5, commands[0])
    subprocess.run(["ip", "-n", "shibolet-t1", "link", "set", "shibolet-t1", "down"], check=True)
    cut_at = time.monotonic()
    ended = end_all(commands)
    assert [code for code, _ in ended] == [RankLost.exit_code] * 2 and time.monotonic() - cut_at < LOST_WITHIN_S, ended
    assert "node 1 was lost: nothing was heard of it for 30 s" in ended[0][1], ended
    assert "node 0 was lost" in ended[1][1], ended
    assert CheckpointStore(runs[0] / "train" / "checkpoints").latest() is not None


def test_the_options_of_several_machines_are_complete_or_a_sentence(run_cli, tmp_path: Path):
    """Protects from a node that waits half an hour for others, which a mistyped option keeps away."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"name": "r"}))
    for options, sentence in (
        (["--nodes", "2"], "--nodes 2 needs --node K, from 0, and --main HOST:PORT"),
        (["--nodes", "2", "--node", "0", "--main", "10.0.0.5"], "needs --node K"),
        (["--nodes", "2", "--node", "2", "--main", "10.0.0.5:29500"], "--node 2: of --nodes 2 the last one is 1"),
        (["--node", "1"], "--node 1: of --nodes 1 the last one is 0"),
    ):
        code, _, errors = run_cli("train", str(recipe), *options)
        assert code == 2 and sentence in errors, errors
