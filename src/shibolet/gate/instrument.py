"""Whether the instrument can be believed: what its self-test has to show, over all clips and in each domain."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shibolet.records.documents.alignment import SelfTest, SelfTestTallies, Tally
from shibolet.records.documents.gate import GateLimits
from shibolet.scoring.rates import clopper_pearson


@dataclass(frozen=True, slots=True)
class Limit:
    """What has to hold before a verdict is given, and what is said where it does not."""

    holds: bool
    words: str  # a sentence


def first_broken(limits: Sequence[Limit]) -> Iterator[str]:
    """The words of the first limit that does not hold, if there is one: it explains those after it."""
    yield from [limit.words for limit in limits if not limit.holds][:1]


def instrument_faults(
    self_test: SelfTest | None, config: GateLimits, *, texts_are_wrong: bool, text_side_only: bool
) -> list[str]:
    """Why the verdicts on utterances cannot be believed, in sentences; empty when they can.

    The test has to hold over all clips, and in each domain that has clips for a test of its own: there it fails where
    its tally proves it, since of 20 clips two more or less say nothing.
    """
    if self_test is None:
        return ["The self-test did not run."]
    if not self_test.untouched.total or not (self_test.harmless.total or text_side_only):
        return ["The self-test had no untouched clip or no harmless copy to judge."]
    kinds = config.text_side_kinds if text_side_only else config.selftest_kinds
    faults = _faults(self_test, "", kinds, config, texts_are_wrong)
    by_domain = [
        fault
        for name, tallies in self_test.domains.items()
        for fault in _faults(tallies, f"In domain '{name}': ", kinds, config, texts_are_wrong)
    ]
    return by_domain if by_domain and len(self_test.domains) > 1 else faults or by_domain


def _faults(
    tallies: SelfTestTallies, where: str, kinds: Sequence[str], config: GateLimits, texts_are_wrong: bool
) -> list[str]:
    """What is wrong with the instrument over all clips (`where` empty), or in a domain."""
    if where:
        kinds = [kind for kind in kinds if kind in tallies.damaged and tallies.damaged[kind].total]
    groups = [
        *(_on_damage(kind, tallies, config, proven=bool(where)) for kind in kinds),
        [_on_harmless(tallies.harmless, config)],
        [] if texts_are_wrong else [_on_untouched(tallies.untouched, config, proven=bool(where))],
    ]
    return [f"{where}{words}" for limits in groups for words in first_broken(limits)]


def _on_damage(kind: str, tallies: SelfTestTallies, config: GateLimits, *, proven: bool) -> list[Limit]:
    """Copies of one kind are there, are found, and are told from untouched clips."""
    found, untouched = tallies.damaged.get(kind, Tally(hits=0, total=0)), tallies.untouched
    least = config.min_selftest_recall
    return [
        Limit(
            found.total > 0,
            f"The self-test could make no '{kind}' copy of these clips, so it shows nothing of them.",
        ),
        Limit(
            (_upper(found) if proven else found.frac) >= least,
            f"The self-test found {found.hits} of {found.total} '{kind}' clips (>= {least:.0%}).",
        ),
        Limit(
            found.frac - untouched.frac >= config.min_selftest_contrast,
            f"The instrument flags {found.frac:.0%} of '{kind}' and {untouched.frac:.0%} of untouched clips: it does "
            "not tell them apart.",
        ),
    ]


def _on_harmless(harmless: Tally, config: GateLimits) -> Limit:
    most = config.max_harmless_changed_frac
    return Limit(
        _lower(harmless) <= most,  # of 75 copies five are over 5%, and prove nothing
        f"Harmless copies changed {harmless.hits} of {harmless.total} verdicts (<= {most:.0%}).",
    )


def _on_untouched(untouched: Tally, config: GateLimits, *, proven: bool) -> Limit:
    most = config.max_untouched_flagged_frac
    return Limit(
        (_lower(untouched) if proven else untouched.frac) <= most,
        f"The instrument flags {untouched.frac:.0%} of the clips as they are (<= {most:.0%}). Either so many texts are "
        "wrong, or it does not understand this speech. To tell them apart, listen to flagged clips on audit.html and "
        "come back with your verdicts ('audit --review FILE'), or try it on clips that you know to be right "
        "('shibolet calibrate') and audit by that file: where those pass and these do not, the texts are wrong.",
    )


def _upper(tally: Tally) -> float:
    """One-sided 95% upper limit of a share."""
    return clopper_pearson(tally.frac, tally.total, 0.90)[1] if tally.total else 1.0


def _lower(tally: Tally) -> float:
    return clopper_pearson(tally.frac, tally.total, 0.90)[0] if tally.total else 0.0
