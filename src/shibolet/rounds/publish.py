"""Publishing a kept round: export, proof by the code of its card, model card, upload; and the command that goes on."""

import shutil
from pathlib import Path
from typing import Any

from shibolet.errors import DataError, RecipeError, Rejected, UploadError
from shibolet.publish.config import PublishConfig
from shibolet.recipe import Recipe
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.training import TrainResult
from shibolet.records.files import write_bytes
from shibolet.rounds.shared import Round
from shibolet.speech.text import get_language

README = "README.md"
# Keys of `evaluate` with which other texts are scored than the code of a model card writes, and what each does.
NOT_OF_A_CARD = {
    "servers.candidate": "has a server write the hypotheses",
    "styles.candidate": "tells the model how to write",
    "context.candidate": "tells the model names and terms",
    "ngram": "has a language model beside the beams",
    "mbr_samples": "chooses among samples",
    "repeat_bias": "biases the model against repetitions",
}


def do_publish(current: Round, config: PublishConfig, *, force: bool = False, upload: bool = True) -> str:
    """The page of the commit, or the folder of the export when nothing is to be uploaded.

    Rejected when the comparison does not keep the round and `force` does not insist; UploadError leaves the export.
    """
    export_round(current, config, force=force)
    model = current.folder.publish / "model"
    if not upload:
        return str(model)
    from shibolet.publish.upload import upload_folder

    try:
        with current.track(f"upload to {config.to}"):
            message = f"{current.recipe.title} of {current.recipe.name}"
            return upload_folder(model, config.to, private=config.private, message=message)
    except UploadError as error:
        options = f"--to {config.to} --layout {config.layout} {'--private' if config.private else '--public'}"
        command = f"shibolet publish {current.folder.path} {options}{' --force' if force else ''}"
        raise UploadError(f"{error}; the export is whole in {model}. To go on: {command}") from error


def require_publishable(recipe: Recipe) -> None:
    """RecipeError where what the recipe publishes could not be: before anything is trained for it.

    `publish.layout` has to be one of the base's family, which is asked only of a base on this machine.
    """
    from shibolet.model.folders import is_here
    from shibolet.model.outline import outline_named

    if not recipe.publish:
        return
    require_repeatable(recipe)
    if recipe.models and recipe.models.base and is_here(recipe.models.base):
        outline_named(recipe.models.base).check_layout(recipe.publish.layout)


def require_repeatable(recipe: Recipe) -> None:
    """RecipeError where the sets are scored in a way that the code of a model card does not have."""
    for key, does in NOT_OF_A_CARD.items():
        if _is_set(recipe.evaluate, key):
            raise RecipeError(
                f"publish: evaluate.{key} {does}, which the code of a model card does not do, and it must repeat the "
                "hypotheses of the evaluation; leave that key out and run 'shibolet compare' again"
            )


def _is_set(config: Any, key: str) -> bool:
    """Whether a dotted key has a value that does something; nothing below a section that is left out has."""
    for name in key.split("."):
        config = config and getattr(config, name)
    return bool(config)


def export_adapter(current: Round, path: Path) -> None:
    """Write the adapters of the chosen checkpoint, not merged, into a new folder, and a README with code for them."""
    from shibolet.model.family import family_named
    from shibolet.model.folders import is_local, resolve
    from shibolet.publish.card import adapter_card
    from shibolet.train.checkpoint import CheckpointStore, average_weights
    from shibolet.train.stage import write_adapter

    if path.exists():
        raise DataError(f"'{path}' exists; name a new folder for the adapter")
    current.folder.verified("train")
    store = CheckpointStore(current.folder.checkpoints)
    steps = TrainResult.read(current.folder.train_result).weights_of
    weights = average_weights([store.at(step) for step in steps])
    recipe, base = current.recipe, current.recipe.models.base
    named = str(resolve(base).absolute()) if is_local(base) else base
    write_adapter(base, recipe.train, recipe.seed, weights, path, named)
    write_bytes(path / README, adapter_card(path, named, family_named(base), get_language(recipe.language)).encode())


def export_round(current: Round, config: PublishConfig, *, force: bool = False) -> None:
    """Fill `publish/model`, unless it was made from the same files before."""
    from shibolet.model.outline import outline_named

    folder = current.folder
    if folder.final.is_dir():
        outline_named(str(folder.final)).check_layout(config.layout)
    if not current.recipe.evaluate.sets:
        raise DataError(
            f"{folder.recipe} names no evaluate.sets, so nothing can show what the export is worth; name one"
        )
    label = current.names[1].label
    require_repeatable(current.recipe)
    folder.intact()  # the card speaks of all of it
    compared_as = folder.verified("compare")
    compared = Comparison.read(folder.compare)
    if not compared.is_kept and not force:
        raise Rejected(f"not published: {compared.sentence} --force publishes it all the same, and the card says so")
    inputs = {
        "train": folder.verified("train"),
        "prepare": folder.verified("prepare"),
        "gate": folder.verified("gate"),
        "compare": compared_as,
        "publish": config.model_dump(mode="json", exclude={"private"}),
    }
    stage = current.begin("publish", inputs, reads=("train", "prepare", "gate", "compare"))
    if stage.done:
        return
    from shibolet.model.family import convert, family_named
    from shibolet.publish.card import model_card
    from shibolet.publish.leaks import refuse_leaks
    from shibolet.report.recipe import ShownRecipe
    from shibolet.rounds.reproduce import reproduce

    model = folder.publish / "model"
    shutil.rmtree(folder.publish, ignore_errors=True)
    folder.publish.mkdir()
    with current.track("export"):
        convert(str(folder.final), model, config.layout, [current.recipe.language])
    current.make_way()
    with current.track("run the code of the model card"):
        reproduced = reproduce(current, model, label, config)
    reproduced.write(folder.publish / "reproduced.json")
    shown = ShownRecipe.model_validate(current.recipe.model_dump(mode="json"))
    card = model_card(folder, shown, config, family_named(str(folder.final)), reproduced)
    write_bytes(model / README, card.encode())
    refuse_leaks(model, folder.path)
    current.finish(stage)
