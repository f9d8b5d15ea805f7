"""One function a stage: its inputs, whether they have changed, its arguments from the files of the stages before it."""

import math
from pathlib import Path
from typing import Any

from shibolet.errors import RecipeError
from shibolet.recipe import Recipe
from shibolet.records.audited import audited_hash
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.plan import Plan
from shibolet.records.documents.prepared import Prepared
from shibolet.records.documents.training import TrainResult
from shibolet.records.files import hash_file
from shibolet.records.runfolder import RunFolder
from shibolet.rounds import auditing, tracking
from shibolet.rounds.scorers import systems_with
from shibolet.rounds.shared import Round
from shibolet.speech.text import get_language


def do_prepare(current: Round) -> Prepared:
    """What is left to train on; hears first what the sample left out, where the recipe wants it heard.

    An instrument that is INVALID and accepted judges nothing: then only what cannot be decoded is dropped.
    """
    from shibolet.prepare.stage import SUMMARY, run_prepare
    from shibolet.prepare.verdicts import ReviewedRows
    from shibolet.records.review import read_review

    recipe, folder = current.recipe, current.folder
    config = recipe.prepare
    folder.verified("gate")
    auditing.require_audited(current)
    if GateVerdict.read(folder.gate()).decision == "INVALID":
        config = config.model_copy(update={"drop_low_quality": False})
    tables, reads = [folder.audited_utterances()], ["gate", "audit"]
    if config.unheard == "audit" and config.drop_low_quality:
        tables.append(auditing.do_hear_rest(current))
        reads.append("hear-rest")
    if is_reviewed := folder.review.is_file():
        folder.intact("review")
    inputs = {
        "format": Prepared.FORMAT,
        "data": current.data.digest,
        "verdicts": [audited_hash(table) for table in tables],
        "prepare": config.model_dump(mode="json"),
        "language": recipe.language,
        "targets": get_language(recipe.language).target_version,
        "seed": recipe.seed,
        **({"review": hash_file(folder.review)} if is_reviewed else {}),
    }
    answers = read_review(folder.review) if is_reviewed else {}
    stage = current.begin("prepare", inputs, reads)
    if not stage.done:
        with current.track("prepare") as progress:
            run_prepare(
                current.data.utterances,
                ReviewedRows(tables, answers),
                config=config,
                language=recipe.language,
                seed=recipe.seed,
                out_dir=folder.prepared,
                unread=current.data.ledger,
                on_progress=progress,
            )
        stage.finish()
    return Prepared.read(folder.prepared / SUMMARY)


def do_train(current: Round) -> TrainResult:
    """What training came to; trains, or goes on training, on what prepare kept."""
    from shibolet.rounds.branches import branch_of
    from shibolet.rounds.rank import TrainJob, as_rank, carry_out, lead, under_torchrun
    from shibolet.train.launch import launch

    recipe, folder = current.recipe, current.folder
    plain = {
        "base": current.identity(recipe.models.base),
        "prepared": folder.verified("prepare"),
        "train": recipe.train.identity(),
        "language": recipe.language,
        "seed": recipe.seed,
    }
    inputs, fill = branch_of(current, plain)
    stage = current.begin("train", inputs, reads=("prepare",), fill=fill)
    if stage.state != "interrupted":  # what goes on comes to the model that was scored, or is compared with it below
        _retire_of_others(current)
    if stage.done and current.only_through is None:
        if under_torchrun():
            lead(None, current.tell)
        return TrainResult.read(folder.train_result)
    job = TrainJob(
        prepared_dir=folder.prepared,
        out_dir=folder.train,
        base=recipe.models.base,
        train=recipe.train,
        evaluate=recipe.evaluate,
        language=recipe.language,
        seed=recipe.seed,
        num_threads=recipe.num_threads,
        about=tracking.about(current),
        tracking=tracking.tracking_of(current),
        only_through=current.only_through,
    )
    num_devices = current.make_way()
    if num_devices and current.gpus > num_devices:
        raise RecipeError(f"--gpus {current.gpus}: there are {num_devices} GPUs here")
    with current.track("train") as progress:

        def send(message: str | tuple[int, int]) -> None:
            current.tell(message) if isinstance(message, str) else progress(*message)

        if under_torchrun():
            lead(job, send)
        elif current.gpus > 1:
            launch(as_rank, job, num_ranks=current.gpus, on_cpu=not num_devices, on_message=send)
        else:
            carry_out(job, send)
    stage.finish()
    current.forget(str(folder.final.absolute()))
    _retire_of_others(current)
    return TrainResult.read(folder.train_result)


