"""What of the audit `prepare` and `label` go by: its tables, and whether it is believed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shibolet.prepare.config import PrepareConfig
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.files import hash_file
from shibolet.records.review import read_review
from shibolet.rounds import auditing
from shibolet.rounds.reviewing.settling import settle_answers
from shibolet.rounds.shared import Round

if TYPE_CHECKING:
    from shibolet.prepare.verdicts import ReviewedRows


@dataclass(frozen=True, slots=True)
class Judged:
    """The audit of a round's training data."""

    config: PrepareConfig  # an instrument that is INVALID and accepted judges nothing
    tables: Sequence[Path]
    reads: tuple[str, ...]  # stages that made them
    review: Path | None  # a person's answers, where there are any

    @property
    def review_hash(self) -> dict[str, str]:
        """An input of a stage, where there is one."""
        return {"review": hash_file(self.review)} if self.review else {}

    def rows(self) -> "ReviewedRows":
        from shibolet.prepare.verdicts import ReviewedRows

        return ReviewedRows(self.tables, read_review(self.review) if self.review else {})


def judged(current: Round) -> Judged:
    """It hears first what the sample left out, where the recipe wants it heard."""
    folder, config = current.folder, current.recipe.prepare
    folder.verified("gate")
    auditing.require_audited(current)
    if GateVerdict.read(folder.gate()).decision == "INVALID":
        config = config.model_copy(update={"drop_low_quality": False})
    tables, reads = [folder.audited_utterances()], ["gate", "audit"]
    if config.unheard == "audit" and config.drop_low_quality:
        tables.append(auditing.do_hear_rest(current))
        reads.append("hear-rest")
    settle_answers(folder)
    if is_reviewed := folder.review.is_file():
        folder.intact("review")
    return Judged(config, tables, tuple(reads), folder.review if is_reviewed else None)
