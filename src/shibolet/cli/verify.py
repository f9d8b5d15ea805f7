"""`shibolet verify`: a model on this machine, before a round is paid for."""

import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from shibolet.cli.next_steps import advise
from shibolet.cli.options import AsJson, answer, language_told, quiet
from shibolet.errors import ModelError, RecipeError


def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder, Hub id or builtin:NAME, in any layout.")],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A manifest of 20 utterances or more, or a known Hub id.")
    ],
    language: Annotated[
        str | None, typer.Option(help="Name or ISO code. Default: the language of the model's round.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Train its phases. Default: a recipe of the model's family."),
    ] = None,
    steps: Annotated[int, typer.Option(min=10, help="Training steps of each phase.")] = 50,
    out: Annotated[
        Path, typer.Option(metavar="FILE", dir_okay=False, help="The report; you can send it with a question.")
    ] = Path("verify.json"),
    with_texts: Annotated[
        bool, typer.Option("--with-texts", help="Put 20 references and hypotheses into the report.")
    ] = False,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            writable=True,
            help="Folder for temporary checkpoints: 41 GB for 1.7 billion weights.",
        ),
    ] = None,
    python: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A Python with qwen-asr, to compare with qwen-asr as well.")
    ] = None,
    json_: AsJson = False,
):
    """Check that a model is read, transcribes, trains and is saved correctly. Ends with 3 if a check fails."""
    from shibolet.cli.terminal import tell, track
    from shibolet.model.outline import outline_named
    from shibolet.recipe import load_recipe
    from shibolet.rounds.verify.run import verify as verify_model
    from shibolet.speech.text import get_language

    spoken = get_language(language_told(language, model))
    recipe = recipe or outline_named(model).trial
    quiet()
    if not os.access(out.absolute().parent, os.W_OK):
        raise RecipeError(f"--out {out}: there is no folder {out.absolute().parent} that can be written to")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C does: 41 GB must not stay
    with TemporaryDirectory(dir=work_dir, prefix="shibolet-verify-") as scratch:
        report = verify_model(
            model, data, load_recipe(recipe), language=spoken.name,
            steps=steps, with_texts=with_texts, work_dir=Path(scratch), python=python, track=track,
        )  # fmt: skip
    report.write(out)
    answer(json_, report)
    tell(f"verify: the report is {out}")
    if failed := report.failed:
        raise ModelError(f"model '{model}': {failed[0].name}: {failed[0].sentences[0]}")
    if not json_:
        advise("see how long a round with it takes", "plan", recipe, "--set", f"models.base={model}")
