"""The command line: one command a stage, `run` for the whole round. Wiring only; heavy packages load in commands."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shibolet.errors import EXIT_INTERRUPTED, EXIT_REJECT, RecipeError, ShiboletError
from shibolet.records.files import disk_errors

if TYPE_CHECKING:
    from shibolet.records.runfolder import RunFolder
    from shibolet.round.shared import Round

app = typer.Typer(
    help="Audit speech data, fine-tune Qwen3-ASR by gradual unfreezing, score it against the round before.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
demo_app = typer.Typer(
    help="The whole round on synthetic Hebrew speech, and the truth after it.", invoke_without_command=True
)
app.add_typer(demo_app, name="demo")

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a recipe of the package.")
]
RunDir = Annotated[Path | None, typer.Option("--run-dir", "-o", metavar="DIR", help="Run folder; else runs/NAME.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]
Gpus = Annotated[int, typer.Option(min=1, metavar="N", help="Train as N processes, one a GPU (or on the CPU).")]
OnlyThrough = Annotated[
    str | None, typer.Option(metavar="PHASE", help="Make the end of this phase the result, such as B; or undo that: A.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the recipe in full and the plan, without a network.")]


@app.command()
def run(
    recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False, dry: DryRun = False,
    gpus: Gpus = 1, only_through: OnlyThrough = None,
):  # fmt: skip
    """The whole round, from audit to report; the same command goes on where it was cut off."""
    from shibolet.round.flow import run_round
    from shibolet.round.rank import under_torchrun

    if under_torchrun():
        raise RecipeError("torchrun starts several rounds here: use 'shibolet run --gpus N', or torchrun for 'train'")
    with _round(recipe, run_dir, changes, json_, dry) as round:
        round.gpus, round.only_through = gpus, only_through
        code = run_round(round)
        if json_:
            _print_json({"exit_code": code, **_results(round)})
        else:
            _show(_results(round))
            if round.folder.finished("train"):
                typer.echo(_trained(round.folder))
            typer.echo(f"Page: {round.folder.report}")
    raise typer.Exit(code)


@app.command()
def audit(
    recipe: Annotated[
        list[str], typer.Argument(metavar="[merge] RECIPE", help="With merge: from what all shards have heard.")
    ],
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only hear the I-th of N parts, for a job array; then merge.")
    ] = None,
    extend: Annotated[bool, typer.Option("--extend", help="Hear as many more as would settle a CAUTION.")] = False,
    review: Annotated[
        Path | None, typer.Option("--review", metavar="FILE", help="A person's verdicts, saved from audit.html.")
    ] = None,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
):
    """Listen to the training data; what is wrong with each utterance. Ends with the gate's exit code."""
    from shibolet.round.auditing import do_audit, do_audit_page, do_audit_shard, do_gate, extend_audit

    if recipe[:-1] not in ([], ["merge"]) or (shard and recipe[:-1]):
        raise RecipeError(f"audit takes RECIPE, RECIPE --shard I/N or merge RECIPE, not '{' '.join(recipe)}'")
    if shard:
        with _round(recipe[-1], run_dir, changes, json_, dry, shard=True) as round:
            do_audit_shard(round, _shard(shard))
        return
    with _round(recipe[-1], run_dir, changes, json_, dry) as round:
        if extend:
            round.tell(f"audit: extended to {extend_audit(round):,} utterances")
        report = do_audit(round, merge=recipe[:-1] == ["merge"], review=review)
        verdict, page = do_gate(round), do_audit_page(round)
    if json_:
        _print_json(report)
    else:
        _show({"gate": verdict} | ({"review": report["review"]} if review else {}))
        typer.echo(f"Page: {page}")
    raise typer.Exit(verdict["exit_code"])


