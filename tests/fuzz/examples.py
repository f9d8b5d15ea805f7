"""A whole file of every kind that our readers read, small: what the fuzzing damages."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from audit_documents import alignment_report, audited, gate_verdict, prepared
from made_scores import SAID, comparison_of, scored_rows, scores_of
from training_documents import phase_plan, step_row, train_result, training_plan

from shibolet.compare import CompareConfig, compare_systems
from shibolet.compare.waterfall import waterfall
from shibolet.demo.corpus import Spoken
from shibolet.prepare import shards as prepared_shards
from shibolet.records.answers import Given
from shibolet.records.audited import write_audited
from shibolet.records.candidate import named
from shibolet.records.documents.alignment import Confusion
from shibolet.records.documents.average import Average, AveragedPart, AveragedScore, TriedAverage
from shibolet.records.documents.base import Document
from shibolet.records.documents.beforehand import Checked, Fetched, Finding
from shibolet.records.documents.calibration import Calibration, CalibrationFile
from shibolet.records.documents.combined import Combined, CombinedSet
from shibolet.records.documents.cut import CutModel
from shibolet.records.documents.decoding import DecodingTable
from shibolet.records.documents.doubtful import DoubtfulReference, DoubtfulScores
from shibolet.records.documents.labelled import Author, Flagged, Habit, Labelled, SourceLabels, Step, Threshold
from shibolet.records.documents.loop import Loop, Turn
from shibolet.records.documents.mirrored import MirroredFile, MirrorIndex, MirrorState
from shibolet.records.documents.ngram import HeldTexts, NgramMade
from shibolet.records.documents.non_speech import NonSpeech, NonSpeechClip, NonSpeechKind
from shibolet.records.documents.prepared import Amount
from shibolet.records.documents.provenance import Extension, Provenance, StageMarker
from shibolet.records.documents.published import Reproduced
from shibolet.records.documents.robustness import DosePoint, Robustness
from shibolet.records.documents.round_plan import RoundCase, RoundPlan, Stretch
from shibolet.records.documents.scores import Folds, Optimism, WordErrors
from shibolet.records.documents.search import (
    Confirmation,
    LossDifference,
    SearchCost,
    SearchedTrial,
    SearchRung,
    SearchTable,
)
from shibolet.records.documents.teaching import TeacherTexts
from shibolet.records.documents.timings import StageTime, Work
from shibolet.records.documents.tracking import TrackerState
from shibolet.records.documents.training import DevScore, Event
from shibolet.records.documents.truth import AfterPrepare, Found, Truth
from shibolet.records.documents.verified import Check, Machine, Texts, Verified, VerifyReport
from shibolet.records.hypotheses import HypothesisLine
from shibolet.records.ledger import LedgerLine
from shibolet.records.provenance import this_start
from shibolet.records.review import Answer
from shibolet.records.utterance import AudioRef
from shibolet.report.audit_page import Sound
from shibolet.rounds.tuning import GREEDY

_MAP = {"evidence": ["cer"], "center": [0.0], "scale": [1.0], "weights": [1.0], "intercept": 0.5}
_CALIBRATION = {
    "kind": "self", "identities": ["a", "b"], "maps": [_MAP], "letters_per_s": [5.0, 20.0], "num_clean": 181,
    "num_left_out": 43, "window_s": None, "recalibration": None,
}  # fmt: skip
_LINE = {"auroc": 0.9, "row": "swapped", "num": 5}
_FILE = {
    "calibration": _CALIBRATION, "language": "Hebrew", "budget": None, "num_lost": 0,
    "made_of": {"utterances": [4, 4], "recordings": [2, 2], "trials": [9, 9], "foreign": 0},
    "detector": {"sensitivity": 0.9, "specificity": 0.95, "num_damaged": 5, "num_clean": 4, "measured_on": "clean"},
    "table": [{**_LINE, "harmless": False, "by": "all", "slice": "all", "flagged": 0.5, "flagged_literal": 0.1}],
    "left_out": [{**_LINE, "family": "text"}],
    "ablation": [
        {"signals": "cer", "auroc": {}, "recall_at_2pct": {"a": 0.5}, "mean_auroc": 0.9, "mean_recall_at_2pct": 0.5}
    ],
}  # fmt: skip
_MEASURED = {
    "beam_size": 1, "length_penalty": 1.0, "mbr_samples": None, "mbr_temperature": None, "repeat_bias": 0.0,
    "ngram_weight": 0.0,
    "wer_pct": 9.0, "cer_pct": 3.0, "points": 0.0, "interval_points": [None, 1],
    "folds": {"errors": [1], "words": [9]}, "seconds": 1.0, "audio_s_per_s": 9.0, "times_greedy": 1.0,
}  # fmt: skip
_JOINED = {
    **_MEASURED, "base": dict(GREEDY), "chosen_by_wer_pct": None, "added_points": -0.1, "added_interval": [None, 1],
}  # fmt: skip


def _labelled() -> Labelled:
    limits = Threshold(limit=0.05, clips=60, steps=(Step(limit=0.05, accepted=50, false_accepts=1, upper_pct=4.5),))
    confusion = Confusion(text="a", heard="b", count=3, occurrences=4, clusters=2)
    some = Amount(utterances=2, hours=0.01)
    author = Author(domain="d", clips=60, writer_wer_pct=30.0, listener_wer_pct=10.0, chance=0.001, by="listener")
    return Labelled(
        writer="a", listener="b", max_wer=0.2, max_false_accept_pct=5.0, authors=(author,), agreement=limits,
        given=None, habits=(Habit(confusion=confusion, by="truth", refused=1),),
        sources={"s": SourceLabels(given=some, admitted=some, refused={"hearers_differ": some})},
        flagged=Flagged(heard=3, taken_back=1, corrected=1, dropped=1), sentence="s", notes=("n",),
    )  # fmt: skip


def _loop() -> Loop:
    turn = Turn(
        title="A", folder="turn1", ended="gained", low_quality_pct=20.0, low_quality_prepared_pct=None, train_hours=1.0,
        machine_hours=0.1, flagged=None, habits=0, points=-1.0, points_by_seed=(-1.0, -1.1, -0.9),
        interval_points=(-2.0, -0.5), sentence="s",
    )  # fmt: skip
    return Loop(max_turns=2, seeds=3, level_pct=97.5, turns=(turn,), best=None, sentence="s")


def documents() -> dict[str, Document]:
    """One of each class, by its name."""
    phases = [phase_plan("B", epochs=1, steps=3, lr_by_part={"head": 1e-3})]
    systems = {named(name): scored_rows(SAID) for name in ("one", "two")}
    dev = DevScore(step=1, phase="B", wer=0.5, cer=0.2)
    found = [
        alignment_report(), gate_verdict(), prepared(), training_plan(*phases), train_result(dev=(dev,)), scores_of(),
        comparison_of(SAID, ["room"] * 4), compare_systems(systems, CompareConfig(bootstrap_samples=100)),
        Calibration.model_validate(_CALIBRATION), CalibrationFile.model_validate(_FILE),
        Combined(
            systems=("a", "b"), alpha=0.5, null_confidence=0.2, out="x.jsonl",
            sets={"s": CombinedSet(utterances=2, left_out=0, of_fewer=1, slots=9, unanimous=8, changed=1)},
        ),
        Checked(findings=(Finding("GPU", "ok", "one"),)), Fetched(fetched=("a",), local=(), missing={"b": "why"}),
        DecodingTable(
            model="m", ngram=None, level_pct=95.0, expected_points=(0.3, 0.5),
            settings=[_MEASURED], joined=[_JOINED], recommended=GREEDY,
            sentence="s", optimism=Optimism(candidates=2, points=0.1, sentence="s"),
        ),
        _labelled(), _loop(),
        MirrorIndex(version="1", host="h", time="t", files={"a/b.json": MirroredFile(sha256="0" * 64, bytes=3)}),
        MirrorState(url="s3://a/b", versions=("0", "1"), is_whole=True),
        CutModel(
            source="a", identity="i", encoder_layers=(0, 1), decoder_layers=(0,), parameters=5, source_parameters=9
        ),
        TeacherTexts(teacher="a", utterances=9, kept=1, left_out={"loop": 1}, wer=0.1),
        NonSpeech(
            label="a", title="A", identity="i", context=("word",), is_speech=(),
            kinds={
                "noise": NonSpeechKind(
                    clips=1, duration_s=5.0, with_words=1, words=2, words_per_minute=24.0, echoes=1
                )
            },
            clips=(
                NonSpeechClip(
                    id="n0", kind="noise", group="n0", duration_s=5.0, text="a b", words=2, repeated=("word",)
                ),
            ),
            failures=(),
        ),
        Provenance(starts=(this_start("run", 1),)), Extension(data="a", sizes=(1, 2)),
        Reproduced(ids=("a",), differing=(), words=3, differing_words=0, looped=()),
        StageMarker(state="done", inputs={"a": [1, {"b": None}]}, outputs={"gate.json": "0123456789abcdef"}),
        round_plan(),
        Truth(
            rows=(Found(kind="silent", domain="clean", utterances=3, flagged=2),),
            after_prepare=AfterPrepare(
                kept_utterances=3, kept_damaged=0, kept_damaged_pct=None, damaged_by_kind={"silent": 1}, good_hours=1.0,
                good_hours_lost_pct=0.5,
            ),
        ),
    ]  # fmt: skip
    found += [doubtful_scores(), TrackerState(lines=1), verify_report(), ngram_made(), average_made(), search_made()]
    found += [waterfall(systems, CompareConfig(bootstrap_samples=100)), robustness_made()]
    return {type(document).__name__: document for document in found}


def doubtful_scores() -> DoubtfulScores:
    errors = WordErrors(errors=1, words=2, rate=0.5, substitutions=1, deletions=0, insertions=0)
    reference = DoubtfulReference(
        id="a", duration_s=1.0, suspect="wrong_text", confidence=0.1, reasons=("low_confidence",), reference="x y",
        heard="z", errors=errors,
    )  # fmt: skip
    return DoubtfulScores(
        label="round1", title="Round 1", set="clean", utterances=2, judged=2, unjudged={"undecodable": 1},
        references=(reference,), wer=errors, wer_without=errors, sentences=("s",),
    )  # fmt: skip


def average_made() -> Average:
    score = AveragedScore(wer_pct=9.0, cer_pct=3.0, points=-1.0, interval_points=(None, 1.0))
    tried = TriedAverage(
        name="mean", weights=(0.5, 0.5), identity="i", dev=score, folds=Folds(errors=(1,), words=(9,)),
        sets={"s": score}, beyond=(),
    )  # fmt: skip
    return Average(
        method="uniform", parts=(AveragedPart(title="a", identity="i"),) * 2, tried=(tried,), chosen="mean",
        level_pct=95.0, sentence="s", optimism=None, notes=("n",),
    )  # fmt: skip


def robustness_made() -> Robustness:
    compared = comparison_of(SAID, ["room"] * 4)
    point = DosePoint(
        kind="babble", amount=10.0, unit="dB", block=compared.overall, intervals_pct=(None, (1.0, 2.0)),
        beyond_points=None, beyond_interval_points=None,
    )  # fmt: skip
    return Robustness(
        baseline=compared.baseline, candidate=compared.candidate, utterances_by_set={"s": 4}, points=(point,),
        kinds={"babble": compared.overall}, sentences=("s",),
    )  # fmt: skip


def search_made() -> SearchTable:
    trial = SearchedTrial(
        number=0, factors={"head": 1.0}, lr_by_part={"head": 1e-3}, warmup_steps=2, lora_rank=None, losses=(1.0, None),
        difference=None, interval=(0.1, 0.2),
    )  # fmt: skip
    return SearchTable(
        phase="A", phase_steps=9, left_out_utterances=1, dimensions={"head": ("head",)}, most=10.0, proposals="halton",
        rungs=(SearchRung(steps=4, trials=2),), trials=(trial,), choosing_utterances=9, confirming_utterances=8, best=0,
        confirmation=Confirmation(
            own_wer_pct=9.0, found_wer_pct=None, points=None, interval_points=None, counted="speakers",
            control=LossDifference(difference=-1.0, interval=None),
        ),
        recommended=0, sentence="s",
        cost=SearchCost(
            training_steps=9, beginning_steps=1, trial_steps=8, times_own=1.0, loss_steps=0.5, trainings=1.1
        ),
    )  # fmt: skip


def ngram_made() -> NgramMade:
    return NgramMade(
        file="ngram.arpa", model="m", source="x.txt", order=2, texts=3, tokens=9, ngrams=(4, 5),
        discounts=((0.5, 1.0, 1.5),) * 2, sentences=("s",),
        held=HeldTexts(of=3, long=0, short=1, passages=9, new_passages=1, most_new_pct=25.0),
    )  # fmt: skip


def verify_report() -> VerifyReport:
    return VerifyReport(
        model=Verified(name="m", identity="i", family="f", layout="native"),
        machine=Machine(
            platform="Linux", python="3.11", packages={"torch": "2"}, commit=None, device="cpu", device_gib=None,
            driver=None, num_threads=1,
        ),
        language="Hebrew", recipe="hebrew-round2", utterances=20, audio_s=60.0, steps=10,
        checks=(Check(name="files", state="passed", sentences=("s",), numbers={"a": None, "b": 1.0}),),
        texts=(Texts(reference="x", ours="y", theirs=None),), timing={"files": 1.0},
    )  # fmt: skip


def round_plan() -> RoundPlan:
    """Of one stretch whose seconds are known and one of which they are not."""
    known = Stretch(name="a", arithmetic="2 s", seconds=2.0, usd=0.1, missing=None, rate_from="r")
    unknown = Stretch(name="b", arithmetic="", seconds=None, usd=None, missing="why", rate_from="")
    case = RoundCase(
        rows=3, rows_from="given", train_utterances=3, stretches=(known, unknown), hours=0.0006, usd=0.1, at_least=True
    )
    return RoundPlan(
        machine="1 x A100", num_gpus=1, price_per_gpu_hour_usd=0.8, cases=(case,), notes=("n",),
        training=training_plan(phase_plan("B", epochs=1, steps=3, lr_by_part={"head": 1e-3})),
    )  # fmt: skip


def lines() -> dict[type, bytes]:
    """A JSONL file of each kind of line."""
    found = {
        HypothesisLine: [HypothesisLine(id=f"u{i}", reference="שלום", hypothesis="x", duration_s=2.5, domain="clean",
                                        recording="r", snr_db=3.5) for i in range(3)],
        LedgerLine: [LedgerLine(id=f"u{i}", source="s", stage="read", rule="undecodable", duration_s=1.0, text="t")
                     for i in range(3)],
        Sound: [Sound.of(f"k{i}", "bXAz", "AAAA") for i in range(2)],
        Spoken: [Spoken(id="a", split="train", kind="clean", domain="clean", duration_s=1.0, reference="x",
                        words=(("x", 0.0, 1.0),))],
    }  # fmt: skip
    models = [
        [step_row(i, lr={"head": 1e-3}, numbers={"x": 1.0}) for i in range(1, 4)],
        [DevScore(step=1, phase="B", wer=0.5, cer=0.2)], [Event(step=1, event="skipped", detail="d")],
        [StageTime.of("audit", 2.5, True, Work(clips=3))],
        [Answer(id="a", verdict="good", text="t"), Answer(id="b", verdict="bad", text="u")],
        [Given(by="anna", id="a", text="t", verdict="good"), Given(by="ben", id="a", text="t", corrected="u")],
    ]  # fmt: skip
    as_json = {kind: [asdict(row) for row in rows] for kind, rows in found.items()}
    as_json |= {type(rows[0]): [row.model_dump(mode="json") for row in rows] for rows in models}
    write: Callable[[Mapping], str] = lambda row: json.dumps(row, ensure_ascii=False) + "\n"  # noqa: E731
    return {kind: "".join(map(write, rows)).encode() for kind, rows in as_json.items()}


def audited_table(folder: Path) -> bytes:
    """`utterances.parquet` of twelve rows."""
    words = {"words": ("a", "b"), "starts_s": (0.0, 1.0), "ends_s": (0.5, 1.5), "reasons": ("so",), "confidence": 0.5}
    rows = [audited(f"u{i}", audio=AudioRef(path="x.wav"), **words) for i in range(11)]
    write_audited(folder / "whole.parquet", [*rows, audited("bare", failure="undecodable")])
    return (folder / "whole.parquet").read_bytes()


def shard(folder: Path) -> bytes:
    """`train-00000.parquet` of five rows."""
    row = {name: "x" for name in ("text", "origin_id", "sha256", "origin_sha256", "recording")}
    row |= {name: 1.0 for name in ("duration_s", "origin_start_s", "origin_end_s", "origin_offset_s")}
    rows = [{**row, "id": f"u{i}", "audio": {"bytes": b"fLaC", "path": None}} for i in range(5)]
    pq.write_table(pa.Table.from_pylist(rows, schema=prepared_shards.SCHEMA), folder / "whole.parquet")
    return (folder / "whole.parquet").read_bytes()
