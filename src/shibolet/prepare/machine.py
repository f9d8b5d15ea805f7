"""Texts that machines wrote or took back, beside those that the audit let pass: told apart, and never in dev."""

from collections.abc import Sequence
from dataclasses import replace

from shibolet.errors import AudioError
from shibolet.prepare.pieces import Outcome, drop, note
from shibolet.prepare.processes import FindVerdicts
from shibolet.prepare.split import shared_with
from shibolet.prepare.tally import Tally
from shibolet.prepare.verdicts import Reviewed
from shibolet.records.machine_texts import MachineText
from shibolet.records.utterance import Utterance
from shibolet.speech.audio import content_hash


class MachineTexts:
    """What two hearers said of some utterances, by id."""

    def __init__(self, texts: Sequence[tuple[Utterance, MachineText]]) -> None:
        self._texts = {text.id: text for _, text in texts}
        self._utterances = [utterance for utterance, _ in texts]
        self._kept: dict[str, list[float]] = {}  # seconds of pieces by who wrote their text

    @property
    def num_texts(self) -> int:
        return len(self._texts)

    def others(self, utterances: Sequence[Utterance]) -> Sequence[Utterance]:
        """Without those of which hearers said something: they come with the text that they have now."""
        return [u for u in utterances if u.id not in self._texts] if self._texts else utterances

    def finder(self, find: FindVerdicts) -> FindVerdicts:
        """Verdicts, of which none speaks of a text that a machine wrote, or against one that was taken back."""

        def found(utterances: Sequence[Utterance]) -> list[Reviewed | None]:
            judged = [self._keeps_its_text(u.id) for u in utterances]
            own = iter(find([u for u, has_verdict in zip(utterances, judged) if has_verdict]))
            return [
                self._judged(u.id, next(own)) if has_verdict else None for u, has_verdict in zip(utterances, judged)
            ]

        return found if self._texts else find

    def _keeps_its_text(self, id: str) -> bool:
        return id not in self._texts or self._texts[id].kind == "taken_back"

    def _judged(self, id: str, verdict: Reviewed | None) -> Reviewed | None:
        if verdict is None or id not in self._texts or verdict.review is not None:
            return verdict
        return replace(verdict, review="good")

    def not_beside(self, dev: Sequence[Utterance], tally: Tally) -> list[Utterance]:
        """Those of no speaker, recording or file of what is held out, and of no audio of it under another name."""
        if not self._utterances:
            return []
        found, contents = [], {_content(u) for u in dev} - {None}
        for utterance, is_shared in zip(self._utterances, shared_with(self._utterances, dev), strict=True):
            if is_shared or _content(utterance) in contents:
                detail = f"speaker, recording or audio of dev; heard again ({self._texts[utterance.id].kind})"
                tally.add(drop(utterance, "beside_dev", detail))
            else:
                found.append(utterance)
        return found

    def marked(self, outcome: Outcome) -> Outcome:
        """With a line that says what the hearers said, and pieces that know who wrote their text."""
        text = self._texts.get(outcome.pieces[0].origin_id) if outcome.pieces else None
        if text is None:
            return outcome
        line = note(replace(outcome.pieces[0].utterance, id=text.id), text.kind, text.detail)
        by = None if text.kind == "taken_back" else text.kind
        pieces = tuple(replace(piece, text_by=by) for piece in outcome.pieces)
        if by is not None:
            self._kept.setdefault(by, []).extend(piece.utterance.duration_s for piece in pieces)
        return replace(outcome, pieces=pieces, lines=(*outcome.lines, line))

    @property
    def notes(self) -> list[str]:
        """What the summary says of those that were kept."""
        return [
            f"{len(own):,} pieces, {sum(own) / 3600:.3f} h, have a text that a machine wrote ({kind}); none is in dev"
            for kind, own in sorted(self._kept.items())
        ]


def _content(utterance: Utterance) -> str | None:
    """Of the audio that an utterance lies in; None where it cannot be read, which nothing is held out of."""
    try:
        return content_hash(utterance.audio.whole())
    except AudioError:
        return None
