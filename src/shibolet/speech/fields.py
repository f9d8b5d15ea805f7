"""What people call the fields of a row, and how they write a number or a path: one table for all formats.

A field that changes what a row is (its span, who speaks) and stands under a name that nothing reads is asked about.
"""

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from shibolet.errors import DataError
from shibolet.speech.sources import Columns, DataSource
from shibolet.speech.textfiles import one_line

OFFSET = "offset"  # with a duration: where the span starts, as NeMo and others have it
ONSET = "onset"  # beside which an offset is the end
_START, _LANGUAGE, _BEFORE = Columns().start_s, Columns().language, Columns().previous
_WORDS_OF = {
    "start_s": {
        "start", "starts", "starting", "begin", "begins", "beginning", "beg", "starttime", "begintime", "onset",
        "offset", "stime", "tstart", "tbegin", "tbeg",
    },
    "end_s": {
        "end", "ends", "ending", "stop", "stops", "finish", "endtime", "stoptime", "etime", "tend", "tstop",
    },
    "speaker": {"speaker", "spk"},
    "recording": {"recording", "rec"},
}  # fmt: skip
_PAIRS = (  # only both are a span
    (ONSET, OFFSET), ("from", "to"), ("in", "out"), ("s", "e"), ("st", "et"), ("t0", "t1"), ("t1", "t2"), ("ts", "te"),
    ("tmin", "tmax"), ("xmin", "xmax"),
)  # fmt: skip
_OTHERS_SPANS = {  # not of the row's audio: of its words, or of where the audio was cut from
    "word", "words", "char", "chars", "phone", "phones", "token", "tokens", "page", "line", "year", "date", "origin",
    "original", "orig",
}  # fmt: skip
_TIMES = {
    "time", "timestamp", "ts", "t", "at", "pos", "position", "segment", "seg", "audio", "clip", "utterance", "utt",
}  # fmt: skip
_SECONDS = {"s", "sec", "secs", "second", "seconds"}
_OTHER_UNITS = {
    "ms": "milliseconds", "msec": "milliseconds", "millis": "milliseconds", "milliseconds": "milliseconds",
    "sample": "samples", "samples": "samples", "frame": "frames", "frames": "frames",
}  # fmt: skip
_NAMES = {"id", "name", "label", "code"}
_LENGTHS = {"dur", "length", "len", "duration", "tdur"}
_LANGUAGES = ("lang", "locale")  # other names of a row's language, as NeMo and Common Voice have it
_PREVIOUS = ("prev_transcript", "previous_transcript", "prev_text", "previous_text")  # ivrit.ai's name first
SPANS = ("timestamp", "timestamps", "segment", "span", "interval", "time", "times", "range")
_PAIR = re.compile(r"[\[(]\s*([0-9.]+)\s*,\s*([0-9.]+)\s*[\])]")  # as a table has it
OTHER_NAMES = (OFFSET, *_LANGUAGES, *_PREVIOUS)  # that are read beside those of `Columns`
FIELDS = ("start_s", "end_s", "speaker", "recording")  # without which data are others
_MAX_NAME = 100  # characters
_NEAR = 0.75  # of difflib: "spekaer" and "speaker_id" are near to "speaker", "segment" and "seeker" are not

_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")
_MAX_NUMBER = 1e9


def as_number(value: Any) -> float | None:
    """A number, also one in text ("1.5") or of a table's types; None where a cell is empty; ValueError for the rest."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str) and len(value) < 100 and _NUMBER.fullmatch(value):
        value = float(value)
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not is_number or value != value or not abs(value) < _MAX_NUMBER:
        raise ValueError(f"{value!r:.60}, not a number")
    return float(value)


def spellings(name: str) -> list[str]:
    """Other ways to write a path that names nothing as it is: composed or decomposed letters, Windows' backslashes."""
    ways = (name, name.replace("\\", "/"))
    others = [unicodedata.normalize(form, way) for way in ways for form in ("NFC", "NFD")]
    return [other for other in dict.fromkeys([*others, ways[1]]) if other != name]


def plain_path(name: str) -> str:
    """A path without `file://` and `~/`; other names as they are."""
    if name[:7].lower() == "file://" and (path := name[7:].removeprefix("localhost")).startswith("/"):
        return unquote(path)
    return str(Path(name).expanduser()) if name.startswith("~/") else name


def renamed(names: Collection[str], wanted: Iterable[str | None]) -> dict[str, str]:
    """Names as they are wanted, by those that differ in case or by spaces around them alone."""
    found = {}
    for own in wanted:
        alike = [name for name in names if own and name.strip().casefold() == own.casefold()]
        if own not in names and len(alike) == 1:
            found[alike[0]] = own
    return found


def require_single(names: Collection[str], wanted: Iterable[str | None], what: str) -> None:
    """DataError where two columns have a name that is read."""
    names = list(names)
    if twice := next((name for name in wanted if name and names.count(name) > 1), None):
        raise DataError(f"{what} has {names.count(twice)} columns named '{twice}': rename all but one")


