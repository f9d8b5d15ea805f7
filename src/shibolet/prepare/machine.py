"""Texts that machines wrote or took back, among those that came with the data: told apart, and never in dev."""

from collections.abc import Sequence
from dataclasses import replace

from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.pieces import Outcome, drop, note, refuse
from shibolet.prepare.processes import FindVerdicts
from shibolet.prepare.split import Part, shared_with
from shibolet.prepare.tally import Tally
from shibolet.prepare.verdicts import Reviewed
from shibolet.records.machine_texts import MachineText
from shibolet.records.utterance import Utterance
from shibolet.speech.text import Language


class MachineTexts:
    """What two hearers said of some utterances, by id."""

    def __init__(self, texts: Sequence[tuple[Utterance, MachineText]]) -> None:
        self._texts = {text.id: text for _, text in texts}
        self._written = [utterance for utterance, text in texts if text.kind != "taken_back"]
        self._ids = {utterance.id for utterance in self._written}
        self._kept: dict[str, list[float]] = {}  # seconds of pieces by who wrote their text

    @property
    def num_written(self) -> int:
        return len(self._written)

    def others(self, utterances: Sequence[Utterance]) -> Sequence[Utterance]:
        """Without those whose text a machine wrote: they come with it."""
        return [u for u in utterances if u.id not in self._ids] if self._ids else utterances

    def finder(self, find: FindVerdicts) -> FindVerdicts:
        """Verdicts, of which none speaks of a text that a machine wrote, or against one that was taken back."""

        def found(utterances: Sequence[Utterance]) -> list[Reviewed | None]:
            own = iter(find([u for u in utterances if u.id not in self._ids]))
            return [None if u.id in self._ids else self._judged(u.id, next(own)) for u in utterances]

        return found if self._texts else find

    def _judged(self, id: str, verdict: Reviewed | None) -> Reviewed | None:
        if verdict is None or id not in self._texts or verdict.review is not None:
            return verdict
        return replace(verdict, review="good")

    def fit(
        self, others: Sequence[Utterance], parts: Sequence[Part], language: Language, config: PrepareConfig,
        tally: Tally,
    ) -> list[Utterance]:  # fmt: skip
        """Those that may train: with words, and of no speaker, recording or file that is held out of the others."""
        dev = [utterance for utterance, part in zip(others, parts, strict=True) if part != "train"]
        found = []
        for utterance, is_shared in zip(self._written, shared_with(self._written, dev), strict=True):
            if is_shared:
                detail = f"a speaker, recording or file of dev; a machine's text ({self._texts[utterance.id].kind})"
                tally.add(drop(utterance, "beside_dev", detail))
            elif refused := refuse(utterance, None, language, config):
                tally.add(refused)
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