@app.command()
def calibrate(
    recipe: RecipeName,
    clean: Annotated[
        list[Path], typer.Option("--clean", metavar="FILE", help="Manifest of clips whose text is known to be right.")
    ],
    foreign: Annotated[
        list[Path] | None, typer.Option("--foreign", metavar="FILE", help="Manifest of another language.")
    ] = None,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
):
    """Damage clean clips in every way, learn from half of the recordings, show what is found in the others."""
    from shibolet.round.auditing import do_calibrate

    with _round(recipe, run_dir, changes, json_, dry) as round:
        result = do_calibrate(round, clean, foreign or [])
        path = round.folder.calibration
    if json_:
        _print_json(result)
    else:
        _show({"calibration": result})
        typer.echo(f"To audit with it: --set audit.calibration={path}")


@app.command()
def gate(
    recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False, dry: DryRun = False
):
    """PROCEED (0), CAUTION (10), STOP (20) or INVALID (30), from an audit that is there."""
    from shibolet.round.auditing import do_gate

    with _round(recipe, run_dir, changes, json_, dry) as round:
        verdict = do_gate(round)
    _print_json(verdict) if json_ else _show({"gate": verdict})
    raise typer.Exit(verdict["exit_code"])


@app.command()
def prepare(
    recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False, dry: DryRun = False
):
    """Hear the rest, drop what is wrong, cut what is long, split; shards and a ledger."""
    from shibolet.round.stages import do_prepare

    with _round(recipe, run_dir, changes, json_, dry) as round:
        summary = do_prepare(round)
    _print_json(summary)


@app.command()
def train(
    recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False, dry: DryRun = False,
    gpus: Gpus = 1, only_through: OnlyThrough = None,
):  # fmt: skip
    """Train through the phases on what prepare kept, or go on training; torchrun may start it too."""
    from shibolet.round.rank import follow, is_follower
    from shibolet.round.stages import do_train

    if is_follower():
        _quiet()
        follow()
        return
    with _round(recipe, run_dir, changes, json_, dry) as round:
        round.gpus, round.only_through = gpus, only_through
        result = do_train(round)
    if json_:
        _print_json(result)
    else:
        typer.echo(_trained(round.folder))


@app.command()
def evaluate(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="Scores both rounds on the recipe's sets.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Folder, Hub id or builtin:NAME; with --manifest.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSONL, TSV or a folder of audio and text; with --model.")
    ] = None,
    hypotheses: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[/SET]=FILE",
            help="Another system's hypotheses (JSONL, CTM, ivrit.ai's CSV) instead of the rounds; with a recipe.",
        ),
    ] = None,
    language: Annotated[str, typer.Option(help="Of the manifest.")] = "Hebrew",
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
):
    """WER and CER on a recipe's sets, of its rounds or of other systems' hypotheses, or of a model on a manifest."""
    if (recipe is None) == (model is None or manifest is None) or (recipe is None and hypotheses):
        raise RecipeError("evaluate needs a recipe, or both --model and --manifest; --hypotheses goes with a recipe")
    if recipe is None:
        from shibolet.round.stages import evaluate_manifest
        from shibolet.terminal import track

        _quiet()
        scores = evaluate_manifest(model, manifest, language, run_dir, track)
        _print_json(scores) if json_ else _show({"scores": {model: {manifest.name: scores}}})
        return
    from shibolet.round.stages import do_evaluate, rounds_of

    with _round(recipe, run_dir, changes, json_, dry) as round:
        if hypotheses:
            from shibolet.round.systems import do_import

            scores = do_import(round, _named_files(hypotheses))
        else:
            scores = do_evaluate(round, rounds_of(round))
    _print_json(scores) if json_ else _show({"scores": scores})


@app.command("tune-decoding")
def tune_decoding(
    recipe: RecipeName,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Instead of the run's train/final.")] = None,
    beam_size: Annotated[list[int] | None, typer.Option(min=1, help="Repeat for several; else 2, 4 and 8.")] = None,
    length_penalty: Annotated[list[float] | None, typer.Option(help="Repeat; else 0.6, 1 and 1.4.")] = None,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
):
    """Beam sizes and length penalties against greedy decoding on the dev split, with the cost of each."""
    from shibolet.round.tuning import BEAM_SIZES, LENGTH_PENALTIES, do_tune_decoding

    with _round(recipe, run_dir, changes, json_, dry) as round:
        tuned = do_tune_decoding(round, model, beam_size or BEAM_SIZES, length_penalty or LENGTH_PENALTIES)
    _print_json(tuned) if json_ else _show({"decoding": tuned})


