"""Auditing in a round: hearing, the gate, and what people ask of them: more clips, a review, a calibration, shards."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shibolet.errors import DataError
from shibolet.gate.config import GateConfig
from shibolet.gate.lines import level_of_look
from shibolet.gate.stage import gate, records_of, run_gate
from shibolet.records.ahead import before_end
from shibolet.records.documents.alignment import AlignmentReport
from shibolet.records.documents.calibration import Calibration, CalibrationFile
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.provenance import Extension
from shibolet.records.documents.timings import Work
from shibolet.records.files import hash_file
from shibolet.records.runfolder import RunFolder, Stage
from shibolet.rounds.lineage import take_over_evidence
from shibolet.rounds.reviewing.settling import settle_answers, take_in
from shibolet.rounds.shared import Round, SourceData
from shibolet.speech.sources import DataSource, manifest_at

if TYPE_CHECKING:
    from shibolet.audit.config import AuditConfig
    from shibolet.audit.hearing import Listener


def do_audit(
    current: Round, *, prepared: bool = False, merge: bool = False, review: Path | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> AlignmentReport:  # fmt: skip
    """The audit's report: on the training data, or on what prepare kept.

    With `merge` the shards of a job array have heard it all, or it is an error. `review` is what a person saved from
    the audit's page of the training data; the folder keeps it for later audits. `meanwhile` is called once,
    shortly before all is heard: what it starts is ready for the next stages.
    """
    from shibolet.audit.stage import run_audit

    recipe, folder = current.recipe, current.folder
    settle_answers(folder)
    _require_error_rates(current, prepared, review)
    folder.intact("review")
    if not merge:
        _hear_ahead(current, prepared)
    data = current.prepared if prepared else current.data
    if review is not None:
        current.tell(take_in(folder, review, {u.id: u.text for u in data.utterances}))
    if not prepared:  # the audit of the raw data came before
        take_over_evidence(folder, current.tell)
    listener = listener_of(current, prepared)
    config = recipe.audit if prepared else _extended(recipe.audit, folder, data)
    same_model = _same_model(current, prepared)
    inputs = {
        "format": [AlignmentReport.FORMAT, Calibration.FORMAT],
        "data": data.digest,
        "language": recipe.language,
        "audit": config.model_dump(mode="json", exclude={"num_workers", "decode_timeout_s"}),
        "calibration": hash_file(config.calibration) if config.calibration else None,
        "gate": recipe.gate.limits.model_dump(mode="json"),
        "listeners": list(listener.identities),
        **({"same_model": same_model} if same_model else {}),
        **({"review": hash_file(folder.review)} if not prepared and folder.review.is_file() else {}),
    }
    path = folder.alignment_report(prepared=prepared)
    name = "audit-prepared" if prepared else "audit"
    reads = ("prepare",) if prepared else ()
    stage = begin_hearing(current, name, inputs, lambda: AlignmentReport.read(path).num_lost, reads)
    if not stage.done:
        with current.track("audit") as progress:
            report = run_audit(
                data.utterances, data.ledger, out_dir=path.parent, listener=listener, config=config,
                language=recipe.language, on_progress=before_end(progress, meanwhile), merge=merge,
            )  # fmt: skip
        report = report.model_copy(
            update={"num_lost": tell_lost(current, listener), "notes": (*report.notes, *same_model)}
        )
        if not prepared:
            report = _reviewed(report, current, data)
        _decided(report, folder.audited_utterances(prepared=prepared), _gate_config(current, prepared)).write(path)
        current.finish(stage, Work(clips=listener.num_clips, heard=listener.num_heard))
    return AlignmentReport.read(path)


def _require_error_rates(current: Round, prepared: bool, review: Path | None) -> None:
    """DataError where a corrected rate shall decide and nothing can tell it, or a calibration file is not there."""
    calibration, folder = current.recipe.audit.calibration, current.folder
    is_known = calibration or review or folder.review.is_file()
    if _gate_config(current, prepared).rate == "corrected" and not is_known:
        raise DataError(
            "gate.rate: corrected needs error rates of the detector: give audit.calibration, or audit with gate.rate: "
            "apparent first, answer the random draw of audit.html and come back with --review FILE"
        )
    if calibration and not calibration.is_file():
        raise DataError(f"audit.calibration: there is no file {calibration}; 'shibolet calibrate' makes one")
    if calibration and RunFolder(calibration.parent).calibration == calibration:
        RunFolder(calibration.parent).intact("calibrate")


def begin_hearing(
    current: Round, name: str, inputs: dict, num_lost: Callable[[], int], reads: Sequence[str] = ()
) -> Stage:
    """The stage; one that is done and gave up `num_lost` clips, as no fault of theirs, is open again for these."""
    stage = current.folder.stage(name, inputs, reads)
    if stage.done and (lost := num_lost()):
        note = f"{name}: done before, but clips could not be decoded ({lost:,}); these are heard again"
        stage = replace(stage, state="interrupted", note=note)
    return current.begun(stage)


def tell_lost(current: Round, listener: "Listener") -> int:
    """How many clips a listener gave up; told where there are any."""
    from shibolet.audit.hearing import lost_sentence

    if listener.num_lost:
        current.warn(lost_sentence(listener.num_lost))
    return listener.num_lost


def do_audit_shard(current: Round, shard: tuple[int, int]) -> None:
    """Hear the i-th of n parts of the training data's audit, counted from 0; only `audit/heard/` is written."""
    from shibolet.audit.stage import hear_shard

    _hear_ahead(current)
    take_over_evidence(current.folder, current.tell)
    config, listener = _extended(current.recipe.audit, current.folder, current.data), listener_of(current)
    with current.track(f"audit, shard {shard[0] + 1} of {shard[1]}") as progress:
        hear_shard(
            current.data.utterances,
            shard,
            listener=listener,
            config=config,
            language=current.recipe.language,
            on_progress=progress,
        )
    tell_lost(current, listener)


