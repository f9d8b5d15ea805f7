"""The teacher's own texts of the training set, which the round's audit judges before anything learns from them.

teach/  hypotheses.jsonl, scores.json ...   what the teacher wrote, as an evaluation has it
        audited.parquet                     what the audit says of each text that is not the reference's
        texts.jsonl                         those that train beside the references: {"id": ..., "text": ...}
        ledger.jsonl                        why the others do not
        teach.json                          the counts
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shibolet.errors import RecipeError
from shibolet.records.documents.teaching import TeacherTexts
from shibolet.records.documents.timings import Work
from shibolet.records.files import hash_file, write_jsonl
from shibolet.records.ledger import LedgerLine, count_by_rule, write_ledger
from shibolet.records.reading import read_lines
from shibolet.records.utterance import Utterance
from shibolet.rounds.auditing import is_same, listener_of, require_audited, tell_lost
from shibolet.rounds.shared import Round
from shibolet.train.config import TrainConfig

STAGE, TEXTS = "teach", "texts.jsonl"
PREFIX = "teacher/"  # of the ids of its texts in the audit's table


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
        raise RecipeError(
            "train.distil.texts: models.teacher is the audit's recogniser, which would judge its own texts; take "
            "another recogniser, or leave the texts out"
        )
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
        others, ledger = _that_differ(train, written, recipe.language)
        judged, heard = _judged(current, others, out_dir)
        ledger += judged
        refused = {line.id for line in ledger}
        kept = [utterance for utterance in others if utterance.id not in refused]
        write_jsonl(out_dir / TEXTS, [asdict(TaughtText(u.id, u.text)) for u in kept])
        write_ledger(out_dir / "ledger.jsonl", ledger)
        TeacherTexts(
            teacher=teacher, utterances=len(train), kept=len(kept), left_out=count_by_rule(ledger), wer=wer
        ).write(out_dir / "teach.json")
        current.finish(stage, heard)
    made = TeacherTexts.read(out_dir / "teach.json")
    current.tell(made.sentence)
    return made


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


def _judged(current: Round, texts: Sequence[Utterance], out_dir: Path) -> tuple[list[LedgerLine], Work]:
    """Lines of the texts that the audit finds wrong, as it finds references wrong, and what it heard for that."""
    from shibolet.audit.stage import hear_set
    from shibolet.records.audited import read_audited

    listener = listener_of(current)
    named = [replace(utterance, id=f"{PREFIX}{utterance.id}") for utterance in texts]
    with current.track("the audit judges the teacher's texts") as progress:
        hear_set(
            named, audit_dir=current.folder.audit(), out_path=out_dir / "audited.parquet", listener=listener,
            config=current.recipe.audit, language=current.recipe.language, on_progress=progress,
        )  # fmt: skip
    tell_lost(current, listener)
    rows = {row.id.removeprefix(PREFIX): row for row in read_audited(out_dir / "audited.parquet", short=True)}
    lines = [_line(u, f"low_quality:{rows[u.id].suspect}", u.text) for u in texts if rows[u.id].is_low_quality]
    lines += [_line(u, rows[u.id].failure, u.text) for u in _failed(texts, rows)]
    return lines, Work(clips=listener.num_clips, heard=listener.num_heard)


def _failed(texts: Sequence[Utterance], rows: Mapping) -> Iterator[Utterance]:
    return (u for u in texts if rows[u.id].failure and not rows[u.id].is_low_quality)


def _line(utterance: Utterance, rule: str, text: str) -> LedgerLine:
    return LedgerLine(
        id=utterance.id, source=utterance.source, stage=STAGE, rule=rule, duration_s=utterance.duration_s, text=text
    )