@app.command()
def transcribe(
    files: Annotated[list[str], typer.Argument(metavar="FILES...", help="Audio files, folders of them, or patterns.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Folder, Hub id or builtin:NAME; a server's name for its model.")
    ] = None,
    format_: Annotated[
        Literal["txt", "json", "jsonl", "srt", "vtt"], typer.Option("--format", help="txt and jsonl: a line a piece.")
    ] = "txt",
    language: Annotated[str, typer.Option(help="Name or ISO code.")] = "Hebrew",
    aligner: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A forced aligner: word times in json and subtitles.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A file for each recording, not standard output.")
    ] = None,
    beam_size: Annotated[int, typer.Option(min=1, help="1: greedy.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="Of beams: over 0, the higher the longer the text.")] = 1.0,
    batch: Annotated[int | None, typer.Option(min=1, help="Pieces decoded at once, at most.")] = None,
    max_piece_s: Annotated[float, typer.Option(min=1, max=30, help="Seconds of audio between two cuts.")] = 30.0,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A server that transcribes as OpenAI's does, such as vLLM's.")
    ] = None,
    server_language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Told to the server, as 'he'; else its model guesses.")
    ] = None,
):
    """What is said in recordings of any length. Ends with 3 when one of them could not be read."""
    from shibolet.round.transcribe import find_recordings, open_engine, transcribe_files
    from shibolet.terminal import tell, track

    if model is None and server is None:
        raise RecipeError("transcribe needs --model, or --server with a model of its own")
    if server is not None and (beam_size > 1 or batch is not None):
        raise RecipeError("--beam-size and --batch are for a model on this machine: a server decides on its own")
    if length_penalty != 1.0 and beam_size == 1:
        raise RecipeError("--length-penalty does nothing without --beam-size")
    _quiet()
    settings = {"batch_utterances": batch, "beam_size": beam_size, "length_penalty": length_penalty}
    failed = transcribe_files(
        find_recordings(files),
        lambda: open_engine(model, server, language, server_language, **settings),
        language,
        format_,
        aligner=aligner,
        out_dir=out,
        max_piece_s=max_piece_s,
        tell=tell,
        track=track,
    )
    raise typer.Exit(3 if failed else 0)


@app.command()
def compare(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="The recipe, here or by --recipe.")] = None,
    recipe_option: Annotated[str | None, typer.Option("--recipe", metavar="RECIPE")] = None,
    round1: Annotated[str | None, typer.Option(metavar="MODEL", help="Instead of the recipe's Round 1.")] = None,
    round2: Annotated[str | None, typer.Option(metavar="MODEL", help="Instead of the run's train/final.")] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Two or more that 'evaluate' has scored in the run folder, each with each."),
    ] = None,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
):
    """Round 1 against Round 2, paired, with intervals; scores what is not scored yet. Ends with 40 on reject."""
    from shibolet.round.stages import do_compare, do_evaluate, rounds_of

    if (recipe is None) == (recipe_option is None):
        raise RecipeError("compare needs one recipe: it names the sets")
    if system:
        if round1 or round2 or len(set(system)) != len(system) or len(system) < 2:
            raise RecipeError("compare --system: name two or more different systems, without --round1 and --round2")
        from shibolet.round.systems import do_compare_systems

        with _round(recipe or recipe_option, run_dir, changes, json_, dry) as round:
            compared = do_compare_systems(round, system)
        _print_json(compared) if json_ else _show({"systems": compared})
        return
    suffix = "-compare" if round2 else ""  # other models must not displace the scores of the run's own
    with _round(recipe or recipe_option, run_dir, changes, json_, dry, suffix) as round:
        do_evaluate(round, rounds_of(round, round1, round2))
        compared = do_compare(round)
    _print_json(compared) if json_ else _show({"compare": compared})
    raise typer.Exit(0 if compared["verdict"] == "keep" else EXIT_REJECT)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write its figures there too, each as SVG and CSV.")
    ] = None,
):
    """The pages of a run folder, from the files that are in it."""
    from shibolet.report.audit_page import write_audit_page
    from shibolet.report.page import write_report
    from shibolet.terminal import track

    if not (run_dir / "recipe.yaml").is_file():
        raise RecipeError(f"'{run_dir}' is no run folder: it has no recipe.yaml")
    with track("report"):
        write_audit_page(run_dir)
        write_report(run_dir)
    if figures is not None:
        from shibolet.report.export import export_figures

        for path in export_figures(run_dir, figures):
            typer.echo(path)
    typer.echo(run_dir / "report.html")


