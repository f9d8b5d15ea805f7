"""Hypotheses that another system made, as its files have them, by utterance of a set.

.jsonl      one object a line: `id` and `hypothesis`, or NeMo's `audio_filepath` and `pred_text`; `set` where ids repeat
.csv, .tsv  the same in columns; or ivrit.ai's `reference_text` and `predicted_text`, matched by reference
.ctm        NIST's: file, channel, start, duration, word; words go to the utterance whose span holds their middle

Confidences, 0 to 1, are read where a row has `confidences` (a list, one of each word between spaces) or `confidence`
(one for all words), and from a CTM's sixth field. No score minds them; `shibolet combine` does.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shibolet.errors import DataError
from shibolet.listen.hypotheses import EITHER_KEYS, ID_KEYS, TEXT_KEYS, Row, id_of, read_rows, same_id, text_key
from shibolet.records.utterance import Utterance
from shibolet.speech.text import strip_official_prefix
from shibolet.speech.textfiles import BadRow, explained, one_line, read_lines

NO_TEXTS = {
    *ID_KEYS, "set", "speaker", "recording", "domain", "source", "language", "model", "system", "path", "file",
}  # fmt: skip
LOOKED_AT = 1000  # rows, to tell which columns hold texts
MAX_EQUAL_FRAC = 0.95  # of hypotheses to their references, where another column may hold the hypotheses
IVRIT_COLUMNS = ("reference_text", "predicted_text")

_NAMED = re.compile("hyp|pred|asr|output|transcri|recogni|decod|result")  # a name of hypotheses, of one word each too

Normaliser = Callable[[str], str]


@dataclass
class HypothesisFile:
    """What a file holds, until the utterances that it belongs to are known; `used` collects what found its place."""

    path: Path
    by_id: dict[tuple[str | None, str], str] = field(default_factory=dict)  # (set, id)
    by_reference: list[tuple[str, str]] = field(default_factory=list)  # (reference, hypothesis) in order
    # recording -> (middle in s, word, confidence) in order
    words: dict[str, list[tuple[float, str, float | None]]] = field(default_factory=dict)
    sure: dict[tuple[str | None, str], tuple[float, ...]] = field(default_factory=dict)  # of each word, by (set, id)
    in_doubt: tuple[str, str] | None = None  # the key that was read, and another that may hold the hypotheses
    is_either: bool = False  # the key that was read may be of references
    equals_references: bool = False  # all of the set that was asked for last, of such a key
    used: set[Hashable] = field(default_factory=set)
    # of each word of what `of_set` found, by (set, id of utterance); without those that have none
    confidences: dict[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)

    @property
    def entries(self) -> dict[Hashable, str]:
        """What a person calls each entry, by its key in `used`."""
        rows = {place: f"row {place + 1}" for place in range(len(self.by_reference))}
        words = {(name, i): f"{name}, word {i + 1}" for name, heard in self.words.items() for i in range(len(heard))}
        return {key: key[1] for key in self.by_id} | rows | words

    @property
    def unused(self) -> list[str]:
        """What belongs to no utterance that was asked for."""
        return [name for key, name in self.entries.items() if key not in self.used]

    def of_set(self, set_name: str, utterances: Sequence[Utterance], normaliser: Normaliser) -> dict[str, str]:
        """Hypotheses by utterance id, without those that have none; DataError where they seem to be references."""
        waiting: dict[str, list[int]] = defaultdict(list)
        for place, (reference, _) in enumerate(self.by_reference):
            if place not in self.used:
                waiting[normaliser(reference).strip()].append(place)
        elsewhere = self._by_name_alone(set_name, utterances)
        found = {}
        for utterance in utterances:
            for name in _names(utterance):
                for key in ((set_name, name), (None, name)):
                    if utterance.id not in found and key in self.by_id:
                        found[utterance.id] = self._take(set_name, utterance, key)
            if utterance.id not in found and utterance.id in elsewhere:
                found[utterance.id] = self._take(set_name, utterance, elsewhere[utterance.id])
            if self.words and (text := self._spoken_in(set_name, utterance)) is not None:
                found[utterance.id] = text
            elif places := waiting.get(normaliser(utterance.text).strip()) if waiting else None:
                self.used.add(place := places.pop(0))
                found[utterance.id] = self.by_reference[place][1]
        equal = sum(found.get(utterance.id) == utterance.text for utterance in utterances)
        self.equals_references = self.is_either and bool(found) and equal == len(found)
        if self.in_doubt and found:
            if equal >= MAX_EQUAL_FRAC * len(found):
                read, other = self.in_doubt
                raise DataError(
                    f"{self.path}: '{read}' is the reference in {equal:,} of {len(found):,} rows of set '{set_name}', "
                    f"and '{other}' may be the hypothesis: call the hypothesis 'hypothesis'"
                )
        return found

    def _by_name_alone(self, set_name: str, utterances: Sequence[Utterance]) -> dict[str, tuple[str | None, str]]:
        """Keys by utterance id where a path of another machine has the name of a file, and no other has it."""
        keys, ids = defaultdict(list), defaultdict(list)
        for own, id in self.by_id:
            if "/" in id and own in (None, set_name):
                keys[Path(id).name].append((own, id))
        for utterance in utterances if keys else ():
            ids[same_id(Path(utterance.audio.path).name)].append(utterance)
        return {
            ids[name][0].id: found[0]
            for name, found in keys.items()
            if len(found) == len(ids[name]) == 1 and _is_whole(ids[name][0])
        }

    def _take(self, set_name: str, utterance: Utterance, key: tuple[str | None, str]) -> str:
        self.used.add(key)
        if key in self.sure:
            self.confidences[set_name, utterance.id] = self.sure[key]
        return self.by_id[key]

    def _spoken_in(self, set_name: str, utterance: Utterance) -> str | None:
        """The words of a CTM within the utterance; None where the CTM does not know its recording."""
        if (id := same_id(utterance.id)) in self.words:
            name, start_s, end_s = id, 0.0, None
        else:
            candidates = map(same_id, (Path(utterance.audio.path).stem, utterance.recording or ""))
            name = next((name for name in candidates if name in self.words), None)
            start_s, end_s = utterance.audio.start_s, utterance.audio.end_s
        if name is None:
            return None
        inside = [
            (place, word, confidence)
            for place, (middle_s, word, confidence) in enumerate(self.words[name])
            if middle_s >= start_s and (end_s is None or middle_s < end_s)
        ]
        self.used.update((name, place) for place, _, _ in inside)
        if inside and None not in (sure := tuple(confidence for _, _, confidence in inside)):
            self.confidences[set_name, utterance.id] = sure
        return " ".join(word for _, word, _ in inside)


def _is_whole(utterance: Utterance) -> bool:
    """Whether it is all of an audio file."""
    audio = utterance.audio
    return audio.row is None and audio.start_s == 0 and audio.end_s is None


def _names(utterance: Utterance) -> tuple[str, ...]:
    """What a file may call an utterance: its id, or its audio file, by any end of its path, where it is all of that."""
    audio, whole = utterance.audio, _is_whole(utterance)
    parts = Path(audio.path).parts if whole else ()
    ends = [str(Path(*parts[at:])) for at in range(len(parts))]  # "a/b.wav" of "/x/a/b.wav", as a manifest may have it
    return tuple(map(same_id, (utterance.id, *ends, *([Path(audio.path).stem] if whole else ()))))


def read_hypotheses(path: Path) -> HypothesisFile:
    """The content of a JSONL, CSV, TSV or CTM file; DataError names the line that cannot be read."""
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind not in (".jsonl", ".json", ".ctm", ".csv", ".tsv"):
        raise DataError(f"{path}: hypotheses come as .jsonl, .csv, .tsv or .ctm, not '{path.suffix}'")
    found = _read_ctm(path) if kind == ".ctm" else _read_rows(path, is_table=kind in (".csv", ".tsv"))
    if not found.entries:
        raise DataError(f"{path}: no hypotheses in it")
    return found


def _read_rows(path: Path, *, is_table: bool) -> HypothesisFile:
    found = HypothesisFile(path)
    others = _OtherTexts()
    for where, row in read_rows(path):
        if set(IVRIT_COLUMNS) <= row.keys() and (is_table or id_of(row) is None):
            found.by_reference.append(tuple(row[name] or "" for name in IVRIT_COLUMNS))
        else:
            others.look_at(row, _add(found, row, where))
    found.in_doubt, found.is_either = others.found(), others.is_either
    return found


def _add(found: HypothesisFile, row: Row, where: str) -> str:
    """Take over a row with an id and a text; the key of the text comes back."""
    id, key = id_of(row), text_key(row, f"{found.path}, {where}")
    if id is None or key is None:
        raise DataError(
            f"{found.path}, {where}: a row needs an id ({', '.join(ID_KEYS)}) and a text "
            f"({', '.join((*TEXT_KEYS, *EITHER_KEYS))})"
        )
    for name in (key, "set"):
        if row.get(name) is not None and not isinstance(row[name], str):
            raise DataError(f"{found.path}, {where}: '{name}' is {type(row[name]).__name__}, not text")
    place = (row.get("set") or None, id)
    if place in found.by_id:
        raise DataError(f"{found.path}, {where}: id '{one_line(id)}' occurs twice; ids must be unique in a set")
    found.by_id[place] = strip_official_prefix(row[key] or "")[1]
    if sure := _confidences(row, found.by_id[place]):
        found.sure[place] = sure
    return key


def _confidences(row: Row, text: str) -> tuple[float, ...]:
    """A confidence of each word of a hypothesis; nothing where the row has none that could be one."""
    words, given = text.split(), row.get("confidences")
    given = [row.get("confidence")] * len(words) if given is None else given
    if not isinstance(given, list) or len(given) != len(words):
        return ()
    sure = tuple(map(_confidence, given))
    return () if None in sure else sure


def _confidence(value: object) -> float | None:
    """A number from 0 to 1; None for anything else, such as a log-likelihood or a CTM's NA."""
    try:
        number = None if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and 0 <= number <= 1 else None


