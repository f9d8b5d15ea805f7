"""Commands of a round: the whole of it, and its stages one by one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shibolet.cli.next_steps import advise, after_gate, after_run, after_stage, same
from shibolet.cli.options import (
    AUDITED,
    AsJson,
    Changes,
    DryRun,
    FinishedRun,
    FromStep,
    Gpus,
    MainNode,
    MirrorUrl,
    NodeIndex,
    Nodes,
    On,
    OnlyThrough,
    RecipeName,
    RunDir,
    answer,
    place_of,
    print_json,
    quiet,
    require_run,
    round_of,
    run_folder,
    say,
    show,
)
from shibolet.errors import RecipeError

if TYPE_CHECKING:
    from shibolet.records.documents.training import TrainResult
    from shibolet.rounds.shared import Round


def run(
    recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False, dry: DryRun = False,
    gpus: Gpus = 1, only_through: OnlyThrough = None, from_step: FromStep = None, on: On = None,
    mirror: MirrorUrl = None,
):  # fmt: skip
    """Run the whole round, from audit to report. The same command continues an interrupted round."""
    from shibolet.cli.tables import GATE_PREPARED, show_gate
    from shibolet.records.documents.training import TrainResult
    from shibolet.rounds.flow import run_round
    from shibolet.rounds.rank import under_torchrun

    if under_torchrun():
        raise RecipeError("torchrun would start several rounds: use 'shibolet run --gpus N', or torchrun with 'train'")
    with round_of(recipe, run_dir, changes, json_, dry, on=on, mirror=mirror) as current:
        current.gpus, current.only_through, current.from_step = gpus, only_through, from_step
        code = run_round(current)
        if json_:
            print_json({"exit_code": code, **_results(current)})
        else:
            for name, document in _results(current).items():
                show_gate(document, GATE_PREPARED) if name == "gate_prepared" else show(document)
            if current.folder.finished("train"):
                say(_trained(TrainResult.read(current.folder.train_result), current))
            say(f"Page: {current.folder.report}")
            where = same(recipe, run_dir, changes)
            after_run(current.folder.path, code, where, current.recipe, **_results(current))
    raise typer.Exit(code)


def audit(
    recipe: Annotated[
        list[str],
        typer.Argument(metavar="[merge] RECIPE", help="RECIPE: audit. merge RECIPE: use what all shards heard."),
    ],
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Hear part I of N only, for a job array; then merge.")
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="After CAUTION: hear as many more clips as should settle it.")
    ] = False,
    review: Annotated[
        Path | None, typer.Option("--review", metavar="FILE", help="Verdicts of a person, saved from audit.html.")
    ] = None,
    export_to: Annotated[
        Path | None,
        typer.Option(
            "--export-copies", metavar="DIR", help="Write the copies of the self-test for another system, and stop."
        ),
    ] = None,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
    on: On = None,
    mirror: MirrorUrl = None,
):
    """Hear the training data and judge each transcript. Ends with the gate's exit code."""
    from shibolet.rounds.auditing import do_audit, do_audit_page, do_audit_shard, do_export, do_gate, extend_audit

    if recipe[:-1] not in ([], ["merge"]) or (shard and recipe[:-1]):
        raise RecipeError(f"audit takes RECIPE, RECIPE --shard I/N or merge RECIPE, not '{' '.join(recipe)}'")
    if shard and (extend or review or json_):
        raise RecipeError("audit --shard only hears; --extend, --review and --json go with the audit or its merge")
    if export_to:
        if recipe[:-1] or shard or extend or review or json_:
            raise RecipeError("audit --export-copies only writes copies: it takes a recipe and nothing else")
        with round_of(recipe[-1], run_dir, changes, json_, dry, needs=AUDITED) as current:
            say(do_export(current, export_to))
        return
    if shard:
        with round_of(
            recipe[-1], run_dir, changes, json_, dry, shard=True, needs=AUDITED, on=on, mirror=mirror
        ) as current:
            do_audit_shard(current, _shard(shard))
        where = [*same(recipe[-1], run_dir, changes), *(["--mirror", mirror] if mirror else [])]
        advise("when all parts are heard, judge the data", "audit", "merge", *where)
        return
    with round_of(recipe[-1], run_dir, changes, json_, dry, needs=AUDITED, on=on, mirror=mirror) as current:
        if extend:
            current.tell(f"audit: extended to {extend_audit(current):,} utterances")
        report = do_audit(current, merge=recipe[:-1] == ["merge"], review=review)
        verdict, page = do_gate(current), do_audit_page(current)
    if json_:
        print_json(report)
    else:
        show(verdict, *([report.review] if review else []))
        say(f"Page: {page}")
        after_gate(verdict, same(recipe[-1], run_dir, changes), current.recipe)
    raise typer.Exit(verdict.exit_code)


