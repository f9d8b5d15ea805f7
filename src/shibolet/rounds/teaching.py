"""The teacher's own texts of the training set, which the round's audit judges before anything learns from them.

teach/  hypotheses.jsonl, scores.json ...   what the teacher wrote, as an evaluation has it
        audited.parquet                     what the audit says of each text that is not the reference's, and of that
        texts.jsonl                         those that train beside the references: {"id": ..., "text": ...}
        ledger.jsonl                        why the others do not
        teach.json                          the counts
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shibolet.errors import RecipeError
from shibolet.records.audited import Audited, read_audited
from shibolet.records.documents.teaching import TeacherTexts
from shibolet.records.documents.timings import Work
from shibolet.records.files import hash_file, write_jsonl
from shibolet.records.ledger import LedgerLine, count_by_rule, write_ledger
from shibolet.records.reading import read_lines
from shibolet.records.utterance import Utterance
from shibolet.rounds.auditing import is_same, listener_of, require_audited, tell_lost
from shibolet.rounds.fit import JUDGES_ITSELF
from shibolet.rounds.shared import Round
from shibolet.train.config import TrainConfig
from shibolet.train.data import TAUGHT

STAGE, TEXTS = "teach", "texts.jsonl"
REFERENCE = "reference/"  # before ids in the audit's table, as `TAUGHT` is before those of the teacher's texts


@dataclass(frozen=True, slots=True)
class TaughtText:
    """A line of `texts.jsonl`."""

    id: str  # of the prepared utterance
    text: str


def is_asked(train: TrainConfig) -> bool:
    """Whether the teacher's texts are to train."""
    return train.distil is not None and train.distil.texts


def do_teach(current: Round) -> TeacherTexts:
    """What became of the teacher's texts; it writes them, and the round's audit judges those that say something else.

    RecipeError where the teacher is the audit's recogniser: it would judge its own texts.
    """
    recipe, out_dir = current.recipe, current.folder.path / STAGE
    teacher = recipe.models.teacher
    if is_same(current, teacher, recipe.audit.recogniser):
        raise RecipeError(JUDGES_ITSELF)
    require_audited(current)
    audited = (current.folder.audit() / "calibration.json", current.folder.audited_utterances())
    inputs = {
        "format": TeacherTexts.FORMAT,
        "prepared": current.folder.verified("prepare"),
        "teacher": current.identity(teacher),
        "audit": [hash_file(path) for path in audited],
        "language": recipe.language,
        "evaluate": recipe.evaluate.greedy.model_dump(mode="json", exclude={"sets", "audit_sets", "servers"}),
    }
    stage = current.begin(STAGE, inputs, reads=("prepare", "audit"))
    if not stage.done:
        train = [u for u in current.prepared.utterances if Path(u.audio.path).name.startswith("train-")]
        written, wer = _written(current, teacher, train, out_dir)
        kept, ledger, heard = admitted(current, train, written, out_dir)
        write_jsonl(out_dir / TEXTS, [asdict(TaughtText(u.id, u.text)) for u in kept])
        write_ledger(out_dir / "ledger.jsonl", ledger)
        TeacherTexts(
            teacher=teacher, utterances=len(train), kept=len(kept), left_out=count_by_rule(ledger), wer=wer
        ).write(out_dir / "teach.json")
        current.finish(stage, heard)
    made = TeacherTexts.read(out_dir / "teach.json")
    current.tell(made.sentence)
    return made


def require_taught(current: Round) -> None:
    """RecipeError where the texts are still to be written: the other machines of a training do not wait so long."""
    if not current.folder.finished(STAGE):
        raise RecipeError(
            "train.distil.texts: the teacher's texts are written on one machine, before several train. Run 'shibolet "
            f"train' there without --nodes and torchrun until {STAGE}/{TEXTS} is in the run folder, stop it (Ctrl-C), "
            "and start this command on every machine again"
        )


def admitted(
    current: Round, train: Sequence[Utterance], written: Mapping[str, str], out_dir: Path
) -> tuple[list[Utterance], list[LedgerLine], Work]:
    """Of texts by utterance id those that may train, as utterances; a line of each other one, and what was heard."""
    others, ledger = _that_differ(train, written, current.recipe.language)
    judged, heard = _judged(current, others, {u.id: u.text for u in train}, out_dir)
    refused = {line.id for line in judged}
    return [utterance for utterance in others if utterance.id not in refused], [*ledger, *judged], heard