@app.command()
def plan(
    recipe: RecipeName,
    run_dir: RunDir = None,
    changes: Changes = None,
    utterances: Annotated[
        int | None, typer.Option(min=1, help="Size of the training set, before it is prepared.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="Ranks.")] = 1,
    gpu: Annotated[str, typer.Option(help="A100, H100 or H200: what time is predicted for.")] = "A100",
    gpu_memory_gib: Annotated[float | None, typer.Option(min=1, help="Of one GPU: packs are made to fit.")] = None,
    json_: AsJson = False,
):
    """Steps, trainable parts, memory, time and cost by phase, from the configuration alone."""
    from shibolet.recipe import load_recipe
    from shibolet.round.stages import make_plan

    _quiet()
    loaded = load_recipe(recipe, changes or [])
    planned = make_plan(loaded, _run_dir(run_dir, loaded.name), utterances, gpus, gpu, gpu_memory_gib)
    _print_json(planned) if json_ else _show({"plan": planned})


@app.command()
def check(recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False):
    """Whether GPU, memory, disk, token, models and data are there, before anything is paid for. Ends with 3 if not."""
    from shibolet.check import check_recipe
    from shibolet.recipe import load_recipe
    from shibolet.terminal import track

    _quiet()
    loaded = load_recipe(recipe, changes or [])
    with track("check"):
        findings = check_recipe(loaded, _run_dir(run_dir, loaded.name))
    _print_json([finding.to_json() for finding in findings]) if json_ else _show({"check": findings})
    raise typer.Exit(3 if any(finding.state == "missing" for finding in findings) else 0)


@app.command()
def fetch(recipe: RecipeName, changes: Changes = None, json_: AsJson = False):
    """Download the models and data sets of a recipe; the same command goes on. Ends with 3 where one cannot be had."""
    from shibolet.recipe import load_recipe
    from shibolet.round.fetch import fetch_recipe
    from shibolet.terminal import track

    _quiet()
    found = fetch_recipe(load_recipe(recipe, changes or []), track)
    _print_json(found) if json_ else _show({"fetch": found})
    raise typer.Exit(3 if found["missing"] else 0)


@app.command()
def publish(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with a comparison.")],
    to: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="Else publish.to of the recipe.")] = None,
    layout: Annotated[Literal["native", "legacy"] | None, typer.Option(help="Else publish.layout.")] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Else publish.private.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Although the comparison does not keep the round.")] = False,
    upload: Annotated[bool, typer.Option(help="--no-upload: export, check and describe only.")] = True,
):
    """Export a kept round, read it again in a fresh process, write its card, upload it; the same command goes on."""
    from shibolet.publish.config import REPOSITORY, PublishConfig
    from shibolet.round.publish import do_publish

    with _finished_round(run_dir) as round:
        given = {"to": to, "layout": layout, "private": private}
        given = {key: value for key, value in given.items() if value is not None}
        settings = round.recipe.publish.model_dump() if round.recipe.publish else {}
        if "to" not in settings | given:
            raise RecipeError("publish: name a repository with --to org/name, or publish.to in the recipe")
        if to is not None and not re.fullmatch(REPOSITORY, to):
            raise RecipeError(f"--to {to}: write it as org/name")
        typer.echo(do_publish(round, PublishConfig(**settings | given), force=force, upload=upload))


