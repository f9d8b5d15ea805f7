"""Protects a CPU from forwards that fight over its cores, and evidence from what is heard beside it."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

from shibolet.listen.batches import forward_lock
from shibolet.listen.ctc import CtcModel
from shibolet.model.folders import resolve

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
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert forward_lock(CPU) is forward_lock(CPU, is_stateless=True)


def test_cores_that_torch_leaves_idle_take_another_forward(one_thread, monkeypatch):
    """The demo hears with one thread of torch: its second core must not wait. What has a state goes one by one."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    of_one, of_another, free = forward_lock(CPU), forward_lock(CPU), forward_lock(CPU, is_stateless=True)
    with of_one, of_another:
        assert not of_one.acquire(blocking=False)
    with free, free:
        assert not free.acquire(blocking=False)


def test_a_ctc_model_emits_the_same_beside_itself(one_thread, monkeypatch):
    """Which chunks are heard at the same time is chance, and must not be in the evidence."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    model, rng = CtcModel(resolve("builtin:ctc"), "Hebrew"), np.random.default_rng(0)
    parts = [[rng.normal(0, 0.05, 8000 + 160 * i).astype(np.float32) for i in range(n, n + 4)] for n in (0, 20)]
    alone = [model.emissions(part) for part in parts]
    met = Barrier(2, timeout=60)

    def beside(part: list[np.ndarray]) -> list[np.ndarray]:
        with model._forward:
            met.wait()  # which holds it until the other is within too
        return model.emissions(part)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            together = list(pool.map(beside, parts))
            for ours, theirs in zip(alone, together, strict=True):
                assert len(ours) == 4
                assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
