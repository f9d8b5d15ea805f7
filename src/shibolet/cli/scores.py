"""Commands that score: models, hypotheses of other systems, one against another, and ways to decode."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shibolet.cli.next_steps import advise, after_compare, after_stage, after_tuning, same
from shibolet.cli.options import (
    WHOLE,
    AsJson,
    Changes,
    DryRun,
    On,
    RecipeName,
    RunDir,
    Style,
    Terms,
    answer,
    language_told,
    print_json,
    quiet,
    round_of,
    run_folder,
)
from shibolet.errors import EXIT_REJECT, RecipeError

if TYPE_CHECKING:
    from shibolet.records.candidate import Candidate
    from shibolet.records.documents.comparison import SystemsComparison, Waterfall
    from shibolet.rounds.shared import Round

BESIDE = "-compare"  # added to the run folder's name, so that other models displace no score or verdict of its own


def evaluate(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="Score the baseline and the result on the sets of this recipe."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Folder, Hub id or builtin:NAME; with --manifest.")
    ] = None,
    manifest: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSONL, TSV or a folder of audio and text; with --model.")
    ] = None,
    hypotheses: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[/SET]=FILE",
            help="Score the hypotheses of another system (JSONL, CTM, ivrit.ai's CSV); with a recipe.",
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language of the manifest. Default: the language of the model's round.")
    ] = None,
    style: Style = None,
    context: Terms = None,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
    on: On = None,
):
    """Compute WER and CER of a recipe's models, of other systems' hypotheses, or of a model on a manifest."""
    if (recipe is None and (model is None or manifest is None)) or (recipe and (model or manifest or language)):
        raise RecipeError("evaluate takes a recipe, which names models, sets and language, or --model and --manifest")
    from shibolet.cli.tables import show_scores

    if recipe is not None and style:
        raise RecipeError("evaluate: --style goes with --model; a recipe says it in evaluate.styles")
    if recipe is not None and context:
        raise RecipeError("evaluate: --context goes with --model; a recipe says it in evaluate.context")
    if recipe is None and hypotheses:
        raise RecipeError("evaluate: --hypotheses goes with a recipe, whose sets they are of")
    if recipe is None:
        from shibolet.cli.terminal import track
        from shibolet.rounds.scoring import evaluate_manifest

        spoken = language_told(language, model)
        quiet()
        scores = evaluate_manifest(model, manifest, spoken, run_dir, track, style or "", context, on)
        print_json(scores) if json_ else show_scores({model: {Path(manifest).name: scores}})
        return
    from shibolet.rounds.scoring import candidates_of, do_evaluate

    with round_of(recipe, run_dir, changes, json_, dry, needs=() if hypotheses else WHOLE, on=on) as current:
        others = systems_of(hypotheses, "--hypotheses") if hypotheses else []
        scores = do_evaluate(current, others or candidates_of(current))
        scored = _to_compare(current, others)
    print_json(scores) if json_ else show_scores(scores)
    if not json_ and not hypotheses:
        after_stage("evaluate", same(recipe, run_dir, changes))
    elif not json_:
        _advise_comparison(scored, same(recipe, run_dir, changes))


def _to_compare(current: "Round", others: "list[Candidate]") -> list[str]:
    """Labels of systems, and before them that of the round's own model where it was scored."""
    own = current.names[1].label
    return list(dict.fromkeys([*([own] if current.folder.evaluated(own) else []), *(one.label for one in others)]))


def _advise_comparison(scored: list[str], where: list[str]) -> None:
    """Of one system alone there is none."""
    if len(scored) < 2:
        advise("score another system, to compare it with this one")
    else:
        advise("compare the systems", "compare", *where, *(f"--system={label}" for label in scored))


def compare(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="The recipe; --recipe works too.")] = None,
    recipe_option: Annotated[str | None, typer.Option("--recipe", metavar="RECIPE")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare with this model instead of the recipe's baseline.")
    ] = None,
    candidate: Annotated[str | None, typer.Option(metavar="MODEL", help="Compare this model, not train/final.")] = None,
    candidate_seed: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Run of the same training, other seed; two or more.")
    ] = None,
    baseline_seed: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Run of the baseline's training with another seed.")
    ] = None,
    system: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Compare scored systems, each with each; two or more.")
    ] = None,
    chain: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Compare each system with the one before it; two or more, in order."),
    ] = None,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
):
    """Compare the result with the baseline, with intervals. Scores what is missing. Ends with 40 on reject."""
    from shibolet.rounds.scoring import candidates_of, do_compare, do_evaluate, require_target_domain
    from shibolet.rounds.seeds import with_other_seeds
    from shibolet.rounds.tracking import do_track

    if (recipe is None) == (recipe_option is None):
        raise RecipeError("compare needs one recipe: it names the sets")
    if system or chain:
        if baseline or candidate or candidate_seed or baseline_seed:
            raise RecipeError("compare: --system and --chain name all that is compared; leave the other options out")
        compare_scored = _of_scored(system or [], chain or [])
        with round_of(recipe or recipe_option, run_dir, changes, json_, dry, needs=()) as current:
            compared = compare_scored(current)
        answer(json_, compared)
        return
    others = bool(baseline or candidate)
    for key, runs in (("candidate_seeds", candidate_seed), ("baseline_seeds", baseline_seed)):
        changes = [*(changes or []), *([f"compare.{key}={json.dumps([*map(str, runs)])}"] if runs else [])]
    beside, needs = BESIDE if others else "", () if candidate else WHOLE
    with round_of(recipe or recipe_option, run_dir, changes, json_, dry, beside, needs=needs) as current:
        if others:
            candidate = candidate or _trained_in(run_folder(run_dir, current.recipe.name))
            current.tell(f"compare: the models that are named are scored in {current.folder.path}")
        require_target_domain(current)
        do_evaluate(current, with_other_seeds(current, candidates_of(current, baseline, candidate)))
        compared = do_compare(current)
        if current.recipe.parts and not others:
            from shibolet.rounds.parts import do_parts

            do_parts(current)
        do_track(current)
    answer(json_, compared)
    if not json_:
        after_compare(current.folder.path, is_kept=compared.is_kept, is_round=not others)
    raise typer.Exit(0 if compared.is_kept else EXIT_REJECT)


