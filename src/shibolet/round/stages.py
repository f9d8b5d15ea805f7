"""One function a stage: its inputs, whether they have changed, its arguments from the files of the stages before it."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from shibolet.errors import DataError, RecipeError
from shibolet.recipe import Recipe
from shibolet.records.files import hash_file, read_json, write_json
from shibolet.records.ledger import read_ledger, write_ledger
from shibolet.records.runfolder import RunFolder
from shibolet.round import auditing
from shibolet.round.shared import Round, Track, best_device, stream_cache, untracked
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language
from shibolet.train.config import WITHOUT_EFFECT

ROUND1, ROUND2 = "round1", "round2"  # folders under evaluate/


def do_prepare(round: Round) -> dict:
    """The content of `prepared/summary.json`; hears first what the sample left out, where the recipe wants it heard.

    An instrument that is INVALID and accepted judges nothing: then only what cannot be decoded is dropped.
    """
    from shibolet.audit.table import read_verdicts
    from shibolet.prepare.stage import LEDGER, SUMMARY, run_prepare

    recipe, folder = round.recipe, round.folder
    config = recipe.prepare
    folder.digest("gate")  # there must be one
    if read_json(folder.gate())["decision"] == "INVALID":
        config = config.model_copy(update={"drop_low_quality": False})
    tables = [folder.audited_utterances()]
    if config.unheard == "audit" and config.drop_low_quality:
        tables.append(auditing.do_hear_rest(round))
    inputs = {
        "data": round.data.digest,
        "verdicts": [hash_file(table) for table in tables],
        "prepare": config.model_dump(mode="json"),
        "language": recipe.language,
        "seed": recipe.seed,
    }
    stage = round.begin("prepare", inputs)
    if not stage.done:
        with round.track("prepare") as progress:
            run_prepare(
                round.data.utterances,
                read_verdicts(tables),
                config=config,
                language=recipe.language,
                seed=recipe.seed,
                out_dir=folder.prepared,
                on_progress=progress,
            )
        # Rows that never became utterances left too, before any of the others.
        write_ledger(folder.prepared / LEDGER, [*round.data.ledger, *read_ledger(folder.prepared / LEDGER)])
        stage.finish()
    return read_json(folder.prepared / SUMMARY)


def do_train(round: Round) -> dict:
    """The content of `train/result.json`; trains, or goes on training, on what prepare kept."""
    from shibolet.round.rank import TrainJob, as_rank, carry_out, lead, under_torchrun
    from shibolet.train.launch import launch

    recipe, folder = round.recipe, round.folder
    settings = recipe.train.model_dump(mode="json")
    inputs = {
        "base": round.identity(recipe.models.base),
        "prepared": folder.digest("prepare"),
        "train": {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT},
        "language": recipe.language,
        "seed": recipe.seed,
    }
    stage = round.begin("train", inputs)
    if stage.done and round.only_through is None:
        if under_torchrun():
            lead(None, round.tell)
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
        only_through=round.only_through,
    )
    num_devices = round.make_way()
    if num_devices and round.gpus > num_devices:
        raise RecipeError(f"--gpus {round.gpus}: there are {num_devices} GPUs here")
    with round.track("train") as progress:

        def send(message: str | tuple[int, int]) -> None:
            round.tell(message) if isinstance(message, str) else progress(*message)

        if under_torchrun():
            lead(job, send)
        elif round.gpus > 1:
            launch(as_rank, job, num_ranks=round.gpus, on_cpu=not num_devices, on_message=send)
        else:
            carry_out(job, send)
    stage.finish()
    return read_json(folder.train / "result.json")


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


def do_evaluate(round: Round, models: dict[str, str]) -> dict[str, dict[str, dict]]:
    """Scores by model and set; `models` are folders under evaluate/ with the model of each."""
    return {
        label: {source.name: _evaluate_set(round, label, model, source) for source in round.sets}
        for label, model in models.items()
    }


def rounds_of(round: Round, round1: str | None = None, round2: str | None = None) -> dict[str, str]:
    """The models that a round compares: those given, else the recipe's Round 1 and what was trained here."""
    if round2 is None:
        round.folder.digest("train")  # there must be one
    return {ROUND1: round1 or round.recipe.models.round1, ROUND2: round2 or str(round.folder.final.absolute())}


def _evaluate_set(round: Round, label: str, model: str, source: DataSource) -> dict:
    from shibolet.evaluate.stage import evaluate_set

    language = language_of(round, source)
    return score_set(
        round, label, source, {"model": round.identity(model)},
        lambda data, **settings: evaluate_set(round.transcriber(model, label, language), data, **settings),
    )  # fmt: skip


