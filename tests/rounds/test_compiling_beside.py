"""Kernels compiled beside a round: protects from a process, a message or a wait where there is nothing to compile."""

import ctypes
import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from shibolet.model.fast.compiling import Widths
from shibolet.model.folders import may_have_gpu
from shibolet.model.outline import kernel_widths
from shibolet.recipe import Recipe, load_recipe
from shibolet.rounds import kernels
from shibolet.rounds.models import Models


@pytest.mark.parametrize(
    "visible, has_driver, expected",
    [(None, True, True), ("0,1", True, True), ("", True, False), ("-1", True, False), (None, False, False)],
)
def test_no_process_starts_without_a_gpu(monkeypatch, visible: str | None, has_driver: bool, expected: bool) -> None:
    """Also where torch is not there to be asked, and on a machine whose GPUs are hidden."""

    def load(name: str) -> object:
        if not has_driver:
            raise OSError(f"{name}: cannot open shared object file")
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    started = []
    monkeypatch.setattr(kernels, "Child", lambda *args, **_: started.append(args) or object())
    assert may_have_gpu() == expected
    assert (kernels.begin_to_compile(load_recipe("demo")) is not None) == expected
    assert len(started) == expected


def test_widths_are_those_of_models_that_are_here_and_have_kernels(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tiny = Widths(dim=128, inner_dim=320, heads=4, key_heads=2, head_dim=32, vocab=384)
    assert kernel_widths("builtin:round1") == kernel_widths("builtin:aligner") == tiny
    assert kernel_widths("builtin:ctc") is None and kernel_widths("nobody/has-this-one") is None


def test_it_begins_once_in_a_round_and_ends_with_it(monkeypatch) -> None:
    """Not with who hears: what makes way for a training would end what compiles for it."""
    started, ended = [], []
    child = SimpleNamespace(close=lambda: ended.append(child))
    monkeypatch.setattr(kernels, "begin_to_compile", lambda recipe: started.append(recipe) or child)
    models = Models(load_recipe("demo"), folder=None)
    models.compile_ahead()
    models.compile_ahead()
    models.make_way()
    assert started == [models.recipe] and not ended
    models.close()
    assert ended == [child]


def test_a_process_with_nothing_to_compile_ends_by_itself(monkeypatch, capfd) -> None:
    """Here of models that are on no machine of ours; the process downloads none and says nothing."""
    monkeypatch.setattr(kernels, "may_have_gpu", lambda: True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    gone = "{base: nobody/has-this-one, baseline: nobody/has-this-one}"
    child = kernels.begin_to_compile(
        load_recipe("demo", [f"models={gone}", "audit.aligner=nobody/has-this-one", "audit.recogniser=builtin:ctc"])
    )
    child.process.join(60)
    assert child.process.exitcode == 0
    assert capfd.readouterr() == ("", "")


def test_a_driver_without_a_gpu_is_no_error(monkeypatch, caplog, capfd) -> None:
    """Nor is a torch without Triton: who needs kernels says what is wrong."""

    def fail(recipe: Recipe) -> None:
        raise RuntimeError("0 active drivers")

    monkeypatch.setattr(kernels, "compile_for", fail)
    monkeypatch.setattr(kernels, "leave_signals_to_parent", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which it sets
    codes = []
    monkeypatch.setattr(kernels.os, "_exit", codes.append)
    with caplog.at_level(logging.DEBUG, "shibolet"):
        kernels._serve(None, load_recipe("demo"))
    assert "0 active drivers" in caplog.text and capfd.readouterr() == ("", "")
    assert codes == [0]


def test_processes_share_out_what_is_to_be_compiled(monkeypatch, tmp_path) -> None:
    """Each kernel by one of them: what nobody compiles is waited for later, and said by nobody."""
    calls = [partial(Path(tmp_path / str(number)).open, "x") for number in range(11)]
    monkeypatch.setattr(kernels, "_calls", lambda recipe: iter(calls))
    monkeypatch.setattr(kernels, "compile_alone", lambda: None)
    monkeypatch.setattr(kernels, "leave_signals_to_parent", lambda: None)
    monkeypatch.setattr(kernels, "usable_cores", lambda: 16)
    monkeypatch.setattr(kernels, "_compile", lambda some: [call() for call in some])  # "x" fails where a file is
    kernels.compile_for(load_recipe("demo"))
    assert len(list(tmp_path.iterdir())) == len(calls)


def test_a_kernel_that_fails_keeps_no_other_from_being_compiled(caplog) -> None:
    done = []

    def fail() -> None:
        raise RuntimeError("no such target")

    with caplog.at_level(logging.DEBUG, "shibolet"):
        kernels._compile([fail, lambda: done.append(1)])
    assert done == [1] and "no such target" in caplog.text