def _of_scored(system: list[str], chain: list[str]) -> "Callable[[Round], SystemsComparison | Waterfall]":
    """What compares systems that a run folder has scores of: each with each, or each with the one before."""
    from shibolet.records.names import check_names
    from shibolet.rounds.systems import do_compare_systems, do_waterfall

    option, other, named = ("--system", "--chain", system) if system else ("--chain", "--system", chain)
    if (system and chain) or len(set(named)) != len(named) or len(named) < 2:
        raise RecipeError(f"compare {option}: name two or more different systems, without {other}")
    check_names(f"compare {option}", named)
    return partial(do_compare_systems if system else do_waterfall, labels=named)


def robustness(
    recipe: RecipeName,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
):
    """Measure WER of baseline and result with noise, low bit rates and lost packets. Prints the cost first."""
    from shibolet.rounds.robustness import do_robustness

    with round_of(recipe, run_dir, changes, json_, dry) as current:
        curves = do_robustness(current)
    answer(json_, curves)
    if not json_:
        advise("write the page again, with these curves", "report", str(current.folder.path))


def tune_decoding(
    recipe: RecipeName,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Model to tune. Default: train/final.")] = None,
    beam_size: Annotated[list[int] | None, typer.Option(min=1, help="Beam sizes; repeat. Default: 2, 4 and 8.")] = None,
    length_penalty: Annotated[
        list[float] | None, typer.Option(help="Length penalties; repeat. Default: 0.6, 1 and 1.4.")
    ] = None,
    mbr_samples: Annotated[
        list[int] | None, typer.Option(min=0, help="Samples for minimum Bayes risk; repeat. Default: 8. 0: none.")
    ] = None,
    mbr_temperature: Annotated[
        list[float] | None, typer.Option(help="Temperatures of samples; repeat. Default: 0.7.")
    ] = None,
    repeat_bias: Annotated[
        list[float] | None, typer.Option(help="Biases against repetitions; repeat. Default: none.")
    ] = None,
    ngram_weight: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Weights of the n-gram; repeat. Default: 0.1, 0.2, 0.4. 0: none."),
    ] = None,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
):
    """Compare beams, an n-gram, minimum Bayes risk and a repeat bias with greedy decoding on dev."""
    from shibolet.rounds.tuning import Grid, do_tune_decoding

    given = {
        "beam_sizes": beam_size, "length_penalties": length_penalty, "mbr_samples": mbr_samples,
        "mbr_temperatures": mbr_temperature, "repeat_biases": repeat_bias, "ngram_weights": ngram_weight,
    }  # fmt: skip
    grid = Grid(**{name: values for name, values in given.items() if values})
    with round_of(recipe, run_dir, changes, json_, dry) as current:
        tuned = do_tune_decoding(current, model, grid)
    answer(json_, tuned)
    if not json_:
        after_tuning(tuned, same(recipe, run_dir, changes), is_own=model is None)


def ngram(
    recipe: RecipeName,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text with a sentence on each line. Default: the training texts."),
    ] = None,
    order: Annotated[int, typer.Option(min=1, max=6, help="Tokens of the longest n-gram.")] = 4,
    run_dir: RunDir = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
):
    """Make an n-gram language model for beam search. Refused if the text contains texts of the tests."""
    from shibolet.rounds.ngram import do_ngram

    with round_of(recipe, run_dir, changes, json_, dry) as current:
        made = do_ngram(current, text, order)
    answer(json_, made)
    if not json_:
        advise("see on dev whether it helps", "tune-decoding", *same(recipe, run_dir, changes))


def _trained_in(run_dir: Path) -> str:
    """The model that a run folder has trained."""
    from shibolet.records.runfolder import RunFolder

    folder = RunFolder(run_dir)
    folder.verified("train")
    return str(folder.final.absolute())


def systems_of(given: list[str], option: str) -> "list[Candidate]":
    """Other systems from NAME=FILE and NAME/SET=FILE; a name may come several times."""
    from shibolet.records.candidate import Candidate, Hypotheses
    from shibolet.records.documents.comparison import Named
    from shibolet.records.names import check_name, check_names

    files: dict[str, list[tuple[str | None, Path]]] = {}
    for one in given:
        match = re.fullmatch(r"([^/=]+)(?:/([^/=]+))?=(.+)", one)
        if match is None:
            raise RecipeError(
                f"{option} {one}: write NAME=FILE or NAME/SET=FILE, names in letters, digits, '-', '_' and '.'"
            )
        for name in filter(None, match.groups()[:2]):
            check_name(f"{option} {one}", name)
        files.setdefault(match[1], []).append((match[2], Path(match[3])))
    check_names(option, files)
    return [Candidate(Named(label=name, title=name), Hypotheses(tuple(own))) for name, own in files.items()]
