"""Who hears on a cluster: nodes come, go and are killed; nothing is lost, blamed for it or waited for in silence."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from shibolet.errors import DataError, ModelError, ProcessLost, RecipeError
from shibolet.listen import cluster as module
from shibolet.listen.cluster import ActorLost, Node, OnCluster, versions
from shibolet.listen.dispatch import LOST, TRIES
from shibolet.listen.executor import Here, Opened
from shibolet.listen.lazy import LazyListener
from shibolet.listen.on_ray import Packed
from shibolet.listen.open import open_engines, open_executor, open_recogniser
from shibolet.listen.processes import Outcome, WorkerLost, attempt
from shibolet.model.family import family_named


@dataclass(frozen=True)
class Sum:
    """Sums the numbers of a chunk; what is kept is noted in the order in which it came."""

    function: Callable[[Sequence[int]], int] = sum
    kept: list[int] = field(default_factory=list)
    at_once: int = 2

    @contextmanager
    def open(self) -> Iterator[Callable]:
        yield self.function

    def keep(self, result: int) -> int:
        self.kept.append(result)
        return result

    def split(self, chunk: Sequence[int]) -> list[Sequence[int]]:
        half = len(chunk) // 2
        return [chunk[:half], chunk[half:]] if half else []

    def join(self, parts: Sequence[tuple[Sequence[int], int | WorkerLost]]) -> Any:
        return [one for _, result in parts for one in (result if isinstance(result, list) else [result])]


@dataclass
class Fake:
    """A cluster in this process. Actors are numbers; what they were called with is done when it is waited for."""

    alive: list[Node]
    dies: Callable[[Node, Any], bool] = lambda node, chunk: False  # whether a chunk ends its actor
    starts: Callable[[Node], bool] = lambda node: True
    before_wait: Callable[["Fake"], None] = lambda cluster: None
    num_started: int = 0
    num_waits: int = 0
    actors: dict[int, Node] = field(default_factory=dict)
    functions: dict[int, Callable] = field(default_factory=dict)
    calls: dict[int, tuple[int, str, Any]] = field(default_factory=dict)
    num_in_hand: dict[str, int] = field(default_factory=dict)
    says: dict[str, str | None] = field(default_factory=versions)

    def nodes(self) -> list[Node]:
        return list(self.alive)

    def start(self, node: Node, on_gpu: bool, *args: Any) -> int:
        self.num_started += 1
        self.actors[self.num_started] = node
        return self.num_started

    def call(self, actor: int, method: str, *args: Any) -> int:
        ref = len(self.calls)
        self.calls[ref] = (actor, method, args[0])
        return ref

    def wait(self, refs: Sequence[int], timeout_s: float) -> list[int]:
        self.num_waits += 1
        assert self.num_waits < 2000, "it waits for ever"
        self.before_wait(self)
        return [refs[self.num_waits * 7 % len(refs)]]  # in no order

    def get(self, ref: int) -> Outcome:
        actor, method, given = self.calls[ref]
        node = self.actors.get(actor)
        if node is None or node not in self.alive or not self.starts(node):
            raise ActorLost("it is gone")
        if method == "open":
            succeeded, self.functions[actor] = Opened().begin(given)
            return succeeded, self.says if succeeded else self.functions[actor]
        if self.dies(node, given):
            del self.actors[actor]
            raise ActorLost("it died")
        return attempt(self.functions[actor], given)

    def end(self, actor: int) -> None:
        self.actors.pop(actor, None)


A, B, C = (Node(id=name, name=f"node {name}", num_gpus=0, num_cpus=2) for name in "abc")
CHUNKS = [range(first, first + 4) for first in range(0, 160, 4)]
SUMS = [sum(chunk) for chunk in CHUNKS]


@pytest.fixture(autouse=True)
def looks_every_time(monkeypatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", -1.0)
    monkeypatch.setattr(module, "sleep", lambda seconds: None)


def heard(cluster: Fake, work: Sum | None = None, chunks: Sequence = CHUNKS) -> list:
    with closing(OnCluster(cluster, 1)) as executor:
        return list(executor.map(work or Sum(), iter(chunks)))


def test_results_are_those_of_one_process_and_each_is_kept_once() -> None:
    cluster, work = Fake([A, B, C]), Sum()
    assert heard(cluster, work) == SUMS == list(Here().map(Sum(), CHUNKS))
    assert sorted(work.kept) == SUMS and work.kept != SUMS, "what comes first is put on disk first"
    assert cluster.num_started == 3 and not cluster.actors, "actors that nobody ends keep their memory"
    assert heard(Fake([A]), chunks=[]) == []


def test_an_actor_for_each_gpu_where_the_cluster_has_any_and_one_for_each_node_where_it_has_none() -> None:
    """A head node without a GPU must not hear on its processor what would be other bits there."""
    gpus = A._replace(num_gpus=3)
    with closing(OnCluster(Fake([gpus, B]), 1)) as executor:
        assert executor.num_processes == 3 and executor.has_gpus
    with closing(OnCluster(Fake([A, B, C._replace(num_cpus=0)]), 1)) as executor:
        assert executor.num_processes == 2 and not executor.has_gpus


def test_nodes_that_come_and_go_change_nothing_of_the_results() -> None:
    def change(cluster: Fake) -> None:
        cluster.alive = {0: [A, B], 1: [B], 2: [B, C], 3: [C, A._replace(id="a2")]}[cluster.num_waits // 10 % 4]

    cluster, work = Fake([A, B], before_wait=change), Sum()
    assert heard(cluster, work) == SUMS
    assert cluster.num_started > 4 and sorted(work.kept) == SUMS


def test_a_dead_actor_is_replaced_and_its_chunks_are_tried_again() -> None:
    died: list[int] = []

    def once(node: Node, chunk: range) -> bool:
        dies = chunk[0] % 20 == 0 and chunk[0] not in died
        died.append(chunk[0])
        return dies

    cluster = Fake([A, B], dies=once)
    assert heard(cluster) == SUMS and cluster.num_started > 8


def test_of_a_chunk_that_kills_its_actor_in_every_try_only_the_item_at_fault_is_given_up() -> None:
    """Three tries of the whole, then halves: neighbours must not be given up with it, and it is not tried for ever."""
    tries: list[range] = []

    def kills(node: Node, chunk: range) -> bool:
        if 42 in chunk:
            tries.append(chunk)
        return 42 in chunk

    found = heard(Fake([A, B], dies=kills))
    joined = found.pop(10)  # 40 to 43
    assert found == SUMS[:10] + SUMS[11:]
    lost = joined.pop(1)
    assert joined == [40 + 41, 43] and isinstance(lost, WorkerLost) and lost.reason == LOST
    assert [len(chunk) for chunk in tries] == [4] * TRIES + [2, 1]


def test_what_was_lost_with_a_node_is_no_fault_of_the_chunk() -> None:
    """A cluster whose nodes are taken away all the time would else give up good clips, one after the other."""
    names = iter(range(1000))
    killed: list[int] = []

    def kill(cluster: Fake) -> None:
        """Actors end first, and the node is seen to be gone later, as it is with Ray."""
        dead = [node for node in cluster.alive if node.id in {id for id, _ in late}]
        if dead and cluster.num_waits % 3 == 0:
            cluster.alive = [node for node in cluster.alive if node not in dead]
            cluster.alive.append(A._replace(id=f"new{next(names)}"))

    late: list[tuple[str, range]] = []

    def dies(node: Node, chunk: range) -> bool:
        if 42 in chunk and len(late) < 5:
            late.append((node.id, chunk))
            killed.append(42)
            return True
        return False

    assert heard(Fake([A, B, C], dies=dies, before_wait=kill)) == SUMS
    assert len(killed) == 5, "it was lost more often than a chunk may be"


def test_a_node_on_which_no_actor_starts_is_left_out_and_with_no_other_the_run_ends(caplog) -> None:
    caplog.set_level(logging.INFO)
    assert heard(Fake([A, B], starts=lambda node: node is B)) == SUMS
    assert "node node a is left out: no actor starts there: it is gone" in caplog.text
    with pytest.raises(ProcessLost, match=r"no node of the cluster can hear\. node a: no actor starts there"):
        heard(Fake([A, B._replace(num_cpus=0)], starts=lambda node: False))


def test_a_gpu_on_which_no_actor_starts_takes_nobody_from_the_others(caplog) -> None:
    """One broken GPU of a node must not end a run that hears on the next one."""

    class Broken(Fake):
        def get(self, ref: int) -> Outcome:
            if self.calls[ref][0] != 1:  # the second place, and each actor that starts there
                raise ActorLost("it is gone")
            return super().get(ref)

    assert heard(Broken([A._replace(num_gpus=2)])) == SUMS
    assert "one of 2 places of node node a is left out: no actor starts there: it is gone" in caplog.text


def test_a_gpu_that_joins_nodes_that_hear_on_processors_does_so_too(caplog) -> None:
    """A CPU and a GPU differ in bits, and nobody could say which rows of a run were heard by which."""
    on_gpu: list[bool] = []

    class Noting(Fake):
        def start(self, node: Node, on_gpu_: bool, *args: Any) -> int:
            on_gpu.append(on_gpu_)
            return super().start(node, on_gpu_, *args)

    def join(cluster: Fake) -> None:
        cluster.alive = [A, B._replace(num_gpus=2)] if cluster.num_waits > 10 else [A]

    assert heard(Noting([A], before_wait=join)) == SUMS and on_gpu == [False, False]
    assert "node node b has GPUs and hears on its processors, as the nodes before it" in caplog.text
    head = C._replace(num_cpus=0)  # decides nothing
    with closing(OnCluster(later := Noting([head]), 1)) as executor:
        later.alive = [head, A._replace(num_gpus=2)]
        assert list(executor.map(Sum(), iter(CHUNKS))) == SUMS and executor.has_gpus and on_gpu[2:] == [True, True]


def test_clips_at_once_are_those_of_the_device_that_hears() -> None:
    """A laptop that hands out to GPUs would else have each take as few as its own processor does."""
    family = family_named("builtin:round1")
    for node, device in ((A._replace(num_gpus=1), "cuda"), (A, "cpu")):
        with closing(OnCluster(Fake([node]), 1)) as executor:
            engines = open_engines(executor, "builtin:round1", "Hebrew")
            assert engines.clips_at_once == family.clips_at_once(device, 1)
    assert family.clips_at_once("cuda", 1) > family.clips_at_once("cpu", 1)


def test_another_model_under_the_same_name_is_refused(monkeypatch) -> None:
    """A node with an older copy of a folder would hear what nobody asked for, under the newer one's identity."""
    with pytest.raises(ModelError, match=r"the content [0-9a-f]+, and .* asked for 0123: every node needs the same"):
        LazyListener("0123", partial(open_recogniser, "builtin:ctc", "Hebrew")).get()
    with closing(OnCluster(Fake([A]), 1)) as executor:
        assert open_engines(executor, "builtin:round1", "Hebrew").engine.get().identity
        monkeypatch.setattr("shibolet.listen.open.listener_identity", lambda name: "0123")
        with pytest.raises(ModelError, match="asked for 0123"):
            open_engines(executor, "builtin:round1", "Hebrew").engine.get()


