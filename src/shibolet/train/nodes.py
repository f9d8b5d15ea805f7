"""The machines of a training: which one this rank is on, and whether the others still live.

What starts ranks says it by the environment, `torchrun` and `launch` alike: each node starts as many. A node is lost
when its first rank says nothing for a while, or when the store of the main one is gone; every rank of the others then
ends, wherever it waits: a collective of NCCL would wait for an hour.
"""

import logging
import os
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import torch.distributed as dist

from shibolet.errors import RankLost, RecipeError

LOG = logging.getLogger(__name__)

_JOIN_S = 1800.0  # for all nodes to come: the main one first looks whether its files are whole
_BEAT_S = 2.0
_SILENT_S = 30.0  # of a node that is lost then
_CLOSED_S = 5.0  # between the end of the main node's store and ours: all may be ending by themselves


@dataclass(frozen=True, slots=True)
class Node:
    """This machine among those that train together."""

    index: int  # from 0; the main rank is on 0
    count: int
    local_rank: int
    num_ranks: int  # processes of this machine, and of each other

    @property
    def is_first(self) -> bool:
        """Whether this rank does what is done once a node."""
        return self.local_rank == 0


def this_node() -> Node:
    """As the environment says; one node where nobody says otherwise."""
    rank, num_all = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    num_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", num_all))
    if num_all % num_ranks:
        raise RecipeError(f"{num_all} processes in all and {num_ranks} on this node: each node starts as many")
    return Node(rank // num_ranks, num_all // num_ranks, rank % num_ranks, num_ranks)


def once_a_node(path: Path) -> Path:
    """The place of what each node keeps for itself, where nodes may share a folder; the main one's is `path`."""
    index = this_node().index
    return path.with_name(f"{path.name}-node{index}") if index else path


class Heartbeat:
    """Says that this node lives, and ends this process when another one does not."""

    def __init__(self, node: Node, *, join_s: float = _JOIN_S) -> None:
        """Wait for all nodes; RankLost where one does not come, RecipeError where it starts another number of ranks."""
        self._node, self._stopped = node, Event()
        self._store = _store(node, join_s)
        if node.is_first:
            self._store.set(f"beat/{node.index}", "0")
            self._store.set(f"ranks/{node.index}", str(node.num_ranks))
        for index in range(node.count):
            try:
                self._store.wait([f"ranks/{index}"])
            except dist.DistError as error:
                raise RankLost(
                    f"node {index} of {node.count} did not come to {_address()} within {join_s:.0f} s; start the same "
                    f"command on every node, with --node {index} on that one"
                ) from error
            if (theirs := int(self._store.get(f"ranks/{index}"))) != node.num_ranks:
                raise RecipeError(
                    f"node {index} starts {theirs} processes and node {node.index} {node.num_ranks}; --gpus has to be "
                    "the same on every node"
                )
        now = time.monotonic()
        self._answered_s, self._closed = now, False  # the store, at last
        self._heard: dict[int, tuple[bytes, float]] = {}  # beats of the other nodes, and since when they are the same
        # A store that cannot be reached any more may not answer for a quarter of an hour: who asks it does not judge.
        Thread(target=self._talk, name="heartbeat", daemon=True).start()
        self._thread = Thread(target=self._watch, name="heartbeat-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Others may end from now on."""
        self._stopped.set()
        self._thread.join()

    def await_loss(self) -> None:
        """Until this process is ended, where the failure of a collective is that of a node; else return."""
        time.sleep(_SILENT_S + _CLOSED_S + 2 * _BEAT_S)

    def _talk(self) -> None:
        """Say that this node lives, and hear what the others say."""
        others = [index for index in range(self._node.count) if index != self._node.index]
        turn = 0
        while not self._stopped.wait(_BEAT_S):
            turn += 1
            try:
                if self._node.is_first:
                    self._store.set(f"beat/{self._node.index}", str(turn))
                beats = self._store.multi_get([f"beat/{index}" for index in others])
            except dist.DistError:
                self._closed = True
                return
            self._answered_s = time.monotonic()
            for index, beat in zip(others, beats, strict=True):
                if index not in self._heard or self._heard[index][0] != beat:
                    self._heard[index] = beat, self._answered_s

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._stopped.wait(_BEAT_S):
            now = time.monotonic()
            if now - before > _SILENT_S / 2:  # this process was stopped: its own silence says nothing of others
                self._answered_s = now
                self._heard = {index: (beat, now) for index, (beat, _) in self._heard.items()}
            before = now
            silent = [index for index, (_, since) in list(self._heard.items()) if now - since > _SILENT_S]
            if self._closed:
                if not self._stopped.wait(_CLOSED_S):
                    self._end("node 0 was lost: it does not answer")
                return
            if now - self._answered_s > _SILENT_S:
                silent = [0]
            if silent:
                self._end(f"node {silent[0]} was lost: nothing was heard of it for {_SILENT_S:.0f} s")
                return

    def _end(self, sentence: str) -> None:
        if self._node.is_first:
            LOG.error("%s; its own output may say why. The same commands go on from the last checkpoint", sentence)
        sys.stderr.flush()
        os._exit(RankLost.exit_code)


def _address() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _store(node: Node, join_s: float) -> dist.Store:
    """A connection of its own to the store by which the ranks find each other, which the main one may have to begin."""
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None,
            node.index == 0 and node.is_first and not is_agents, timeout=timedelta(seconds=join_s),
            wait_for_workers=False, multi_tenant=True,
        )  # fmt: skip
    except dist.DistError as error:
        raise RankLost(
            f"node 0 did not answer at {_address()} within {join_s:.0f} s; start it with --node 0, and see that this "
            f"machine reaches it there ({str(error).splitlines()[0]})"
        ) from error
    return dist.PrefixStore(f"shibolet/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
