"""Long utterances heard again by the writer of `label`, so that they are cut by what a better model hears in them.

The verdict stays the audit's, whose calibration knows its own recogniser alone, and so do the times of the words where
it has some: a writer may know none, and an aligner alone drifts in what is longer than it takes. What changes is which
words of a long text count as heard, where it heard more of them: so pieces that the audit's recogniser did not follow
may train.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shibolet.records.audited import Audited, audited_hash, read_audited, write_audited
from shibolet.records.documents.timings import Work
from shibolet.rounds.auditing import tell_lost
from shibolet.rounds.fit import writer_and_listener
from shibolet.rounds.judged import Judged
from shibolet.rounds.shared import Round
from shibolet.scoring.counts import count_words
from shibolet.speech.text import Language, get_language

if TYPE_CHECKING:
    from shibolet.audit.clip import Evidence

STAGE = "hear-long"


def do_hear_long(current: Round, by: Judged) -> Path:
    """The table of utterances longer than `prepare.max_duration_s`, with what the writer heard.

    One of which it did not hear more than the audit's recogniser, by the words that are written, is not in the table:
    the audit's row of it stands. A model of short clips hears the beginning of long ones alone.
    """
    from shibolet.audit.hearing import Listener
    from shibolet.audit.stage import hear_long
    from shibolet.speech.audio import load

    recipe, folder, path = current.recipe, current.folder, current.folder.audited_long
    writer, _ = writer_and_listener(recipe)
    listener = Listener(
        current.aligner, current.recogniser(writer), folder.audit() / "heard", load, recipe.audit, recipe.language,
        current.executor,
    )  # fmt: skip
    inputs = {
        "verdicts": [audited_hash(table) for table in by.tables],
        "data": current.data.digest,
        "longer_s": by.config.max_duration_s,
        "listeners": list(listener.identities),
        "taken": "what has fewer word errors than the audit's",  # tables of before this rule are made again
    }
    stage = current.begin(STAGE, inputs, by.reads)
    if not stage.done:
        long = [u for u in current.data.utterances if u.duration_s > by.config.max_duration_s]
        verdicts = {id: one.row for id, one in by.rows().among([u.id for u in long]).items()}
        with current.track("hear what is long again") as progress:
            heard = hear_long([u for u in long if u.id in verdicts], listener, recipe.language, progress)
        rows = [
            _as_heard(verdicts[id], evidence)
            for id, evidence in heard.items()
            if evidence.signals and _is_nearer(evidence.hypothesis, verdicts[id], get_language(recipe.language))
        ]
        write_audited(path, rows)
        current.tell(f"of {len(heard):,} long utterances the writer heard more than the audit in {len(rows):,}")
        tell_lost(current, listener)
        current.finish(stage, Work(clips=listener.num_clips, heard=listener.num_heard))
    return path


def _is_nearer(hypothesis: str, row: Audited, spoken: Language) -> bool:
    """Whether it has fewer word errors against the text than what the audit's recogniser heard."""
    text, new, old = map(spoken.to_scoring, (row.text, hypothesis, row.hypothesis))
    return count_words(text, new).errors < count_words(text, old).errors


def _as_heard(row: Audited, evidence: "Evidence") -> Audited:
    """The audit's row with another hypothesis, and with times where only these listeners know them."""
    has_times = not row.starts_s and len(evidence.starts_s) == len(row.words)
    times = {"starts_s": evidence.starts_s, "ends_s": evidence.ends_s} if has_times else {}
    return replace(row, hypothesis=evidence.hypothesis, **times)


def rows_of(current: Round, by: Judged) -> dict[str, Audited]:
    """By id of the utterance, what the writer heard; nothing where the recipe does not ask, or nobody is believed."""
    if not (current.recipe.label.recut and by.config.drop_low_quality):
        current.retire(STAGE, why="this recipe cuts by the audit alone")
        return {}
    return {row.id: row for row in read_audited(do_hear_long(current, by))}
