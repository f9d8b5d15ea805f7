"""The files by which a scheduler runs a round: hear on many machines, train on some, evaluate on one.

Each line of them is explained in the file itself: they are to be read, and changed, by who runs them.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from shibolet.errors import RecipeError, UploadError
from shibolet.recipe import Recipe
from shibolet.records.config import Config
from shibolet.records.files import make_folder, write_bytes
from shibolet.rounds.mirroring import require_store

Scheduler = Literal["slurm", "skypilot"]
FILES: dict[Scheduler, tuple[str, ...]] = {
    "slurm": ("hear.sbatch", "prepare.sbatch", "train.sbatch", "evaluate.sbatch", "submit.sh"),
    "skypilot": ("round.yaml", "volume.yaml"),
}
MOST_RESTARTS = 50  # of a job that goes on
PORT = 29500  # of the main node, unless a person writes another one into the file
ON_MACHINE = "/runs"  # of SkyPilot: where the shared disk is
AGAIN = (75, 76, 143)  # codes after which the same command goes on


class Machines(Config):
    """How much of what a round runs on."""

    hear: int  # parts of the training data, each heard on one GPU
    nodes: int  # that train
    gpus: int  # of each of them
    gpu: str | None = None  # their name for the scheduler
    cpus_per_gpu: int = 8
    time: str = "04:00:00"  # of a job in Slurm; what takes longer goes on in another turn


def write_launch_files(
    recipe: Recipe, name: str, run: Path, changes: Sequence[str], machines: Machines, scheduler: Scheduler, out: Path,
    mirror: str | None = None,
) -> list[Path]:  # fmt: skip
    """Write them into a folder; their paths, in the order in which one reads them.

    `name` is the recipe's file or its name in the package, as a person gave it, and `mirror` where a store has the copy
    of the run folder: with SkyPilot the machines then share no disk. RecipeError for what cannot be written.
    """
    if mirror is not None:
        require_store(mirror)
    if machines.gpu is None and scheduler == "skypilot":
        raise RecipeError("launch --skypilot: name the GPU, as in --gpu A100; `sky gpus list` has those that there are")
    environment = Environment(
        loader=PackageLoader("shibolet", "rounds/launch_files"), undefined=StrictUndefined, autoescape=False,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    values = _values(recipe, changes, machines) | (
        _of_slurm(name, run, machines, out, mirror) if scheduler == "slurm" else
        _of_skypilot(name, run, machines, mirror)
    )  # fmt: skip
    values |= {"again": AGAIN if mirror is None else (*AGAIN, UploadError.exit_code)}
    if scheduler == "slurm":
        values |= {"common": environment.get_template("common.sh.jinja").render(values)}
    make_folder(out)
    paths = []
    for file in FILES[scheduler]:
        if file == "volume.yaml" and mirror is not None:
            continue  # there is no disk that all machines share
        write_bytes(out / file, environment.get_template(f"{file}.jinja").render(values).encode())
        (out / file).chmod(0o755 if file.endswith(".sh") else 0o644)
        paths.append(out / file)
    return paths


def _values(recipe: Recipe, changes: Sequence[str], machines: Machines) -> dict[str, object]:
    """What both schedulers' files have."""
    codes, why = _goes_on(recipe)
    return {
        **machines.model_dump(exclude={"gpu"}),
        "job": "shibolet-" + "".join(letter if letter.isalnum() else "-" for letter in recipe.name),
        "cpus": machines.gpus * machines.cpus_per_gpu, "port": PORT, "most_restarts": MOST_RESTARTS,
        "changes": " ".join(f"--set {shlex.quote(change)}" for change in changes),
        "goes_on": "|".join(map(str, codes)), "goes_on_why": why,
    }  # fmt: skip


def _goes_on(recipe: Recipe) -> tuple[list[int], str]:
    """The codes of the gate with which a round goes on, and the sentence that says so."""
    codes = [0, *([10] if recipe.gate.on_caution == "continue" else []), *([30] if recipe.gate.accept else [])]
    said = f"This recipe goes on with {', '.join(map(str, codes))} (gate.on_caution, gate.accept)."
    if recipe.gate.on_stop == "repair":
        said += " gate.on_stop: repair gates twice, which only `shibolet run` does."
    return codes, said


def _of_slurm(name: str, run: Path, machines: Machines, out: Path, mirror: str | None) -> dict[str, object]:
    recipe = str(Path(name).resolve()) if Path(name).is_file() else name
    logs = out.resolve() / "logs"
    if set(str(logs)) & set(" \t\n%\"'\\"):
        raise RecipeError(f"launch --slurm: jobs cannot print to '{logs}'; name a folder without blanks, quotes and %")
    return {
        "program": shlex.quote(str(Path(sys.executable).with_name("shibolet"))), "recipe": shlex.quote(recipe),
        "run": shlex.quote(str(run.resolve())), "gpu": f"{machines.gpu}:" if machines.gpu else "", "logs": str(logs),
        "mirror": mirror and shlex.quote(mirror), "to_mirror": ' --mirror "$MIRROR"' if mirror else "",
    }  # fmt: skip


def _of_skypilot(name: str, run: Path, machines: Machines, mirror: str | None) -> dict[str, object]:
    extra, driver = {"s3": ("[cloud]", []), "gs": ("", ["gcsfs"])}.get((mirror or "").partition(":")[0], ("", []))
    is_file, there = Path(name).is_file(), "~/recipe/recipe.yaml"
    return {
        "recipe": there if is_file else shlex.quote(name), "recipe_file": is_file, "recipe_there": there,
        "recipe_here": json.dumps(str(Path(name).resolve())), "accelerator": machines.gpu,
        "run": shlex.quote(f"{'runs' if mirror else ON_MACHINE}/{run.name}"), "volume": "shibolet",
        "mirror": mirror, "to_mirror": f" --mirror {shlex.quote(mirror)}" if mirror else "",
        "requirements": shlex.join([f"shibolet{extra}=={version('shibolet')}", *driver]),
    }  # fmt: skip
