"""What is compiled ahead of a round is all that hearing and training launch; protects from a list that falls behind."""

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from train_command import prepared

from shibolet.gate.config import EXIT_CODES
from shibolet.recipe import load_recipe
from shibolet.records.files import write_jsonl
from shibolet.rounds.kernels import compile_for

pytestmark = pytest.mark.gpu
RATE = 16000


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Tiny models that hear noise, and phases as hebrew-round2 has them: adapters below layers that train."""
    made = []
    for i in range(12):
        rng, path = np.random.default_rng(i), tmp_path / f"{i}.flac"
        sf.write(path, 0.1 * rng.standard_normal(RATE + 2000 * i), RATE)
        made.append({"id": f"u{i}", "audio": str(path), "text": "שלום עולם"})
    write_jsonl(tmp_path / "noise.jsonl", made)
    thawed = {"projector": 1e-4, "decoder.layers[2:4]": 1e-5, "head": 1e-5, "lora": 1e-4}
    phases = [
        {"name": "B", "num_epochs": 1, "lr_by_part": thawed},
        {"name": "A", "num_epochs": 1, "lr_by_part": {**thawed, "encoder.layers[4:6]": 1e-5}},
    ]
    path = tmp_path / "tiny.yaml"
    path.write_text(
        yaml.safe_dump({
            "name": "tiny",
            "models": {"base": "builtin:round1", "baseline": "builtin:round1"},
            "data": {"train": [{"name": "noise", "manifest": str(tmp_path / "noise.jsonl")}]},
            "audit": {
                "aligner": "builtin:aligner", "recogniser": "builtin:round1", "num_workers": 0,
                "selftest": {"num_clips": 10},
            },
            "train": {
                "phases": phases, "lora": {"part": "decoder.layers[0:2]", "dropout": 0.1}, "utterances_per_step": 8,
                "num_workers": 0,
            },
        })
    )  # fmt: skip
    return path


def compile_ahead(recipe: Path) -> int:
    """Compile what a recipe needs; whether the process has a context on the GPU then."""
    compile_for(load_recipe(str(recipe)))
    driver, device, flags, active = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_uint(), ctypes.c_int()
    assert driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert driver.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(active)) == 0
    return active.value


def files_in(cache: Path) -> set[str]:
    """Kernels, and the C that launches each."""
    return {str(path.relative_to(cache)) for path in cache.glob("*/*") if path.suffix in (".json", ".so")}


def test_a_round_compiles_nothing_that_was_not_compiled_ahead(recipe: Path, tmp_path: Path, monkeypatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        assert process.submit(compile_ahead, recipe).result() == 0
    ahead = files_in(cache)
    kernels = {Path(file).stem for file in ahead if not Path(file).name.startswith("__")}
    assert len(kernels) > 10, kernels
    for command, run in (("audit", tmp_path / "heard"), ("train", prepared(tmp_path / "trained"))):
        done = subprocess.run(
            [sys.executable, "-m", "shibolet.cli", command, str(recipe), "-o", str(run)],
            env=os.environ | {"TRITON_CACHE_DIR": str(cache)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode in EXIT_CODES.values(), done.stderr  # a verdict on noise may be any
        assert files_in(cache) == ahead, f"'{command}' compiled {sorted(files_in(cache) - ahead)}"
