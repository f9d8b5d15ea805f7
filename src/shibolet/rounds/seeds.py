"""Other seeds of the trainings that a round compares: which run folders are that, and their models as candidates."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from shibolet.errors import RecipeError
from shibolet.records.candidate import Candidate, Model
from shibolet.records.differences import differing, first
from shibolet.records.runfolder import RunFolder
from shibolet.records.runs import SEED, prepared_of, run_of, seed_of, stage_of
from shibolet.rounds.shared import Round

# Of the inputs of a training and of its data: what may differ between two seeds, and what follows from it.
_MAY_DIFFER = {SEED, "prepared", "verdicts"}


def require_seeds(current: Round) -> None:
    """What `with_other_seeds` would refuse, as far as it is known before this round's own training is paid for.

    Of that training only the recipe is known, so its data are not compared here.
    """
    recipe, (first_name, _), (baselines, candidates) = current.recipe, current.names, current.seeds
    for path in (*baselines, *candidates):
        RunFolder(path).verified("train")
    if baselines:
        trained = _run_of(Candidate(first_name, Model(recipe.models.baseline)), "compare.baseline_seeds")
        _require_same("compare.baseline_seeds", trained.path, _of(trained), baselines)
    styles = {"styles": recipe.styles} if recipe.styles else {}
    ours = {"train": recipe.train.identity(), "language": recipe.language, SEED: recipe.seed, **styles}
    _require_same("compare.candidate_seeds", current.folder.path, ours, candidates, {"styles", *ours})


def with_other_seeds(current: Round, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Baseline and candidate, and the models of the run folders in `compare.baseline_seeds` and `candidate_seeds`.

    RecipeError where one of these is not the same training with a seed of its own.
    """
    found = list(candidates)
    for own, key, others in zip(candidates, ("baseline_seeds", "candidate_seeds"), current.seeds):
        if not others:
            continue
        trained = _run_of(own, f"compare.{key}")
        for path in others:
            RunFolder(path).verified("train")
        _require_same(f"compare.{key}", trained.path, _of(trained), others)
        for path, named in others.items():
            model = str(RunFolder(path).final.absolute())
            found.append(Candidate(named, Model(model, prepared_of(model))))
    return found


def _require_same(
    key: str, own: Path, inputs: dict[str, Any], others: Iterable[Path], only: Collection[str] | None = None
) -> None:
    """RecipeError where other run folders have another training than `own`, or a seed twice; of inputs `only` some."""
    known = {inputs.get(SEED): own}
    for path in others:
        differ = differing(inputs, _of(RunFolder(path)))
        if wrong := first([n for n in differ if n not in _MAY_DIFFER and (only is None or n in only)]):
            raise RecipeError(
                f"{key}: {path} is another training than {own}: its {wrong} differ; runs of one "
                "recipe with other seeds (--set seed=N) are compared as one training"
            )
        if (seed := seed_of(path)) in known:
            raise RecipeError(f"{key}: {path} and {known[seed]} both have the seed {seed}; name others")
        known[seed] = path


def _run_of(own: Candidate, key: str) -> RunFolder:
    """The run folder that trained what is compared."""
    model = own.source.name if isinstance(own.source, Model) else ""
    run = run_of(Path(model))
    if run is None or stage_of(Path(model), run) != "train":
        raise RecipeError(
            f"{key}: {own.title} ({model or 'hypotheses'}) is not the model that a run folder has trained, so no run "
            "is known to be the same training with another seed; leave the key out"
        )
    run.verified("train")
    return run


def _of(run: RunFolder) -> dict[str, Any]:
    """What the training in a run folder was made from: its data, without their split, and its settings."""
    return {**run.inputs("prepare"), **run.inputs("train")}