def after_training(current: Round) -> list[str]:
    """Stages that speak of the trained model."""
    _, candidate = current.names
    scored = current.folder.evaluated(candidate.label)
    doubtful = current.folder.doubtful(candidate.label)
    return [*scored, *doubtful, "compare", *systems_with(current, candidate.label), "publish"]


def _retire_of_others(current: Round) -> None:
    """Put scores and verdict aside where the model that they speak of is not the one that is there."""
    folder, (_, candidate) = current.folder, current.names
    if not (scored := folder.evaluated(candidate.label)):
        return
    model = current.identity(str(folder.final.absolute())) if folder.final.is_dir() else None
    if any(folder.inputs(name).get("model") != model for name in scored):
        current.retire(*after_training(current), why="it is of another training")


def do_report(current: Round) -> Path:
    """The page of the round as far as it has come, and that of its audit."""
    from shibolet.report.page import write_report

    auditing.do_audit_page(current)
    with current.track("report"):
        write_report(current.folder.path)
    return current.folder.report


def make_plan(
    recipe: Recipe, run_dir: Path, num_utterances: int | None, world_size: int, gpu: str = "A100",
    gpu_memory_gib: float | None = None,
) -> Plan:  # fmt: skip
    """The training plan, from the configuration and no weights, of what the run folder has prepared.

    Before that, and where its lengths in tokens cannot be known or a number is given, lengths are assumed;
    `training_set_from` says which.
    """
    from shibolet.model.family import offline_config, usual_config
    from shibolet.train.plan import SPECIFIED_UTTERANCES, make_plan, meta_model

    config, model_from = (
        offline_config(recipe.models.base) if recipe.models.base else usual_config("no model is named yet")
    )
    examples, training_set_from = None, "as given; lengths are assumed"
    if num_utterances is None:
        folder = RunFolder(run_dir)
        folder.intact("prepare")
        prepared = folder.prepared
        is_prepared = any(prepared.glob("train-*.parquet"))
        if not is_prepared and (num_utterances := _rows_of_manifests(recipe)):
            training_set_from = f"rows of the manifests, since nothing is prepared in {run_dir}; lengths are assumed"
        elif not is_prepared:
            num_utterances = SPECIFIED_UTTERANCES
            training_set_from = (
                f"the specification's number, since nothing is prepared in {run_dir}; lengths are assumed "
                "(--utterances N for another number)"
            )
        else:
            examples, num_utterances, training_set_from = _prepared_examples(recipe, prepared, config)
    plan = make_plan(
        recipe.train, meta_model(config, recipe.train), examples, num_utterances=num_utterances,
        world_size=world_size, gpu=gpu, gpu_memory_gib=gpu_memory_gib,
    )  # fmt: skip
    return plan.model_copy(update={"training_set_from": training_set_from, "model_from": model_from})


def _rows_of_manifests(recipe: Recipe) -> int | None:
    """Rows of the training data before the audit; None where they are not all manifests that are here."""
    from shibolet.speech.manifests import count_rows

    sources = recipe.data.train
    if any(source.manifest is None or not source.manifest.exists() for source in sources):
        return None
    return sum(min(count_rows(source), source.max_utterances or math.inf) for source in sources)


def _prepared_examples(recipe: Recipe, prepared: Path, config: Any) -> tuple[list | None, int, str]:
    """Prepared utterances with their lengths, or None; their number; where it is from, and why there are no lengths."""
    from shibolet.model.family import family_of
    from shibolet.model.protocols import Prompt
    from shibolet.records.shards import num_rows
    from shibolet.train.data import read_examples

    number = sum(map(num_rows, prepared.glob("train-*.parquet")))
    family = family_of(config)
    if (tokenizer := family.tokenizer(recipe.models.base)) is None:
        why = f"the tokenizer of {recipe.models.base} is not on this machine, so lengths are assumed"
        return None, number, f"prepared in {prepared}; {why}"
    targets = family.targets(tokenizer, Prompt(recipe.language))
    examples, _ = read_examples(prepared, "train", family, targets, family.max_tokens(config))
    return examples, len(examples), f"prepared in {prepared}, with their lengths"
