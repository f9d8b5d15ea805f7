"""One function a stage: its inputs, whether they have changed, its arguments from the files of the stages before it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from shibolet.errors import DataError, RecipeError
from shibolet.gate import GateConfig, run_gate
from shibolet.recipe import Recipe
from shibolet.records.files import hash_file, read_json, write_json
from shibolet.records.ledger import read_ledger, write_ledger
from shibolet.records.runfolder import RunFolder
from shibolet.round.shared import Round, SourceData, Track, best_device, stream_cache, untracked
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language

if TYPE_CHECKING:
    from shibolet.audit.config import AuditConfig
    from shibolet.audit.hearing import Listener

ROUND1, ROUND2 = "round1", "round2"  # folders under evaluate/


def do_audit(round: Round, *, prepared: bool = False, merge: bool = False, review: Path | None = None) -> dict:
    """The content of `alignment_report.json`: of the training data, or of what prepare kept.

    With `merge` the shards of a job array have heard it all, or it is an error. `review` is what a person saved from
    the audit's page of the training data; the folder keeps it for later audits.
    """
    from shibolet.audit.review import keep_review
    from shibolet.audit.stage import run_audit

    recipe, folder = round.recipe, round.folder
    data = round.prepared if prepared else round.data
    if review is not None:
        keep_review(review, folder.review, {u.id: u.text for u in data.utterances})
    is_reviewed = not prepared and folder.review.is_file()
    listener = _listener(round, prepared)
    config = recipe.audit if prepared else _extended(recipe.audit, folder, data)
    inputs = {
        "data": data.digest,
        "language": recipe.language,
        "audit": config.model_dump(mode="json", exclude={"num_workers", "decode_timeout_s"}),
        "calibration": hash_file(config.calibration) if config.calibration else None,
        "gate": recipe.gate.model_dump(mode="json", exclude=DECIDED_AFTER),
        "listeners": list(listener.identities),
    }
    if is_reviewed:
        inputs["review"] = hash_file(folder.review)
    stage = round.begin("audit-prepared" if prepared else "audit", inputs)
    path = folder.alignment_report(prepared=prepared)
    if not stage.done:
        with round.track("audit") as progress:
            report = run_audit(
                data.utterances,
                data.ledger,
                out_dir=path.parent,
                listener=listener,
                config=config,
                language=recipe.language,
                on_progress=progress,
                merge=merge,
            )
        if not prepared:
            report["num_looks"] = 1 + len(_extensions(folder, data))
            report |= _reviewed(folder, report["strata"], recipe)
        write_json(path, report)
        write_json(path, _decision(path.parent, recipe.gate) | report)
        stage.finish()
    return read_json(path)


def do_audit_shard(round: Round, shard: tuple[int, int]) -> None:
    """Hear the i-th of n parts of the training data's audit, counted from 0; only `audit/heard/` is written."""
    from shibolet.audit.stage import hear_shard

    config = _extended(round.recipe.audit, round.folder, round.data)
    with round.track(f"audit, shard {shard[0] + 1} of {shard[1]}") as progress:
        hear_shard(
            round.data.utterances,
            shard,
            listener=_listener(round),
            config=config,
            language=round.recipe.language,
            on_progress=progress,
        )


def _reviewed(folder: RunFolder, strata: dict, recipe: Recipe) -> dict:
    """What a person's verdicts say of the audit's; `detector` is there when they suffice for the gate to use them."""
    import pyarrow.parquet as pq

    from shibolet.audit.review import COLUMNS, read_review, review

    rows = pq.read_table(folder.audited_utterances(), columns=list(COLUMNS)).to_pylist()
    answers = read_review(folder.review) if folder.review.is_file() else {}
    reviewed = review(rows, strata, answers, recipe.audit.sample.seed, recipe.gate.confidence_level)
    rates = [reviewed["sensitivity"], reviewed["specificity"]]
    if None in rates or sum(rates) <= 1:
        return {"review": reviewed}
    measured_on = f"a person's review of {reviewed['num_counted']} utterances drawn at random"
    return {"review": reviewed, "detector": dict(sensitivity=rates[0], specificity=rates[1], measured_on=measured_on)}


def extend_audit(round: Round) -> int:
    """Ask for as many more utterances as would settle the gate's CAUTION; how many the next audit hears."""
    gate = do_gate(round)
    if not gate["more_clips_needed"]:
        raise DataError(f"--extend: the gate says {gate['decision']}, and hearing more would settle nothing")
    heard = gate["low_quality_pct"]["num_heard"] - len(round.data.ledger)
    wanted = heard + gate["more_clips_needed"]
    sizes = [*_extensions(round.folder, round.data), wanted]
    write_json(round.folder.audit_extension, {"data": round.data.digest, "sizes": sizes})
    return wanted


