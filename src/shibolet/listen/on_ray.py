"""A Ray cluster as `cluster` needs one: plain actors, whose ends come to light as errors of what is awaited.

Not Ray Data: it drops a block of rows for one that fails, and cuts batches as they arrive.
"""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from shibolet.errors import ProcessLost, RecipeError
from shibolet.listen.cluster import ActorLost, Node, Server, versions
from shibolet.listen.processes import Outcome

_THREADS = 16  # of an actor: a work that opens, and chunks in hand


class Packed:
    """A `Server` that is called with pickles: a connection by ray:// would read and write objects on their way."""

    def __init__(self, *args: Any) -> None:
        self._server = Server(*args)

    def call(self, method: str, theirs: dict[str, str | None], args: bytes) -> Outcome:
        """What the method answers; where the caller has other versions, ours: what it wrote may not be readable."""
        if theirs != (ours := versions()):
            return True, ours
        return getattr(self._server, method)(*pickle.loads(args))


class RayCluster:
    """Connected to from this process, once; a `Cluster`."""

    def __init__(self, on: str) -> None:
        """`on`: `ray`, the cluster of this machine or of RAY_ADDRESS, or `ray://HOST:PORT`, reached from outside."""
        try:
            import ray
        except ImportError:
            raise RecipeError(f"--on {on} needs Ray: pip install 'shibolet[cluster]'") from None
        self._ray = ray
        if not ray.is_initialized():
            try:
                ray.init(address="auto" if on == "ray" else on, logging_level="ERROR", log_to_driver=False)
            except (ConnectionError, OSError, RuntimeError, ValueError) as error:
                raise RecipeError(
                    f"--on {on}: no Ray cluster answers ({error!s:.200}); 'ray start --head' starts one on this "
                    "machine, RAY_ADDRESS or ray://HOST:PORT names another"
                ) from None
            # It tells of lost nodes on the standard output, among transcripts; who hands out tells it, and elsewhere.
            ray._private.worker._worker_logs_enabled = False
        self._server = ray.remote(Packed)

    def nodes(self) -> list[Node]:
        with self._connected():
            return [
                Node(
                    id=one["NodeID"],
                    name=f"{one['NodeManagerHostname']}/{one['NodeID'][:6]}",
                    num_gpus=int(one["Resources"].get("GPU", 0)),
                    num_cpus=one["Resources"].get("CPU", 0),
                )
                for one in self._ray.nodes()
                if one["Alive"]
            ]

    def start(self, node: Node, on_gpu: bool, *args: Any) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        with self._connected():
            return self._server.options(
                num_gpus=1 if on_gpu else 0,
                num_cpus=0 if on_gpu else node.num_cpus,
                max_concurrency=_THREADS,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            ).remote(*args)

    def call(self, actor: Any, method: str, *args: Any) -> Any:
        with self._connected():
            return actor.call.remote(method, versions(), pickle.dumps(args))

    def wait(self, refs: Sequence[Any], timeout_s: float) -> list[Any]:
        with self._connected():
            return self._ray.wait(refs, num_returns=1, timeout=timeout_s)[0]

    def get(self, ref: Any) -> Outcome:
        with self._connected():
            errors = self._ray.exceptions
            try:
                return self._ray.get(ref)
            except (errors.RayTaskError, errors.RaySystemError):  # a defect of ours, or the end of the cluster
                raise
            except errors.RayError as error:  # the actor, its node, its place or its answer
                raise ActorLost(str(error)) from error

    def end(self, actor: Any) -> None:
        with suppress(Exception):  # it has ended, or the cluster has
            self._ray.kill(actor)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except (ConnectionError, self._ray.exceptions.RaySystemError) as error:
            raise ProcessLost(
                f"the Ray cluster can no longer be reached ({error!s:.200}); what an audit heard is on disk, and "
                "the same command goes on"
            ) from error
