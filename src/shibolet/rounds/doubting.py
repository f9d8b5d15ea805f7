"""The evaluation sets under the audit's instrument: which references it doubts, and what systems score without them.

The score and the verdict stay those of all utterances: the instrument may be one of the systems that are compared.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from shibolet.records.audited import AuditedRows, audited_hash, read_audited
from shibolet.records.documents.comparison import Named
from shibolet.records.documents.doubtful import DoubtfulScores
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.timings import Work
from shibolet.records.files import hash_file
from shibolet.rounds.auditing import begin_hearing, listener_of, lost_in, tell_lost
from shibolet.rounds.scorers import language_of
from shibolet.rounds.shared import Round
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language

if TYPE_CHECKING:
    from shibolet.compare.doubtful import Doubted

JUDGE = "{} is the recogniser that doubts them: without what it hears otherwise, its WER is too good."
FAVOURED = "{} is the recogniser that doubts them, so leaving them out favours it."


def do_audit_sets(current: Round) -> None:
    """The table of verdicts on each set in the recipe's language; a sentence, and no table, where nobody can judge."""
    if (why := _why_not(current)) is not None:
        if why:
            current.tell(f"evaluate: the references of the sets are not audited: {why}")
        current.retire(*current.folder.doubtful(), *current.folder.audited_sets())
        return
    own = get_language(current.recipe.language)
    heard = [_audit(current, one) for one in current.sets if get_language(language_of(current, one)) is own]
    if any(heard):
        current.end_hearing()


def _why_not(current: Round) -> str | None:
    """Why the sets are not audited: empty where the recipe says so, None where they are."""
    folder, recipe = current.folder, current.recipe
    if not recipe.evaluate.audit_sets:
        return ""
    if not (folder.finished("audit") and folder.finished("gate")):
        return f"{folder.path} has no audit; 'shibolet audit' with the recipe makes one"
    folder.verified("gate")
    if GateVerdict.read(folder.gate()).decision == "INVALID":
        return "the gate says INVALID, so the instrument cannot be believed here either"
    if hasattr(current.recogniser(recipe.audit.recogniser), "look_up"):
        return "the recogniser is a file of hypotheses, and no model that could hear them"
    return None


def _audit(current: Round, source: DataSource) -> bool:
    """Judge a set with the calibration of the audit; whether models were opened for it."""
    from shibolet.audit.stage import hear_set

    recipe, folder, data = current.recipe, current.folder, current.read(source)
    path, listener = folder.audited_set(source.name), listener_of(current)
    folder.verified("audit")
    lines = recipe.audit.model_dump(mode="json", include={"min_confidence", "min_coverage", "max_length_ratio"})
    inputs = {
        "calibration": hash_file(folder.audit() / "calibration.json"),
        "audit": audited_hash(folder.audited_utterances()),
        "data": data.digest,
        "language": recipe.language,
        "lines": lines,
        "listeners": list(listener.identities),
    }
    stage = begin_hearing(current, f"audit-sets/{source.name}", inputs, lambda: lost_in(path), ("audit", "gate"))
    if stage.done:
        return False
    with current.track(f"audit {source.name}") as progress:
        hear_set(
            data.utterances,
            audit_dir=folder.audit(),
            out_path=path,
            listener=listener,
            config=recipe.audit,
            language=recipe.language,
            on_progress=progress,
        )
    tell_lost(current, listener)
    current.finish(stage, Work(clips=listener.num_clips, heard=listener.num_heard))
    return True


def do_doubtful(current: Round, named: Named, sets: Iterable[str]) -> dict[str, DoubtfulScores]:
    """A system's scores with and without the references in doubt, by set, of those that were audited."""
    from shibolet.evaluate.stage import read_rows
    from shibolet.scoring.doubtful import without_doubtful

    folder, found = current.folder, {}
    for name in sets:
        audited, scored = f"audit-sets/{name}", f"evaluate/{named.label}/{name}"
        if not folder.finished(audited):
            continue
        judge = JUDGE.format(named.title) if _is_judge(current, named, name) else None
        inputs = {
            "format": DoubtfulScores.FORMAT,
            "scores": folder.verified(scored),
            "audit of the set": audited_hash(folder.audited_set(name)),
            **({"judge": judge} if judge else {}),
        }
        stage = current.begin(f"doubtful/{named.label}/{name}", inputs, (scored, audited))
        path = folder.doubtful_scores(named.label, name)
        if not stage.done:
            rows = read_rows(folder.evaluation(named.label, name))
            without_doubtful(rows, AuditedRows([folder.audited_set(name)]), named, name, judge).write(path)
            current.finish(stage)
        found[name] = DoubtfulScores.read(path)
    return found


def _is_judge(current: Round, named: Named, set_name: str) -> bool:
    """Whether what was scored under a label is the audit's recogniser, by content."""
    model = current.folder.inputs(f"evaluate/{named.label}/{set_name}").get("model")
    return model is not None and model == current.identity(current.recipe.audit.recogniser)


def doubted(current: Round, names: Sequence[Named], sets: Iterable[str]) -> "Doubted | None":
    """What the audits of the sets doubt, for a comparison; None where none was audited."""
    from shibolet.compare.doubtful import Doubted
    from shibolet.scoring.doubtful import is_doubtful

    folder = current.folder
    audited = [name for name in sets if folder.finished(f"audit-sets/{name}")]
    if not audited:
        return None
    for name in audited:
        folder.verified(f"audit-sets/{name}")
    rows = {name: list(read_audited(folder.audited_set(name), short=True)) for name in audited}
    judges = [FAVOURED.format(one.title) for one in names if _is_judge(current, one, audited[0])]
    return Doubted(
        judged={name: sum(row.failure is None for row in own) for name, own in rows.items()},
        ids={name: tuple(row.id for row in own if is_doubtful(row)) for name, own in rows.items()},
        notes=tuple(judges),
    )
