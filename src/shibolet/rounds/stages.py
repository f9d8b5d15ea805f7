"""One function a stage: its inputs, whether they have changed, its arguments from the files of the stages before it."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from shibolet.errors import RecipeError
from shibolet.recipe import Recipe
from shibolet.records.files import hash_file, read_json, write_json
from shibolet.records.runfolder import COMPARE_FORMAT, RunFolder
from shibolet.records.utterance import Utterance
from shibolet.rounds import auditing
from shibolet.rounds.shared import MANIFEST, Round, Track, best_device, prepared_of, stream_cache, untracked
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language

ROUND1, ROUND2 = "round1", "round2"  # folders under evaluate/


def do_prepare(current: Round) -> dict:
    """The content of `prepared/summary.json`; hears first what the sample left out, where the recipe wants it heard.

    An instrument that is INVALID and accepted judges nothing: then only what cannot be decoded is dropped.
    """
    from shibolet.audit.review import read_review
    from shibolet.prepare.stage import SUMMARY, run_prepare
    from shibolet.prepare.verdicts import AuditedRows

    recipe, folder = current.recipe, current.folder
    config = recipe.prepare
    folder.digest("gate")  # there must be one
    if read_json(folder.gate())["decision"] == "INVALID":
        config = config.model_copy(update={"drop_low_quality": False})
    tables = [folder.audited_utterances()]
    if config.unheard == "audit" and config.drop_low_quality:
        tables.append(auditing.do_hear_rest(current))
    inputs = {
        "data": current.data.digest,
        "verdicts": [hash_file(table) for table in tables],
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
                AuditedRows(tables, answers),
                config=config,
                language=recipe.language,
                seed=recipe.seed,
                out_dir=folder.prepared,
                unread=current.data.ledger,
                on_progress=progress,
            )
        stage.finish()
    return read_json(folder.prepared / SUMMARY)


def do_train(current: Round) -> dict:
    """The content of `train/result.json`; trains, or goes on training, on what prepare kept."""
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
        return read_json(folder.train / "result.json")
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
    return read_json(folder.train / "result.json")


def after_training(current: Round) -> list[str]:
    """Stages that speak of the trained model."""
    return [*current.folder.evaluated(ROUND2), "compare", *_systems_with(current, ROUND2), "publish"]


def _systems_with(current: Round, label: str) -> list[str]:
    """The comparison of systems, where it has this one."""
    folder = current.folder
    return ["systems"] if folder.finished("systems") and label in folder.inputs("systems")["systems"] else []


def _retire_of_others(current: Round) -> None:
    """Put scores and verdict aside where the model that they speak of is not the one that is there."""
    folder = current.folder
    if not (scored := folder.evaluated(ROUND2)):
        return
    model = current.identity(str(folder.final.absolute())) if folder.final.is_dir() else None
    if any(folder.inputs(name).get("model") != model for name in scored):
        current.retire(*after_training(current), why="it is of another training")


def _audit_summary(folder: RunFolder) -> dict:
    """What trackers show of the audit."""
    if not folder.gate().exists():
        return {}
    gate, report = read_json(folder.gate()), read_json(folder.alignment_report())
    kept = {
        name: report[name]
        for name in ("low_quality_percentage", "low_quality_count", "total_samples")
        if name in report
    }
    return {"decision": gate["decision"], "low_quality_pct": gate["low_quality_pct"]["rate"], **kept}


def do_evaluate(current: Round, models: dict[str, str]) -> dict[str, dict[str, dict]]:
    """Scores by model and set; `models` are folders under evaluate/ with the model of each."""
    if not current.sets:
        raise RecipeError("there is nothing to evaluate on: name one or more evaluate.sets")
    return {
        label: {source.name: _evaluate_set(current, label, model, source) for source in current.sets}
        for label, model in models.items()
    }


def rounds_of(current: Round, round1: str | None = None, round2: str | None = None) -> dict[str, str]:
    """The models that a round compares: those given, else the recipe's Round 1 and what was trained here."""
    if round2 is None:
        current.folder.digest("train")  # there must be one
    return {ROUND1: round1 or current.recipe.models.baseline, ROUND2: round2 or str(current.folder.final.absolute())}