def do_export(current: Round, out_dir: Path) -> str:
    """Write the copies that the self-test of a file of hypotheses needs; a sentence about them."""
    from shibolet.audit.export import MANIFEST, export_copies
    from shibolet.listen.open import HYPOTHESES

    recipe = current.recipe
    config = _extended(recipe.audit, current.folder, current.data)
    with current.track("export copies", "copies") as progress:
        num, hours = export_copies(
            current.data.utterances, out_dir, config=config, language=recipe.language, on_progress=progress
        )
    name = recipe.audit.recogniser
    where = f"to {name}" if name.endswith(HYPOTHESES) else "to a .jsonl file, and name that as audit.recogniser"
    return (
        f"{num:,} copies, {hours:.1f} h, in {out_dir / MANIFEST}. Transcribe them with your system and add its lines, "
        f'each {{"id": ..., "hypothesis": ...}} with an id of that manifest, {where}; then run \'shibolet audit\' '
        "again. Where it hears nothing, the hypothesis is empty."
    )


def _reviewed(report: AlignmentReport, current: Round, data: SourceData) -> AlignmentReport:
    """With what a person's verdicts say of the audit's, at the look that this is."""
    from shibolet.audit.review import review
    from shibolet.records.audited import read_audited
    from shibolet.records.review import read_review

    recipe, folder = current.recipe, current.folder
    rows = list(read_audited(folder.audited_utterances(), short=True))
    answers = read_review(folder.review) if folder.review.is_file() else {}
    num_looks = 1 + len(_extensions(folder, data))
    level = level_of_look(recipe.gate, num_looks)
    found = review(rows, report.strata, answers, recipe.audit.sample.seed, level)
    return report.model_copy(update={"num_looks": num_looks, "review": found})


def extend_audit(current: Round) -> int:
    """Ask for as many more utterances as would settle the gate's CAUTION; how many the next audit hears."""
    verdict = do_gate(current)
    if not verdict.more_clips_needed:
        raise DataError(f"--extend: the gate says {verdict.decision}; hearing more clips would not change it")
    wanted = verdict.low_quality_pct.num_heard - len(current.data.ledger) + verdict.more_clips_needed
    sizes = [*_extensions(current.folder, current.data), wanted]
    Extension(data=current.data.digest, sizes=sizes).write(current.folder.audit_extension)
    current.folder.seal("extend")
    return wanted


