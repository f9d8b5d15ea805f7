"""Room for a checkpoint's copies: protects from copies that lie on each other, and from memory that is got twice."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from shibolet.errors import OutOfMemory
from shibolet.train import host_copies
from shibolet.train.host_copies import HostCopies


class Cudart:
    """What is page-locked: address -> bytes."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> int:
        self.locked[address] = num_bytes
        return 0

    def cudaHostUnregister(self, address: int) -> None:
        del self.locked[address]


@pytest.fixture
def cudart(monkeypatch) -> Cudart:
    runtime = Cudart()
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(cudart=lambda: runtime, check_error=lambda code: None))
    monkeypatch.setattr(host_copies, "_BLOCK_BYTES", 4096)
    return runtime


def layout(tensors: dict) -> dict:
    return {key: (tensor.shape, tensor.dtype) for key, tensor in tensors.items()}


def test_copies_are_apart_and_the_next_layout_takes_the_same_blocks(cudart: Cudart):
    drawn = torch.Generator().manual_seed(0)
    shapes = [(), (3,), (700,), (5, 7), (3000,), (1000,), (1,), (900,)]
    first = {f"w{at}": torch.randn(shape, generator=drawn) for at, shape in enumerate(shapes)}
    first["half"] = torch.randn(33, generator=drawn).bfloat16()
    copies = HostCopies(page_locked=True)
    copies.lay_out(layout(first))
    kept = {key: copies.copy(key, tensor) for key, tensor in first.items()}
    assert all(kept[key].equal(tensor) for key, tensor in first.items())
    assert len(cudart.locked) > 2 and sum(cudart.locked.values()) < 2 * sum(t.nbytes for t in first.values())
    before = dict(cudart.locked)
    second = dict(reversed(first.items())) | {"w2": torch.randn(650, generator=drawn)}
    copies.lay_out(layout(second))
    kept = {key: copies.copy(key, tensor) for key, tensor in second.items()}
    assert all(kept[key].equal(tensor) for key, tensor in second.items())
    third = second | {"more": torch.randn(2000, generator=drawn)}
    copies.lay_out(layout(third))
    kept = {key: copies.copy(key, tensor) for key, tensor in third.items()}
    assert all(kept[key].equal(tensor) for key, tensor in third.items())
    assert before.items() <= cudart.locked.items() and len(cudart.locked) <= len(before) + 2
    copies.close()
    assert not cudart.locked


def test_memory_that_cannot_be_had_is_a_sentence_where_the_copy_is_asked_for(cudart: Cudart, monkeypatch):
    def refuse(code: int) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.cuda, "check_error", refuse)
    copies = HostCopies(page_locked=True)
    copies.lay_out({"w": (torch.Size([5]), torch.float32)})
    with pytest.raises(OutOfMemory, match=r"does not hold a copy of masters and moments.*\(out of memory\)"):
        copies.copy("w", torch.ones(5))
    copies.close()


def test_blocks_are_locked_one_by_one_and_the_driver_is_free_between_two(cudart: Cudart, monkeypatch):
    """The driver does nothing else while it locks: with all blocks at once the first step waited for six seconds."""
    register, locking, most, pauses = cudart.cudaHostRegister, [], [], []

    def locked(address: int, num_bytes: int, flags: int) -> int:
        locking.append(address)
        time.sleep(0.002)
        most.append(len(locking))
        locking.pop()
        return register(address, num_bytes, flags)

    class Pauses(threading.Event):
        def wait(self, timeout: float) -> bool:
            pauses.append((timeout, len(locking)))
            return super().wait(timeout)

    monkeypatch.setattr(cudart, "cudaHostRegister", locked)
    monkeypatch.setattr(host_copies, "Event", Pauses)
    copies = HostCopies(page_locked=True)
    copies.lay_out({f"w{number}": (torch.Size([4096]), torch.uint8) for number in range(20)})
    copies.copy("w0", torch.ones(4096, dtype=torch.uint8))
    assert most == [1] * 20 and len(pauses) == 20 and all(took >= 0.002 and not held for took, held in pauses)
    copies.close()
    assert not cudart.locked


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_memory_that_was_got_beside_what_could_not_be_had_is_given_back(cudart: Cudart, monkeypatch, failing: int):
    """Pages that stay locked are lost to the machine for as long as the process lives."""
    plain, sizes = host_copies._block, [5000, 6000, 7000]

    def block(num_bytes: int, *, is_touched: bool) -> torch.Tensor:
        if num_bytes // 1000 == sizes[failing] // 1000:
            until = time.monotonic() + 10
            while len(cudart.locked) < 2 and time.monotonic() < until:  # the others are on their way
                time.sleep(0.001)
            raise OutOfMemory("no more")
        return plain(num_bytes, is_touched=is_touched)

    monkeypatch.setattr(host_copies, "_block", block)
    copies = HostCopies(page_locked=True)
    copies.lay_out({f"w{size}": (torch.Size([size]), torch.uint8) for size in sizes})
    with pytest.raises(OutOfMemory, match="no more"):
        copies.copy("w5000", torch.ones(5000, dtype=torch.uint8))
    assert len(cudart.locked) == 2
    copies.close()
    assert not cudart.locked


def test_nothing_is_got_any_more_for_who_ends(cudart: Cudart, monkeypatch):
    """A rank that has to end has ten seconds, and twenty gigabytes that nobody copies to take longer than that."""
    monkeypatch.setattr(host_copies, "_BLOCK_BYTES", 4096)
    got, plain, copies = [], host_copies._block, HostCopies(page_locked=True)

    def block(num_bytes: int, *, is_touched: bool) -> torch.Tensor:
        got.append(num_bytes)
        while not copies._is_closed:
            time.sleep(0.001)
        return plain(num_bytes, is_touched=is_touched)

    monkeypatch.setattr(host_copies, "_block", block)
    copies.lay_out({f"w{number}": (torch.Size([4096]), torch.uint8) for number in range(40)})
    while not got:
        time.sleep(0.001)
    copies.close()
    assert len(got) <= 8 and not cudart.locked
