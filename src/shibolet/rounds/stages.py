"""One function a stage: its inputs, whether they have changed, its arguments from the files of the stages before it."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shibolet.errors import RecipeError
from shibolet.recipe import Recipe
from shibolet.records.audited import audited_hash
from shibolet.records.candidate import Candidate, Model
from shibolet.records.documents.alignment import AlignmentReport
from shibolet.records.documents.comparison import Comparison, Named
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.plan import Plan
from shibolet.records.documents.prepared import Prepared
from shibolet.records.documents.scores import Overlap, Scores
from shibolet.records.documents.training import TrainResult
from shibolet.records.files import hash_file
from shibolet.records.runfolder import RunFolder
from shibolet.records.utterance import Utterance
from shibolet.rounds import auditing
from shibolet.rounds.shared import MANIFEST, Round, Track, best_device, prepared_of, stream_cache, untracked
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language


def do_prepare(current: Round) -> Prepared:
    """What is left to train on; hears first what the sample left out, where the recipe wants it heard.

    An instrument that is INVALID and accepted judges nothing: then only what cannot be decoded is dropped.
    """
    from shibolet.audit.review import read_review
    from shibolet.prepare.stage import SUMMARY, run_prepare
    from shibolet.prepare.verdicts import ReviewedRows

    recipe, folder = current.recipe, current.folder
    config = recipe.prepare
    folder.digest("gate")  # there must be one
    if GateVerdict.read(folder.gate()).decision == "INVALID":
        config = config.model_copy(update={"drop_low_quality": False})
    tables = [folder.audited_utterances()]
    if config.unheard == "audit" and config.drop_low_quality:
        tables.append(auditing.do_hear_rest(current))
    inputs = {
        "format": Prepared.FORMAT,
        "data": current.data.digest,
        "verdicts": [audited_hash(table) for table in tables],
        "prepare": config.model_dump(mode="json"),
        "language": recipe.language,
        "seed": recipe.seed,
    }
    answers = {}
    if folder.review.is_file():
        inputs["review"], answers = hash_file(folder.review), read_review(folder.review)
    stage = current.begin("prepare", inputs)
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
    from shibolet.rounds.rank import TrainJob, as_rank, carry_out, lead, under_torchrun
    from shibolet.train.launch import launch

    recipe, folder = current.recipe, current.folder
    inputs = {
        "base": current.identity(recipe.models.base),
        "prepared": folder.digest("prepare"),
        "train": recipe.train.identity(),
        "language": recipe.language,
        "seed": recipe.seed,
    }
    stage = current.begin("train", inputs)
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
        about={"audit": _audit_summary(folder), "recipe": recipe.model_dump(mode="json")},
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
    return [*scored, "compare", *_systems_with(current, candidate.label), "publish"]


def _systems_with(current: Round, label: str) -> list[str]:
    """The comparison of systems, where it has this one."""
    folder = current.folder
    return ["systems"] if folder.finished("systems") and label in folder.inputs("systems")["systems"] else []


def _retire_of_others(current: Round) -> None:
    """Put scores and verdict aside where the model that they speak of is not the one that is there."""
    folder, (_, candidate) = current.folder, current.names
    if not (scored := folder.evaluated(candidate.label)):
        return
    model = current.identity(str(folder.final.absolute())) if folder.final.is_dir() else None
    if any(folder.inputs(name).get("model") != model for name in scored):
        current.retire(*after_training(current), why="it is of another training")


def _audit_summary(folder: RunFolder) -> dict:
    """What trackers show of the audit."""
    if not folder.gate().exists():
        return {}
    gate, report = GateVerdict.read(folder.gate()), AlignmentReport.read(folder.alignment_report())
    counts = {name: getattr(report, name) for name in ("low_quality_percentage", "low_quality_count", "total_samples")}
    return {"decision": gate.decision, "low_quality_pct": gate.low_quality_pct.rate, **counts}


def do_evaluate(current: Round, candidates: Sequence[Candidate]) -> dict[str, dict[str, Scores]]:
    """Scores of models by label and set."""
    if not current.sets:
        raise RecipeError("there is nothing to evaluate on: name one or more evaluate.sets")
    return {
        candidate.label: {source.name: _evaluate_set(current, candidate, source) for source in current.sets}
        for candidate in candidates
    }


def candidates_of(
    current: Round, baseline: str | None = None, candidate: str | None = None
) -> tuple[Candidate, Candidate]:
    """The models that a round compares: those given, else the recipe's baseline and what was trained here."""
    if candidate is None:
        current.folder.digest("train")  # there must be one
    models = baseline or current.recipe.models.baseline, candidate or str(current.folder.final.absolute())
    first, second = (
        Candidate(named, Model(model, prepared_of(model))) for named, model in zip(current.names, models, strict=True)
    )
    return first, second