def test_an_actor_reads_nothing_that_another_version_wrote() -> None:
    """A work that its code cannot read, or open, would end the run instead of leaving the node out."""
    actor = object.__new__(Packed)
    assert actor.call("open", versions() | {"torch": "0.1"}, b"what it cannot read") == (True, versions())


def test_a_node_with_other_versions_is_left_out() -> None:
    """It would hear other bytes, and nobody could say later which rows those are."""
    with pytest.raises(ProcessLost, match=r"other bytes \(torch 0.1, here "):
        heard(Fake([A], says=versions() | {"torch": "0.1"}))


def test_nobody_who_hears_is_told_and_ends_the_run_in_the_end(monkeypatch, caplog) -> None:
    now = iter(range(0, 100000, 50))
    monkeypatch.setattr(module, "monotonic", lambda: float(next(now)))
    with pytest.raises(ProcessLost, match="has heard anything for 30 minutes"):
        heard(Fake([]))
    assert caplog.text.count("nobody on the cluster hears: 0 nodes are there") > 5


def test_an_error_of_the_work_is_the_same_error_here_and_ends_the_actors(caplog) -> None:
    def refuse(chunk: range) -> int:
        raise DataError("manifest.jsonl, line 3: no text; add one")

    cluster = Fake([A, B])
    with pytest.raises(DataError, match="line 3: no text"):
        heard(cluster, Sum(refuse))
    assert re.search(r"node node [ab]: the work ended there with an error", caplog.text)
    assert not cluster.actors


