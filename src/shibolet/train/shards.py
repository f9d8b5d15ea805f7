"""Who updates what: with several ranks each holds masters and moments of a share of every weight, and updates that.

Stage 1 of ZeRO (Rajbhandari et al. 2020). What trains lies in one tensor in the order in which a backward pass makes
gradients, cut into blocks, each with an equal share for every rank. A block's gradients go to the ranks that update
them as soon as all are there, while the backward pass makes others; updated weights come back while others are updated.

Not DDP or FSDP: an out-of-memory error in the backward pass of one rank would leave the others inside their
collectives for good. Here every rank makes the same calls in the same order, whatever became of its packs.
"""

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from shibolet.errors import ShiboletError
from shibolet.train.exchange import exchange_on
from shibolet.train.memory import BLOCK_NUMEL, SLOTS

_ALIGNED = 64  # numbers; weights and shares begin at multiples of it
_BLOCKS_AT_ONCE = 2  # begun when a gradient arrives, so that a large weight does not hold up the backward pass
_ROUNDS = 6  # an update's: while one is spread the next is computed


@dataclass(frozen=True, slots=True)
class Piece:
    """Numbers `start` to `stop` - 1 of a weight, flattened, that this rank updates."""

    name: str
    start: int
    stop: int
    block: int


@dataclass(frozen=True, slots=True)
class _Member:
    """Numbers `start` to `stop` - 1 of a weight, flattened, in a block; their gradients leave from `slot`."""

    weight: nn.Parameter
    start: int
    stop: int
    slot: Tensor

    def gradient(self) -> Tensor:
        gradient, numel = self.weight.grad, self.stop - self.start
        return gradient if numel == gradient.numel() else gradient.view(-1)[self.start : self.stop]


class Whole:
    """One rank: it updates all."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self._weights = weights
        self.pieces = [Piece(name, 0, weight.numel(), 0) for name, weight in weights.items()]
        self.rounds = [range(1)]

    def weight(self, piece: Piece) -> Tensor:
        """The numbers of a piece, in the weight itself."""
        return self._weights[piece.name].detach().view(-1)[piece.start : piece.stop]

    def gradient(self, piece: Piece) -> Tensor:
        """Their gradients, summed over ranks, after `finish`."""
        weight = self._weights[piece.name]
        return torch.zeros_like(weight).view(-1) if weight.grad is None else weight.grad.reshape(-1)

    def whole(self, name: str, pieces: Sequence[tuple[Piece, Tensor]]) -> Tensor:
        """What the ranks hold for the pieces of a weight, in its shape. Every rank has to ask."""
        ((_, tensor),) = pieces
        return tensor.view(self._weights[name].shape)

    def early(self, is_last: bool) -> AbstractContextManager[None]:
        """Around a backward pass: in the last one of a step sums begin as soon as gradients are there."""
        return nullcontext()

    def was_sent(self, name: str) -> bool:
        """Whether all gradients of a weight are on their way, and no longer at the weight."""
        return False

    def finish(self, *, void: bool) -> None:
        """Sum what was not begun. `void`: this rank lacks gradients; all take part so that none waits."""

    def spread(self, blocks: range) -> None:
        """Begin to give every rank the updated weights of these blocks."""

    def arrive(self) -> None:
        """Until all weights are here."""

    def release(self) -> None:
        """Keep no memory but the weights': there will be no further step."""


