"""Texts by machines: for audio without any, and for utterances of the training data that the audit flagged.

Two hearers hear the same audio. Where they agree beyond a limit the text of the one that hears better there may train;
who that is, and the limit, are calibrated on clips whose text is known, the limit on damaged copies of them too. What
one writes again and again where something else is said is no text, however well the rest agrees.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Literal

from shibolet.errors import DataError
from shibolet.label.agreement import choose_limit, letters_apart, surprise
from shibolet.records.audited import Audited, audited_hash
from shibolet.records.documents.labelled import Author, Flagged, Habit, Labelled, SourceLabels, Threshold
from shibolet.records.documents.prepared import Amount
from shibolet.records.files import hash_json, make_folder
from shibolet.records.ledger import LedgerLine, write_ledger
from shibolet.records.machine_texts import MachineText, read_texts, write_texts
from shibolet.records.manifest import read_manifest, write_manifest
from shibolet.records.utterance import Utterance
from shibolet.rounds.fit import writer_and_listener
from shibolet.rounds.judged import Judged, judged
from shibolet.rounds.known_texts import Known, known_texts, try_on
from shibolet.rounds.shared import Round
from shibolet.rounds.unlabelled import STAGE, cut_into_pieces, line_of, whole_of
from shibolet.speech.text import get_language

if TYPE_CHECKING:  # it imports the audit
    from shibolet.rounds.hearers import Hearers

Who = Literal["writer", "listener"]

DOCUMENT, MANIFEST, TEXTS, LEDGER = "label.json", "manifest.jsonl", "texts.jsonl", "ledger.jsonl"


def wants_labels(current: Round) -> bool:
    """Whether a recipe has anything for machines to write or to hear again."""
    return bool(current.recipe.data.unlabelled or current.recipe.label.flagged)


def do_label(current: Round, by: Judged | None = None) -> Labelled:
    """Which texts by machines may train; `labelled/` has them.

    DataError where nothing tells which texts of the data are right, so that no limit can be calibrated.
    """
    from shibolet.rounds.hearers import Hearers

    recipe, folder, config = current.recipe, current.folder, current.recipe.label
    if not wants_labels(current):
        raise DataError(
            f"recipe '{recipe.name}' has nothing to label: name sources in data.unlabelled, or set label.flagged=true"
        )
    by = by or judged(current)
    if not by.config.drop_low_quality:
        raise DataError(
            "label: the gate says INVALID, so nothing shows which texts are right, and no limit can be calibrated; "
            "take data.unlabelled and label.flagged out of the recipe, or give another audit.recogniser"
        )
    writer, listener = writer_and_listener(recipe)
    hearers = Hearers(current, writer, listener)
    if len(set(hearers.identities)) < 2:
        raise DataError(f"label: '{writer}' is writer and listener, but a model always agrees with itself; name two")
    audio = current.join(recipe.data.unlabelled) if recipe.data.unlabelled else None
    known = known_texts(current, by.rows(), (writer, listener))
    inputs = {
        "format": Labelled.FORMAT,
        "data": [current.data.digest, audio.digest if audio else None],
        "known": known.digest,
        "verdicts": [audited_hash(table) for table in by.tables],
        "label": config.model_dump(mode="json", exclude={"writer", "listener", "recut"}),
        "hearers": hearers.identities,
        "decoding": hearers.decoding,
        "language": recipe.language,
        "pieces": [by.config.min_duration_s, by.config.max_duration_s],
        **by.review_hash,
    }
    stage = current.begin(STAGE, inputs, by.reads)
    if not stage.done:
        make_folder(folder.labelled)
        labelling = _Labelling(current, hearers, by, known)
        labelling.calibrate()
        labelling.label(list(audio.utterances) if audio else [], list(audio.ledger) if audio else [])
        labelling.write(writer, listener)
        current.finish(stage)
    return Labelled.read(folder.labelled / DOCUMENT)


def labelled_texts(current: Round) -> list[tuple[Utterance, MachineText]]:
    """What `prepare` takes: utterances with the texts that they have now, those without a text of their own last."""
    folder, given = current.folder.labelled, {u.id: u for u in current.data.utterances}
    known = given | {u.id: u for u in _pieces(current, read_manifest(folder / MANIFEST))}
    texts = sorted(read_texts(folder / TEXTS), key=lambda text: text.kind == "labelled")
    return [(_with(known[text.id], text), text) for text in texts]


def _pieces(current: Round, pieces: Sequence[Utterance]) -> list[Utterance]:
    """The pieces in the audio as the recipe names it now: the same data may lie elsewhere than when they were cut."""
    audio = {u.id: u.audio for u in current.join(current.recipe.data.unlabelled).utterances} if pieces else {}
    return [
        replace(piece, audio=replace(audio[whole_of(piece.id)], start_s=piece.audio.start_s, end_s=piece.audio.end_s))
        for piece in pieces
    ]


def _with(utterance: Utterance, text: MachineText) -> Utterance:
    """The utterance with the text that it has now; what was known beside another text is not of this one."""
    if text.kind == "taken_back":
        return utterance
    return replace(utterance, text=text.text, timed_text=None, previous=None)


@dataclass
class _Labelling:
    """One run of the stage."""

    current: Round
    hearers: "Hearers"
    by: Judged
    known: Known
    authors: dict[str, Author] = field(default_factory=dict)  # by domain
    agreement: Threshold | None = None
    given: Threshold | None = None
    habits: dict[Who, dict[tuple[str, str], Habit]] = field(default_factory=lambda: {"writer": {}, "listener": {}})
    texts: list[MachineText] = field(default_factory=list)
    pieces: list[Utterance] = field(default_factory=list)  # admitted
    lines: list[LedgerLine] = field(default_factory=list)
    sources: dict[str, SourceLabels] = field(default_factory=dict)
    flagged: Flagged | None = None

    def calibrate(self) -> None:
        """Whose texts train, the limits, and what of their habits clips with a known text show."""
        config, language = self.current.recipe.label, self.current.recipe.language
        tried = try_on(self.current, self.hearers, self.known)
        self.authors = {one.domain: one for one in tried.authors}
        self.agreement = choose_limit(tried.texts, config.max_false_accept_pct)
        if config.flagged:
            self.given = choose_limit(tried.damaged_texts, config.max_false_accept_pct, of_all=True)
        self._add_habits(tried.against_truth, "truth", language)

    def label(self, audio: list[Utterance], unread: list[LedgerLine]) -> None:
        """Decide on pieces without text and on flagged utterances; the habits are those of both together."""
        current, config = self.current, self.current.recipe.label
        self.lines += unread
        progress_title = "label: cut"
        with current.track(progress_title) as progress:
            found, lines = cut_into_pieces(audio, config.max_piece_s, self.by.config.min_duration_s, progress)
        self.lines += lines
        if twice := sorted({u.id for u in found} & {u.id for u in current.data.utterances}):
            raise DataError(f"label: a piece and an utterance of data.train both have the id '{twice[0]}'; rename one")
        flagged = self._flagged() if config.flagged else []
        digest = hash_json([current.data.digest, [[u.id, u.audio.start_s, u.audio.end_s] for u in [*found, *flagged]]])
        heard = self.hearers.hear([*found, *flagged], digest, "label")
        rows = self.hearers.in_turn([*found, *flagged], heard, self.authors, "label")
        self._add_habits(rows, "listener", current.recipe.language)
        refused = self._admit(found, rows[: len(found)])
        self._report_sources(audio, found, lines, refused)
        if config.flagged:
            self._hear_again(flagged, heard[len(found) :], rows[len(found) :])

    def _apart(self, row: Audited) -> float | None:
        """How far the two are apart, in what the limit is on."""
        return row.cer if self.agreement.by == "letters" else surprise(row)

    def _author(self, row: Audited) -> Who:
        return self.authors[row.domain].by if row.domain in self.authors else "writer"

    def _flagged(self) -> list[Utterance]:
        """Utterances that the audit, and no person, calls low quality, and that are short enough to train whole.

        A person who corrected a text has said what it should be.
        """
        rows, limit_s = self.by.rows(), self.by.config.max_duration_s
        corrected = rows.corrected
        verdicts = {id: one for id, one in rows.among([u.id for u in self.current.data.utterances]).items()}
        return [
            u for u in self.current.data.utterances
            if (one := verdicts.get(u.id)) and one.is_low_quality and not one.row.failure and one.review is None
            and u.id not in corrected and u.duration_s <= limit_s
        ]  # fmt: skip

    def _add_habits(self, rows: Sequence[Audited], by: str, language: str) -> None:
        from shibolet.audit.confusions import confusions

        for who, habits in self.habits.items():
            for one in confusions([row for row in rows if self._author(row) == who], language)[0]:
                habits.setdefault((one.text, one.heard), Habit(confusion=one, by=by, refused=0, author=who))

    def _refusal(self, row: Audited) -> tuple[str, str] | None:
        """Why the text of a row is not taken: a rule and its detail."""
        from shibolet.audit.confusions import holds

        limit = self.agreement.limit
        if row.failure is not None:
            return row.failure, "nothing was heard in it that could be a text"
        if limit is None:
            return "no_limit", "no limit on the disagreement is shown to let few false texts pass"
        apart = self._apart(row)
        if apart is None or apart > limit:
            if apart is None:
                said = ""
            elif self.agreement.by == "letters":
                said = f"{apart:.1%} of the letters differ, at most {limit:.0%} may: "
            else:
                said = f"the other one finds it {apart:.2f} nats a token less likely, at most {limit:g} may be: "
            return "hearers_differ", f"{said}'{row.text[:60]}' and '{row.hypothesis[:60]}'"
        who = self._author(row)
        habits = self.habits[who]
        pair = holds(row, habits, self.current.recipe.language)
        if pair is None:  # both may have learned what known texts tell
            known = sorted(pair for pair, one in habits.items() if one.by == "truth" and pair[0] in row.words)
            pair = known[0] if known else None
        if pair is None:
            return None
        habits[pair] = habits[pair].model_copy(update={"refused": habits[pair].refused + 1})
        return "habit", f"the {who} often writes '{pair[0]}' where '{pair[1]}' is said"

    def _admit(self, found: Sequence[Utterance], rows: Sequence[Audited]) -> dict[str, dict[str, list[float]]]:
        """Take pieces, those that agree best first, up to the share; seconds refused by source and rule."""
        refused: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

        def refuse(piece: Utterance, rule: str, detail: str) -> None:
            self.lines.append(line_of(piece, rule, detail))
            refused[piece.source][rule].append(piece.duration_s)

        fit = []
        for piece, row in zip(found, rows, strict=True):
            if (why := self._refusal(row)) is not None:
                refuse(piece, *why)
            else:
                fit.append((piece, row))
        most_s = self.current.recipe.label.max_labelled_share * self.known.hours_with_text * 3600
        taken_s, is_full = 0.0, False
        for piece, row in sorted(fit, key=lambda pair: (self._apart(pair[1]), pair[1].cer, hash_json(pair[0].id))):
            if is_full := is_full or taken_s + piece.duration_s > most_s:  # a shorter one agrees less
                refuse(piece, "over_share", f"{most_s / 3600:.3f} h of such pieces may train, others agree as well")
                continue
            taken_s += piece.duration_s
            self.pieces.append(replace(piece, text=row.text))
            self.texts.append(_text_of(row, "labelled", row.text, self._author(row)))
        return refused

    def _report_sources(
        self, audio: Sequence[Utterance], found: Sequence[Utterance], lines: Sequence[LedgerLine],
        refused: dict[str, dict[str, list[float]]],
    ) -> None:  # fmt: skip
        for line in lines:
            refused[line.source][line.rule].append(line.duration_s or 0.0)
        for source in self.current.recipe.data.unlabelled:
            own = lambda items: [one.duration_s for one in items if one.source == source.name]  # noqa: B023, E731
            by_rule = {rule: Amount.of(seconds) for rule, seconds in refused[source.name].items()}
            self.sources[source.name] = SourceLabels(
                given=Amount.of(own(audio)), admitted=Amount.of(own(self.pieces)),
                refused=dict(sorted(by_rule.items(), key=lambda item: (-item[1].utterances, item[0]))),
            )  # fmt: skip

    def _hear_again(self, utterances: Sequence[Utterance], written: Sequence[Audited], rows: Sequence[Audited]) -> None:
        """Take back what the writer confirms, as the audit's recogniser often is the listener; correct, or leave it."""
        recipe, corrected = self.current.recipe, []
        rules, taken_back = get_language(recipe.language), 0
        for utterance, by_writer, row in zip(utterances, written, rows, strict=True):
            apart = letters_apart(rules.to_words(utterance.text).tokens, by_writer.text, rules)
            if self.given.limit is not None and by_writer.failure is None and apart <= self.given.limit:
                taken_back += 1
                text = replace(_text_of(by_writer, "taken_back", utterance.text, None), disagreement=apart)
                self.texts.append(replace(text, given=utterance.text))
            elif row.text == utterance.text:
                continue  # nothing to correct, and no limit by which to take it back
            elif self._refusal(row) is None and row.cer <= recipe.label.max_corrected_disagreement:
                text = _text_of(row, "corrected", row.text, self._author(row))
                corrected.append(replace(text, given=utterance.text))
        most = int(recipe.label.max_corrected_share * len(self.current.data.utterances))
        corrected.sort(key=lambda text: (text.disagreement, hash_json(text.id)))
        self.texts += corrected[:most]
        kept = taken_back + len(corrected[:most])
        self.flagged = Flagged(
            heard=len(rows), taken_back=taken_back, corrected=len(corrected[:most]), dropped=len(rows) - kept
        )

    def write(self, writer: str, listener: str) -> None:
        """Put everything on disk, the document last."""
        folder, config = self.current.folder.labelled, self.current.recipe.label
        write_manifest(folder / MANIFEST, self.pieces, self.current.folder.path)
        write_texts(folder / TEXTS, self.texts)
        write_ledger(folder / LEDGER, self.lines)
        found = Labelled(
            writer=writer, listener=listener, max_wer=config.max_wer, max_false_accept_pct=config.max_false_accept_pct,
            authors=tuple(self.authors.values()), agreement=self.agreement, given=self.given,
            habits=tuple(chain(*(own.values() for own in self.habits.values()))), sources=self.sources,
            flagged=self.flagged, sentence=_sentence(self), notes=tuple(self.known.notes),
        )  # fmt: skip
        found.write(folder / DOCUMENT)
        self.current.tell(f"label: {found.sentence}")


