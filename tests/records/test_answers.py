"""The journal of a review: what was acknowledged is there whatever happens, and several people come to one answer."""

import errno
import os
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from shibolet.errors import DataError
from shibolet.records.answers import Given, Journal, disagreements, from_review, latest, read_answers, settled
from shibolet.records.review import Answer

WRITER = """
import sys
from pathlib import Path
from shibolet.records.answers import Given, Journal
journal = Journal(Path(sys.argv[1]))
for i in range(10**6):
    journal.append([Given(by="anna", id=f"u{i}", text="t", verdict="good")])
    print(i, flush=True)
"""


def given(by: str, id: str = "u", verdict: str | None = "good", **fields) -> Given:
    return Given(by=by, id=id, verdict=verdict, **{"text": "t", **fields})


def test_nothing_that_was_acknowledged_is_lost_when_the_process_is_killed(tmp_path):
    """A person who saw 'saved' must find the answer again after SIGKILL."""
    path = tmp_path / "answers.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as process:
        seen = [int(process.stdout.readline()) for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        seen += [int(line) for line in process.stdout.read().split("\n")[:-1]]
    kept = [one.id for one in read_answers(path)]
    assert kept[: len(seen)] == [f"u{i}" for i in seen] and len(kept) - len(seen) in (0, 1)


def test_half_a_line_is_left_out_and_the_next_answer_is_whole(tmp_path):
    path = tmp_path / "answers.jsonl"
    with closing(Journal(path)) as journal:
        journal.append([given("anna", "a"), given("anna", "b")])
    os.truncate(path, path.stat().st_size - 5)
    assert [one.id for one in read_answers(path)] == ["a"]
    with closing(Journal(path)) as journal:
        assert [one.id for one in journal.given] == ["a"]
        assert journal.append([given("ben", "c")]) == 2
    assert [one.id for one in read_answers(path)] == ["a", "c"]


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_what_could_not_be_written_is_not_acknowledged_and_spoils_nothing(tmp_path, monkeypatch, failing):
    """A full disk: the page tries again, and whatever of the line was written must not stand before the next one."""
    path = tmp_path / "answers.jsonl"

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(Journal(path)) as journal:
        journal.append([given("anna", "a")])
        with monkeypatch.context() as patch:
            if failing == "fsync":
                patch.setattr("shibolet.records.answers.os.fsync", full)
            else:
                patch.setattr(journal, "_file", HalfWritten(journal._file))
            with pytest.raises(OSError, match=r"No space left on device: .*answers\.jsonl"):
                journal.append([given("anna", "b")])
        assert journal.append([given("anna", "c")]) == 2
    assert [one.id for one in read_answers(path)] == ["a", "c"]


class HalfWritten:
    """A file of which the disk takes half."""

    def __init__(self, file) -> None:
        self.file = file

    def write(self, content: bytes) -> int:
        return self.file.write(content[: len(content) // 2])

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def test_one_process_at_a_time_writes(tmp_path):
    """Two servers would give the same places in the file to two answers."""
    with closing(Journal(tmp_path / "answers.jsonl")):
        with pytest.raises(DataError, match="another 'shibolet review' has it open"):
            Journal(tmp_path / "answers.jsonl")
    Journal(tmp_path / "answers.jsonl").close()


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"by": "anna", "id": "a", "text": ""}\n{"by": 3}\n{}\n')
    with pytest.raises(DataError, match=r"answers\.jsonl, line 2: "):
        read_answers(path)


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ([given("anna")], "good"),
        ([given("anna"), given("ben")], "good"),
        ([given("anna"), given("ben", verdict="bad")], "unsure"),
        ([given("anna"), given("ben", verdict="unsure")], "good"),
        ([given("anna"), given("anna", verdict="bad")], "bad"),
        ([given("anna"), given("anna", verdict=None)], None),
        ([given("anna"), given("ben", verdict="bad", decides=True)], "bad"),
        ([given("anna", decides=True), given("ben", verdict="bad", decides=True), given("carl")], "bad"),
        ([given("anna", text="old", verdict="bad"), given("ben")], "good"),
        ([given("anna", verdict=None, corrected="x", accepted=True)], "bad"),
        ([given("anna", corrected="x", accepted=True)], "good"),
        ([given("anna", verdict=None, corrected="x")], None),
    ],
)  # fmt: skip
def test_what_several_people_say_comes_to_one_verdict(answers, verdict):
    found = settled(answers)
    assert (found["u"].verdict if found else None) == verdict


def test_a_correction_counts_once_it_is_accepted_and_keeps_its_writer():
    proposed = given("anna", verdict="bad", corrected="x")
    assert settled([proposed])["u"].corrected is None
    accepted = settled([proposed, given("ben", verdict=None, corrected="x", accepted=True)])["u"]
    assert (accepted.corrected, accepted.corrected_by, accepted.verdict) == ("x", "anna", "bad")
    back = settled([proposed, given("ben", verdict=None, corrected="x", accepted=True), given("ben", verdict=None)])
    assert back["u"].corrected is None


def test_a_note_on_an_old_answer_does_not_make_it_the_newest():
    """Who only writes a note would take back what others decided, or accepted, since."""
    decided = [given("anna", decides=True), given("ben", verdict="bad", decides=True)]
    assert settled([*decided, given("anna", decides=True, note="hums", at="2026")])["u"].verdict == "bad"
    assert settled([*decided, given("anna", decides=True, corrected="x")])["u"].verdict == "bad"
    accepted = [given("anna", corrected="x", accepted=True), given("ben", corrected="y", accepted=True)]
    for later in ({"note": "hums"}, {"verdict": "bad"}):
        found = settled([*accepted, given("anna", corrected="x", accepted=True, **later)])["u"]
        assert (found.corrected, found.corrected_by) == ("y", "ben")
    again = settled([*accepted, given("anna"), given("anna", corrected="x", accepted=True)])["u"]
    assert again.corrected == "x", "a new acceptance is a new answer"


def test_the_writer_of_a_text_is_who_first_wrote_it():
    """Who accepts a text after its writer has gone on to another would stand in the ledger as its writer."""
    said = [given("anna", corrected="x"), given("ben", corrected="x", accepted=True)]
    for later in ({"corrected": "y"}, {"corrected": "x", "note": "hums"}, {}):
        found = settled([*said, given("anna", **later)])["u"]
        assert (found.corrected, found.corrected_by) == ("x", "anna"), later


def test_a_text_of_any_length_is_answered():
    """A recording of an hour as one utterance has more than 20,000 characters, and an earlier review may have it."""
    long = Answer(id="u" * 3_000, verdict="bad", text="a" * 50_000, corrected="b" * 50_000)
    [found] = from_review([long], "anna")
    assert settled([found])[long.id] == long.model_copy(update={"corrected_by": "anna"})


def test_disagreements_are_on_one_text_and_undecided():
    said = [given("anna"), given("ben", verdict="bad"), given("anna", "v"), given("ben", "v", "bad", text="other")]
    assert disagreements(said) == ["u"]
    assert disagreements([*said, given("anna", decides=True)]) == []
    assert disagreements([*said, given("ben")]) == []
    assert len(latest([*said, given("ben")])) == 4