def _evaluate_set(current: Round, candidate: Candidate, source: DataSource) -> Scores:
    from shibolet.evaluate.stage import evaluate_set

    label, model, prepared = candidate.label, candidate.source.name, candidate.source.trained_on
    language = language_of(current, source)
    made_by = {"model": current.identity(model)}
    if prepared is not None:
        made_by["trained_on"] = hash_file(prepared / MANIFEST)

    def score(data: Sequence[Utterance], **settings) -> Scores:
        overlap = None if prepared is None else current.overlap(source, prepared)
        engine = current.transcriber(model, label, language)
        if current.server(label):
            settings["identity"] = engine.identity  # that a server has this model is the recipe's word
        return evaluate_set(engine, data, overlap=overlap, **settings)

    return score_set(current, candidate.named, source, made_by, score)


def language_of(current: Round, source: DataSource) -> str:
    """What a set is scored in."""
    return source.language or current.recipe.language


def score_set(current: Round, named: Named, source: DataSource, made_by: dict[str, str], score: Callable) -> Scores:
    """The scores of one system on one set; `made_by` are the inputs that tell systems apart, first what it is."""
    from shibolet.evaluate.stage import NOT_OF_A_SET

    recipe, folder, data, label = current.recipe, current.folder, current.read(source), named.label
    inputs = {
        "format": Scores.FORMAT,
        **made_by,
        "data": data.digest,
        "language": language_of(current, source),
        "evaluate": recipe.evaluate.model_dump(mode="json", exclude=NOT_OF_A_SET),
    }
    stage = current.begin(f"evaluate/{label}/{source.name}", inputs)
    if not stage.done:
        current.retire(*_systems_with(current, label), why=f"{label} is scored anew")
        with current.track(f"{named.title} on {source.name}") as progress:
            score(
                data.utterances,
                set_name=source.name,
                language=language_of(current, source),
                config=recipe.evaluate,
                out_dir=folder.evaluation(label, source.name),
                named=named,
                identity=next(iter(made_by.values())),
                ledger=data.ledger,
                on_progress=progress,
            )
        stage.finish()
    return Scores.read(folder.scores(label, source.name))


def do_compare(current: Round) -> Comparison:
    """The candidate against the baseline on the recipe's sets."""
    from shibolet.compare import compare
    from shibolet.evaluate.stage import read_rows

    recipe, folder, names = current.recipe, current.folder, current.names
    sets = [source.name for source in current.sets]
    if not _by_language(current)[0]:
        raise RecipeError(f"there is nothing to compare on: name one or more evaluate.sets in {recipe.language}")
    scores = [folder.digest(f"evaluate/{named.label}/{name}") for named in names for name in sets]
    who = [named.model_dump(mode="json") for named in names]
    made_with = compared_with(current, Comparison.FORMAT)
    stage = current.begin("compare", {"scores": scores, "names": who, **made_with})
    if not stage.done:
        own, other = (
            tuple([row for name in some for row in read_rows(folder.evaluation(named.label, name))] for named in names)
            for some in _by_language(current)
        )
        overlaps = overlaps_of(current, names[1].label, sets)
        compare(own, names, recipe.compare, recipe.evaluate.buckets_s, other, overlaps).write(folder.compare)
        stage.finish()
    return Comparison.read(folder.compare)