def _evaluate_set(current: Round, label: str, model: str, source: DataSource) -> dict:
    from shibolet.evaluate.stage import evaluate_set

    language, prepared = language_of(current, source), prepared_of(model)
    made_by = {"model": current.identity(model)}
    if prepared is not None:
        made_by["trained_on"] = hash_file(prepared / MANIFEST)

    def score(data: Sequence[Utterance], **settings) -> dict:
        overlap = None if prepared is None else current.overlap(source, prepared)
        engine = current.transcriber(model, label, language)
        if current.server(label):
            settings["identity"] = engine.identity  # that a server has this model is the recipe's word
        return evaluate_set(engine, data, overlap=overlap, **settings)

    return score_set(current, label, source, made_by, score)


def language_of(current: Round, source: DataSource) -> str:
    """What a set is scored in."""
    return source.language or current.recipe.language


def score_set(current: Round, label: str, source: DataSource, made_by: dict[str, str], score: Callable) -> dict:
    """The scores of one system on one set; `made_by` are the inputs that tell systems apart, first what it is."""
    from shibolet.evaluate.stage import FORMAT, NOT_OF_A_SET

    recipe, folder, data = current.recipe, current.folder, current.read(source)
    inputs = {
        "format": FORMAT,
        **made_by,
        "data": data.digest,
        "language": language_of(current, source),
        "evaluate": recipe.evaluate.model_dump(mode="json", exclude=NOT_OF_A_SET),
    }
    stage = current.begin(f"evaluate/{label}/{source.name}", inputs)
    if not stage.done:
        current.retire(*_systems_with(current, label), why=f"{label} is scored anew")
        with current.track(f"{label} on {source.name}") as progress:
            score(
                data.utterances,
                set_name=source.name,
                language=inputs["language"],
                config=recipe.evaluate,
                out_dir=folder.evaluation(label, source.name),
                model_name=label,
                identity=next(iter(made_by.values())),
                ledger=data.ledger,
                on_progress=progress,
            )
        stage.finish()
    return read_json(folder.scores(label, source.name))


def do_compare(current: Round) -> dict:
    """The content of `compare.json`: Round 1 against Round 2 on the recipe's sets."""
    from shibolet.compare import compare
    from shibolet.evaluate.stage import read_overlap, read_rows

    recipe, folder = current.recipe, current.folder
    sets = [source.name for source in current.sets]
    if not _by_language(current)[0]:
        raise RecipeError(f"there is nothing to compare on: name one or more evaluate.sets in {recipe.language}")
    scores = [folder.digest(f"evaluate/{label}/{name}") for label in (ROUND1, ROUND2) for name in sets]
    stage = current.begin("compare", {"scores": scores, **compared_with(current)})
    if not stage.done:
        own, other = (
            [[row for name in some for row in read_rows(folder.evaluation(label, name))] for label in (ROUND1, ROUND2)]
            for some in _by_language(current)
        )
        overlaps = {name: read_overlap(folder.evaluation(ROUND2, name)) for name in sets}
        known = {name: overlap for name, overlap in overlaps.items() if overlap is not None}
        write_json(folder.compare, compare(*own, recipe.compare, recipe.evaluate.buckets_s, other, known))
        stage.finish()
    return read_json(folder.compare)