def _extensions(folder: RunFolder, data: SourceData) -> list[int]:
    """Sizes that `--extend` has asked for on these data, one after the other."""
    path = folder.audit_extension
    asked = read_json(path) if path.exists() else {"data": None}
    return asked["sizes"] if asked["data"] == data.digest else []


def _extended(config: "AuditConfig", folder: RunFolder, data: SourceData) -> "AuditConfig":
    """The audit's settings with the sample that `--extend` has asked for; the larger sample contains the smaller."""
    sizes = _extensions(folder, data)
    if not sizes:
        return config
    size = sizes[-1]
    limit = config.sample.max_utterances and max(config.sample.max_utterances, size)
    sample = config.sample.model_copy(update={"min_utterances": size, "max_utterances": limit})
    return config.model_copy(update={"sample": sample})


DECIDED_AFTER = {"on_caution", "on_stop", "accept"}  # of the gate's settings: no part of its decision


def _listener(round: Round, prepared: bool = False) -> "Listener":
    """Who listens, and where what they heard is kept, known by its content."""
    from shibolet.audit.hearing import Listener
    from shibolet.speech.audio import load

    audit = round.recipe.audit
    name = (audit.second_gate_recogniser if prepared else None) or audit.recogniser
    return Listener(round.aligner, round.recogniser(name), round.folder.audit() / "heard", load, audit)


def _decision(audit_dir: Path, config: GateConfig) -> dict:
    """What the report says of the gate when it is written; `gate.json` is the verdict in force."""
    with TemporaryDirectory() as scratch:
        verdict = run_gate(audit_dir, Path(scratch) / "gate.json", config)
    return {"decision": verdict["decision"], "recommendation": verdict["recommendation"]}


def do_hear_rest(round: Round) -> Path:
    """The table of verdicts on what the audit's sample left out; its calibration decides."""
    from shibolet.audit.stage import hear_rest

    path = round.folder.audited_rest
    round.folder.digest("audit")  # there must be one; a person's review of it changes nothing here
    read = (round.folder.audit() / "calibration.json", round.folder.audited_utterances())
    inputs = {"audit": [hash_file(path) for path in read], "data": round.data.digest}
    stage = round.begin("hear-rest", inputs)
    if not stage.done:
        with round.track("hear the rest") as progress:
            hear_rest(
                round.data.utterances,
                audit_dir=round.folder.audit(),
                out_path=path,
                listener=_listener(round),
                config=round.recipe.audit,
                language=round.recipe.language,
                on_progress=progress,
            )
        stage.finish()
    return path


def _named(path: Path) -> DataSource:
    """A manifest of the command line as a source; many are called manifest.jsonl, so its folder is in the name."""
    return DataSource(name=f"{path.absolute().parent.name}/{path.stem}", manifest=path)


def do_calibrate(round: Round, clean: Sequence[Path], foreign: Sequence[Path]) -> dict:
    """The content of `calibration.json`: what the recipe's listeners detect, measured on clean clips that are damaged.

    `clean` are manifests of clips whose text is known to be right, `foreign` of recordings in another language.
    """
    from shibolet.audit.calibrate import run_calibrate

    data, others = (round.join([_named(path) for path in paths]) for paths in (clean, foreign))
    recipe, listener = round.recipe, _listener(round)
    inputs = {
        "data": [data.digest, others.digest],
        "language": recipe.language,
        "calibrate": recipe.calibrate.model_dump(mode="json"),
        "audit": recipe.audit.model_dump(mode="json", exclude={"calibration", "sample"}),
        "listeners": list(listener.identities),
    }
    stage = round.begin("calibrate", inputs)
    if not stage.done:
        with round.track("calibrate") as progress:
            run_calibrate(
                data.utterances,
                others.utterances,
                out_path=round.folder.calibration,
                name=", ".join(_named(path).name for path in clean),
                listener=listener,
                config=recipe.calibrate,
                audit=recipe.audit,
                language=recipe.language,
                on_progress=progress,
            )
        stage.finish()
    return read_json(round.folder.calibration)


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
    from shibolet.audit.table import read_verdicts
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


# What changes the time that a training takes, and when it is looked at, but not what it is
WITHOUT_EFFECT = {
    "pack_tokens", "feature_cache_gib", "num_workers", "encoder_cache", "eval_every_steps", "checkpoint_every_steps",
    "wandb_project", "wandb_artifacts", "price_per_gpu_hour_usd", "guards", "on_out_of_memory",
}  # fmt: skip


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

    do_audit_page(round)
    with round.track("report"):
        write_report(round.folder.path)
    return round.folder.report


def do_audit_page(round: Round) -> Path:
    """The audit's own page, to listen and to judge."""
    from shibolet.report.audit_page import write_audit_page

    with round.track("page of the audit"):
        write_audit_page(round.folder.path)
    return round.folder.audit_page


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
