"""Rows of a data set, each to utterances or to a ledger line that says why not."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from shibolet.errors import AudioError, DataError
from shibolet.records.ledger import LedgerLine
from shibolet.records.spilled import SpilledDict, SpilledList
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import AudioInfo
from shibolet.speech.encoded import MAX_DURATION_S, MAX_UTTERANCE_S
from shibolet.speech.fields import as_number, span_in_one
from shibolet.speech.sources import DataSource
from shibolet.speech.text import find_language, strip_official_prefix
from shibolet.speech.text.marks import without_marks
from shibolet.speech.text.rules import tidy
from shibolet.speech.textfiles import BadRow, one_line
from shibolet.speech.whisper_slices import (
    fault_of_times,
    find_timestamp,
    join_segments,
    parse_slice,
    without_timestamps,
)

MAX_CHARS_PER_S = 100  # nobody speaks a third of it; an aligner's memory grows with both text and audio
MAX_REPEATED_FRAC = 0.01  # of ids: a few are slips, more say that the column holds something else
MAX_BAD_ROWS = 100_000  # that are listed where hardly a row is good
MIN_GOOD_FRAC = 0.01  # of the rows from there on
END_TOLERANCE_S = 0.5  # an end this far beyond the audio, as of a rounded duration, is moved to the audio's end
WHOLE_TOLERANCE_S = 1.0  # of a duration in whole seconds, rounded down
DURATION_TOLERANCE_FRAC = 0.02  # a header that tells a bit rate tells the length about so well
TIMED = "timed_text"  # column of prepared data: the text between timestamps


_NO_LANGUAGE = ("und", "unknown", "none", "null", "n/a", "auto")  # codes that say that nobody knows
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # those that are not white space
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,7}|#x[0-9a-fA-F]{1,6});")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in its data set."""

    where: str  # "line 12", "row 40 of train-00001.parquet"
    default_id: str
    values: dict[str, Any]
    audio: AudioRef  # the whole of it
    info: AudioInfo | AudioError


