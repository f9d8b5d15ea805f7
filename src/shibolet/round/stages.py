"""One function a stage: its inputs, whether they have changed, its arguments from the files of the stages before it."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from shibolet.errors import DataError
from shibolet.gate import GateConfig, run_gate
from shibolet.recipe import Recipe
from shibolet.records.files import hash_file, read_json, write_json
from shibolet.records.ledger import read_ledger, write_ledger
from shibolet.records.runfolder import RunFolder
from shibolet.round.shared import Round, SourceData, Track, best_device, stream_cache, untracked
from shibolet.speech.sources import DataSource

ROUND1, ROUND2 = "round1", "round2"  # folders under evaluate/


def do_audit(round: Round, *, prepared: bool = False) -> dict:
    """The content of `alignment_report.json`: of the training data, or of what prepare kept."""
    from shibolet.audit.stage import run_audit

    recipe, folder = round.recipe, round.folder
    data = round.prepared if prepared else round.data
    arguments = _listening(round, data, prepared)
    inputs = {
        "data": data.digest,
        "language": recipe.language,
        "audit": recipe.audit.model_dump(mode="json"),
        "gate": recipe.gate.model_dump(mode="json", exclude=DECIDED_AFTER),
        "listeners": [arguments["aligner"].identity, arguments["recogniser"].identity],
    }
    stage = round.begin("audit-prepared" if prepared else "audit", inputs)
    path = folder.alignment_report(prepared=prepared)
    if not stage.done:
        with round.track("audit") as progress:
            report = run_audit(data.utterances, data.ledger, out_dir=path.parent, on_progress=progress, **arguments)
        write_json(path, _decision(path.parent, recipe.gate) | report)
        stage.finish()
    return read_json(path)


DECIDED_AFTER = {"on_caution", "on_stop", "accept"}  # of the gate's settings: no part of its decision


def _listening(round: Round, data: SourceData, prepared: bool) -> dict:
    """Who listens, and where what they heard is kept: known by its place only, so other data have another folder."""
    audit = round.recipe.audit
    recogniser = (audit.second_gate_recogniser if prepared else None) or audit.recogniser
    return {
        "cache_dir": round.folder.audit() / "heard" / data.digest,
        "config": audit,
        "language": round.recipe.language,
        "aligner": round.aligner,
        "recogniser": round.recogniser(recogniser),
    }


def _decision(audit_dir: Path, config: GateConfig) -> dict:
    """What the report says of the gate when it is written; `gate.json` is the verdict in force."""
    with TemporaryDirectory() as scratch:
        verdict = run_gate(audit_dir, Path(scratch) / "gate.json", config)
    return {"decision": verdict["decision"], "recommendation": verdict["recommendation"]}


def do_hear_rest(round: Round) -> Path:
    """The table of verdicts on what the audit's sample left out; its calibration decides."""
    from shibolet.audit.stage import hear_rest

    path = round.folder.audited_rest
    inputs = {"audit": round.folder.digest("audit"), "data": round.data.digest}
    stage = round.begin("hear-rest", inputs)
    if not stage.done:
        with round.track("hear the rest") as progress:
            hear_rest(
                round.data.utterances,
                audit_dir=round.folder.audit(),
                out_path=path,
                on_progress=progress,
                **_listening(round, round.data, prepared=False),
            )
        stage.finish()
    return path


def do_gate(round: Round, *, prepared: bool = False) -> dict:
    """The content of `gate.json`: the verdict on the raw data, or on what prepare kept."""
    name = "gate-prepared" if prepared else "gate"
    inputs = {
        "audit": round.folder.digest("audit-prepared" if prepared else "audit"),
        "gate": round.recipe.gate.model_dump(mode="json"),
    }
    stage = round.begin(name, inputs)
    path = round.folder.gate(prepared=prepared)
    if not stage.done:
        run_gate(round.folder.audit(prepared=prepared), path, round.recipe.gate)
        stage.finish()
    return read_json(path)


