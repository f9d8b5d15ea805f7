"""Texts that a person corrected while reviewing: they train in place of those that came with the data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from shibolet.prepare.pieces import Outcome, note
from shibolet.prepare.processes import FindVerdicts
from shibolet.prepare.verdicts import Reviewed
from shibolet.records.review import Answer
from shibolet.records.utterance import Utterance

RULE = "review:corrected"


class CorrectedTexts:
    """Accepted corrections by utterance id; a correction of another text than the utterance has does not count."""

    def __init__(self, answers: Mapping[str, Answer], utterances: Sequence[Utterance]) -> None:
        self._answers = {
            u.id: one for u in utterances if (one := answers.get(u.id)) and one.text == u.text and one.corrected
        }

    def __contains__(self, id: object) -> bool:
        return id in self._answers

    def applied(self, utterances: Sequence[Utterance]) -> Sequence[Utterance]:
        """The same utterances with the texts that they have now; what was known beside another text is not of these."""
        if not self._answers:
            return utterances
        return [
            replace(u, text=self._answers[u.id].corrected, timed_text=None) if u.id in self else u for u in utterances
        ]

    def finder(self, find: FindVerdicts) -> FindVerdicts:
        """Verdicts without those on a text that was corrected: the audit judged another one."""

        def found(utterances: Sequence[Utterance]) -> list[Reviewed | None]:
            return [None if u.id in self else verdict for u, verdict in zip(utterances, find(utterances), strict=True)]

        return found if self._answers else find

    def marked(self, outcome: Outcome) -> Outcome:
        """With a line that says who corrected the text, and what it was."""
        answer = self._answers.get(outcome.pieces[0].origin_id) if outcome.pieces else None
        if answer is None:
            return outcome
        detail = f"{answer.corrected_by or 'a person'} corrected the text; it was '{answer.text[:80]}'"
        line = note(replace(outcome.pieces[0].utterance, id=answer.id), RULE, detail)
        return replace(outcome, lines=(*outcome.lines, line))

    @property
    def notes(self) -> list[str]:
        """What the summary says of them."""
        if not self._answers:
            return []
        num = len(self._answers)
        return [f"Utterances with a text that a person corrected: {num:,}. The audit did not hear these texts."]