def _text_of(row: Audited, kind: str, text: str, by: Who | None) -> MachineText:
    """What two hearers say of a row, whose text is the writer's unless it is `by` the listener."""
    written, heard = (row.hypothesis, row.text) if by == "listener" else (row.text, row.hypothesis)
    return MachineText(
        id=row.id, kind=kind, text=text, written=written, heard=heard, disagreement=row.cer or 0.0, by=by
    )


_where: Callable[[str], str] = lambda domain: f"In {domain}" if domain != "unknown" else "Where no domain is named"  # noqa: E731


def _shown(threshold: Threshold) -> str:
    if threshold.by == "letters":
        return f"at most {threshold.limit:.0%} of the letters differ"
    return f"the other model finds it at most {threshold.limit:g} nats a token less likely than what it heard itself"


def _sentence(found: _Labelling) -> str:
    """What came of it, in words."""
    config, parts = found.current.recipe.label, []
    limit = found.agreement.limit
    if limit is None:
        best = min(step.upper_pct for step in found.agreement.steps)
        parts.append(
            f"No text by a machine passes: of {found.agreement.clips:,} clips whose text is known no limit shows under "
            f"{config.max_false_accept_pct:g}% false accepts (the lowest upper end is {best:.1f}%)."
        )
    else:
        parts.append(f"A text passes where {_shown(found.agreement)}.")
        parts += [
            f"{_where(one.domain)} the listener's texts train: of words that are known it writes "
            f"{one.listener_wer_pct:.1f}% wrong, the writer {one.writer_wer_pct:.1f}%."
            for one in found.authors.values()
            if one.by == "listener"
        ]
    if found.sources:
        given, admitted = (
            sum(getattr(one, name).hours for one in found.sources.values()) for name in ("given", "admitted")
        )
        parts.append(f"Of {given:.2f} h without text {admitted:.2f} h train, in {len(found.pieces):,} pieces.")
    if (again := found.flagged) is not None:
        parts.append(
            f"Of {again.heard:,} flagged utterances {again.taken_back:,} are taken back, {again.corrected:,} corrected "
            f"and {again.dropped:,} dropped."
        )
    return " ".join(parts)
