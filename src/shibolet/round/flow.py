"""The whole round: the stages in order, and what each verdict of the gate means for the next."""

from shibolet.errors import EXIT_REJECT
from shibolet.round import auditing, publish, stages
from shibolet.round.shared import Round


def run_round(round: Round) -> int:
    """The round as far as its verdicts let it go, its page and, where the recipe names a target, its repository."""
    round.require_sets()
    code = run_stages(round)
    stages.do_report(round)  # the page is there, whatever becomes of the upload
    if round.recipe.publish and code == 0 and round.sets:
        round.tell(f"published: {publish.do_publish(round, round.recipe.publish)}")
    return code


def run_stages(round: Round) -> int:
    """Every stage but the page; the exit code.

    PROCEED  goes on
    CAUTION  goes on without what was flagged, dev WER watched by domain; `gate.on_caution: stop` ends here
    STOP     ends; `gate.on_stop: repair` prepares, audits what was kept and goes on when that gate lets it
    INVALID  ends; `gate.accept: [INVALID]` goes on, drops only what cannot be decoded, and every later artefact says so
    """
    auditing.do_audit(round)
    gate = auditing.do_gate(round)
    round.tell(f"gate: {gate['decision']}. {gate['recommendation']}")
    if gate["next"] == "stop":
        round.retire("prepare", *REPAIR, *_after_gates(round))
        round.tell(_way_on(gate["decision"]))
        return gate["exit_code"]
    if gate["decision"] == "INVALID":
        round.tell("gate.accept names INVALID: the round goes on, and drops only what cannot be decoded")
    stages.do_prepare(round)
    if gate["next"] == "repair":
        auditing.do_audit(round, prepared=True)
        repaired = auditing.do_gate(round, prepared=True)
        round.tell(f"gate on what was kept: {repaired['decision']}. {repaired['recommendation']}")
        if repaired["next"] != "continue":
            round.retire(*_after_gates(round))
            round.tell("the gate is closed after repair too: prepared/ledger.jsonl says what was dropped and why")
            return repaired["exit_code"]
    else:
        round.retire(*REPAIR)
    stages.do_train(round)
    if not round.sets:
        round.retire(*round.folder.evaluated(stages.ROUND1), *stages.after_training(round))
        round.tell("evaluate, compare: the recipe names no evaluate.sets that can be had")
        return 0
    stages.do_evaluate(round, stages.rounds_of(round))
    compared = stages.do_compare(round)
    round.tell(f"compare: {compared['verdict']}. {compared['sentence']}")
    if compared["verdict"] == "keep":
        return 0
    round.retire("publish")
    return EXIT_REJECT


REPAIR = ("audit-prepared", "gate-prepared")


def _after_gates(round: Round) -> list[str]:
    return ["train", *stages.after_training(round)]


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