class RowSink:
    """Takes rows in order; fills `utterances` and `ledger` until `max_utterances` is reached."""

    def __init__(
        self, source: DataSource, language: str | None = None, domain_of: Callable[[Utterance], str] | None = None
    ) -> None:
        self.source, self._domain_of = source, domain_of
        self.language = _language_name(language or source.language)  # what all rows must be in; None: anything
        self.utterances: SpilledList[Utterance] = SpilledList()
        self.ledger: SpilledList[LedgerLine] = SpilledList()
        self.num_rows = 0
        self._place_of = SpilledDict()  # id -> where it was first seen
        self._num_repeated, self._first_repeated = 0, ""  # a sentence
        self._has_timestamps = False

    @property
    def full(self) -> bool:
        return self.source.max_utterances is not None and len(self.utterances) >= self.source.max_utterances

    def drop(
        self, id: str, where: str, rule: str, detail: str, duration_s: float | None = None, **known: str | None
    ) -> None:
        """Count a row, or a part of one, that leaves; `known` are its text, recording, speaker and domain."""
        detail = detail if where == id else f"{where}: {detail}"
        name = self.source.name
        self.ledger.append(
            LedgerLine(id=id, source=name, stage="read", rule=rule, detail=detail, duration_s=duration_s, **known)
        )
        num_good, num_bad = len(self.utterances), len(self.ledger)
        if num_bad >= MAX_BAD_ROWS and num_good < MIN_GOOD_FRAC * num_bad:
            raise DataError(
                f"source '{name}': {num_good:,} of the first {self.num_rows:,} rows can be used; {self.first_reasons()}"
            )

    def first_reasons(self) -> str:
        """Why the first of the rows that left did so."""
        return one_line("; ".join(f"{line.id}: {line.rule}, {line.detail}" for line in self.ledger[:3]), 1000)

    def add_unreadable(self, where: str, bad: BadRow) -> None:
        """Count a row of which not even the fields could be read."""
        self.num_rows += 1
        self.drop(where, where, bad.rule, bad.detail)

    def add(self, row: Row) -> None:
        self.num_rows += 1
        row_id = row.where
        try:
            row_id = self._claim(row)
            whole = self._utterance(row, row_id)
            if self.source.format == "plain":
                plain = self._without_tokens(self._with_times_beside(whole, row), row.where)
                self._keep(_speakable(plain) if self.source.has_texts else plain)
        except BadRow as bad:
            audio_s = row.info.duration_s if isinstance(row.info, AudioInfo) else None
            columns = self.source.columns
            text = lookup(row.values, columns.text)
            known = {
                "text": text.strip() if _counts(text, bad) else None,
                "recording": self._label(row, columns.recording),
                "speaker": self._label(row, columns.speaker),
                "domain": self._label(row, columns.domain),
            }
            self.drop(row_id, row.where, bad.rule, bad.detail, audio_s, **known)
            return
        if self.source.format != "plain":
            self._add_segments(whole, row.where)

    def _keep(self, utterance: Utterance) -> None:
        if self._domain_of is not None and utterance.domain is None:
            utterance = replace(utterance, domain=self._domain_of(utterance))
        self.utterances.append(utterance)

    def require_own_ids(self) -> None:
        """DataError when so many rows repeat another's id that the column holds something else."""
        if self._num_repeated > MAX_REPEATED_FRAC * self.num_rows:
            raise DataError(
                f"source '{self.source.name}': {one_line(self._first_repeated)} ({self._num_repeated:,} of "
                f"{self.num_rows:,} rows repeat an id); give each row its own, or leave ids out with "
                "`columns: {id: null}`"
            )

    def require_timestamps(self) -> None:
        """DataError where the source says that its texts have timestamps, and none has."""
        if self.source.timestamps and not self._has_timestamps:
            raise DataError(
                f"source '{self.source.name}': `timestamps: true`, and none of its {len(self.utterances):,} texts has "
                f"one, nor a column '{TIMED}' beside it; leave the key out, or name the column that has them"
            )

    def _claim(self, row: Row) -> str:
        """The row's own id, or one made for it."""
        row_id = self._label(row, self.source.columns.id)
        if row_id is None:
            row_id = _first_free(row.default_id, self._place_of)
        if not self._place_of.add(row_id, row.where):
            said = f"id '{row_id}' stands at {self._place_of[row_id]} and at {row.where}"
            self._num_repeated, self._first_repeated = self._num_repeated + 1, self._first_repeated or said
            raise BadRow("repeated_id", said)
        return row_id

    def _utterance(self, row: Row, row_id: str) -> Utterance:
        columns = self.source.columns
        language, text = self._text(row) if self.source.has_texts else (None, "")
        own = _language_name(language or self._named_language(row))
        if own and self.language and own != self.language:
            raise BadRow("other_language", f"its language is '{own[:40]}', that of the source {self.language}")
        declared_s = _number(row, columns.duration, "bad_duration")
        if declared_s is not None and not 0 < declared_s <= MAX_DURATION_S:
            raise BadRow("bad_duration", f"'{columns.duration}' is {declared_s:g} s")
        if isinstance(row.info, AudioError):
            raise BadRow(row.info.reason, str(row.info))
        if row.info.duration_s > MAX_DURATION_S:
            raise BadRow("bad_duration", f"the audio's header says {row.info.duration_s:g} s")
        audio, duration_s = self._span(row, row.info.duration_s, declared_s)
        return Utterance(
            id=row_id,
            audio=audio,
            text=text.strip(),
            duration_s=duration_s,
            source=self.source.name,
            recording=self._label(row, columns.recording),
            speaker=self._label(row, columns.speaker),
            domain=self._label(row, columns.domain),
            language=own or _language_name(self.source.language),
            flags=_flags(lookup(row.values, columns.flags)),
            previous=self._previous(row),
        )

    def _text(self, row: Row) -> tuple[str | None, str]:
        """The language that some formats put before a text, and the text; BadRow where it is none."""
        column = self.source.columns.text
        text = lookup(row.values, column)
        if not isinstance(text, str):
            raise BadRow("text_not_string", f"'{column}' is {'missing' if text is None else type(text).__name__}")
        language, text = strip_official_prefix(text)
        text = self._as_told(text)
        if not (text[:1].isalpha() or tidy(text)):  # a letter that comes first stays, and to tidy takes 5 us
            raise BadRow("empty_text", f"'{column}' has no words")
        if found := _CONTROL.search(text):
            raise BadRow("control_character", f"U+{ord(found[0]):04X} at character {found.start():,} of the text")
        if found := _MARKUP.search(text):
            raise BadRow("markup", f"'{found[0][:40]}' at character {found.start():,} of the text")
        return language, text

    def _as_told(self, text: str) -> str:
        """The text in the writing that the source asks for."""
        if self.source.letter_case == "lower":
            text = text.lower()
        return without_marks(text) if self.source.punctuation == "none" else text

    def _previous(self, row: Row) -> str | None:
        """What was said before, without timestamps; None where there is nothing, or nothing that is a text."""
        text = lookup(row.values, self.source.columns.previous)
        if self.source.format != "plain" or not isinstance(text, str):
            return None
        text = without_timestamps(self._as_told(strip_official_prefix(text)[1]))
        return None if _CONTROL.search(text) or _MARKUP.search(text) else tidy(text) or None

    def _with_times_beside(self, whole: Utterance, row: Row) -> Utterance:
        """The utterance with the timestamps that `prepare` kept beside its text, where its source is to have them."""
        timed = row.values.get(TIMED)
        if not self.source.timestamps or not isinstance(timed, str) or find_timestamp(whole.text):
            return whole
        timed = self._as_told(timed)
        is_same = without_timestamps(timed).split() == whole.text.split()
        return replace(whole, text=timed) if is_same else whole

    def _without_tokens(self, whole: Utterance, where: str) -> Utterance:
        """The utterance with a plain text, and its timestamps beside it where the source has them.

        What follows an open start has no text and leaves; a ledger line says so. BadRow for times that cannot be;
        DataError for timestamps in a source that does not say what becomes of them.
        """
        if (token := find_timestamp(whole.text)) is None or self.source.timestamps is False:
            return whole if token is None else replace(whole, text=without_timestamps(whole.text).strip())
        if self.source.timestamps is None:
            raise DataError(
                f"source '{self.source.name}': the text at {where} has timestamps, such as {token}: say `timestamps: "
                "true` where a Whisper is to learn them, `timestamps: false` to leave them out, or `format: "
                "whisper_slices` to cut the audio at them"
            )
        self._has_timestamps = True
        parts = parse_slice(whole.text)
        if parts.untimed or not parts.segments:
            raise BadRow("no_timestamps", f"no time is given for '{(parts.untimed or whole.text)[:40]}'")
        if fault := fault_of_times(parts.segments, whole.duration_s, END_TOLERANCE_S):
            raise BadRow("bad_timestamps", fault)
        if parts.open_start_s is not None:
            open_s = max(parts.open_start_s, parts.segments[-1].end_s)
            self._drop_tail(whole, where, open_s)
            if open_s < whole.duration_s:
                whole = replace(whole, audio=whole.audio.cut(0.0, open_s), duration_s=open_s)
        text = " ".join(one.text for one in parts.segments)
        return replace(whole, text=text, timed_text=join_segments(parts.segments))

    def _span(self, row: Row, audio_s: float, declared_s: float | None) -> tuple[AudioRef, float]:
        """The stretch that a row says it is, and its length; BadRow where that, or the row's duration, cannot be.

        A duration is the span's or the whole audio's. With a start and no end it is the span's where that fits.
        """
        given_s = _number(row, self.source.columns.start_s, "bad_span")
        end_s = _number(row, self.source.columns.end_s, "bad_span")
        if given_s is None and end_s is None and self.source.columns.start_s and (name := span_in_one(row.values)):
            raise DataError(
                f"source '{self.source.name}': '{name}' at {row.where} has both ends of a span, which are not read: "
                "write them as 'start_s' and 'end_s', or say that it is none, `columns: {start_s: null, end_s: null}`"
            )
        start_s = given_s or 0.0
        if given_s is not None and end_s is None and declared_s is not None:
            if start_s + declared_s <= audio_s + END_TOLERANCE_S or not _agrees(declared_s, audio_s):
                end_s = round(start_s + declared_s, 6) if start_s else declared_s
        if not 0 <= start_s < (audio_s if end_s is None else end_s):
            end = f"{audio_s:.2f} s, the end of the audio" if end_s is None else f"{end_s:g} s"
            raise BadRow("bad_span", f"the span goes from {start_s:g} s to {end}")
        if end_s is not None and (end_s > audio_s + END_TOLERANCE_S or start_s >= audio_s):
            raise BadRow("span_beyond_audio", f"the span ends at {end_s:g} s, the audio at {audio_s:.2f} s")
        length_s = (audio_s if end_s is None else min(end_s, audio_s)) - start_s
        if declared_s is not None and not _agrees(declared_s, length_s) and not _agrees(declared_s, audio_s):
            span = "" if length_s == audio_s else f", its span {length_s:.2f} s"
            column = self.source.columns.duration
            raise BadRow("wrong_duration", f"'{column}' is {declared_s:g} s, the audio has {audio_s:.2f} s{span}")
        if end_s is None:
            return replace(row.audio, start_s=start_s) if start_s else row.audio, length_s
        return row.audio.cut(start_s, min(end_s, audio_s)), length_s

    def _add_segments(self, whole: Utterance, where: str) -> None:
        """An utterance for each closed segment of a Whisper slice; a ledger line for what has no text of its own."""
        parts = parse_slice(whole.text)
        if parts.untimed:
            rule = "untimed_text" if parts.segments else "no_timestamps"
            lost_s = None if parts.segments else whole.duration_s
            self.drop(whole.id, where, rule, f"no time is given for '{parts.untimed[:40]}'", lost_s)
        for number, segment in enumerate(parts.segments):
            segment_id = f"{whole.id}-{number:02d}"
            end_s = min(segment.end_s, whole.duration_s)
            if not segment.start_s < end_s or segment.end_s > whole.duration_s + END_TOLERANCE_S:
                rule = "bad_span" if segment.start_s >= segment.end_s else "span_beyond_audio"
                span = f"{segment.start_s:g} to {segment.end_s:g} s in {whole.duration_s:.2f} s of audio"
                self.drop(segment_id, where, rule, f"segment {number} goes from {span}")
                continue
            self._keep(
                replace(
                    whole,
                    id=segment_id,
                    text=segment.text,
                    audio=whole.audio.cut(segment.start_s, end_s),
                    duration_s=end_s - segment.start_s,
                )
            )
            if self.full:
                return
        if parts.open_start_s is not None:
            self._drop_tail(whole, where, parts.open_start_s)

    def _drop_tail(self, whole: Utterance, where: str, open_s: float) -> None:
        left_s = max(0.0, whole.duration_s - open_s)
        detail = f"the segment that starts at {open_s:g} s is not closed; {left_s:.2f} s have no text"
        self.drop(f"{whole.id}-tail", where, "open_tail", detail, left_s)

    def _named_language(self, row: Row) -> str | None:
        """The name or code in a row's language field; BadRow for a number, whose list of names is elsewhere."""
        column = self.source.columns.language
        named, value = self._label(row, column), lookup(row.values, column)
        if named is not None and not isinstance(value, str):
            raise BadRow(
                "bad_language", f"'{column}' is {value!r:.40}, no name; leave it out with `columns: {{language: null}}`"
            )
        return named

    def _label(self, row: Row, column: str | None) -> str | None:
        """A field as text; None where it is missing, empty, or false."""
        value = lookup(row.values, column)
        if value is None or value is False or value != value:  # NaN stands for a missing value in tables
            return None
        return (column.split(".")[-1] if value is True else str(value).strip()) or None


