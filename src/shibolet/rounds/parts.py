"""What each part of a round gave: its own systems in a chain, scored on the recipe's sets, for the page's waterfall.

The chain is the baseline; the best single checkpoint, where the result is an average of several; the result; and the
result decoded as `tune-decoding` recommends on dev. A part that was not done has no step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shibolet.errors import RecipeError
from shibolet.evaluate.config import EvaluateConfig, NgramConfig
from shibolet.records.candidate import Candidate, Model
from shibolet.records.documents.comparison import Named, Waterfall
from shibolet.records.documents.decoding import DecodingTable
from shibolet.records.documents.training import TrainResult
from shibolet.records.files import make_folder
from shibolet.rounds.scorers import scores_of
from shibolet.rounds.scoring import candidates_of, do_evaluate
from shibolet.rounds.shared import Round
from shibolet.rounds.systems import do_waterfall
from shibolet.rounds.tuning import GREEDY, do_tune_decoding

SINGLE = "parts/single"
_OF_SINGLE, _OF_DECODED = "single", "decoded"  # after the result's label and a dash


def do_parts(current: Round) -> Waterfall:
    """The steps from the baseline to the result as it is best decoded; scores what is not scored yet."""
    recipe = current.recipe
    if recipe.parts is None:
        raise RecipeError(f"recipe '{recipe.name}' has no section 'parts'")
    first, result = candidates_of(current)
    do_evaluate(current, [first, result])
    trained, chain = TrainResult.read(current.folder.train_result), [first.label]
    if trained.averaged_steps:
        chain.append(_single(current, result, trained.chosen_step))
    chain.append(result.label)
    if recipe.parts.tune_decoding:
        chain += _decoded(current, result, do_tune_decoding(current))
    return do_waterfall(current, chain)


def labels_of(result: str) -> list[str]:
    """Labels under which parts of a round are scored beside its result, whose label is given."""
    return [_label(result, kind) for kind in (_OF_SINGLE, _OF_DECODED)]


def _label(result: str, kind: str) -> str:
    return f"{result}-{kind}"


def _single(current: Round, result: Candidate, step: int) -> str:
    """The label of the best checkpoint by itself, scored as the average is."""
    from shibolet.train.checkpoint import CheckpointStore
    from shibolet.train.stage import trained_to, write_final

    recipe, folder = current.recipe, current.folder
    stage = current.begin(SINGLE, {"train": folder.verified("train"), "step": step}, reads=("train",))
    path = folder.path / SINGLE / "model"
    if not stage.done:
        store = CheckpointStore(folder.checkpoints)
        make_folder(path.parent)
        loaded = trained_to(recipe.models.base, recipe.train, recipe.seed, store, step)
        write_final(loaded, store.at(step).weights(), path)
        current.finish(stage)
        current.forget(str(path.absolute()))
    return _scored(current, result, path, _OF_SINGLE, f"{result.title}, step {step:,} alone")


def _decoded(current: Round, result: Candidate, table: DecodingTable) -> list[str]:
    """The label of the result decoded in the way that is recommended; none where that is how it is decoded anyway."""
    found = table.recommended
    if found == GREEDY:
        return []
    fused = NgramConfig(file=Path(table.ngram), weight=found.ngram_weight) if found.ngram_weight else None
    config = current.recipe.evaluate.greedy.model_copy(update={**found.recipe_keys, "ngram": fused})
    with _evaluating(current, config):
        return [_scored(current, result, current.folder.final, _OF_DECODED, f"{result.title}, {found}")]


def _scored(current: Round, result: Candidate, model: Path, kind: str, title: str) -> str:
    named = Named(label=_label(result.label, kind), title=title)
    scores_of(current, Candidate(named, Model(str(model.absolute()), result.source.trained_on)))
    return named.label


@contextmanager
def _evaluating(current: Round, config: EvaluateConfig) -> Iterator[None]:
    """The round with other settings of `evaluate`, for a while."""
    own = current.recipe
    current.recipe = own.model_copy(update={"evaluate": config})
    try:
        yield
    finally:
        current.recipe = own