class Shards(Whole):
    """Several ranks. A rank that failed in here would leave the others waiting, so all memory is got beforehand."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Moves `weights`, which are in the order of the forward pass, into one tensor."""
        self._weights = dict(reversed(weights.items()))
        first = next(iter(weights.values()))
        self._exchange = exchange_on(first.device)
        ranks, place = dist.get_world_size(), self._exchange.place
        if len(dtypes := {str(weight.dtype) for weight in weights.values()}) > 1:
            raise ShiboletError(f"weights that train together are of one precision; these are {sorted(dtypes)}")
        even = ranks * _ALIGNED
        size = max(even, BLOCK_NUMEL // even * even)
        begins, total = {}, 0
        for name, weight in self._weights.items():
            begins[name] = total
            total += _up(weight.numel(), _ALIGNED)
        flat = torch.zeros(_up(total, even), dtype=first.dtype, device=first.device)
        self._blocks = flat.split(size)
        self._shares = [block.chunk(ranks)[place] for block in self._blocks]
        self._sums = [torch.zeros_like(share) for share in self._shares]
        slots = [torch.zeros_like(self._blocks[0]) for _ in self._blocks[:SLOTS]]
        self._to_send = [slots[number % SLOTS][: len(block)] for number, block in enumerate(self._blocks)]
        numbers, at_once = range(len(self._blocks)), -(-len(self._blocks) // _ROUNDS)
        self.rounds = [numbers[at : at + at_once] for at in numbers[::at_once]]
        self._members: list[list[_Member]] = [[] for _ in self._blocks]
        self._blocks_of: dict[str, range] = {}
        self._gradients: dict[Piece, Tensor] = {}
        for name, weight in self._weights.items():
            begin, end = begins[name], begins[name] + weight.numel()
            home = flat[begin:end].view(weight.shape)
            home.copy_(weight.detach())
            weight.data = home
            self._blocks_of[name] = range(begin // size, -(-end // size))
            for number in self._blocks_of[name]:
                at, share = number * size, len(self._shares[number])
                low, high = max(begin, at), min(end, at + share * ranks)
                slot = self._to_send[number][low - at : high - at]
                slot = slot.view(weight.shape) if len(slot) == weight.numel() else slot
                self._members[number].append(_Member(weight, low - begin, high - begin, slot))
                at += place * share
                low, high = max(low, at), min(high, at + share)
                if low < high:
                    piece = Piece(name, low - begin, high - begin, number)
                    self._gradients[piece] = self._sums[number][low - at : high - at]
        self.pieces = list(self._gradients)
        self._spreading: list[dist.Work] = []
        self._is_last = False
        self._hooks = [
            weight.register_post_accumulate_grad_hook(partial(_arrived, weakref.ref(self), name))
            for name, weight in self._weights.items()
        ]
        weakref.finalize(self, _remove, self._hooks)
        self._begin_step()

    def _begin_step(self) -> None:
        self._works: list[dist.Work] = []  # of blocks of gradients
        self._arrived: set[str] = set()
        self._missing = [len(members) for members in self._members]

    def gradient(self, piece: Piece) -> Tensor:
        return self._gradients[piece]

    def whole(self, name: str, pieces: Sequence[tuple[Piece, Tensor]]) -> Tensor:
        weight = self._weights[name]
        found = torch.zeros(weight.numel(), dtype=torch.float32, device=weight.device)
        for piece, tensor in pieces:
            found[piece.start : piece.stop] = tensor
        dist.all_reduce(found.view(torch.int32))  # each number is one rank's, all its bits kept
        return found.view(weight.shape)

    @contextmanager
    def early(self, is_last: bool) -> Iterator[None]:
        self._is_last = is_last
        try:
            yield
        finally:
            self._is_last = False

    def _arrive(self, name: str) -> None:
        self._arrived.add(name)
        for number in self._blocks_of[name]:
            self._missing[number] -= 1
        for _ in range(_BLOCKS_AT_ONCE):
            if len(self._works) < len(self._blocks) and not self._missing[len(self._works)]:
                self._send(void=False)

    def was_sent(self, name: str) -> bool:
        return name in self._arrived and self._weights[name].grad is None

    def _send(self, *, void: bool) -> None:
        """Give the next block's gradients to the ranks that update them."""
        number = len(self._works)
        if number >= SLOTS:
            self._works[number - SLOTS].wait()  # it left from the same memory
        if not void:
            self._fill(number)
        self._works.append(self._exchange.sum_up(self._sums[number], self._to_send[number]))

    def _fill(self, number: int) -> None:
        """Move a block's gradients to where they leave from; zeros where this rank had nothing to train on."""
        members = self._members[number]
        if any(member.weight.grad is None for member in members):
            torch._foreach_zero_([member.slot for member in members])
            members = [member for member in members if member.weight.grad is not None]
        if members:
            torch._foreach_copy_([member.slot for member in members], [member.gradient() for member in members])
        for member in members:
            if member.stop == member.weight.numel():
                member.weight.grad = None

    def finish(self, *, void: bool) -> None:
        while len(self._works) < len(self._blocks):
            self._send(void=void)
        for work in self._works[-SLOTS:]:
            work.wait()
        self._begin_step()

    def spread(self, blocks: range) -> None:
        self._spreading += [self._exchange.spread(self._blocks[at]) for at in blocks]

    def arrive(self) -> None:
        for work in self._spreading:
            work.wait()
        self._spreading = []

    def release(self) -> None:
        _remove(self._hooks)
        self._blocks = ()
        for held in (self._shares, self._sums, self._to_send, self._members, self._gradients):
            held.clear()


def _arrived(shards: "weakref.ref[Shards]", name: str, _: nn.Parameter) -> None:
    """A gradient is at its weight, which may outlive who exchanges it and must not keep that one's memory."""
    own = shards()
    if own is not None and own._is_last:
        own._arrive(name)


def _remove(hooks: list[RemovableHandle]) -> None:
    while hooks:
        hooks.pop().remove()


def divide_among_ranks(weights: Mapping[str, nn.Parameter]) -> Whole:
    """Which part of `weights`, in the order of the forward pass, this rank updates."""
    several = dist.is_initialized() and dist.get_world_size() > 1
    return Shards(weights) if several else Whole(weights)


def give_homes(model: nn.Module) -> None:
    """Let frozen weights leave the tensor in which they lay while they trained; those that fill one stay together."""
    frozen = [(weight, weight.untyped_storage()) for weight in model.parameters() if not weight.requires_grad]
    filled: Counter[int] = Counter()
    for weight, storage in frozen:
        filled[storage.data_ptr()] += weight.nbytes
    for weight, storage in frozen:
        if filled[storage.data_ptr()] != storage.nbytes():
            weight.data = weight.detach().clone()


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
