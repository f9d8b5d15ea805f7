"""Nodes of a training: who is on which, and what happens where one does not come or is lost."""

import threading
import time
from pathlib import Path

import pytest
from ranks import free_port

from shibolet.errors import RankLost, RecipeError
from shibolet.train import nodes
from shibolet.train.nodes import Heartbeat, Node, once_a_node, this_node


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Node(0, 1, 0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Node(0, 1, 1, 2)),  # who starts ranks by hand says nothing of nodes
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, Node(1, 2, 1, 4)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "1"}, Node(3, 4, 0, 1)),
    ],
)
def test_a_rank_knows_its_node_by_the_environment(monkeypatch, environment: dict[str, str], expected: Node):
    """Protects from readers of one machine that share its cores with ranks of another one."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert this_node() == expected
    name = "encoder_cache" if expected.index == 0 else f"encoder_cache-node{expected.index}"
    assert once_a_node(Path("train/encoder_cache")) == Path("train") / name


def test_nodes_of_different_size_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(RecipeError, match="6 processes in all and 4 on this node: each node starts as many"):
        this_node()


@pytest.fixture
def ended(monkeypatch) -> list[str]:
    """What would have ended this process; nodes beat fast here, on one machine."""
    found: list[str] = []
    monkeypatch.setattr(Heartbeat, "_end", lambda self, sentence: found.append(f"{self._node.index}: {sentence}"))
    for name, seconds in (("_BEAT_S", 0.05), ("_SILENT_S", 0.5), ("_CLOSED_S", 0.1)):
        monkeypatch.setattr(nodes, name, seconds)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    return found


def both(sizes: tuple[int, int] = (1, 1)) -> list:
    """The heartbeats of two nodes, or what each raised."""
    found: list = [None, None]

    def begin(index: int) -> None:
        try:
            found[index] = Heartbeat(Node(index, 2, 0, sizes[index]), join_s=5.0)
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=begin, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_a_node_that_says_nothing_any_more_is_lost_and_one_that_beats_is_not(ended: list[str]):
    main, other = both()
    time.sleep(0.8)
    assert not ended
    other.stop()
    deadline = time.monotonic() + 5
    while not ended and time.monotonic() < deadline:
        time.sleep(0.05)
    main.stop()
    assert ended[0].startswith("0: node 1 was lost: nothing was heard of it for"), ended


def test_a_node_that_does_not_come_and_one_of_another_size_are_sentences(ended: list[str], monkeypatch):
    with pytest.raises(RankLost, match=r"node 1 of 2 did not come to 127\.0\.0\.1:\d+ within 1 s; .* --node 1 on"):
        Heartbeat(Node(0, 2, 0, 1), join_s=1.0)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    main, other = both((2, 4))
    assert isinstance(main, RecipeError) and "node 1 starts 4 processes and node 0 2" in str(main), main
    assert isinstance(other, RecipeError | RankLost)  # or the main one was gone already
