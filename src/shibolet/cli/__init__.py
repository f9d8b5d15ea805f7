"""The command line: one command a stage, `run` for the whole round. Wiring only; heavy packages load in commands."""

import atexit
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from importlib.metadata import version
from typing import Annotated, get_args

import typer
from typer.models import OptionInfo

from shibolet.cli import (
    beforehand,
    combine,
    demo,
    launch,
    lineage,
    models,
    recipes,
    reviewing,
    scores,
    search,
    serving,
    stages,
    verify,
)  # fmt: skip
from shibolet.errors import EXIT_INTERRUPTED, ShiboletError
from shibolet.records.files import disk_errors

COMMANDS = {
    "A round, and its stages": (
        stages.run, stages.audit, reviewing.review, stages.calibrate, stages.gate, stages.label, stages.prepare,
        stages.train, scores.evaluate, scores.compare, scores.robustness, stages.report,
    ),
    "From round to round": (lineage.next_, lineage.rounds, lineage.loop),
    "Before a round": (
        recipes.recipes, beforehand.plan, beforehand.check, beforehand.fetch, launch.launch, verify.verify,
        search.search,
    ),
    "What it has made": (
        models.publish, models.export_adapter, models.export_data, models.average, scores.ngram, scores.tune_decoding,
        combine.combine, beforehand.pull,
    ),
    "Models and text": (models.transcribe, serving.serve, models.convert, models.cut, models.normalize),
}  # fmt: skip

app = typer.Typer(
    help="Audit speech data, fine-tune Qwen3-ASR or Whisper, and compare the result with the round before.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no advice; results, warnings and errors alone.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shibolet {version('shibolet')}")
        raise typer.Exit


def with_short_types(command: Callable) -> Callable:
    """The command, with a letter for what an option takes that has no name for it: typer says `<float range>`."""
    for parameter in inspect.signature(command).parameters.values():
        kind, *given = get_args(parameter.annotation) or (None,)
        kinds = get_args(kind) or (kind,)
        for option in given:
            if isinstance(option, OptionInfo) and option.metavar is None:
                named = ((bool, ""), (int, "N"), (float, "X"), (str, "TEXT"))
                option.metavar = next((name for one, name in named if one in kinds or list[one] in kinds), None)
    return command


@app.callback()
@with_short_types
def shibolet(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before a command."""


def may_be_quiet(command: Callable) -> Callable:
    """The command with the option --quiet, which silences the error output but for warnings and errors."""

    @wraps(command)
    def run(*args, quiet: bool = False, **options):
        from shibolet.cli.terminal import ERR

        ERR.quiet = quiet
        return command(*args, **options)

    signature = inspect.signature(command)
    option = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])
    run.__annotations__ = command.__annotations__ | {"quiet": Quiet}
    return run


for panel, commands in COMMANDS.items():
    for command in commands:
        name = command.__name__.strip("_").replace("_", "-")
        app.command(name, rich_help_panel=panel)(with_short_types(may_be_quiet(command)))
demo.app.callback()(with_short_types(may_be_quiet(demo.demo)))
demo.app.command()(with_short_types(may_be_quiet(demo.build)))
app.add_typer(demo.app, name="demo", rich_help_panel="To see it work")


def main() -> None:
    """Run a command; what the user can mend is one sentence and an exit code, anything else a traceback."""
    try:
        with disk_errors():
            app(prog_name="shibolet")
    except ShiboletError as error:
        from shibolet.cli.terminal import warn

        warn(f"shibolet: {error}")
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:
            print("shibolet: interrupted; a round goes on with the same command", file=sys.stderr, flush=True)
            # Threads that listen would finish what they have first; what is written is whole.
            os._exit(EXIT_INTERRUPTED)
        raise
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def program() -> None:
    """`main`, and the end of this process with its exit code.

    Python's own end is left out, in which a library's thread that is within C++ aborts the process.
    """
    codes = [1]  # of an error that `main` lets through
    atexit.register(_end, codes)  # the first to be registered is the last to be called
    try:
        main()
        codes.append(0)
    except SystemExit as stop:
        codes.append(stop.code or 0)
        raise


def _end(codes: list[int]) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it
            stream.flush()
    os._exit(codes[-1])