def do_prepare(round: Round) -> dict:
    """The content of `prepared/summary.json`; hears first what the sample left out, where the recipe wants it heard.

    An instrument that is INVALID and accepted judges nothing: then only what cannot be decoded is dropped.
    """
    from shibolet.audit.stage import read_verdicts
    from shibolet.prepare.stage import LEDGER, SUMMARY, run_prepare

    recipe, folder = round.recipe, round.folder
    config = recipe.prepare
    folder.digest("gate")  # there must be one
    if read_json(folder.gate())["decision"] == "INVALID":
        config = config.model_copy(update={"drop_low_quality": False})
    tables = [folder.audited_utterances()]
    if config.unheard == "audit" and config.drop_low_quality:
        tables.append(do_hear_rest(round))
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
    from shibolet.train.stage import run_train

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
    if not stage.done:
        with round.track("train") as progress:
            run_train(
                prepared_dir=folder.prepared,
                out_dir=folder.train,
                base=recipe.models.base,
                config=recipe.train,
                language=recipe.language,
                seed=recipe.seed,
                score_dev=_dev_scorer(round),
                audit_summary=_audit_summary(folder),
                num_threads=recipe.num_threads,
                on_step=lambda row: progress(row["step"], read_json(folder.plan)["steps"]),
            )
        stage.finish()
    return read_json(folder.train / "result.json")


# What changes the time that a training takes, and when it is looked at, but not what it is
WITHOUT_EFFECT = {
    "pack_tokens", "feature_cache_gib", "num_workers", "encoder_cache", "eval_every_steps", "checkpoint_every_steps",
    "wandb_project", "price_per_gpu_hour_usd",
}  # fmt: skip


def _dev_scorer(round: Round) -> Callable | None:
    """WER and CER of a model in training on the dev split; each score is told by domain. None: no dev split."""
    import pyarrow.parquet as pq

    from shibolet.evaluate.stage import dev_scorer

    shards = sorted(round.folder.prepared.glob("dev-*.parquet"))
    if not shards:
        round.tell("train: there is no dev split, so the last weights are the result")
        return None
    rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    score = dev_scorer(rows, round.recipe.language, round.recipe.evaluate)

    def score_and_tell(loaded) -> dict[str, float]:
        scores = score(loaded.model, loaded.tokenizer, loaded.extractor)
        domains = ", ".join(f"{name} {_pct(part['wer']['rate'])}" for name, part in scores["by_domain"].items())
        round.tell(f"dev WER {_pct(scores['wer']['rate'])} ({domains})")
        return {measure: scores[measure]["rate"] for measure in ("wer", "cer")}

    return score_and_tell


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
        label: {source.name: _evaluate_set(round, label, model, source) for source in round.recipe.evaluate.sets}
        for label, model in models.items()
    }


def rounds_of(round: Round, round1: str | None = None, round2: str | None = None) -> dict[str, str]:
    """The models that a round compares: those given, else the recipe's Round 1 and what was trained here."""
    if round2 is None:
        round.folder.digest("train")  # there must be one
    return {ROUND1: round1 or round.recipe.models.round1, ROUND2: round2 or str(round.folder.final.absolute())}


def _evaluate_set(round: Round, label: str, model: str, source: DataSource) -> dict:
    from shibolet.evaluate.stage import evaluate_set

    recipe, folder, data = round.recipe, round.folder, round.read(source)
    inputs = {
        "model": round.identity(model),
        "data": data.digest,
        "language": recipe.language,
        "evaluate": recipe.evaluate.model_dump(mode="json", exclude={"sets"}),
    }
    stage = round.begin(f"evaluate/{label}/{source.name}", inputs)
    if not stage.done:
        with round.track(f"{label} on {source.name}") as progress:
            evaluate_set(
                round.transcriber(model),
                data.utterances,
                set_name=source.name,
                language=recipe.language,
                config=recipe.evaluate,
                out_dir=folder.evaluation(label, source.name),
                model_name=label,
                identity=inputs["model"],
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
    sets = [source.name for source in recipe.evaluate.sets]
    if not sets:
        raise DataError("there is nothing to compare on: the recipe names no evaluate.sets")
    inputs = {
        "scores": [folder.digest(f"evaluate/{label}/{name}") for label in (ROUND1, ROUND2) for name in sets],
        "compare": recipe.compare.model_dump(mode="json"),
        "buckets": recipe.evaluate.model_dump(mode="json")["buckets_s"],
    }
    stage = round.begin("compare", inputs)
    if not stage.done:
        rows = [
            [row for name in sets for row in read_rows(folder.evaluation(label, name))] for label in (ROUND1, ROUND2)
        ]
        write_json(folder.compare, compare(*rows, recipe.compare, recipe.evaluate.buckets_s))
        stage.finish()
    return read_json(folder.compare)


def do_report(round: Round) -> Path:
    """The page of the round as far as it has come."""
    from shibolet.report.page import write_report

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


def _pct(rate: float | None) -> str:
    return "n/a" if rate is None else f"{100 * rate:.1f}%"