def test_the_node_that_does_not_see_a_file_is_named() -> None:
    """Of a hundred nodes one lacks a mount, and the path alone does not say which."""

    class Blind(Sum):
        def keep(self, result: int) -> int:
            raise DataError("a.wav was not found")

    with pytest.raises(DataError, match=r"^node node [ab]: a\.wav was not found$"):
        heard(Fake([A, B]), Blind())


class Unreadable(Sum):
    @contextmanager
    def open(self) -> Iterator[Callable]:
        raise DataError("no model in here")
        yield


def test_a_work_that_cannot_be_opened_is_told_and_the_next_one_is_done() -> None:
    """An answer that was left over would be taken for that of the next work."""
    with closing(OnCluster(Fake([A, B]), 1)) as executor:
        for _ in range(2):
            with pytest.raises(DataError, match="no model in here"):
                list(executor.map(Unreadable(), iter(CHUNKS)))
            assert list(executor.map(Sum(), iter(CHUNKS))) == SUMS


def test_a_list_that_is_read_lazily_is_read_little_ahead() -> None:
    """Two hundred thousand chunks must not wait in this process's memory."""
    taken: list[int] = []
    chunks = (taken.append(i) or [i] for i in range(1000))
    with closing(OnCluster(Fake([A, B]), 1)) as executor:
        results = executor.map(Sum(), chunks)
        for _ in range(10):
            next(results)
        assert len(taken) <= 10 + 2 * 2 * 2 + 2
        results.close()


def test_what_is_begun_while_a_work_goes_on_takes_nobody_from_it() -> None:
    """Models are loaded ahead by another thread: an actor that opened those for a chunk would answer nonsense."""
    cluster, other = Fake([A, B]), Sum(lambda chunk: -1)
    with closing(OnCluster(cluster, 1)) as executor:
        results = executor.map(Sum(), iter(CHUNKS))
        found = [next(results)]
        executor.begin(other)
        assert found + list(results) == SUMS
        executor.begin(other)
        assert list(executor.map(Sum(), iter(CHUNKS))) == SUMS


def test_what_on_is_not_known_is_refused() -> None:
    with pytest.raises(RecipeError, match="--on slurm: expected ray, or ray://HOST:PORT"):
        open_executor("slurm")