def language_of(round: Round, source: DataSource) -> str:
    """What a set is scored in."""
    return source.language or round.recipe.language


def score_set(round: Round, label: str, source: DataSource, made_by: dict[str, str], score: Callable) -> dict:
    """The scores of one system on one set; `made_by` is the one input that tells systems apart, and its hash."""
    from shibolet.evaluate.stage import FORMAT, NOT_OF_A_SET

    recipe, folder, data = round.recipe, round.folder, round.read(source)
    inputs = {
        "format": FORMAT,
        **made_by,
        "data": data.digest,
        "language": language_of(round, source),
        "evaluate": recipe.evaluate.model_dump(mode="json", exclude=NOT_OF_A_SET),
    }
    stage = round.begin(f"evaluate/{label}/{source.name}", inputs)
    if not stage.done:
        with round.track(f"{label} on {source.name}") as progress:
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


def do_compare(round: Round) -> dict:
    """The content of `compare.json`: Round 1 against Round 2 on the recipe's sets."""
    from shibolet.compare import compare
    from shibolet.evaluate.stage import read_rows

    recipe, folder = round.recipe, round.folder
    sets = [source.name for source in round.sets]
    if not _by_language(round)[0]:
        raise DataError(f"there is nothing to compare on: the recipe names no evaluate.sets in {recipe.language}")
    inputs = {
        "format": COMPARE_FORMAT,
        "scores": [folder.digest(f"evaluate/{label}/{name}") for label in (ROUND1, ROUND2) for name in sets],
        "compare": recipe.compare.model_dump(mode="json"),
        "buckets": recipe.evaluate.model_dump(mode="json")["buckets_s"],
    }
    stage = round.begin("compare", inputs)
    if not stage.done:
        own, other = (
            [[row for name in some for row in read_rows(folder.evaluation(label, name))] for label in (ROUND1, ROUND2)]
            for some in _by_language(round)
        )
        write_json(folder.compare, compare(*own, recipe.compare, recipe.evaluate.buckets_s, other))
        stage.finish()
    return read_json(folder.compare)


COMPARE_FORMAT = 2  # of compare.json


def _by_language(round: Round) -> tuple[list[str], list[str]]:
    """Names of the evaluation sets in the recipe's language, and of those in others."""
    own = get_language(round.recipe.language)
    names: tuple[list[str], list[str]] = [], []
    for source in round.sets:
        names[get_language(language_of(round, source)) is not own].append(source.name)
    return names


def do_report(round: Round) -> Path:
    """The page of the round as far as it has come, and that of its audit."""
    from shibolet.report.page import write_report

    auditing.do_audit_page(round)
    with round.track("report"):
        write_report(round.folder.path)
    return round.folder.report


def evaluate_manifest(
    model: str, manifest: Path, language: str, out_dir: Path | None, track: Track = untracked
) -> dict:
    """The scores of one model on one manifest; both files go to `out_dir`, or nowhere."""
    from shibolet.evaluate.config import EvaluateConfig
    from shibolet.evaluate.stage import evaluate_set
    from shibolet.listen.transcribe import Transcriber
    from shibolet.model.load import dtype_on, load_recogniser
    from shibolet.speech.sources import read_source

    config, device = EvaluateConfig(), best_device()
    with track("read") as progress:
        utterances, ledger = read_source(DataSource(name=manifest.stem, manifest=manifest), stream_cache(), progress)
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
            on_progress=progress,
        )


def make_plan(
    recipe: Recipe, run_dir: Path, num_utterances: int | None, world_size: int, gpu: str = "A100",
    gpu_memory_gib: float | None = None,
) -> dict:  # fmt: skip
    """The training plan, from the configuration alone; the training set's size from prepared data, or as given."""
    from shibolet.model.offline import offline_config
    from shibolet.train.plan import make_plan, meta_model

    if num_utterances is None and (shards := sorted(RunFolder(run_dir).prepared.glob("train-*.parquet"))):
        import pyarrow.parquet as pq

        num_utterances = sum(pq.read_metadata(shard).num_rows for shard in shards)
    config, model_from = offline_config(recipe.models.base)
    plan = make_plan(
        recipe.train, meta_model(config, recipe.train), None, num_utterances=num_utterances, world_size=world_size,
        gpu=gpu, gpu_memory_gib=gpu_memory_gib,
    )  # fmt: skip
    return {**plan, "model_from": model_from, "price_per_gpu_hour_usd": recipe.train.price_per_gpu_hour_usd}
