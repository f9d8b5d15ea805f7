"""Protects a CPU from forwards that fight over its cores, and evidence from what is heard beside it."""

import pytest
import torch

from shibolet.listen.batches import forward_lock

CPU = torch.device("cpu")


@pytest.fixture
def one_thread():
    """Torch computes with one thread, as in the demo."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_cpu_that_torch_fills_computes_one_thing_at_a_time(one_thread, monkeypatch):
    """Two forwards of all cores each take longer than one after the other."""
    monkeypatch.setattr("shibolet.listen.batches.usable_cores", lambda: 1)
    assert forward_lock(CPU) is forward_lock(CPU)


def test_cores_that_torch_leaves_idle_take_another_forward(one_thread, monkeypatch):
    """The demo hears with one thread of torch: its second core must not wait. What has a state goes one by one."""
    monkeypatch.setattr("shibolet.listen.batches.usable_cores", lambda: 2)
    of_one, of_another = forward_lock(CPU), forward_lock(CPU)
    with of_one, of_another:
        assert not of_one.acquire(blocking=False)