def texts_of(current: Round) -> dict[str, str]:
    """The teacher's texts that train, by utterance id; written and judged where that has not been done."""
    do_teach(current)
    rows = read_lines(current.folder.path / STAGE / TEXTS, TaughtText, TeacherTexts.REMEDY)
    return {row.id: row.text for row in rows}


def _written(
    current: Round, teacher: str, train: Sequence[Utterance], out_dir: Path
) -> tuple[Mapping[str, str], float | None]:
    """The teacher's text of each utterance by id, and its WER against the references."""
    from shibolet.evaluate.stage import evaluate_set, read_rows
    from shibolet.listen.open import open_engines
    from shibolet.records.documents.comparison import Named

    current.set_threads()
    config, language = current.recipe.evaluate.greedy, current.recipe.language
    engines = open_engines(current.executor, teacher, language, **config.engine_settings(""))
    with current.track("the teacher writes") as progress:
        scores = evaluate_set(
            engines, train, set_name="train", language=language, config=config, out_dir=out_dir,
            named=Named(label="teacher", title="teacher"), identity=current.identity(teacher), on_progress=progress,
        )  # fmt: skip
    return {row.id: row.hypothesis for row in read_rows(out_dir)}, scores.wer.rate


def _that_differ(
    train: Sequence[Utterance], written: Mapping[str, str], language: str
) -> tuple[list[Utterance], list[LedgerLine]]:
    """Utterances with the teacher's text in place of the reference, and lines of those where that gives nothing."""
    from shibolet.listen.loops import is_loop
    from shibolet.speech.text import get_language

    spoken, found, lines = get_language(language), [], []
    for utterance in train:
        text = spoken.to_target(written[utterance.id])
        said, heard = (spoken.to_scoring(one).split() for one in (utterance.text, text))
        rule = (
            "no_words" if not heard
            else "loop" if is_loop(text, utterance.duration_s)
            else "as_the_reference" if heard == said
            else None
        )  # fmt: skip
        if rule:
            lines.append(_line(utterance, rule, text))
        else:
            found.append(replace(utterance, text=text))
    return found, lines


def _judged(
    current: Round, texts: Sequence[Utterance], references: Mapping[str, str], out_dir: Path
) -> tuple[list[LedgerLine], Work]:
    """Lines of the texts that do not train, and what the audit heard to say so.

    The audit judges a text as it judges references, and the reference beside it: what passes has no gross error, and
    may still be worse than what is there already.
    """
    from shibolet.audit.stage import hear_set

    listener = listener_of(current)
    named = [
        replace(one, id=f"{prefix}{one.id}", text=text)
        for one in texts
        for prefix, text in ((TAUGHT, one.text), (REFERENCE, references[one.id]))
    ]
    with current.track("the audit judges the teacher's texts") as progress:
        hear_set(
            named, audit_dir=current.folder.audit(), out_path=out_dir / "audited.parquet", listener=listener,
            config=current.recipe.audit, language=current.recipe.language, on_progress=progress,
        )  # fmt: skip
    tell_lost(current, listener)
    rows = {row.id: row for row in read_audited(out_dir / "audited.parquet", short=True)}
    lines = [
        _line(one, rule, one.text)
        for one in texts
        if (rule := _refused(rows[f"{TAUGHT}{one.id}"], rows[f"{REFERENCE}{one.id}"])) is not None
    ]
    return lines, Work(clips=listener.num_clips, heard=listener.num_heard)


def _refused(text: Audited, reference: Audited) -> str | None:
    """Why a text does not train, as a rule of the ledger; None: it does."""
    if text.failure:
        return text.failure
    if text.is_low_quality:
        return f"low_quality:{text.suspect}"
    is_better = reference.is_low_quality or (text.confidence or 0.0) > (reference.confidence or 0.0)
    return None if is_better else "no_better_than_the_reference"


def _line(utterance: Utterance, rule: str, text: str) -> LedgerLine:
    return LedgerLine(
        id=utterance.id, source=utterance.source, stage=STAGE, rule=rule, duration_s=utterance.duration_s, text=text
    )