@app.command("export-adapter")
def export_adapter(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that has trained.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
):
    """The adapters alone, for peft on the base; what was trained whole comes with them. train/final has them merged."""
    from shibolet.round.publish import export_adapter as export

    with _finished_round(run_dir) as round:
        export(round, out)
    typer.echo(out)


@app.command("export-data")
def export_data(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    format_: Annotated[
        Literal["datasets", "lhotse", "nemo", "verdicts"],
        typer.Option("--format", help="What prepare kept, for these programs; or the audit's verdicts as Parquet."),
    ] = "datasets",
):
    """The audited, repaired data for other programs, or what the audit said of each utterance."""
    from shibolet.publish.data import export_data as export

    with _finished_round(run_dir) as round:
        round.folder.digest("audit" if format_ == "verdicts" else "prepare")  # there must be one
        counts = export(round.folder, out, format_)
    typer.echo(f"{out}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Folder, Hub id or builtin:NAME, in either layout.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    layout: Annotated[Literal["native", "legacy"], typer.Option(help="transformers' own, or qwen-asr's and vLLM's.")],
    language: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Added to the legacy layout's list of languages.")
    ] = None,
):
    """Rewrite a Qwen3-ASR or forced aligner in the other layout, bit for bit and complete."""
    from shibolet.model.save import convert as convert_model

    _quiet()
    convert_model(source, out, layout, language or [])
    typer.echo(out)


@app.command()
def normalize(
    as_: Annotated[
        Literal["target", "leaderboard"], typer.Option("--as", help="What a model writes, or what scores compare.")
    ],
    language: Annotated[str, typer.Option(help="Name or ISO code.")] = "Hebrew",
):
    """Normalise the lines of standard input."""
    from shibolet.speech.text import normalise

    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise RecipeError(f"line {number} of standard input is not UTF-8: {error.reason}") from error
        sys.stdout.buffer.write(f"{normalise(text.rstrip(chr(10)), as_, language)}\n".encode())


@demo_app.callback()
def demo(
    context: typer.Context,
    seed: Annotated[int, typer.Option(min=0, help="Of the data and the training.")] = 0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Run folder.")] = Path("runs/demo"),
    changes: Changes = None,
    without_prepare: Annotated[bool, typer.Option(help="Also train the same Round 2 on the raw data.")] = False,
    json_: AsJson = False,
):
    """The whole round on synthetic Hebrew speech of which a fifth is damaged, and the truth after it."""
    if context.invoked_subcommand:
        return
    from shibolet.demo.round import run_demo, show_demo
    from shibolet.terminal import tell, track

    _quiet()
    code, summary = run_demo(seed, out, changes or [], without_prepare=without_prepare, tell=tell, track=track)
    _print_json(summary) if json_ else show_demo(summary)
    raise typer.Exit(code)


@demo_app.command("build")
def demo_build(
    name: Annotated[Literal["round1", "aligner", "ctc"], typer.Argument(help="Which of the three.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the checkpoint goes.")],
    work: Annotated[Path, typer.Option(metavar="DIR", help="Where the speech goes.")],
    seed: Annotated[int, typer.Option(min=0)] = 1,
    device: str = "cpu",
    workers: Annotated[int, typer.Option(min=1)] = 2,
    max_minutes: Annotated[float | None, typer.Option(min=0.1, help="Of training; fewer steps if need be.")] = None,
):
    """Train one of the tiny checkpoints from nothing, as the shipped one was."""
    from dataclasses import replace

    from shibolet.demo.build import SETTINGS, build

    build(replace(SETTINGS[name], max_minutes=max_minutes), out, work, seed=seed, device=device, num_workers=workers)


