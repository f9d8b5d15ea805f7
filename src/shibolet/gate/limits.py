"""What must hold before a verdict is given: lists of limits, each with its test and its words.

A new limit is an entry of `LIMITS`, or of `SELF_TEST_LIMITS` where it is about what the self-test has to show, over all
its clips and in each domain.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shibolet.records.documents.alignment import SelfTest, SelfTestTallies, Tally
from shibolet.records.documents.gate import GateLimits
from shibolet.records.limit import Limit
from shibolet.scoring.rates import clopper_pearson

TOO_LITTLE = "too little of the data could be scored"
NOT_BELIEVED = "the instrument cannot be believed on this data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is judged, and by which settings."""

    scored_frac: float  # of the utterances heard
    failures: Mapping[str, int]  # why utterances could not be scored
    self_test: SelfTest | None  # None: it did not run
    texts_are_wrong: bool  # a calibration file or a person's review stands behind a large share of flagged clips
    text_side_only: bool  # the self-test had no copies with changed audio
    config: GateLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """What the self-test showed: over all its clips, or in a domain that has clips for a test of its own.

    A domain fails where its tally proves it, since of 20 clips two more or less say nothing.
    """

    case: Case
    tallies: SelfTestTallies
    is_domain: bool

    @property
    def kinds(self) -> Sequence[str]:
        """Of damage, which have to be found; in a domain those that its clips had copies of."""
        config, damaged = self.case.config, self.tallies.damaged
        kinds = config.text_side_kinds if self.case.text_side_only else config.selftest_kinds
        return [kind for kind in kinds if kind in damaged and damaged[kind].total] if self.is_domain else kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class Precondition(Limit[Case]):
    """A limit of the gate."""

    cause: str  # of a missing verdict, which goes on from "No verdict:"


def _of_scoring(case: Case) -> list[str]:
    least = case.config.min_scored_frac
    if case.scored_frac >= least:
        return []
    counts = f": {counts_of(case.failures)}" if case.failures else ""
    return [f"Only {case.scored_frac:.1%} of the utterances heard could be scored (>= {least:.0%}){counts}."]


def counts_of(failures: Mapping[str, int]) -> str:
    """Reasons with their numbers, the most frequent first: "undecodable 12, nan_samples 2"."""
    return ", ".join(f"{name} {num:,}" for name, num in sorted(failures.items(), key=lambda pair: (-pair[1], pair[0])))


def _of_self_test(case: Case) -> list[str]:
    """Its sentences over all clips, or those in domains where these say more."""
    if case.self_test is None:
        return ["The self-test did not run."]
    if not case.self_test.untouched.total or not (case.self_test.harmless.total or case.text_side_only):
        return ["The self-test had no untouched clip or no harmless copy to judge."]
    domains = case.self_test.domains
    overall = list(_broken_in(Clips(case=case, tallies=case.self_test, is_domain=False)))
    by_domain = [
        f"In domain '{name}': {sentence}"
        for name, tallies in domains.items()
        for sentence in _broken_in(Clips(case=case, tallies=tallies, is_domain=True))
    ]
    return by_domain if by_domain and len(domains) > 1 else overall or by_domain


def _broken_in(clips: Clips) -> Iterator[str]:
    for limit in SELF_TEST_LIMITS:
        yield from limit.broken(clips)


def _of_damaged_copies(clips: Clips) -> list[str]:
    return [sentence for kind in clips.kinds for sentence in _of_copies(kind, clips)]


def _of_copies(kind: str, clips: Clips) -> list[str]:
    """Copies of one kind are there, are found, and are told from untouched clips; the first that fails explains it."""
    config, untouched = clips.case.config, clips.tallies.untouched
    found, least = clips.tallies.damaged.get(kind, Tally(hits=0, total=0)), config.min_selftest_recall
    if not found.total:
        return [f"The self-test could make no '{kind}' copy of these clips, so it shows nothing of them."]
    if (_upper(found) if clips.is_domain else found.frac) < least:
        return [f"The self-test found {found.hits} of {found.total} '{kind}' clips (>= {least:.0%})."]
    if found.frac - untouched.frac < config.min_selftest_contrast:
        return [
            f"The instrument flags {found.frac:.0%} of '{kind}' and {untouched.frac:.0%} of untouched clips: it does "
            "not tell them apart."
        ]
    return []


def _of_harmless_copies(clips: Clips) -> list[str]:
    harmless, most = clips.tallies.harmless, clips.case.config.max_harmless_changed_frac
    if _lower(harmless) <= most:  # of 75 copies five are over 5%, and prove nothing
        return []
    return [f"Harmless copies changed {harmless.hits} of {harmless.total} verdicts (<= {most:.0%})."]


def _of_untouched_clips(clips: Clips) -> list[str]:
    untouched, most = clips.tallies.untouched, clips.case.config.max_untouched_flagged_frac
    if clips.case.texts_are_wrong or (_lower(untouched) if clips.is_domain else untouched.frac) <= most:
        return []
    return [
        f"The instrument flags {untouched.frac:.0%} of the clips as they are (<= {most:.0%}). Either so many texts are "
        "wrong, or it does not understand this speech. To tell them apart, listen to flagged clips on audit.html and "
        "come back with your verdicts ('audit --review FILE'), or try it on clips that you know to be right "
        "('shibolet calibrate') and audit by that file: where those pass and these do not, the texts are wrong."
    ]


def _upper(tally: Tally) -> float:
    """One-sided 95% upper limit of a share."""
    return clopper_pearson(tally.frac, tally.total, 0.90)[1] if tally.total else 1.0


def _lower(tally: Tally) -> float:
    return clopper_pearson(tally.frac, tally.total, 0.90)[0] if tally.total else 0.0


SELF_TEST_LIMITS: tuple[Limit[Clips], ...] = (
    Limit(name="damaged_copies", broken=_of_damaged_copies),
    Limit(name="harmless_copies", broken=_of_harmless_copies),
    Limit(name="untouched_clips", broken=_of_untouched_clips),
)
LIMITS = (
    Precondition(name="scored", broken=_of_scoring, cause=TOO_LITTLE),
    Precondition(name="self_test", broken=_of_self_test, cause=NOT_BELIEVED),
)
