"""One function a stage: its inputs, whether they have changed, its arguments from the files of the stages before it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shibolet.records.audited import audited_hash
from shibolet.records.documents.plan import Plan
from shibolet.records.documents.prepared import Prepared
from shibolet.records.documents.timings import Work
from shibolet.records.documents.training import DevScore, StepRow, TrainResult
from shibolet.records.runfolder import Stage
from shibolet.rounds import auditing, labelling, recutting, teaching, tracking
from shibolet.rounds.judged import judged
from shibolet.rounds.replay import do_prepare_replay, replay_inputs, replay_of, replay_reads
from shibolet.rounds.scorers import systems_with
from shibolet.rounds.shared import Round
from shibolet.speech.text import get_language
from shibolet.train.spent import TrainClock


def do_prepare(current: Round, meanwhile: Callable[[], None] = lambda: None) -> Prepared:
    """What is left to train on; hears first what the sample left out, where the recipe wants it heard.

    `meanwhile` is called before the data are prepared, when nothing is heard for that any more.
    An instrument that is INVALID and accepted judges nothing: then only what cannot be decoded is dropped.
    """
    from shibolet.prepare.stage import SUMMARY, run_prepare

    recipe, folder, by = current.recipe, current.folder, judged(current)
    config, reads = by.config, list(by.reads)
    seed = recipe.seed if config.seed is None else config.seed
    machine_texts = ()
    if labelling.wants_labels(current):
        labelling.do_label(current, by)
        reads.append(labelling.STAGE)
        machine_texts = labelling.labelled_texts(current)
    else:
        current.retire(labelling.STAGE, why="this recipe has nothing to label")
    recut = recutting.rows_of(current, by)
    reads += [recutting.STAGE] if recut else []
    inputs = {
        "format": Prepared.FORMAT,
        "data": current.data.digest,
        "verdicts": [audited_hash(table) for table in by.tables],
        "prepare": config.model_dump(mode="json", exclude={"seed"}),
        "language": recipe.language,
        "targets": get_language(recipe.language).target_version,
        "seed": seed,
        **by.review_hash,
        **({"labelled": folder.verified(labelling.STAGE)} if machine_texts else {}),
        **({"long": audited_hash(folder.audited_long)} if recut else {}),
    }
    stage = current.begin("prepare", inputs, reads)
    meanwhile()
    if not stage.done:
        with current.track("prepare") as progress, current.preparing(current.data.utterances) as (decoders, executor):
            rows = by.rows()
            run_prepare(
                current.data.utterances, rows, config=config, language=recipe.language, seed=seed,
                out_dir=folder.prepared, unread=current.data.ledger, on_progress=progress, decoders=decoders,
                executor=executor, machine_texts=machine_texts, corrected=rows.corrected, recut=recut,
            )  # fmt: skip
        made = Prepared.read(folder.prepared / SUMMARY)
        done = Work(
            utterances=made.utterances.given, audio_s=round(3600 * made.hours.given, 3), train=made.train.utterances,
            dev=made.dev.utterances,
        )  # fmt: skip
        current.finish(stage, done)
        for sentence in made.writing.warnings:
            current.warn(f"prepare: {sentence}")
    do_prepare_replay(current)
    return Prepared.read(folder.prepared / SUMMARY)


def train_ahead(current: Round) -> None:
    """Begin what a training waits for at first: the base in the system's memory, libraries for those that decode."""
    import torch

    from shibolet.model.folders import best_device
    from shibolet.train.launch import begin_to_load_workers
    from shibolet.train.workers import worker_count

    if current.folder.finished("train"):
        return
    current.compile_ahead()
    current.read_ahead(current.recipe.models.base)
    current.start_ranks()  # each has workers of its own
    if current.gpus == 1 and worker_count(current.recipe.train.num_workers, torch.device(best_device()), 1):
        begin_to_load_workers()


def end_hearing_ahead(current: Round) -> None:
    """Have those that hear let go of their GPUs, where a training is next and needs nobody to transcribe for it."""
    if not (current.folder.finished("train") or teaching.is_asked(current.recipe.train)):
        current.begin_to_make_way()
        current.warm_ranks()


def do_train(current: Round) -> TrainResult:
    """What training came to; trains, or goes on training, on what prepare kept."""
    stage, clock = _train(current)
    if clock is not None:
        _finish_training(current, stage, clock)
        current.forget(str(current.folder.final.absolute()))
        _retire_of_others(current)
    return TrainResult.read(current.folder.train_result)


def begin_training(current: Round, through: str) -> None:
    """Train up to the end of a phase, and leave the training as one that was cut off there."""
    current.only_through = through
    try:
        _train(current, is_beginning=True)
    finally:
        current.only_through = None