def calibrate(
    recipe: RecipeName,
    clean: Annotated[list[str], typer.Option("--clean", metavar="FILE", help="Manifest of clips with correct texts.")],
    foreign: Annotated[
        list[str] | None, typer.Option("--foreign", metavar="FILE", help="Manifest of clips in another language.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, metavar="M", help="Hear as many clips as fit into M minutes.")
    ] = None,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
    on: On = None,
):
    """Measure on damaged copies of clean clips what the audit detects, and write a calibration."""
    from shibolet.rounds.auditing import do_calibrate

    with round_of(recipe, run_dir, changes, json_, dry, needs=AUDITED, on=on) as current:
        result = do_calibrate(current, clean, foreign or [], minutes)
        path = current.folder.calibration
    if json_:
        print_json(result)
    else:
        show(result)
        if result.budget:
            say(result.budget.sentence)
        where = same(recipe, run_dir, changes)
        advise("audit with it", "audit", *where, "--set", f"audit.calibration={path}")


def gate(
    recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False, dry: DryRun = False
):
    """Judge a finished audit: PROCEED (0), CAUTION (10), STOP (20) or INVALID (30)."""
    from shibolet.rounds.auditing import do_gate

    with round_of(recipe, run_dir, changes, json_, dry, needs=AUDITED) as current:
        verdict = do_gate(current)
    answer(json_, verdict)
    if not json_:
        after_gate(verdict, same(recipe, run_dir, changes), current.recipe)
    raise typer.Exit(verdict.exit_code)


def label(
    recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False, dry: DryRun = False,
    on: On = None, mirror: MirrorUrl = None,
):  # fmt: skip
    """Write texts for audio without text and for flagged utterances, if two models agree. 'prepare' uses them."""
    from shibolet.rounds.labelling import do_label

    with round_of(recipe, run_dir, changes, json_, dry, needs=(*AUDITED, "models"), on=on, mirror=mirror) as current:
        found = do_label(current)
    answer(json_, found)
    if not json_:
        after_stage("label", same(recipe, run_dir, changes))


def prepare(
    recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False, dry: DryRun = False,
    on: On = None, mirror: MirrorUrl = None,
):  # fmt: skip
    """Hear the rest, drop bad utterances, cut long ones, and split. Writes shards and a ledger."""
    from shibolet.rounds.stages import do_prepare

    with round_of(recipe, run_dir, changes, json_, dry, on=on, mirror=mirror) as current:
        summary = do_prepare(current)
    answer(json_, summary)
    if not json_:
        after_stage("prepare", same(recipe, run_dir, changes))


def train(
    recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False, dry: DryRun = False,
    gpus: Gpus = 1, nodes: Nodes = 1, node: NodeIndex = None, main: MainNode = None,
    only_through: OnlyThrough = None, from_step: FromStep = None, mirror: MirrorUrl = None,
):  # fmt: skip
    """Train through the phases on the prepared data, or continue. torchrun can start it too.

    On several machines the same command is started on each, with its own --node.
    """
    from shibolet.recipe import load_recipe
    from shibolet.rounds.rank import follow, is_follower
    from shibolet.rounds.stages import do_train

    place = place_of(nodes, node, main)
    if (is_follower() or place.node) and not dry:
        quiet()
        folder = run_folder(run_dir, load_recipe(recipe, changes or []).name)
        follow(folder, gpus=gpus, place=place)
        return
    with round_of(recipe, run_dir, changes, json_, dry, mirror=mirror) as current:
        current.gpus, current.only_through, current.from_step = gpus, only_through, from_step
        current.place = place
        if not current.folder.finished("train"):
            current.compile_ahead()
        result = do_train(current)
    if json_:
        print_json(result.to_json())
    else:
        say(_trained(result, current))
        after_stage("train", same(recipe, run_dir, changes))


def report(
    run_dir: FinishedRun,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each figure there, as SVG and CSV.")
    ] = None,
):
    """Write the pages of a run folder from its files."""
    from shibolet.cli.terminal import track
    from shibolet.report.audit_page import write_audit_page
    from shibolet.report.page import write_report

    require_run(run_dir)
    with track("report"):
        write_audit_page(run_dir)
        write_report(run_dir)
    if figures is not None:
        from shibolet.report.export import export_figures

        for path in export_figures(run_dir, figures):
            typer.echo(path)
    typer.echo(run_dir / "report.html")
    advise("open that file in a browser: it needs no network and nothing beside it")


def _shard(given: str) -> tuple[int, int]:
    """`2/8` as (1, 8)."""
    number, _, count = given.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise RecipeError(f"--shard {given}: expected I/N with I from 1 to N, as in 2/8")
    return int(number) - 1, int(count)


def _results(current: "Round") -> dict[str, Any]:
    """What a round has come to, from its files."""
    from shibolet.records.documents.comparison import Comparison
    from shibolet.records.documents.gate import GateVerdict

    folder = current.folder
    paths = {"gate": folder.gate(), "gate_prepared": folder.gate(prepared=True)}
    results = {name: GateVerdict.read(path) for name, path in paths.items() if path.is_file()}
    return results | ({"compare": Comparison.read(folder.compare)} if folder.compare.is_file() else {})


def _trained(result: "TrainResult", current: "Round") -> str:
    """Where the trained model lies, why it is that one, and what the recipe expected of it."""
    from shibolet.cli.terminal import pct
    from shibolet.records.documents.plan import Plan
    from shibolet.report.sections import expected_points

    dev = f"; dev WER {pct(result.chosen_dev.wer)}" if result.chosen_dev else ""
    said = f"step {result.chosen_step} of {result.steps}, by {result.chosen_by}{dev}"
    notes = [*([result.optimism.sentence] if result.optimism else []), *(part.sentence for part in result.earlier)]
    lines = [f"Model: {current.folder.final} ({'; '.join([said, *notes])})"]
    lines += [f"Warning: {result.warning}."] if result.warning else []
    points = expected_points(current.recipe.train.expected.wer_pct, Plan.read(current.folder.plan), result.dev)
    if scored := [point for point in points if point.measured_pct is not None]:
        each = (f"{p.epochs}: {p.measured_pct:.1f}% ({p.difference_points:+.1f} points)" for p in scored)
        lines.append(f"Dev WER by finished epochs, against what the recipe expects: {', '.join(each)}")
    return "\n".join(lines)
