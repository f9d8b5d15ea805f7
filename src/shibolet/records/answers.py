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

MAX_NAME, MAX_TEXT, MAX_ID = 60, 20_000, 2_000  # characters
REMEDY = "every line is an answer that somebody gave: take the line out and keep the others"
EARLIER = "earlier review"  # whose answers these are that `review.jsonl` had before anybody reviewed here


class Given(BaseModel):
    """All that one person says of one utterance from now on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str = Field(min_length=1, max_length=MAX_NAME)
    id: str = Field(max_length=MAX_ID)
    text: str = Field(max_length=MAX_TEXT)  # that was judged
    verdict: Verdict | None = None  # None: no answer, or taken back
    note: str = Field("", max_length=MAX_TEXT)
    corrected: str | None = Field(None, max_length=MAX_TEXT)  # what is said, where the text says something else
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


def latest(given: Iterable[Given]) -> dict[tuple[str, str], Given]:
    """By utterance and person what the person said last."""
    found: dict[tuple[str, str], Given] = {}
    for one in given:
        found.pop((one.id, one.by), None)  # so that the order is that of the last answers
        found[one.id, one.by] = one
    return found


def settled(given: Iterable[Given]) -> dict[str, Answer]:
    """What several people's answers come to, by utterance.

    The last answer that decides counts for all. Else good or bad where all that are sure agree, and unsure where they
    do not. A correction counts once it is accepted, the last of several; who corrects a text and gives no verdict has
    found it bad. Of answers on several texts of one utterance those on the text of the newest count.
    """
    by_id: dict[str, list[Given]] = defaultdict(list)
    for one in latest(given).values():
        by_id[one.id].append(one)
    answers = {id: _agreed([one for one in own if one.text == own[-1].text]) for id, own in by_id.items()}
    return {id: answers[id] for id in sorted(answers) if answers[id] is not None}


def _agreed(given: Sequence[Given]) -> Answer | None:
    """The answer of several people on one text; None where nobody says anything."""
    deciding = [one for one in given if one.decides and one.verdict]
    voices = deciding[-1:] or [one for one in given if one.verdict]
    sure = {one.verdict for one in voices} - {"unsure"}
    corrections = [one for one in given if one.corrected is not None and one.accepted]
    if not voices and not corrections:
        return None
    verdict: Verdict = "unsure" if voices and len(sure) != 1 else next(iter(sure), "bad")
    found = Answer(id=given[-1].id, verdict=verdict, text=given[-1].text)
    if not corrections:
        return found
    text = corrections[-1].corrected
    writer = next(one.by for one in given if one.corrected == text)  # others accept what the first wrote
    return found.model_copy(update={"corrected": text, "corrected_by": writer})


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
