"""Hypotheses that another system made, as its files have them, by utterance of a set.

.jsonl  one object a line: `id` and `hypothesis`, or NeMo's `audio_filepath` and `pred_text`; `set` where ids repeat
.ctm    NIST's: file, channel, start, duration, word; words go to the utterance whose span holds their middle
.csv    ivrit.ai's evaluate_model.py: `reference_text` and `predicted_text`, matched by reference; or `id` and a text
"""

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shibolet.errors import DataError
from shibolet.records.utterance import Utterance

ID_KEYS = ("id", "utterance_id", "audio_filepath", "audio")
TEXT_KEYS = ("hypothesis", "pred_text", "predicted_text", "prediction", "text")
IVRIT_COLUMNS = ("reference_text", "predicted_text")

Normaliser = Callable[[str], str]


@dataclass
class HypothesisFile:
    """What a file holds, until the utterances that it belongs to are known; `used` collects what found its place."""

    path: Path
    by_id: dict[tuple[str | None, str], str] = field(default_factory=dict)  # (set, id)
    by_reference: list[tuple[str, str]] = field(default_factory=list)  # (reference, hypothesis) in order
    words: dict[str, list[tuple[float, str]]] = field(default_factory=dict)  # recording -> (middle in s, word) in order
    used: set[Hashable] = field(default_factory=set)

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
        """Hypotheses by utterance id; utterances without one are missing."""
        waiting: dict[str, list[int]] = defaultdict(list)
        for place, (reference, _) in enumerate(self.by_reference):
            if place not in self.used:
                waiting[normaliser(reference).strip()].append(place)
        found = {}
        for utterance in utterances:
            for name in _names(utterance):
                for key in ((set_name, name), (None, name)):
                    if utterance.id not in found and key in self.by_id:
                        self.used.add(key)
                        found[utterance.id] = self.by_id[key]
            if self.words and (text := self._spoken_in(utterance)) is not None:
                found[utterance.id] = text
            elif places := waiting.get(normaliser(utterance.text).strip()) if waiting else None:
                self.used.add(place := places.pop(0))
                found[utterance.id] = self.by_reference[place][1]
        return found

    def _spoken_in(self, utterance: Utterance) -> str | None:
        """The words of a CTM within the utterance; None where the CTM does not know its recording."""
        if utterance.id in self.words:
            name, start_s, end_s = utterance.id, 0.0, None
        else:
            candidates = (Path(utterance.audio.path).stem, utterance.recording or "")
            name = next((name for name in candidates if name in self.words), None)
            start_s, end_s = utterance.audio.start_s, utterance.audio.end_s
        if name is None:
            return None
        inside = [
            (place, word)
            for place, (middle_s, word) in enumerate(self.words[name])
            if middle_s >= start_s and (end_s is None or middle_s < end_s)
        ]
        self.used.update((name, place) for place, _ in inside)
        return " ".join(word for _, word in inside)


def _names(utterance: Utterance) -> tuple[str, ...]:
    """What a file may call an utterance: its id, or its audio file where it is the whole of it."""
    audio = utterance.audio
    whole = audio.row is None and audio.start_s == 0 and audio.end_s is None
    return (utterance.id, audio.path, Path(audio.path).name, Path(audio.path).stem) if whole else (utterance.id,)


def read_hypotheses(path: Path) -> HypothesisFile:
    """The content of a JSONL, CTM or CSV file; DataError names the line that cannot be read."""
    readers = {".jsonl": _read_jsonl, ".json": _read_jsonl, ".ctm": _read_ctm, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: hypotheses come as .jsonl, .ctm or .csv, not '{path.suffix}'")
    try:
        found = readers[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"hypotheses {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"hypotheses {path} are not UTF-8: {error.reason}") from error
    if not found.entries:
        raise DataError(f"{path}: no hypotheses in it")
    return found


def _read_jsonl(path: Path) -> HypothesisFile:
    found = HypothesisFile(path)
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):  # U+2028 may stand inside a text
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        _add(found, row, f"line {number}")
    return found


def _read_csv(path: Path) -> HypothesisFile:
    found = HypothesisFile(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if set(IVRIT_COLUMNS) <= set(rows.fieldnames or ()):
            found.by_reference = [tuple(row[name] or "" for name in IVRIT_COLUMNS) for row in rows]
        else:
            for row in rows:
                _add(found, row, f"line {rows.line_num}")
    return found


def _add(found: HypothesisFile, row: object, where: str) -> None:
    """One row with an id and a text."""
    id_key = next((key for key in ID_KEYS if isinstance(row, dict) and row.get(key) is not None), None)
    text_key = next((key for key in TEXT_KEYS if isinstance(row, dict) and key in row), None)
    if id_key is None or text_key is None:
        raise DataError(
            f"{found.path}, {where}: a row needs an id ({', '.join(ID_KEYS)}) and a text ({', '.join(TEXT_KEYS)})"
        )
    text = row[text_key]
    if text is not None and not isinstance(text, str):
        raise DataError(f"{found.path}, {where}: '{text_key}' is {type(text).__name__}, not text")
    key = (row.get("set"), str(row[id_key]))
    if key in found.by_id:
        raise DataError(f"{found.path}, {where}: id '{key[1]}' stands there twice; ids must be unique in a set")
    found.by_id[key] = text or ""


def _read_ctm(path: Path) -> HypothesisFile:
    words: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        fields = line.split()
        if not fields or fields[0].startswith(";;"):
            continue
        try:
            name, _, start, duration, word = fields[:5]
            words[name].append((float(start) + float(duration) / 2, word))
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: not 'file channel start duration word', but '{line.strip()}'"
            ) from error
    return HypothesisFile(path, words={name: sorted(heard, key=lambda item: item[0]) for name, heard in words.items()})