def main() -> None:
    """Run a command; what the user can mend is one sentence and an exit code, anything else a traceback."""
    try:
        with disk_errors():
            app(prog_name="shibolet")
    except ShiboletError as error:
        print(f"shibolet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:
            print("shibolet: interrupted; a round goes on with the same command", file=sys.stderr, flush=True)
            os._exit(
                EXIT_INTERRUPTED
            )  # threads that listen would finish what they have first; what is written is whole
        raise
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _round(
    recipe: str,
    run_dir: Path | None,
    changes: list[str] | None,
    json_: bool,
    dry: bool,
    suffix: str = "",
    shard: bool = False,
) -> Iterator["Round"]:
    """The round of a recipe in its folder; with `dry` its plan is printed and the command ends.

    With `shard` others work in the folder too.
    """
    from shibolet.recipe import load_recipe, recipe_yaml
    from shibolet.round.shared import open_round, open_shard
    from shibolet.round.stages import make_plan
    from shibolet.terminal import tell, track

    _quiet()
    loaded = load_recipe(recipe, changes or [])
    folder = _run_dir(run_dir, loaded.name + suffix)
    if dry:
        planned = make_plan(loaded, folder, None, 1)
        if json_:
            _print_json({"recipe": loaded.model_dump(mode="json"), "plan": planned})
        else:
            typer.echo(recipe_yaml(loaded))
            _show({"plan": planned})
        raise typer.Exit
    opened = open_shard(loaded, folder, tell, track) if shard else open_round(loaded, folder, sys.argv[1], tell, track)
    with opened as round:
        yield round


@contextmanager
def _finished_round(run_dir: Path) -> Iterator["Round"]:
    """The round of a run folder, by the recipe that lies in it."""
    from shibolet.recipe import load_recipe
    from shibolet.round.shared import open_round
    from shibolet.terminal import tell, track

    if not (run_dir / "recipe.yaml").is_file():
        raise RecipeError(f"'{run_dir}' is no run folder: it has no recipe.yaml")
    _quiet()
    with open_round(load_recipe(run_dir / "recipe.yaml"), run_dir, sys.argv[1], tell, track) as round:
        yield round


def _shard(given: str) -> tuple[int, int]:
    """`2/8` as (1, 8)."""
    number, _, count = given.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise RecipeError(f"--shard {given}: expected I/N with I from 1 to N, as in 2/8")
    return int(number) - 1, int(count)


def _named_files(given: list[str]) -> dict[str, list[tuple[str | None, Path]]]:
    """(set, file) by name from NAME=FILE and NAME/SET=FILE; a name may come several times."""
    files: dict[str, list[tuple[str | None, Path]]] = {}
    for one in given:
        match = re.fullmatch(r"([\w.-]+)(?:/([\w.-]+))?=(.+)", one)
        if match is None:
            raise RecipeError(
                f"--hypotheses {one}: write NAME=FILE or NAME/SET=FILE, names in letters, digits, '-', '_' and '.'"
            )
        files.setdefault(match[1], []).append((match[2], Path(match[3])))
    return files


def _run_dir(given: Path | None, name: str) -> Path:
    return given or Path("runs") / name


def _quiet() -> None:
    """Our own log on the error output; of other packages, errors only."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # ours are enough
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    logging.getLogger("shibolet").setLevel(logging.INFO)


def _results(round: "Round") -> dict[str, Any]:
    """What a round has come to, from its files."""
    from shibolet.records.files import read_json

    folder = round.folder
    paths = {"gate": folder.gate(), "gate_prepared": folder.gate(prepared=True)}
    results = {name: read_json(path) for name, path in paths.items() if path.is_file()}
    return results | ({"compare": folder.read_compare()} if folder.compare.is_file() else {})


def _trained(folder: "RunFolder") -> str:
    """Where the trained model lies and why it is that one."""
    from shibolet.records.files import read_json
    from shibolet.terminal import pct

    result = read_json(folder.train / "result.json")
    dev = f"; dev WER {pct(result['chosen_dev']['wer'])}" if result["chosen_dev"] else ""
    return f"Model: {folder.final} (step {result['chosen_step']} of {result['steps']}, by {result['chosen_by']}{dev})"


def _show(results: dict[str, Any]) -> None:
    """Tables for a person."""
    from shibolet import terminal

    for name, value in results.items():
        getattr(terminal, f"show_{name}")(value)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