class _OtherTexts:
    """Finds a column beside `text` that could as well hold the hypotheses: other texts of several words."""

    def __init__(self) -> None:
        self._num_rows, self._read = 0, set()
        self._others: Counter[str] = Counter()

    def look_at(self, row: Row, key: str) -> None:
        self._num_rows += 1
        self._read.add(key)
        if key in EITHER_KEYS and self._num_rows <= LOOKED_AT:
            for name, value in row.items():
                is_text = isinstance(value, str) and (" " in value.strip() or _NAMED.search(name) is not None)
                if is_text and name not in NO_TEXTS and value != row[key]:
                    self._others[name] += 1

    @property
    def is_either(self) -> bool:
        return bool(self._read) and self._read <= set(EITHER_KEYS)

    def found(self) -> tuple[str, str] | None:
        """The column that was read, and the other one; None where nothing is in doubt."""
        enough = min(self._num_rows, LOOKED_AT) / 2
        other = next((name for name, num in self._others.items() if num >= enough), None)
        return (next(iter(self._read)), other) if other and len(self._read) == 1 else None


def _read_ctm(path: Path) -> HypothesisFile:
    words: dict[str, list[tuple[float, str, float | None]]] = defaultdict(list)
    with explained(f"hypotheses {path}"):
        for number, line in read_lines(path):
            if isinstance(line, BadRow):
                raise DataError(f"{path}, line {number}: {line.detail}")
            fields = line.split()
            if not fields or fields[0].startswith(";;"):
                continue
            try:
                name, _, start, duration, word = fields[:5]
                middle_s = float(start) + float(duration) / 2
            except ValueError as error:
                raise DataError(
                    f"{path}, line {number}: not 'file channel start duration word', but '{one_line(line)}'"
                ) from error
            words[same_id(name)].append((middle_s, word, _confidence(fields[5]) if len(fields) > 5 else None))
    return HypothesisFile(path, words={name: sorted(heard, key=lambda item: item[0]) for name, heard in words.items()})