def _extensions(folder: RunFolder, data: SourceData) -> tuple[int, ...]:
    """Sizes that `--extend` has asked for on these data, one after the other."""
    path = folder.audit_extension
    if not path.exists():
        return ()
    folder.intact("extend")
    asked = Extension.read(path)
    return asked.sizes if asked.data == data.digest else ()


def _extended(config: "AuditConfig", folder: RunFolder, data: SourceData) -> "AuditConfig":
    """The audit's settings with the sample that `--extend` has asked for; the larger sample contains the smaller."""
    sizes = _extensions(folder, data)
    if not sizes:
        return config
    return config.model_copy(update={"sample": config.sample.model_copy(update={"extend_to": sizes[-1]})})


def _same_model(current: Round, prepared: bool) -> list[str]:
    """A warning where the recogniser is a model of the round, with the sets that it is said to know."""
    names, own = current.recipe.model_names(), _recogniser_name(current, prepared)
    roles = [role for role in ("base", "baseline") if role in names and is_same(current, own, names[role])]
    if not roles:
        return []
    known = current.recipe.models.baseline_trained_on if "baseline" in roles else ()
    seen = f"By models.baseline_trained_on it was trained on {', '.join(known)}, so" if known else MAYBE_TRAINED
    return [f"The recogniser is the same model as models.{' and models.'.join(roles)}. {seen} {SAME_MODEL}"]


def is_same(current: Round, one: str, other: str) -> bool:
    """By name, and for models on this machine by content."""
    from shibolet.model.folders import is_local

    return one == other or (is_local(one) and is_local(other) and current.identity(one) == current.identity(other))


MAYBE_TRAINED = "If it was trained on these recordings,"
SAME_MODEL = (
    "it has learned the wrong texts among them and hears them again: on the demo's speech a model trained on the raw "
    "data found 2 of 22 swapped texts, the model that it started from all 22 (benchmarks/RESULTS.md). A "
    "recogniser that never saw these recordings is a better judge."
)


def _hear_ahead(current: Round, prepared: bool = False) -> None:
    stage, recogniser = "audit-prepared" if prepared else "audit", _recogniser_name(current, prepared)
    current.hear_ahead(stage, recogniser, lambda: listener_of(current, prepared).begin())


def listener_of(current: Round, prepared: bool = False) -> "Listener":
    """Who listens, and where what they heard is kept, known by its content."""
    from shibolet.audit.hearing import Listener
    from shibolet.speech.audio import load

    audit = current.recipe.audit
    recogniser = current.recogniser(_recogniser_name(current, prepared))
    return Listener(
        current.aligner, recogniser, current.folder.audit() / "heard", load, audit, current.recipe.language,
        current.executor,
    )  # fmt: skip


def _recogniser_name(current: Round, prepared: bool) -> str:
    """Who decides: what prepare kept may have a judge of its own."""
    audit = current.recipe.audit
    return (audit.second_gate_recogniser if prepared else None) or audit.recogniser


def _gate_config(current: Round, prepared: bool) -> GateConfig:
    """The gate's settings; what prepare kept is judged by its apparent rate when only a review corrects.

    A person's verdicts on the raw data say nothing of the detector's errors on what it let pass.
    """
    gate, audit = current.recipe.gate, current.recipe.audit
    return gate.model_copy(update={"rate": "apparent"}) if prepared and not audit.calibration else gate


def _decided(report: AlignmentReport, table: Path, config: GateConfig) -> AlignmentReport:
    """With what the gate says when the report is written; `gate.json` is the verdict in force."""
    verdict = gate(report, records_of(table), config)
    return report.model_copy(update={"decision": verdict.decision, "recommendation": verdict.recommendation})


