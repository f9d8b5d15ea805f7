"""Who hears on a cluster: an actor for each of its GPUs, or one for each node where there are none.

Nodes may come and go while a work goes on, and actors that end are replaced. Between tasks pass instructions, places of
audio and results, never samples where the work can decode by itself. What a work keeps is put on disk by this process
alone: nodes need to see audio and models under the same paths, and no run folder. No cluster's library is known here.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from threading import Lock
from time import monotonic, sleep
from typing import Any, NamedTuple, Protocol

from shibolet.errors import DataError, ProcessLost
from shibolet.listen.decoders import Decoders, Share, share_cores
from shibolet.listen.dispatch import Dispatcher, Peer, Run, Work
from shibolet.listen.executor import KeepsDecoders, Opened
from shibolet.listen.processes import MAX_STARTS, Outcome, attempt, sendable
from shibolet.records.provenance import versions

LOOK_S = 2.0  # between looks at which nodes there are
TELL_S = 60.0  # between sentences that nobody hears
MAX_WAIT_S = 1800.0  # for a node that hears, where there is none; then the run ends, and the same command goes on
_LOG = logging.getLogger(__name__)
Ref = Any  # an answer that is awaited


class Node(NamedTuple):
    """A machine of a cluster."""

    id: str  # another one where the same machine comes back
    name: str  # for people
    num_gpus: int
    num_cpus: float


class ActorLost(Exception):
    """An actor ended, or cannot be reached."""


class Cluster(Protocol):
    """What is needed of the library that runs a cluster; an actor is a `Server` on a node."""

    def nodes(self) -> list[Node]:
        """Those that are alive."""
        ...

    def start(self, node: Node, on_gpu: bool, *args: Any) -> Any:
        """An actor `Server(*args)` on this node, with a GPU of its own or all processors; it may start later."""
        ...

    def call(self, actor: Any, method: str, *args: Any) -> Ref: ...

    def wait(self, refs: Sequence[Ref], timeout_s: float) -> list[Ref]:
        """Those that have come, as soon as one has; none after the time."""
        ...

    def get(self, ref: Ref) -> Outcome:
        """An answer that has come; raises ActorLost."""
        ...

    def end(self, actor: Any) -> None: ...


class Server:
    """What an actor does: opens works one after the other, and answers several chunks at a time."""

    def __init__(self, num_threads: int, num_shares: int, folder: str) -> None:
        """`num_threads` of torch; one of `num_shares` actors of its node; `folder` is what paths are relative to."""
        import torch

        torch.set_num_threads(num_threads)
        share_cores(num_shares)
        with suppress(OSError):
            os.chdir(folder)
        self._opened, self._do = Opened(), None

    def open(self, work: Work) -> Outcome:
        """Load what it takes; with what versions it will be done."""
        succeeded, do = self._opened.begin(work)
        self._do = do if succeeded else None
        return sendable((succeeded, versions() if succeeded else do))

    def do(self, chunk: Any) -> Outcome:
        return sendable(attempt(self._do, chunk))


class OnCluster(KeepsDecoders, Dispatcher):
    """Actors on every node that there is; what is lost with one is tried again on another."""

    is_elsewhere = True

    def __init__(self, cluster: Cluster, num_threads: int, decoders: Decoders | None = None) -> None:
        """`num_threads` of torch in each actor: those of one machine, or bits of what a CPU hears differ."""
        self._decoders, self._cluster, self._num_threads = decoders, cluster, num_threads
        self._work: Work | None = None
        self._actors: list[_Actor] = []
        self._nodes: dict[str, Node] = {}
        self._left_out: dict[str, str] = {}  # by node, why
        self._on_gpus: bool | None = None  # decided by the first nodes that can hear: a GPU and a CPU differ in bits
        self._looked_s, self._idle_since_s, self._told_s = 0.0, None, 0.0
        self._busy = Lock()  # while a work is done: what is begun meanwhile, by another thread, comes too late
        self._look(None)

    @property
    def num_processes(self) -> int:
        return max(1, len(self._actors))

    @property
    def has_gpus(self) -> bool:
        return bool(self._on_gpus)

    def share(self, num_workers: int | None) -> Decoders:
        return Share(num_workers)

    def begin(self, work: Work) -> None:
        if self._busy.acquire(blocking=False):
            try:
                self._prepare(work)
            finally:
                self._busy.release()

    def map(self, work: Work, chunks: Iterable) -> Iterator:
        with self._busy:
            yield from super().map(work, chunks)

    def close(self) -> None:
        self._close_decoders()
        self._abandon()

    @property
    def _ready(self) -> Sequence[Peer]:
        return [actor for actor in self._actors if actor.has_opened(self._work)]

    def _prepare(self, work: Work) -> None:
        self._work, self._idle_since_s = work, None
        self._look(None)
        self._tell()

    def _tell(self) -> None:
        for actor in self._actors:
            if self._why_not(actor) is None:
                actor.tell(self._work)

    def _abandon(self) -> None:
        for actor in self._actors:
            actor.end()

    def _receive(self, run: Run) -> None:
        if monotonic() - self._looked_s > LOOK_S:
            self._look(run)
        self._tell()
        self._count_idle()
        waits = {ref: actor for actor in self._actors for ref in actor.refs}
        if not waits:
            sleep(min(LOOK_S, 1.0))  # for a node
            return
        for ref in self._cluster.wait(list(waits), LOOK_S):
            if ref in waits[ref].refs:  # or it was lost with one that came before
                self._take(ref, waits[ref], run)

    def _take(self, ref: Ref, actor: "_Actor", run: Run) -> None:
        """An answer of an actor, or its end."""
        try:
            succeeded, result = self._cluster.get(ref)
        except ActorLost as error:
            self._lose(actor, run, error)
            return
        number = actor.refs.pop(ref)
        if not succeeded:
            was_of_before = actor.work is not run.work
            actor.end()
            if was_of_before:  # who needed what it opened was told, or nobody needed it
                return
            _LOG.warning("node %s: the work ended there with an error", actor.node.name)
            raise result
        if number is not None:
            try:
                run.succeed(actor.tasks.pop(number), result)
            except DataError as error:  # what it does not see
                raise DataError(f"node {actor.node.name}: {error}") from error
            return
        actor.num_starts = 0
        if result != (ours := versions()):
            other = "; ".join(
                f"{name} {result.get(name)}, here {ours[name]}" for name in ours if result.get(name) != ours[name]
            )
            self._leave_out(
                actor.node, f"it has other versions than this process, and would hear other bytes ({other})"
            )
            actor.end()

    def _lose(self, actor: "_Actor", run: Run, error: Exception) -> None:
        node, tasks, had_begun = actor.node, list(actor.tasks.values()), actor.has_opened(self._work)
        actor.end()
        if not had_begun:  # nothing that a chunk did
            actor.num_starts += 1
            if actor.num_starts >= MAX_STARTS:
                actor.why_not = f"no actor starts there: {error!s:.400}"
                num = sum(other.node.id == node.id for other in self._actors)
                place = f"node {node.name}" if num == 1 else f"one of {num} places of node {node.name}"
                _LOG.warning("%s is left out: %s", place, actor.why_not)
            return
        _LOG.warning(
            "node %s: an actor was lost; what it had in hand (%d chunks) is tried again", node.name, len(tasks)
        )
        for task in tasks:
            run.lose(task, node.id)

    def _leave_out(self, node: Node, why: str) -> None:
        if node.id not in self._left_out:
            self._left_out[node.id] = why
            _LOG.warning("node %s is left out: %s", node.name, why)

    def _why_not(self, actor: "_Actor") -> str | None:
        """Why nobody hears in this place; None: somebody does, or will."""
        return self._left_out.get(actor.node.id) or actor.why_not

    def _count_idle(self) -> None:
        """Nobody may be there who hears, but not in silence and not for ever."""
        now_s = monotonic()
        if self._ready or self._idle_since_s is None:
            self._idle_since_s = self._told_s = now_s
        if self._actors and all(map(self._why_not, self._actors)):
            whys = "; ".join(sorted({f"{actor.node.name}: {self._why_not(actor)}" for actor in self._actors}))
            raise ProcessLost(f"no node of the cluster can hear. {whys}")
        if now_s - self._idle_since_s > MAX_WAIT_S:
            raise ProcessLost(
                f"no node of the cluster has heard anything for {MAX_WAIT_S / 60:.0f} minutes ({len(self._nodes)} are "
                "there): see whether others use its GPUs and processors; the same command goes on"
            )
        if now_s - self._told_s > TELL_S:
            self._told_s = now_s
            _LOG.warning(
                "nobody on the cluster hears: %d nodes are there, %d left out; their actors start or wait for room",
                len(self._nodes), len({actor.node.id for actor in self._actors if self._why_not(actor)}),
            )  # fmt: skip

    def _look(self, run: Run | None) -> None:
        """Take in which nodes there are: actors for those that have come, none for those that are gone."""
        self._looked_s = monotonic()
        nodes = {node.id: node for node in self._cluster.nodes()}
        if self._on_gpus is None and any(node.num_gpus or node.num_cpus for node in nodes.values()):
            self._on_gpus = any(node.num_gpus for node in nodes.values())
        for id in [id for id in self._nodes if id not in nodes]:
            gone = self._nodes.pop(id)
            mine = [actor for actor in self._actors if actor.node.id == id]
            self._actors = [actor for actor in self._actors if actor.node.id != id]
            tasks = [task for actor in mine for task in actor.tasks.values()]
            _LOG.warning("node %s is gone; what it had in hand (%d chunks) is tried again", gone.name, len(tasks))
            for actor in mine:
                actor.end()
            if run is not None:
                run.forgive(id, [task for actor in self._actors for task in actor.tasks.values()])
                for task in tasks:
                    run.put_back(task)
        for id in [id for id in nodes if id not in self._nodes]:
            node = self._nodes[id] = nodes[id]
            num = node.num_gpus if self._on_gpus else int(node.num_cpus > 0)
            if node.num_gpus and not self._on_gpus:
                _LOG.warning(
                    "node %s has GPUs and hears on its processors, as the nodes before it: a GPU and a CPU differ in "
                    "bits. What is on disk stays; started anew, the same command hears the rest on GPUs", node.name,
                )  # fmt: skip
            self._actors += [
                _Actor(self._cluster, node, self.has_gpus, (self._num_threads, num, os.getcwd())) for _ in range(num)
            ]
            if num:
                _LOG.info("node %s joins, with %d of now %d actors", node.name, num, len(self._actors))


class _Actor(Peer):
    """An actor as this process sees it; there may be none yet."""

    def __init__(self, cluster: Cluster, node: Node, on_gpu: bool, args: tuple) -> None:
        super().__init__()
        self.node, self.refs = node, {}  # numbers of tasks by what is awaited; None: the opening of a work
        self._cluster, self._on_gpu, self._args = cluster, on_gpu, args
        self._actor: Any = None
        self.num_starts, self.why_not = 0, None  # starts in a row that came to nothing, and why there is no other
        self.work: Work | None = None  # that it was told last

    def has_opened(self, work: Work | None) -> bool:
        return self._actor is not None and self.work is work and None not in self.refs.values()

    def tell(self, work: Work) -> None:
        """Have it open the work, in an actor that starts now if there is none."""
        if self.work is work or None in self.refs.values():
            return
        if self._actor is None:
            self._actor = self._cluster.start(self.node, self._on_gpu, *self._args)
        self.work = work
        self.refs[self._cluster.call(self._actor, "open", work)] = None

    def _send(self, number: int, chunk: Any, work: Work) -> None:
        self.refs[self._cluster.call(self._actor, "do", chunk)] = number

    def end(self) -> None:
        if self._actor is not None:
            self._cluster.end(self._actor)
        self._actor = self.work = None
        self.refs, self.tasks = {}, {}
