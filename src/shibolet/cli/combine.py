"""The command that puts hypotheses of several systems to a vote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from shibolet.cli.next_steps import advise, same
from shibolet.cli.options import AsJson, Changes, DryRun, RunDir, answer, quiet, round_of
from shibolet.errors import RecipeError


def combine(
    system: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[/SET][=FILE]",
            help="NAME that 'evaluate' scored in the run folder, or NAME=FILE; two or more. The first wins ties.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write the hypotheses to this new .jsonl.")],
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="The recipe with the sets.")] = None,
    manifest: Annotated[
        str | None, typer.Option(metavar="FILE", help="Vote on these utterances, not on sets; with --language.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language of the manifest.")] = None,
    transcripts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the manifest with the winning texts.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Weight of the votes; the rest weighs confidences.")] = 1.0,
    null_confidence: Annotated[float, typer.Option(help="Confidence of 'no word'; with --alpha.")] = 0.0,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
):
    """Let several systems vote on each word (ROVER).

    'evaluate --hypotheses' scores the file, 'compare --system' compares it, 'audit.recogniser' takes it.
    """
    from shibolet.cli.scores import systems_of
    from shibolet.records.names import check_names
    from shibolet.rounds.combining import Ballot, combine_manifest, combine_sets

    if (recipe is None) == (manifest is None) or (manifest is None) != (language is None):
        raise RecipeError("combine takes a recipe, which names sets and their languages, or --manifest and --language")
    if out.suffix != ".jsonl":
        raise RecipeError(f"combine: --out {out}: the file is JSONL; call it {out.with_suffix('.jsonl')}")
    if transcripts and manifest is None:
        raise RecipeError("combine: --transcripts goes with --manifest: a recipe's sets are not to be trained on")
    scored, named = ([one for one in system if ("=" in one) == has_file] for has_file in (False, True))
    check_names("--system", scored)
    files = {one.label: one for one in systems_of(named, "--system")}
    order = dict.fromkeys(one.partition("=")[0].partition("/")[0] for one in system)
    check_names("--system", [*scored, *files])
    systems = [files.get(name, name) for name in order]
    _require_apart(out, transcripts, manifest, [Path(one.partition("=")[2]) for one in named])
    ballot = Ballot(alpha=alpha, null_confidence=null_confidence)
    if manifest is not None:
        from shibolet.cli.terminal import tell

        _require_files_alone(scored, dry or run_dir or changes)
        quiet()
        answer(json_, combine_manifest(manifest, language, systems, ballot, out, tell, transcripts))
        return
    with round_of(recipe, run_dir, changes, json_, dry, needs=()) as current:
        combined = combine_sets(current, systems, ballot, out)
    answer(json_, combined)
    if not json_:
        advise("score the vote", "evaluate", *same(recipe, run_dir, changes), "--hypotheses", f"vote={out}")


def _require_apart(out: Path, transcripts: Path | None, manifest: str | None, inputs: Sequence[Path]) -> None:
    """RecipeError where a file that is written is one that is read, or both that are written are one."""
    read = {one.resolve() for one in (*inputs, *([Path(manifest)] if manifest else []))}
    for option, path in (("--out", out), ("--transcripts", transcripts)):
        if path and path.resolve() in read:
            raise RecipeError(f"combine: {option} {path} is a file that is read; name another")
    if transcripts and transcripts.resolve() == out.resolve():
        raise RecipeError(f"combine: --out and --transcripts are both {out}; name two files")


def _require_files_alone(scored: Sequence[str], of_a_recipe: object) -> None:
    """RecipeError for what needs a recipe beside --manifest."""
    if of_a_recipe:
        raise RecipeError("combine: --dry-run, --run-dir and --set go with a recipe, and --manifest has none")
    if scored:
        raise RecipeError(f"combine: --system {scored[0]}: with --manifest each system needs its file, NAME=FILE")
