"""The whole round: the stages in order, and what each verdict of the gate means for the next."""

from shibolet.errors import EXIT_REJECT
from shibolet.rounds import auditing, parts, publish, robustness, scoring, stages, tracking
from shibolet.rounds.fit import require_fit
from shibolet.rounds.rank import require_gpus
from shibolet.rounds.seeds import require_seeds, with_other_seeds
from shibolet.rounds.shared import Round


def run_round(current: Round) -> int:
    """The round as far as its verdicts let it go, its page and, where the recipe names a target, its repository."""
    current.require_sets()
    publish.require_publishable(current.recipe)
    require_fit(current.recipe)
    require_seeds(current)
    scoring.require_target_domain(current, download=False)
    code = run_stages(current)
    stages.do_report(current)  # the page is there, whatever becomes of the upload
    if current.recipe.publish and code == 0 and current.sets:
        current.tell(f"published: {publish.do_publish(current, current.recipe.publish)}")
    return code


def run_stages(current: Round) -> int:
    """Every stage but the page, and what they came to for the trackers; the exit code."""
    code = _as_far_as_verdicts_let(current)
    tracking.do_track(current)
    return code


def _as_far_as_verdicts_let(current: Round) -> int:
    """The stages in order; the exit code.

    PROCEED  goes on
    CAUTION  goes on without what was flagged, dev WER watched by domain; `gate.on_caution: stop` ends here
    STOP     ends; `gate.on_stop: repair` prepares, audits what was kept and goes on when that gate lets it
    INVALID  ends; `gate.accept: [INVALID]` goes on, drops only what cannot be decoded, and every later artefact says so
    """
    if current.gpus > 1:
        require_gpus(current.gpus)
    auditing.do_audit(current, meanwhile=current.start_ranks)
    gate = auditing.do_gate(current)
    current.tell(f"gate: {gate.decision}. {gate.recommendation}")
    if gate.next == "stop":
        current.retire("prepare", *REPAIR, *_after_gates(current))
        current.tell(_way_on(gate.decision))
        return gate.exit_code
    if gate.decision == "INVALID":
        current.tell("gate.accept names INVALID: the round goes on, and drops only what cannot be decoded")
    scoring.require_target_domain(current)  # what is on the Hub is read now: it is needed after the training anyway
    stages.train_ahead(current)
    stages.do_prepare(current, lambda: None if gate.next == "repair" else stages.end_hearing_ahead(current))
    if gate.next == "repair":
        auditing.do_audit(current, prepared=True)
        repaired = auditing.do_gate(current, prepared=True)
        current.tell(f"gate on what was kept: {repaired.decision}. {repaired.recommendation}")
        if repaired.next != "continue":
            current.retire(*_after_gates(current))
            current.tell("the gate is closed after repair too: prepared/ledger.jsonl says what was dropped and why")
            return repaired.exit_code
    else:
        current.retire(*REPAIR)
    stages.do_train(current)
    if not current.sets:
        baseline, _ = current.names
        current.retire(*current.folder.evaluated(baseline.label), *_of_sets(current))
        current.tell("evaluate, compare: the recipe names no evaluate.sets that can be had")
        return 0
    scoring.do_evaluate(current, with_other_seeds(current, scoring.candidates_of(current)))
    compared = scoring.do_compare(current)
    current.tell(f"compare: {compared.verdict}. {compared.sentence}")
    if current.recipe.robustness:
        for sentence in robustness.do_robustness(current).sentences:
            current.tell(f"robustness: {sentence}")
    if current.recipe.parts:
        for sentence in parts.do_parts(current).sentences:
            current.tell(f"parts: {sentence}")
    if compared.is_kept:
        return 0
    current.retire("publish")
    return EXIT_REJECT


REPAIR = ("audit-prepared", "gate-prepared")


def _after_gates(current: Round) -> list[str]:
    return ["train", *_of_sets(current)]


def _of_sets(current: Round) -> list[str]:
    folder = current.folder
    others = *folder.doubtful(), *folder.audited_sets(), *folder.non_speech_stages()
    return list(dict.fromkeys([*stages.after_training(current), *others]))


def _way_on(decision: str) -> str:
    """What to do after a verdict that ended the round."""
    return (
        "to go on: the same command with "
        + {
            "CAUTION": "--set gate.on_caution=continue",
            "STOP": "--set gate.on_stop=repair hears the rest, drops what is wrong and gates again",
            "INVALID": "--set gate.accept=[INVALID] trains on data that nobody could judge; better: another recogniser",
        }[decision]
    )
