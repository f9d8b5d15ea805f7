"""Documents of audit, gate and prepare for tests: whole, with what a test cares about in its place."""

from shibolet.records.audited import Audited
from shibolet.records.documents.alignment import AlignmentReport, Answers, CalibrationSummary, Review, SelfTest
from shibolet.records.documents.gate import CountedRate, GateLimits, GateVerdict
from shibolet.records.documents.prepared import (
    Amount,
    Counts,
    Cut,
    Hours,
    Prepared,
    Share,
    Split,
    Writing,
    WritingStyle,
)

SOUND = {
    "damaged": {"swapped": {"hits": 99, "total": 100}, "silent": {"hits": 100, "total": 100}},
    "mild": {},
    "harmless": {"hits": 2, "total": 100},
    "untouched": {"hits": 8, "total": 100},
}


def self_test(**changes) -> SelfTest:
    """Of an instrument that can be believed."""
    domains = {name: {"mild": {}, **tallies} for name, tallies in changes.pop("domains", {}).items()}
    return SelfTest.model_validate({**SOUND, "untested": {}, **changes, "domains": domains})


def audited(id: str, **fields) -> Audited:
    """An utterance that passed."""
    values = {"source": "s", "domain": "clean", "text": f"text {id}", "duration_s": 3.0, "is_low_quality": False}
    return Audited(id=id, **values | fields)


def review_of(**changes) -> Review:
    """What nobody answered."""
    values = {
        "num_answered": 0, "num_counted": 0, "num_sure": 0, "answers": {}, "false_discovery_pct": None,
        "false_omission_pct": None, "corrected_low_quality_pct": None, "sensitivity": None, "specificity": None,
        "forecast": (), "notes": (), "draw": (),
    }  # fmt: skip
    return Review.model_validate(values | changes)


def answers(good: int = 0, bad: int = 0, unsure: int = 0) -> Answers:
    return Answers(good=good, bad=bad, unsure=unsure)


def alignment_report(**changes) -> AlignmentReport:
    """Of 500 utterances that were heard of 5,000, all of them scored."""
    values = {
        "low_quality_percentage": 2.0, "low_quality_count": 10, "total_samples": 500, "population": 5000,
        "num_scored": 500, "coverage_distribution": {}, "domain_statistics": {}, "failures": {}, "suspects": {},
        "human_flags": None, "strata": {"kan_clean": {"num_utterances": 5000, "hours": 8.0}}, "self_test": self_test(),
        "calibration": CalibrationSummary(kind="self", num_clean=181, num_left_out=43, models=("a", "b")),
        "probability": None, "judged_by": "text and audio", "detector": None, "notes": (),
    }  # fmt: skip
    return AlignmentReport.model_validate(values | changes)


def counted(rate: float = 2.0, lower: float = 1.0, upper: float = 3.0, **changes) -> CountedRate:
    """A rate in percent, of 500 utterances."""
    values = {"num_heard": 500, "num_low_quality": 10, "num_population": 5000, "num_recordings": 100}
    return CountedRate(rate=rate, lower=lower, upper=upper, **values | changes)


def gate_verdict(decision: str = "PROCEED", **changes) -> GateVerdict:
    values = {
        "recommendation": f"{decision}.", "reasons": (), "warnings": (), "straddles_pct": (), "more_clips_needed": None,
        "literal_point_verdict": "PROCEED", "exit_code": 0, "accepted": False, "next": "continue", "level_pct": 95.0,
        "target": "data_set", "low_quality_pct": counted(), "sample_low_quality_pct": 2.0,
        "hours_low_quality_pct": None, "corrected_low_quality_pct": None, "corrected_from": "no error rates",
        "judged_by": "text and audio", "num_scored": 500, "failures": {}, "strata": {}, "notes": (),
        "config": GateLimits(),
    }  # fmt: skip
    return GateVerdict(decision=decision, **values | changes)


def writing_style(source: str, marks_per_word: float) -> WritingStyle:
    nothing = dict.fromkeys(
        WritingStyle.model_fields.keys() - {"source", "domain", "texts"}, Share(rate=0, interval=None)
    )
    marks = Share(rate=marks_per_word, interval=(marks_per_word - 0.01, marks_per_word + 0.01))
    return WritingStyle(source=source, domain=None, texts=280, **nothing | {"marks_per_word": marks})


def prepared(**changes) -> Prepared:
    """Of 561 utterances, of which 65 were dropped."""
    domains = {name: Amount(utterances=230, hours=0.2) for name in ("clean", "whatsapp")}
    rules = {"low_quality:wrong_text": 30, "low_quality:no_speech": 30, "too_short": 5}
    values = {
        "utterances": Counts(given=561, kept=496, dropped=65), "cut": Cut(utterances=12, pieces=31),
        "hours": Hours(given=0.5, kept=0.43, dropped=0.06, left_out_of_kept=0.01),
        "train": Split(utterances=460, hours=0.4, domains=domains, groups=20),
        "dev": Split(utterances=36, hours=0.03, domains={"clean": Amount(utterances=36, hours=0.03)}, groups=2),
        "dropped_by_rule": {rule: Amount(utterances=num, hours=num * 3.2 / 3600) for rule, num in rules.items()},
        "changed_by_rule": {}, "unread": {}, "language": "Hebrew", "normaliser": "he-target-2", "seed": 0,
        "split_by": "speaker", "notes": ("Split by speaker.",),
        "writing": Writing(
            styles=[writing_style("crowd", 0.15), writing_style("calls", 0.02)],
            warnings=["'calls' and 'crowd' write differently"],
        ),
    }  # fmt: skip
    return Prepared(**values | changes)