def compared_with(current: Round) -> dict:
    """What a comparison is made with, beside the scores."""
    return {
        "format": COMPARE_FORMAT,
        "compare": current.recipe.compare.model_dump(mode="json"),
        "buckets": current.recipe.evaluate.model_dump(mode="json")["buckets_s"],
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
) -> dict:
    """The scores of one model on one manifest; both files go to `out_dir`, or nowhere."""
    from shibolet.evaluate.config import EvaluateConfig
    from shibolet.evaluate.overlap import overlap, read_trained_on
    from shibolet.evaluate.stage import evaluate_set
    from shibolet.listen.transcribe import Transcriber
    from shibolet.model.folders import dtype_on
    from shibolet.model.qwen3_asr.load import load_recogniser
    from shibolet.speech.read import read_source

    config, device = EvaluateConfig(), best_device()
    with track("read") as progress:
        utterances, ledger = read_source(DataSource(name=manifest.stem, manifest=manifest), stream_cache(), progress)
    trained = None if (prepared := prepared_of(model)) is None else read_trained_on(prepared)
    loaded = load_recogniser(model, dtype=dtype_on(device), device=device)
    with TemporaryDirectory() as scratch, track("transcribe") as progress:
        return evaluate_set(
            Transcriber(loaded, language, batch_utterances=config.batch_utterances),
            utterances,
            set_name=manifest.stem,
            language=language,
            config=config,
            out_dir=out_dir or Path(scratch),
            model_name=model,
            identity=loaded.identity,
            ledger=ledger,
            overlap=None if trained is None else overlap(utterances, trained, manifest.stem),
            on_progress=progress,
        )


def make_plan(
    recipe: Recipe, run_dir: Path, num_utterances: int | None, world_size: int, gpu: str = "A100",
    gpu_memory_gib: float | None = None,
) -> dict:  # fmt: skip
    """The training plan, from the configuration and no weights, of what the run folder has prepared.

    Before that, and where its lengths in tokens cannot be known or a number is given, lengths are assumed;
    "training_set_from" says which.
    """
    from shibolet.model.qwen3_asr.offline import offline_config, standard_config
    from shibolet.train.plan import SPECIFIED_UTTERANCES, make_plan, meta_model

    config, model_from = (
        offline_config(recipe.models.base)
        if recipe.models.base
        else (standard_config(), "no model is named yet: sizes are those of Qwen3-ASR-1.7B")
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
            examples, num_utterances, training_set_from = _prepared_examples(
                recipe, prepared, config.text_config.max_position_embeddings
            )
    plan = make_plan(
        recipe.train, meta_model(config, recipe.train), examples, num_utterances=num_utterances,
        world_size=world_size, gpu=gpu, gpu_memory_gib=gpu_memory_gib,
    )  # fmt: skip
    return {
        **plan, "training_set_from": training_set_from, "model_from": model_from,
        "price_per_gpu_hour_usd": recipe.train.price_per_gpu_hour_usd,
    }  # fmt: skip


def _rows_of_manifests(recipe: Recipe) -> int | None:
    """Rows of the training data before the audit; None where they are not all manifests that are here."""
    from shibolet.speech.manifests import count_rows

    sources = recipe.data.train
    if any(source.manifest is None or not source.manifest.exists() for source in sources):
        return None
    return sum(min(count_rows(source), source.max_utterances or math.inf) for source in sources)


def _prepared_examples(recipe: Recipe, prepared: Path, max_tokens: int) -> tuple[list | None, int, str]:
    """Prepared utterances with their lengths, or None; their number; where it is from, and why there are no lengths."""
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt
    from shibolet.train.data import read_examples

    number = sum(pq.read_metadata(shard).num_rows for shard in prepared.glob("train-*.parquet"))
    if (folder := _tokenizer_folder(recipe.models.base)) is None:
        why = f"the tokenizer of {recipe.models.base} is not on this machine, so lengths are assumed"
        return None, number, f"prepared in {prepared}; {why}"
    prompt = TranscriptionPrompt(AutoTokenizer.from_pretrained(folder), recipe.language)
    examples, _ = read_examples(prepared, "train", prompt, max_tokens)
    return examples, len(examples), f"prepared in {prepared}, with their lengths"


def _tokenizer_folder(model: str) -> Path | None:
    """Where a model's tokenizer lies, without a network; None where it does not."""
    from huggingface_hub import try_to_load_from_cache

    from shibolet.model.folders import resolve
    from shibolet.model.qwen3_asr.offline import is_local

    cached = None if is_local(model) else try_to_load_from_cache(model, "config.json")
    folder = resolve(model) if is_local(model) else Path(cached).parent if isinstance(cached, str) else None
    enough = (("tokenizer.json",), ("vocab.json", "merges.txt"))
    if folder is None or not any(all((folder / name).is_file() for name in names) for names in enough):
        return None
    return folder
