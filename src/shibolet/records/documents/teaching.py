"""`teach/teach.json`: what became of the texts that a teacher wrote of the training set."""

from typing import ClassVar

from shibolet.records.documents.base import Document


class TeacherTexts(Document):
    """Texts that train beside the references, and why the others do not."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet train RECIPE' makes it anew"

    teacher: str
    utterances: int  # of the training set
    kept: int  # texts that say something else than the reference and that the audit finds right, and likelier
    left_out: dict[str, int]  # by rule of the ledger
    wer: float | None  # the teacher's against the references, not all of which are right

    @property
    def sentence(self) -> str:
        """The same for the user."""
        others = ", ".join(f"{count:,} {rule}" for rule, count in self.left_out.items())
        return (
            f"teach: {self.kept:,} texts of the teacher train beside the references of {self.utterances:,} utterances"
            f"{f'; left out: {others}' if others else ''}"
        )
