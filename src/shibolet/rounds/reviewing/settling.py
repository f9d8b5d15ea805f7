"""What people answered in `shibolet review`, for the later stages: `answers.jsonl` comes to `review.jsonl`."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from shibolet.records.answers import EARLIER, Journal, from_review, read_answers, settled
from shibolet.records.files import write_jsonl
from shibolet.records.review import read_review
from shibolet.records.runfolder import RunFolder


def settle_answers(folder: RunFolder) -> None:
    """Bring `review.jsonl` to what the answers come to; a folder in which nobody reviewed stays as it is."""
    if not folder.answers.is_file():
        return
    answers = settled(read_answers(folder.answers))
    if answers or folder.review.is_file():
        if not (folder.review.is_file() and read_review(folder.review) == answers):
            write_jsonl(folder.review, [one.to_json() for one in answers.values()])
            folder.seal("review")


def open_journal(folder: RunFolder) -> Journal:
    """The answers of a run folder; a new file begins with those that an earlier review left."""
    if not folder.answers.is_file() and folder.review.is_file():
        folder.intact("review")
        earlier = from_review(read_review(folder.review).values(), EARLIER)
        write_jsonl(folder.answers, [one.model_dump() for one in earlier])
    return Journal(folder.answers)


def take_in(folder: RunFolder, path: Path, text_of: Mapping[str, str]) -> str:
    """Add a file of verdicts to the review of the folder; a sentence about both.

    Where people answered in `shibolet review` the file decides, as the newest answer. DataError when none of its
    verdicts is about these utterances.
    """
    from shibolet.audit.review import keep_review, read_saved, require_about

    if not folder.answers.is_file():
        said = keep_review(path, folder.review, text_of)
        folder.seal("review")
        return said
    answers = read_saved(path)
    require_about(path, answers, text_of)
    with closing(Journal(folder.answers)) as journal:
        journal.append(from_review(answers.values(), path.name[:60], decides=True))
    settle_answers(folder)
    return f"review: {len(answers):,} answers of {path.name}, which decide where people had answered otherwise"
