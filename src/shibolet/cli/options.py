"""What commands share: options, the round of a recipe in its folder, results for a person or as JSON."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shibolet.errors import RecipeError

if TYPE_CHECKING:
    from shibolet.records.documents.base import Document
    from shibolet.rounds.shared import Round
    from shibolet.train.launch import Place


def _recipe_names(incomplete: str) -> list[str]:
    """For the completion of a shell, which goes on with files where no name of the package fits."""
    from shibolet.recipe import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A YAML file, or the name of a shipped recipe.",
        autocompletion=_recipe_names,
    ),
]
RunDir = Annotated[Path | None, typer.Option("--run-dir", "-o", metavar="DIR", help="Run folder. Default: runs/NAME.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; repeat.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Style = Annotated[
    str | None,
    typer.Option(metavar="WORDS", help="Ask for this style; the model was trained with it (style: of a source)."),
]
Terms = Annotated[
    Path | None,
    typer.Option("--context", metavar="FILE", help="File of names and terms that may be said, one on each line."),
]
Gpus = Annotated[int, typer.Option(min=1, metavar="N", help="Train with N processes, one on each GPU (or on the CPU).")]
On = Annotated[
    str | None, typer.Option("--on", metavar="CLUSTER", help="Hear on a Ray cluster: ray, or ray://HOST:PORT.")
]
MirrorUrl = Annotated[
    str | None,
    typer.Option(
        "--mirror", metavar="URL", help="Keep a copy of the run folder in a store (s3://...), or go on from it."
    ),
]
Nodes = Annotated[int, typer.Option(min=1, metavar="N", help="Train on N machines, --gpus processes on each.")]
NodeIndex = Annotated[
    int | None, typer.Option("--node", min=0, metavar="K", help="Which of them this is, from 0; the main one is 0.")
]
MainNode = Annotated[
    str | None,
    typer.Option("--main", metavar="HOST:PORT", help="Where node 0 is reached by the others, at a port free there."),
]
OnlyThrough = Annotated[
    str | None,
    typer.Option(
        metavar="PHASE", help="Take the end of this phase as the result, such as B. The last phase undoes it."
    ),
]
FromStep = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N",
        help="Continue training from the checkpoint of step N with the current recipe. Kept are the end of each "
        "phase, the best by dev WER, and the two newest; a step that is not there is answered with a list.",
    ),
]  # fmt: skip
AUDITED = ("data", "audit")  # what a recipe has to have that is audited, as `Recipe.require` takes it
WHOLE = (*AUDITED, "models", "train")  # ... and for a round
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan. Reads nothing from the Hub.")
]
FinishedRun = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
NewFolder = Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")]


def place_of(nodes: int, node: int | None, main: str | None) -> "Place":
    """This machine among those that train; RecipeError where the options do not say it."""
    from shibolet.train.launch import ONE_PLACE, Place

    if node is not None and node >= nodes:
        raise RecipeError(f"--node {node}: of --nodes {nodes} the last one is {nodes - 1}")
    if nodes == 1:
        return ONE_PLACE
    host, _, port = (main or "").rpartition(":")
    if node is None or not host or not port.isdecimal():
        raise RecipeError(f"--nodes {nodes} needs --node K, from 0, and --main HOST:PORT, as in 10.0.0.5:29500")
    return Place(node, nodes, host, int(port))


@contextmanager
def round_of(
    recipe: str,
    run_dir: Path | None,
    changes: list[str] | None,
    json_: bool,
    dry: bool,
    suffix: str = "",
    shard: bool = False,
    needs: tuple[str, ...] = WHOLE,
    on: str | None = None,
    mirror: str | None = None,
) -> "Iterator[Round]":
    """The round of a recipe in its folder, or in one beside what it trains by a suffix; with `dry` its plan is all.

    With `shard` others work in the folder too. `needs` are sections that the recipe has to have, `on` is the cluster
    that hears, `mirror` where a store has the folder's copy.
    """
    from shibolet.cli.terminal import tell, track, warn
    from shibolet.recipe import load_recipe, recipe_yaml
    from shibolet.rounds.plan import make_plan
    from shibolet.rounds.shared import open_round, open_shard

    quiet()
    loaded = load_recipe(recipe, changes or [])
    loaded.require(sys.argv[1], *needs, named=not dry)
    folder = run_folder(run_dir, loaded.name, suffix if loaded.train else "")
    if dry:
        planned = make_plan(loaded, folder) if loaded.models and loaded.train else None
        if json_:
            plan = planned.to_json() if planned else None
            print_json({"recipe": loaded.model_dump(mode="json"), "plan": plan})
        else:
            typer.echo(recipe_yaml(loaded))
            show(*filter(None, [planned]))
        raise typer.Exit
    if shard:
        opened = open_shard(loaded, folder, tell, track, mirror)
    else:
        opened = open_round(loaded, folder, sys.argv[1], tell, track, mirror)
    with opened as current:
        current.on, current.warnings = on, warn
        yield current


@contextmanager
def finished_round(run_dir: Path) -> "Iterator[Round]":
    """The round of a run folder, by the recipe that lies in it."""
    from shibolet.cli.terminal import tell, track, warn
    from shibolet.recipe import load_recipe
    from shibolet.records.runfolder import RunFolder
    from shibolet.rounds.shared import open_round

    require_run(run_dir)
    RunFolder(run_dir).intact("start")
    quiet()
    with open_round(load_recipe(run_dir / "recipe.yaml"), run_dir, sys.argv[1], tell, track) as current:
        current.warnings = warn
        yield current


def language_told(given: str | None, model: str) -> str:
    """What is said in the audio: as given, else the language of the round that trained the model.

    RecipeError where neither is known: a model that is told the wrong language writes that one, and says nothing.
    """
    from shibolet.records.runs import run_of
    from shibolet.records.settings import peek

    run = run_of(Path(model))
    found = given or (run and peek(run.recipe, "language"))
    if not isinstance(found, str):
        raise RecipeError(
            f"{sys.argv[1]}: name the language that is spoken, as in --language English; only a model in the "
            f"train/final of a run folder has one of its own, and '{model}' is none"
        )
    return found


def require_run(run_dir: Path) -> None:
    """RecipeError for what is no run folder."""
    if not (run_dir / "recipe.yaml").is_file():
        raise RecipeError(f"'{run_dir}' is not a run folder: it has no recipe.yaml")


def run_folder(given: Path | None, name: str, suffix: str = "") -> Path:
    """The folder that was given, or that of the recipe's name; the suffix names one beside it."""
    path = given or Path("runs") / name
    return path.with_name(path.name + suffix) if suffix else path


def quiet() -> None:
    """Our own log on the error output, with --quiet its warnings only; of other packages, errors only."""
    from shibolet.cli.terminal import ERR

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # ours are enough
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads of torch that wait leave their cores to others
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    logging.getLogger("shibolet").setLevel(logging.WARNING if ERR.quiet else logging.INFO)


def show(*documents: "Document") -> None:
    """Tables for a person."""
    from shibolet.cli import tables

    for document in documents:
        tables.show(document)


def print_json(value: Any) -> None:
    """Plain data and documents."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1, default=lambda document: document.to_json()))


def say(result: str) -> None:
    """A sentence for a person, on standard output."""
    from shibolet.cli import terminal

    terminal.say(result)


def answer(json_: bool, document: "Document") -> None:
    """One result: as JSON, or as tables for a person."""
    print_json(document) if json_ else show(document)
