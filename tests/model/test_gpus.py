"""GPUs counted without torch: protects from a round that waits for its import, and from another count than torch's."""

import ctypes
import sys
from types import SimpleNamespace

import pytest
import torch

from shibolet.model import gpus
from shibolet.model.gpus import num_gpus


def driver_of(num: int, code: int = 0) -> SimpleNamespace:
    """NVIDIA's library on a machine with so many GPUs, whose calls end with this code."""

    def count(found: object) -> int:
        found._obj.value = num
        return 0

    return SimpleNamespace(nvmlInit_v2=lambda: code, nvmlDeviceGetCount_v2=count)


def no_driver(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Who was asked; torch always finds 7."""
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: asked.append("torch") or 7)
    monkeypatch.setattr(gpus, "_is_built_with_cuda", lambda: True)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append("driver") or driver_of(4))
    return asked


@pytest.mark.parametrize(
    ("visible", "num"),
    [(None, 4), ("0,1", 2), ("3", 1), ("3,1,0", 3), ("", None), ("-1", None), ("1,1", None), ("0,4", None),
     ("GPU-5a,1", None), ("MIG-5a", None), ("0, 1", None)],
)  # fmt: skip
def test_the_driver_counts_what_is_visible_and_torch_what_has_rules_of_its_own(asked, visible, num) -> None:
    assert gpus._by_driver(visible) == num


@pytest.mark.parametrize("driver", [no_driver, lambda name: driver_of(4, code=9), lambda name: SimpleNamespace()])
def test_a_driver_that_does_not_answer_is_no_count(asked, monkeypatch, driver) -> None:
    monkeypatch.setattr(ctypes, "CDLL", driver)
    assert gpus._by_driver(None) is None


def test_a_torch_without_cuda_sees_no_gpu_of_the_machine(asked, monkeypatch) -> None:
    monkeypatch.setattr(gpus, "_is_built_with_cuda", lambda: False)
    assert gpus._by_driver(None) is None and asked == []


def test_torch_is_asked_where_it_is_there_or_the_driver_is_not(asked, monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert num_gpus() == 7 and asked == ["torch"]
    monkeypatch.delitem(sys.modules, "torch")
    assert num_gpus() == 4 and "torch" not in sys.modules
