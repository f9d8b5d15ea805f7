"""`answers.jsonl`: every answer that people gave while they reviewed, as they gave it; and what they agree on.

A line is on the disk before whoever sent it hears that it was kept. Nothing in the file is ever changed: of several
lines of one person on one utterance the last counts, and an answer that was taken back is a line that says so.
"""

import errno
import fcntl
import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from shibolet.errors import DataError
from shibolet.records.files import make_folder, sync_dir
from shibolet.records.reading import parse_line, read_content
from shibolet.records.review import Answer, Verdict

MAX_NAME = 60  # characters
REMEDY = "every line is an answer that somebody gave: take the line out and keep the others"
EARLIER = "earlier review"  # whose answers these are that `review.jsonl` had before anybody reviewed here


class Given(BaseModel):
    """All that one person says of one utterance from now on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str = Field(min_length=1, max_length=MAX_NAME)
    id: str
    text: str  # that was judged; as long as the data have it
    verdict: Verdict | None = None  # None: no answer, or taken back
    note: str = ""
    corrected: str | None = None  # what is said, where the text says something else
    accepted: bool = False  # whether `corrected` may train
    decides: bool = False  # it counts whatever others said before it
    at: str = Field("", max_length=40)  # when, ISO 8601 in UTC


class Journal:
    """The answers of a run folder, open for one process; DataError where another one has it open."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        is_new = not path.exists()
        self._path = path
        self._file = path.open("ab", buffering=0)  # what could not be written is not kept for the next time
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise DataError(
                f"{path}: another 'shibolet review' has it open; use the page that it serves, or end it first"
            ) from error
        if is_new:
            sync_dir(path.parent)
        self._lock = threading.Lock()
        self._given = read_answers(path)
        self._file.truncate(_whole(path))

    @property
    def given(self) -> Sequence[Given]:
        """All answers in the order in which they were given; the list grows."""
        return self._given

    def append(self, answers: Iterable[Given]) -> int:
        """Keep answers, on the disk when this returns; how many there are now."""
        answers = list(answers)
        lines = b"".join(json.dumps(one.model_dump(), ensure_ascii=False).encode() + b"\n" for one in answers)
        with self._lock:
            end = self._file.seek(0, os.SEEK_END)
            try:
                if self._file.write(lines) != len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file.fileno())
            except OSError as error:
                if error.filename is None:  # what writes to an open file knows no name
                    error.filename = str(self._path)
                self._file.truncate(end)  # half a line would spoil the next one
                raise
            self._given.extend(answers)
            return len(self._given)

    def close(self) -> None:
        self._file.close()


def read_answers(path: Path) -> list[Given]:
    """Answers in the order in which they were given; none where there is no file.

    A last line without an end was cut off while it was written, and nobody was told that it was kept.
    """
    if not path.exists():
        return []
    lines = read_content(path, REMEDY).split(b"\n")[:-1]
    return [parse_line(path, number, line, Given, REMEDY) for number, line in enumerate(lines, 1)]


def _whole(path: Path) -> int:
    """Bytes of the lines that have an end."""
    return read_content(path, REMEDY).rfind(b"\n") + 1


_VERDICT, _CORRECTION = ("verdict", "decides"), ("corrected", "accepted")  # what an answer consists of, besides a note


def latest(given: Iterable[Given], fields: Sequence[str] = _VERDICT + _CORRECTION) -> dict[tuple[str, str], Given]:
    """By utterance and person what the person said last, in the order in which the text or `fields` last changed.

    So a note on an old answer does not make it a new one.
    """
    found: dict[tuple[str, str], Given] = {}
    for one in given:
        before = found.get((one.id, one.by))
        if before and any(getattr(one, name) != getattr(before, name) for name in ("text", *fields)):
            del found[one.id, one.by]
        found[one.id, one.by] = one
    return found


def settled(given: Iterable[Given]) -> dict[str, Answer]:
    """What several people's answers come to, by utterance.

    The last answer that decides counts for all. Else good or bad where all that are sure agree, and unsure where they
    do not. A correction counts once it is accepted, the last of several; who corrects a text and gives no verdict has
    found it bad. Of answers on several texts of one utterance those on the text of the newest count.
    """
    by_id: dict[str, list[Given]] = defaultdict(list)
    for one in given:
        by_id[one.id].append(one)
    answers = {id: _agreed(own) for id, own in by_id.items()}
    return {id: answers[id] for id in sorted(answers) if answers[id] is not None}


def _agreed(given: Sequence[Given]) -> Answer | None:
    """What all that was ever given on one utterance comes to; None where nobody says anything now."""
    text = list(latest(given).values())[-1].text
    verdicts = [one for one in latest(given, _VERDICT).values() if one.text == text and one.verdict]
    voices = [one for one in verdicts if one.decides][-1:] or verdicts
    sure = {one.verdict for one in voices} - {"unsure"}
    corrections = [one for one in latest(given, _CORRECTION).values() if one.text == text and one.accepted]
    corrected = [one.corrected for one in corrections if one.corrected is not None]
    if not voices and not corrected:
        return None
    verdict: Verdict = "unsure" if voices and len(sure) != 1 else next(iter(sure), "bad")
    found = Answer(id=given[0].id, verdict=verdict, text=text)
    if not corrected:
        return found
    writer = next(one.by for one in given if one.corrected == corrected[-1])  # others accept what the first wrote
    return found.model_copy(update={"corrected": corrected[-1], "corrected_by": writer})


def disagreements(given: Iterable[Given]) -> list[str]:
    """Ids of utterances that one person calls good and another bad, and nobody has decided."""
    said, decided = defaultdict(set), set()
    for (id, _), one in latest(given).items():
        said[id, one.text].add(one.verdict)
        if one.decides and one.verdict:
            decided.add(id)
    return sorted({id for (id, _), verdicts in said.items() if {"good", "bad"} <= verdicts} - decided)


def from_review(answers: Iterable[Answer], by: str, at: str = "", decides: bool = False) -> list[Given]:
    """Answers of a file as one person's."""
    return [
        Given(
            by=by, id=one.id, text=one.text, verdict=one.verdict, corrected=one.corrected,
            accepted=one.corrected is not None, decides=decides, at=at,
        )
        for one in answers
    ]  # fmt: skip