def with_other_names(row: Mapping[str, Any], columns: Columns) -> Mapping[str, Any]:
    """The row with what stands under another name that can mean one thing only: a language, the text before, the start
    of a span.

    An `offset` is the start where there is a duration and no other start.
    """
    if columns.language == _LANGUAGE and _LANGUAGE not in row:
        named = next((row[name] for name in _LANGUAGES if isinstance(row.get(name), str)), None)
        row = row if named is None else {**row, _LANGUAGE: named}
    if columns.previous == _BEFORE and _BEFORE not in row:
        named = next((row[name] for name in _PREVIOUS if isinstance(row.get(name), str)), None)
        row = row if named is None else {**row, _BEFORE: named}
    if columns.start_s != _START or row.get(OFFSET) is None or row.get(_START) is not None:
        return row
    return {**row, _START: row[OFFSET]} if columns.duration in row and ONSET not in row else row


def span_in_one(row: Mapping[str, Any]) -> str | None:
    """The name of a field that has both ends of a span, `[0.5, 2.0]` or `{start: 0.5, end: 2.0}`, if any."""
    for name in SPANS:
        if name in row and _is_span(row[name]):
            return name
    return None


def _is_span(value: Any) -> bool:
    if isinstance(value, str) and (found := _PAIR.fullmatch(value.strip())):
        value = found.groups()
    elif isinstance(value, Mapping):
        words = [next((w for w in ("start", "end") if w in _words(str(key))), None) for key in value]
        return "start" in words and "end" in words
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    try:
        first, last = as_number(value[0]), as_number(value[1])
    except ValueError:
        return False
    return first is not None and last is not None and 0 <= first < last


def refuse_unread(
    names: Collection[str],
    source: DataSource,
    place: object,
    *,
    new: Collection[str] | None = None,
    fields: Collection[str] = FIELDS,
) -> None:
    """DataError where one of `fields` seems to stand under a name that nothing reads: the data would be others.

    `names` are all that are there, `new` those that have not been looked at, None: all.
    """
    columns = source.columns.model_dump()
    missing = {field: columns[field] for field in fields if columns[field] and columns[field] not in names}
    has_length = columns["duration"] in names
    has_offset = OFFSET in names and ONSET not in names and columns["start_s"] == _START
    if has_length and has_offset:  # `with_other_names` reads a span
        missing = {field: column for field, column in missing.items() if field not in ("start_s", "end_s")}
    if columns["start_s"] in names and "end_s" in missing and not has_length:
        missing["duration"] = columns["duration"] or ""
    found = {}
    for name in sorted(set(names if new is None else new) - set(columns.values())) if missing else ():
        if len(name) <= _MAX_NAME and (field := _field_of(name, names, missing)):
            found.setdefault(field, name)
    if not found:
        return
    found = {field: found[field] for field in (*FIELDS, "duration") if field in found}
    are, it = ("is", "it") if len(found) == 1 else ("are", "them")
    shown = f"source '{source.name}': {place} has {_listed(found.values())}, which {are} not read, and no "
    shown += _listed([missing[field] or field for field in found])
    units = [_OTHER_UNITS[word] for name in found.values() for word in _words(name) if word in _OTHER_UNITS]
    named = ", ".join(f"{field}: {name}" for field, name in found.items())
    nothing = ", ".join(f"{field}: null" for field in found)
    how = f"name {it} in the recipe, `columns: {{{named}}}`"
    if units:
        how = f"write seconds in place of {units[0]}"
    elif found.keys() & {"start_s", "end_s", "duration"}:
        how += " (seconds)"
    how += f", rename {it} in the file" if not units else ""
    raise DataError(f"{shown}: {how}, or say that there {are} none, `columns: {{{nothing}}}`")


def _field_of(name: str, names: Collection[str], missing: Mapping[str, str]) -> str | None:
    """Which of the missing fields one of these names seems to be of."""
    for pair in _PAIRS:
        if name in pair and set(pair) <= set(names):
            field = ("start_s", "end_s")[pair.index(name)]
            return field if field in missing else None
    words = _words(name)
    for field, own in (*_WORDS_OF.items(), ("duration", _LENGTHS)):
        beside = _NAMES if field in ("speaker", "recording") else _TIMES | _SECONDS | _OTHER_UNITS.keys()
        if field in missing and words & own and (words - own <= beside or _has_partner(name, own, names)):
            return field
    # `speaker_age` is near to `speaker`, but no slip of it.
    by_column = {column: field for field, column in missing.items() if column and column not in words}
    near = difflib.get_close_matches(name, by_column, n=1, cutoff=_NEAR)
    return by_column[near[0]] if near else None


def _has_partner(name: str, own: set[str], names: Collection[str]) -> bool:
    """Whether one of the names is the other end of a span: `turn_start` beside `turn_end`, or `turn_duration`."""
    rest = _words(name) - own
    if not rest or rest & _OTHERS_SPANS:
        return False
    starts, ends = _WORDS_OF["start_s"], _WORDS_OF["end_s"] | _LENGTHS
    wanted = ends if own is _WORDS_OF["start_s"] else starts
    return any(_words(other) & wanted and _words(other) - wanted == rest for other in names if other != name)


def _words(name: str) -> set[str]:
    """The words of a name: of `startTime`, `start-time` and `Start time` the same two."""
    return set(re.sub(r"([a-z])([A-Z])", r"\1 \2", name).replace("_", " ").replace("-", " ").lower().split())


def _listed(names: Iterable[str]) -> str:
    return " and ".join(f"'{one_line(name)}'" for name in names)
