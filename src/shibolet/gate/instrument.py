"""Whether the instrument can be believed: what its self-test has to show, over all clips and in each domain."""

from collections.abc import Sequence

from shibolet.gate.config import GateConfig
from shibolet.gate.report import SelfTestSummary, SelfTestTallies, Tally
from shibolet.scoring.rates import clopper_pearson


def instrument_faults(
    self_test: SelfTestSummary | None, config: GateConfig, *, texts_are_wrong: bool, text_side_only: bool
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
    tallies: SelfTestTallies, where: str, kinds: Sequence[str], config: GateConfig, texts_are_wrong: bool
) -> list[str]:
    """What is wrong with the instrument over all clips (`where` empty), or in a domain."""
    faults, untouched, harmless = [], tallies.untouched, tallies.harmless
    is_under = lambda tally, limit: (_upper(tally) if where else tally.frac) < limit  # noqa: E731
    is_over = lambda tally, limit: (_lower(tally) if where else tally.frac) > limit  # noqa: E731
    for kind in kinds:
        found = tallies.damaged.get(kind, Tally(hits=0, total=0))
        if not found.total:
            if not where:
                faults.append(f"The self-test could make no '{kind}' copy of these clips, so it shows nothing of them.")
        elif is_under(found, config.min_selftest_recall):
            faults.append(
                f"{where}The self-test found {found.hits} of {found.total} '{kind}' clips "
                f"(>= {config.min_selftest_recall:.0%})."
            )
        elif found.frac - untouched.frac < config.min_selftest_contrast:
            faults.append(
                f"{where}The instrument flags {found.frac:.0%} of '{kind}' and {untouched.frac:.0%} of untouched "
                "clips: it does not tell them apart."
            )
    if _lower(harmless) > config.max_harmless_changed_frac:  # of 75 copies five are over 5%, and prove nothing
        faults.append(
            f"{where}Harmless copies changed {harmless.hits} of {harmless.total} verdicts "
            f"(<= {config.max_harmless_changed_frac:.0%})."
        )
    if not texts_are_wrong and is_over(untouched, config.max_untouched_flagged_frac):
        faults.append(
            f"{where}The instrument flags {untouched.frac:.0%} of the clips as they are "
            f"(<= {config.max_untouched_flagged_frac:.0%}). Either so many texts are wrong, or it does not understand "
            "this speech. To tell them apart, listen to flagged clips on audit.html and come back with your verdicts "
            "('audit --review FILE'), or try it on clips that you know to be right ('shibolet calibrate') and audit by "
            "that file: where those pass and these do not, the texts are wrong."
        )
    return faults


def _upper(tally: Tally) -> float:
    """One-sided 95% upper limit of a share."""
    return clopper_pearson(tally.frac, tally.total, 0.90)[1]


def _lower(tally: Tally) -> float:
    return clopper_pearson(tally.frac, tally.total, 0.90)[0] if tally.total else 0.0