def overlaps_of(current: Round, label: str, sets: Sequence[str]) -> dict[str, Overlap]:
    """By set, what it shares with the training data of what was scored under a label, where these are known."""
    found = {name: Scores.read(current.folder.scores(label, name)).overlap for name in sets}
    return {name: overlap for name, overlap in found.items() if overlap is not None}


def compared_with(current: Round, format: int) -> dict:
    """What a comparison is made with, beside the scores."""
    return {
        "format": format,
        "compare": current.recipe.compare.model_dump(mode="json"),
        "buckets": current.recipe.evaluate.model_dump(mode="json", include={"buckets_s"}),
    }


def _by_language(current: Round) -> tuple[list[str], list[str]]:
    """Names of the evaluation sets in the recipe's language, and of those in others."""
    own = get_language(current.recipe.language)
    names: tuple[list[str], list[str]] = [], []
    for source in current.sets:
        names[get_language(language_of(current, source)) is not own].append(source.name)
    return names


def do_report(current: Round) -> Path:
    """The page of the round as far as it has come, and that of its audit."""
    from shibolet.report.page import write_report

    auditing.do_audit_page(current)
    with current.track("report"):
        write_report(current.folder.path)
    return current.folder.report


def evaluate_manifest(
    model: str, manifest: Path, language: str, out_dir: Path | None, track: Track = untracked
) -> Scores:
    """The scores of one model on one manifest; both files go to `out_dir`, or nowhere."""
    from shibolet.evaluate.config import EvaluateConfig
    from shibolet.evaluate.overlap import overlap, read_trained_on
    from shibolet.evaluate.stage import evaluate_set
    from shibolet.listen.executor import local_executor
    from shibolet.listen.open import listener_identity, open_engines
    from shibolet.speech.read import read_source

    config = EvaluateConfig()
    with track("read") as progress:
        utterances, ledger = read_source(DataSource(name=manifest.stem, manifest=manifest), stream_cache(), progress)
    trained = None if (prepared := prepared_of(model)) is None else read_trained_on(prepared)
    identity, batch_utterances = listener_identity(model), config.batch_utterances
    with closing(local_executor()) as executor, TemporaryDirectory() as scratch, track("transcribe") as progress:
        return evaluate_set(
            open_engines(executor, model, language, device=best_device(), batch_utterances=batch_utterances),
            utterances,
            set_name=manifest.stem,
            language=language,
            config=config,
            out_dir=out_dir or Path(scratch),
            named=Named(label=model, title=model),
            identity=identity,
            ledger=ledger,
            overlap=None if trained is None else overlap(utterances, trained, manifest.stem),
            on_progress=progress,
        )


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
        prepared = RunFolder(run_dir).prepared
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
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    from shibolet.model.family import family_of
    from shibolet.model.protocols import Prompt
    from shibolet.train.data import read_examples

    number = sum(pq.read_metadata(shard).num_rows for shard in prepared.glob("train-*.parquet"))
    if (folder := _tokenizer_folder(recipe.models.base)) is None:
        why = f"the tokenizer of {recipe.models.base} is not on this machine, so lengths are assumed"
        return None, number, f"prepared in {prepared}; {why}"
    family = family_of(config)
    targets = family.targets(AutoTokenizer.from_pretrained(folder), Prompt(recipe.language))
    examples, _ = read_examples(prepared, "train", family, targets, family.max_tokens(config))
    return examples, len(examples), f"prepared in {prepared}, with their lengths"


def _tokenizer_folder(model: str) -> Path | None:
    """Where a model's tokenizer lies, without a network; None where it does not."""
    from huggingface_hub import try_to_load_from_cache

    from shibolet.model.folders import is_local, resolve

    cached = None if is_local(model) else try_to_load_from_cache(model, "config.json")
    folder = resolve(model) if is_local(model) else Path(cached).parent if isinstance(cached, str) else None
    enough = (("tokenizer.json",), ("vocab.json", "merges.txt"))
    if folder is None or not any(all((folder / name).is_file() for name in names) for names in enough):
        return None
    return folder