def do_hear_rest(current: Round) -> Path:
    """The table of verdicts on what the audit's sample left out; its calibration decides."""
    from shibolet.audit.stage import hear_rest

    path = current.folder.audited_rest
    require_audited(current)  # a person's review of it changes nothing here
    read = (current.folder.audit() / "calibration.json", current.folder.audited_utterances())
    inputs = {"audit": [hash_file(path) for path in read], "data": current.data.digest}
    stage = begin_hearing(current, "hear-rest", inputs, lambda: lost_in(path), ("audit",))
    if not stage.done:
        listener = listener_of(current)
        with current.track("hear the rest") as progress:
            hear_rest(
                current.data.utterances,
                audit_dir=current.folder.audit(),
                out_path=path,
                listener=listener,
                config=current.recipe.audit,
                language=current.recipe.language,
                on_progress=progress,
            )
        tell_lost(current, listener)
        current.finish(stage, Work(clips=listener.num_clips, heard=listener.num_heard))
    return path


def require_audited(current: Round) -> None:
    """DataError where the training data are not those that were audited in the folder."""
    current.folder.verified("audit")
    if current.folder.inputs("audit").get("data") != current.data.digest:
        raise DataError(
            f"{current.folder.path}: the training data have changed since they were audited; run 'shibolet audit' with "
            "the recipe first"
        )


def lost_in(table: Path) -> int:
    """Rows of a table that were given up as no fault of theirs: evidence on disk never says that of a clip."""
    from shibolet.audit.workers import LOST
    from shibolet.records.audited import read_audited

    return sum(row.failure in LOST for row in read_audited(table, short=True))


def _named(place: str | Path) -> DataSource:
    """A manifest of the command line as a source; many are called manifest.jsonl, so its folder is in the name."""
    path = Path(place).absolute()
    return manifest_at(place, f"{path.parent.name}/{path.stem}")


def do_calibrate(
    current: Round, clean: Sequence[str | Path], foreign: Sequence[str | Path], minutes: float | None = None
) -> CalibrationFile:
    """What the recipe's listeners detect, measured on clean clips that are damaged.

    `clean` are manifests (paths or URLs) of clips whose text is known to be right, `foreign` of recordings in another
    language; with `minutes` so much is heard as fits.
    """
    from shibolet.audit.calibrate import run_calibrate

    data, others = (current.join([_named(path) for path in paths]) for paths in (clean, foreign))
    recipe, listener, path = current.recipe, listener_of(current), current.folder.calibration
    inputs = {
        "format": CalibrationFile.FORMAT,
        "data": [data.digest, others.digest],
        "language": recipe.language,
        "calibrate": recipe.calibrate.model_dump(mode="json"),
        "audit": recipe.audit.model_dump(mode="json", exclude={"calibration", "sample"}),
        "listeners": list(listener.identities),
        **({} if minutes is None else {"minutes": minutes}),
    }
    stage = begin_hearing(current, "calibrate", inputs, lambda: CalibrationFile.read(path).num_lost)
    if not stage.done:
        with current.track("calibrate", "clips and copies") as progress:
            run_calibrate(
                data.utterances,
                others.utterances,
                out_path=path,
                name=", ".join(_named(path).name for path in clean),
                listener=listener,
                config=recipe.calibrate,
                audit=recipe.audit,
                language=recipe.language,
                minutes=minutes,
                tell=current.tell,
                on_progress=progress,
            )
        tell_lost(current, listener)
        current.finish(stage, Work(clips=listener.num_clips, heard=listener.num_heard))
    return CalibrationFile.read(path)


def do_gate(current: Round, *, prepared: bool = False) -> GateVerdict:
    """The verdict on the raw data, or on what prepare kept."""
    name, audited = ("gate-prepared", "audit-prepared") if prepared else ("gate", "audit")
    inputs = {
        "format": GateVerdict.FORMAT,
        "audit": current.folder.verified(audited),
        "gate": current.recipe.gate.model_dump(mode="json"),
    }
    stage = current.begin(name, inputs, reads=(audited,))
    path = current.folder.gate(prepared=prepared)
    if not stage.done:
        run_gate(current.folder.audit(prepared=prepared), path, _gate_config(current, prepared))
        current.finish(stage)
    return GateVerdict.read(path)


def do_audit_page(current: Round) -> Path:
    """The audit's own page, to listen and to judge."""
    from shibolet.report.audit_page import write_audit_page

    with current.track("page of the audit"):
        write_audit_page(current.folder.path, current.decoders)
    return current.folder.audit_page
