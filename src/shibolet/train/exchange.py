"""How gradients come to the rank that updates them and weights back from it, between all ranks or in two levels.

On several nodes of several ranks each a block's gradients are first summed within each node, over its own links, and
then between the ranks of one place on every node; weights come back the other way. Of a block of S bytes a node then
sends S (N - 1) / N to the others each way, N nodes, where a ring of all R ranks sends S (R - 1) / R. NCCL sums within a
node first for an all-reduce by trees, and for none of the two collectives here.
"""

from contextlib import nullcontext
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from shibolet.train.ranks import levels

# Their names before torch 2.13.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Exchange(Protocol):
    """What `Shards` sends by. A block is cut into as many equal shares as there are ranks."""

    place: int  # of the share of a block that this rank updates

    def sum_up(self, total: Tensor, block: Tensor) -> dist.Work:
        """Begin to sum this rank's share of a block over ranks, into `total`; `block` means nothing afterwards."""

    def spread(self, block: Tensor) -> dist.Work:
        """Begin to fill a block, which has this rank's share, with those of the others."""


class Flat:
    """Between all ranks at once."""

    def __init__(self) -> None:
        self.place, self._num_ranks = dist.get_rank(), dist.get_world_size()

    def sum_up(self, total: Tensor, block: Tensor) -> dist.Work:
        return _reduce_scatter(total, block, async_op=True)

    def spread(self, block: Tensor) -> dist.Work:
        return _all_gather(block, block.chunk(self._num_ranks)[self.place], async_op=True)


class TwoLevels:
    """Within nodes, and between the ranks of one place on every node; shares lie by place, then by node."""

    def __init__(self, within: dist.ProcessGroup, across: dist.ProcessGroup, device: torch.device) -> None:
        self._within, self._across = within, across
        self._local, self._num_local = dist.get_rank(within), dist.get_world_size(within)
        self._node, num_nodes = dist.get_rank(across), dist.get_world_size(across)
        self.place = self._local * num_nodes + self._node
        self._num_nodes = num_nodes
        # The second collective waits for the first there, and not in what computes.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def sum_up(self, total: Tensor, block: Tensor) -> dist.Work:
        of_node = block.chunk(self._num_local)[self._local]
        with self._beside():
            _reduce_scatter(of_node, block, group=self._within, async_op=True).wait()
            return _reduce_scatter(total, of_node, group=self._across, async_op=True)

    def spread(self, block: Tensor) -> dist.Work:
        of_node = block.chunk(self._num_local)[self._local]
        own = of_node.chunk(self._num_nodes)[self._node]
        with self._beside():
            _all_gather(of_node, own, group=self._across, async_op=True).wait()
            return _all_gather(block, of_node, group=self._within, async_op=True)

    def _beside(self):
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._stream)


def exchange_on(device: torch.device) -> Exchange:
    """The one that moves fewest bytes between nodes."""
    groups = levels()
    return TwoLevels(*groups, device) if groups else Flat()