def _train(current: Round, is_beginning: bool = False) -> tuple[Stage, TrainClock | None]:
    """The stage, and what the seconds of its training went to; None: it was done."""
    from shibolet.rounds.branches import branch_of
    from shibolet.rounds.rank import TrainJob, set_to_work, under_torchrun

    recipe, folder = current.recipe, current.folder
    are_others_waiting = under_torchrun() or current.place.num_nodes > 1
    texts, reads = {}, ("prepare", *replay_reads(current))
    if teaching.is_asked(recipe.train):
        if are_others_waiting:
            teaching.require_taught(current)
        texts, reads = teaching.texts_of(current), (*reads, teaching.STAGE)
    else:
        current.retire(teaching.STAGE, why="no text of a teacher trains")
    inputs, fill = branch_of(current, train_inputs(current))
    stage = current.begin("train", inputs, reads=reads, fill=fill)
    if stage.state != "interrupted":  # what goes on comes to the model that was scored, or is compared with it below
        _retire_of_others(current)
    if stage.done and current.only_through is None:
        if are_others_waiting:
            set_to_work(None, folder.path, current.tell, gpus=current.gpus, place=current.place)
        return stage, None
    job = TrainJob(
        run_dir=folder.path,
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
        is_beginning=is_beginning,
        styles=recipe.styles,
        replay=replay_of(recipe, folder),
        teacher=recipe.models.teacher,
        texts=texts,
    )
    current.make_way()
    clock = TrainClock()
    with current.track("train", "steps") as progress:

        def send(message: str | tuple[int, int]) -> None:
            if isinstance(message, str):
                current.tell(message)
                return
            clock.step_done()
            progress(*message)
            if _is_near_the_end(*message):
                _read_what_follows(current)

        set_to_work(job, folder.path, send, gpus=current.gpus, place=current.place, ranks=current.take_ranks())
        current.end_importing()
    return stage, clock


def train_inputs(current: Round) -> dict[str, Any]:
    """What a training is made from."""
    return {
        "base": current.identity(current.recipe.models.base),
        "prepared": current.folder.verified("prepare"),
        "train": current.recipe.train.identity(),
        "language": current.recipe.language,
        "seed": current.recipe.seed,
        **({"styles": current.recipe.styles} if current.recipe.styles else {}),
        **replay_inputs(current),
        **({"teacher": current.identity(teacher)} if (teacher := current.recipe.models.teacher) else {}),
        **({"texts": current.folder.verified(teaching.STAGE)} if teaching.is_asked(current.recipe.train) else {}),
    }


def _is_near_the_end(done: int, total: int) -> bool:
    """Once in a training: before its last steps and the writing of its model."""
    return done == max(1, 9 * total // 10)


def _read_what_follows(current: Round) -> None:
    """Have what hears and transcribes after a training in the system's memory, and processes for it started."""
    recipe = current.recipe
    current.read_ahead(recipe.audit.aligner, recipe.audit.recogniser, recipe.models.baseline)
    if current.gpus > 1:
        current.start_processes(recipe.models.baseline)
        current.import_ahead(recipe.models.baseline)


def _finish_training(current: Round, stage: Stage, clock: TrainClock) -> None:
    """Mark the training as done, and keep what its seconds went to."""
    from shibolet.records.shards import num_rows

    folder = current.folder
    if not (rows := StepRow.read_all(folder.metrics)):
        return current.finish(stage)
    num_scores = sum(score.step > 0 for score in DevScore.read_all(folder.dev_scores))
    num_dev = sum(map(num_rows, folder.prepared.glob("dev-*.parquet")))
    at_most = current.recipe.evaluate.dev_utterances
    dev_utterances = num_scores * (num_dev if at_most is None else min(num_dev, at_most))
    plan = Plan.read(folder.plan)
    gpus = 0 if plan.gpu.memory_gib is None else plan.gpu.number
    current.finish(stage, training=clock.spent(rows, dev_utterances, gpus, plan.model.parameters))


def after_training(current: Round) -> list[str]:
    """Stages that speak of the trained model, of its parts, or of other seeds of it."""
    from shibolet.rounds.parts import SINGLE, labels_of

    folder, (_, candidate) = current.folder, current.names
    # Seeds that an earlier recipe named have such labels too.
    labels = [candidate.label, *labels_of(candidate.label), f"{candidate.label}seed[0-9]*"]
    found = [
        name
        for stages in (folder.evaluated, folder.doubtful, folder.non_speech_stages)
        for label in labels
        for name in stages(label)
    ]
    return [*found, SINGLE, "compare", "robustness", *systems_with(current, candidate.label), "publish"]


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

    with current.timed("report"):
        auditing.do_audit_page(current)
        with current.track("report"):
            write_report(current.folder.path)
    return current.folder.report
