"""A run's weights, moments and position, to checkpoints and back; the main rank writes, every rank reads and waits."""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shibolet.records.ahead import Ahead
from shibolet.train import copies
from shibolet.train.checkpoint import CheckpointStore, average_weights, load_weights
from shibolet.train.host_copies import Layout
from shibolet.train.optimizer import MOMENTS, MasterAdamW, States
from shibolet.train.ranks import any_rank, by_main, from_main
from shibolet.train.state import TrainState
from shibolet.train.writer import CheckpointWriter, key

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expected:
    """What will train: the names of each phase's weights, and copies of them all as they are before it."""

    phases: Sequence[set[str]]
    untrained: Ahead[dict[str, Tensor]]


class Keeper:
    """The checkpoints of one model in training."""

    def __init__(self, model: nn.Module, store: CheckpointStore, fingerprint: dict[str, str], *, is_main: bool) -> None:
        self.store, self._model, self._fingerprint, self._is_main = store, model, fingerprint, is_main
        on_gpu = next(model.parameters()).is_cuda
        self._writer = CheckpointWriter(store, page_locked=on_gpu)
        self._untrained: dict[str, Tensor] = {}  # weights as they were before they trained, for a roll-back
        self._expected: Expected | None = None

    def expect(self, expected: Expected) -> None:
        """Copy no weight when it begins to train, and make room for checkpoints of later phases too."""
        self._expected = expected

    @property
    def failed(self) -> bool:
        """Whether the last checkpoint could not be written; `commit` then raises."""
        return self._writer.failed

    def restore(self, at_most: int | None = None) -> tuple[TrainState, States]:
        """Go back to the newest checkpoint (of at most that step), or to the start; later ones are deleted."""
        by_main(self._writer.end_deleting)  # others would read what it deletes
        if copies.are_needed():
            self._fetch_newest(at_most)
        checkpoint = self.store.latest(at_most)
        state = TrainState.from_json(checkpoint.state, checkpoint.path) if checkpoint else TrainState()
        any_rank(False)  # all have looked
        if self._is_main:
            self.store.discard_after(state.step if checkpoint else -1)
        any_rank(False)
        load_weights(self._model, self._untrained)
        if checkpoint is None:
            return state, {}
        state.require_same_run(self._fingerprint, checkpoint.path)
        weights, moments = checkpoint.weights(), checkpoint.tensors("moments")
        self.will_train(weights)
        load_weights(self._model, weights)
        LOG.info("continuing after step %d from %s", state.step, checkpoint.path)
        return state, {
            name: {"master": master, **{key: moments[f"{key}/{name}"] for key in MOMENTS}}
            for name, master in checkpoint.tensors("masters").items()
        }

    def _fetch_newest(self, at_most: int | None) -> None:
        """Have the checkpoint to go back to at every node."""
        newest: list[int] = []

        def find() -> None:
            if found := self.store.latest(at_most):
                newest.append(found.step)

        by_main(find)
        self.fetch(from_main(newest))

    def fetch(self, steps: Sequence[int]) -> None:
        """Have the checkpoints of these steps at every node, and no others where they are copies; all ranks call it."""
        copies.copy_from_main(self.store.root, [self.store.path(step).name for step in steps])

    def will_train(self, names: Iterable[str]) -> None:
        """Remember these weights as they are now, if they never trained before."""
        weights, copied = dict(self._model.named_parameters()), self._expected.untrained.get() if self._expected else {}
        for name in names:
            if name not in self._untrained:
                found = copied.pop(name, None)
                self._untrained[name] = weights[name].detach().to("cpu", copy=True) if found is None else found

    def enter_phase(self, optimizer: MasterAdamW) -> None:
        """Begin to make room for checkpoints of what trains now, and remember weights that never trained before.

        Where a later phase trains more besides, there is room for that too: page-locking it during steps slows them.
        """
        self.will_train(optimizer.weights)
        if self._is_main:
            now, phases = set(optimizer.weights), self._expected.phases if self._expected else ()
            most = max((phase for phase in phases if now <= phase), key=len, default=now)
            self._writer.reserve(self._layout(now | (most - self._untrained.keys())))

    def save(self, state: TrainState, optimizer: MasterAdamW, keep: Collection[int]) -> None:
        """Begin a checkpoint; once it stands, all but `keep` and the newest are deleted.

        Every rank calls it, as every rank holds a part; the main one writes. One that cannot be written makes `failed`
        true.
        """
        tensors = self._tensors(optimizer)
        if self._is_main:
            self._writer.submit(state.step, state.to_json(self._fingerprint), tensors, keep)
        else:
            for _ in tensors:
                pass

    def _tensors(self, optimizer: MasterAdamW) -> Iterator[tuple[str, str, Tensor]]:
        """File, name and values of what a checkpoint holds."""
        weights = dict(self._model.named_parameters())
        for name in sorted(self._untrained):
            if name not in optimizer.weights:
                yield "frozen", name, weights[name].detach()
                continue
            for held, tensor in optimizer.state(name):
                yield ("masters", name, tensor) if held == "master" else ("moments", f"{held}/{name}", tensor)

    def _layout(self, trained: Collection[str]) -> Layout:
        """Shapes and types of `_tensors` where these train; with several ranks those come of all of them."""
        layout, weights = {}, dict(self._model.named_parameters())
        for name in sorted(self._untrained.keys() | set(trained)):
            shape = weights[name].shape
            if name not in trained:
                layout[key("frozen", name)] = (shape, weights[name].dtype)
                continue
            layout[key("masters", name)] = (shape, torch.float32)
            for moment in MOMENTS:
                own = torch.Size() if moment == "step" else shape
                layout[key("moments", f"{moment}/{name}")] = (own, torch.float32)
        return layout

    def committed(self) -> list[int]:
        """Steps of the checkpoints that came to stand on disk since the last call, on the main rank."""
        return self._writer.committed()

    def hurry(self) -> None:
        """There are no more steps beside which the last checkpoint is written."""
        self._writer.hurry()

    def commit(self) -> None:
        """Wait until the last checkpoint is on disk; DiskError on every rank when it could not be written."""
        by_main(self._writer.wait)

    def keep_only(self, steps: Collection[int]) -> None:
        """Delete all checkpoints but these and the newest, by the time that this is closed."""
        self._writer.keep_only(steps)

    def close(self) -> None:
        """Leave no thread behind that writes: who resumes here next deletes what is unfinished."""
        self._writer.close()

    def weights(self, steps: Sequence[int]) -> dict[str, Tensor]:
        """The mean of these checkpoints, and as it was before what they do not have and trained later.

        What is being written is waited for only where one of them may be part of it. On the main rank.
        """
        found = self._writer.copied(*steps) if len(steps) == 1 else None
        if not found and not set(steps) <= set(self.store.steps()):
            self._writer.wait()
        return self._untrained | (found or average_weights([self.store.at(step) for step in steps]))