def _speakable(utterance: Utterance) -> Utterance:
    """The utterance; BadRow where it is too long to be heard in one piece."""
    text, length_s = utterance.text, utterance.duration_s
    if length_s > MAX_UTTERANCE_S:
        raise BadRow("too_long", f"{length_s:,.0f} s where {MAX_UTTERANCE_S:,.0f} s are heard at once: it needs spans")
    if len(text) > MAX_CHARS_PER_S * (length_s + 1):
        raise BadRow("text_too_long", f"{len(text):,} characters for {length_s:.1f} s of audio")
    return utterance


def lookup(values: dict[str, Any], column: str | None) -> Any:
    """The value at a dotted path; None where any part of it is missing."""
    if column is None:
        return None
    if column in values or "." not in column:
        return values.get(column)
    value: Any = values
    for part in column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _number(row: Row, column: str | None, rule: str) -> float | None:
    try:
        return as_number(lookup(row.values, column))
    except ValueError as error:
        raise BadRow(rule, f"'{column}' is {error} of seconds") from None


def _agrees(declared_s: float, found_s: float) -> bool:
    """Whether a duration that somebody wrote is that of some audio, but for rounding and a codec's padding."""
    rounding_s = WHOLE_TOLERANCE_S if declared_s == int(declared_s) else END_TOLERANCE_S
    return abs(declared_s - found_s) <= rounding_s + DURATION_TOLERANCE_FRAC * found_s


def _counts(text: Any, bad: BadRow) -> bool:
    """Whether evaluation counts the words of a row that cannot be heard: not those in another language."""
    return isinstance(text, str) and bool(tidy(text)) and bad.rule != "other_language"


def _flags(noted: Any) -> tuple[str, ...] | None:
    """Names of a struct's booleans that are true; None where it has none, or there is no struct."""
    if not isinstance(noted, dict) or not any(isinstance(value, bool) for value in noted.values()):
        return None
    return tuple(sorted(name for name, value in noted.items() if value is True))


@lru_cache
def _language_name(language: str | None) -> str | None:
    """The name as in the prompt for a name or code that is known; another one as it was given; None: nobody knows."""
    if not language or language.strip().lower() in _NO_LANGUAGE:
        return None
    known = find_language(language)
    return known.name if known else language


def _first_free(wanted: str, taken: SpilledDict) -> str:
    free, number = wanted, 1
    while free in taken:
        number += 1
        free = f"{wanted}-{number}"
    return free
