"""What the page of a review asks for: utterances, their sound, everybody's answers, and what the answers come to."""

import io
import json
import threading
import wave
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

from shibolet.errors import AudioError, DataError
from shibolet.gate.decision import answers_to_settle
from shibolet.gate.lines import level_of_look, straddled, verdict_on
from shibolet.records.answers import Given, Journal, disagreements, latest, settled
from shibolet.records.audited import Audited, AuditedRows, read_audited
from shibolet.records.documents.alignment import AlignmentReport, Review
from shibolet.records.runfolder import RunFolder
from shibolet.report.entries import brief_of, entry_of, worst_first
from shibolet.report.recipe import ShownRecipe
from shibolet.scoring.kappa import agreement
from shibolet.speech.text import get_language

if TYPE_CHECKING:
    from shibolet.recipe import Recipe

MAX_SOUND_S = 120.0  # in one answer; the page asks for a long utterance span by span


@dataclass(frozen=True, slots=True)
class Standing:
    """What the answers come to so far."""

    num_given: int  # lines of the journal that are counted here
    sentence: str  # about the rate of bad utterances, and how many more answers would settle the gate
    people: dict[str, int]  # utterances that each has judged
    pairs: list[dict[str, Any]]  # of people: their names, utterances that both judged, share agreed, kappa
    disagreements: list[str]  # ids
    num_corrected: int  # texts that were corrected and accepted
    num_proposed: int  # texts that were corrected and wait to be accepted


class Desk:
    """One review of an audit that is there; its methods may be called by several threads at once."""

    def __init__(self, folder: RunFolder, recipe: "Recipe", journal: Journal) -> None:
        self.folder, self.journal = folder, journal
        self.report = AlignmentReport.read(folder.alignment_report())
        self._gate, self._seed = recipe.gate, recipe.audit.sample.seed
        self._limits, self._language = ShownRecipe.read(folder.recipe).audit, get_language(recipe.language)
        self._tables = [path for path in (folder.audited_utterances(), folder.audited_rest) if path.is_file()]
        self._sample = list(read_audited(self._tables[0], short=True))
        self._rows, self._sample_ids = AuditedRows(self._tables), {row.id for row in self._sample}
        self._draw = {id: place for place, id in enumerate(self._reviewed(journal.given).draw)}
        self._standing, self._lock = None, threading.Lock()

    @cached_property
    def order(self) -> list[str]:
        """Ids, worst first: the page knows an utterance by its place here."""
        rows = (row for table in self._tables for row in read_audited(table, short=True))
        return [key[-1] for key in sorted(worst_first(row.id, row.is_low_quality, row.confidence) for row in rows)]

    @cached_property
    def rows_json(self) -> bytes:
        """What the page lists, filters and sorts by, of each utterance in `order`."""
        tapes: dict[tuple, int] = {}
        found = []
        for row in self._rows.rows(self.order):
            tape = (row.recording,) if row.recording else (row.audio and (row.audio.path, row.audio.row))
            place = {"tape": tapes.setdefault(tape, len(tapes)), "start": row.audio.start_s if row.audio else 0.0}
            brief = brief_of(row, row.id not in self._sample_ids, self._limits, self._draw)
            found.append({**brief, "heard": row.hypothesis, **place})
        return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()

    def row(self, place: int) -> Audited:
        """DataError for a place that is none."""
        if not 0 <= place < len(self.order):
            raise DataError(f"there is no utterance {place}: the page lists {len(self.order):,}")
        return self._rows[self.order[place]]

    def entry(self, place: int) -> dict[str, Any]:
        """What the page shows of one utterance besides."""
        row = self.row(place)
        return entry_of(row, row.id not in self._sample_ids, self._limits, self._language, self._draw).to_json()

    def sound(self, place: int, start_s: float, length_s: float) -> bytes:
        """A span of an utterance as 16-bit WAV at 16 kHz; AudioError where it cannot be decoded."""
        from shibolet.speech import audio

        row = self.row(place)
        if row.audio is None:
            raise AudioError("the row could not be read")
        ref = row.audio.in_folder(self.folder.path)
        length_s = min(length_s, MAX_SOUND_S)
        if start_s > 0 or row.duration_s > length_s:
            ref = ref.cut(start_s, min(start_s + length_s, row.duration_s))
        return as_wav(audio.load(ref), audio.SAMPLE_RATE_HZ)

    def answer(self, given: Given) -> int:
        """Keep an answer, on the disk when this returns; how many there are. DataError for another text than it has."""
        if given.id not in self._rows or self._rows[given.id].text != given.text:
            raise DataError(f"'{given.id[:80]}' is no utterance of this audit with that text; load the page again")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return self.journal.append([_mended(given).model_copy(update={"at": now})])

    def take_in(self, given: Iterable[Given]) -> tuple[int, int, int]:
        """Keep the answers of a file that say anything new, of each person on an utterance the last.

        How many those are, how many are here already or are older than what is, and how many are about no utterance
        of this audit.
        """
        given = list(given)
        known = [one for one in given if one.id in self._rows and self._rows[one.id].text == one.text]
        seen, last = set(self.journal.given), latest(self.journal.given)
        new = []
        for key, one in latest(known).items():
            before = last.get(key)
            one = _mended(one) if before is None else _completed(_mended(one), before)
            if one not in seen and (before is None or _is_newer(one, before)):
                new.append(one)
        if new:
            self.journal.append(new)
        return len(new), len(known) - len(new), len(given) - len(known)

    def changes(self, after: int) -> Sequence[Given]:
        """Answers from the `after`-th on, counted from 0."""
        return self.journal.given[max(after, 0) :]

    def standing(self) -> Standing:
        with self._lock:
            given = list(self.journal.given)
            if self._standing is None or self._standing.num_given != len(given):
                self._standing = self._stands(given)
            return self._standing

    def _stands(self, given: Sequence[Given]) -> Standing:
        last = latest(given).values()
        verdicts: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        for one in last:
            if one.verdict:
                verdicts[one.by][one.id, one.text] = one.verdict
        pairs = []
        for one, other in combinations(sorted(verdicts), 2):
            both = sorted(verdicts[one].keys() & verdicts[other].keys())
            if both:
                found = agreement([(verdicts[one][key], verdicts[other][key]) for key in both])
                pairs.append({"names": [one, other], **asdict(found)})
        answers = settled(given)
        accepted = {id for id, one in answers.items() if one.corrected is not None}
        proposed = {one.id for one in last if one.corrected is not None} - accepted
        return Standing(
            num_given=len(given),
            sentence=self._sentence(self._reviewed(given)),
            people=dict(Counter({name: len(own) for name, own in sorted(verdicts.items())})),
            pairs=pairs,
            disagreements=disagreements(given),
            num_corrected=len(accepted),
            num_proposed=len(proposed),
        )

    def _reviewed(self, given: Sequence[Given]) -> Review:
        from shibolet.audit.review import review

        level = level_of_look(self._gate, self.report.num_looks)
        return review(self._sample, self.report.strata, settled(given), self._seed, level)

    def _sentence(self, found: Review) -> str:
        """How the rate stands by the answers in the random draw, and how many more would settle the gate."""
        if found.corrected_low_quality_pct is None:
            return (
                found.notes[-1]
                if found.notes
                else "No answers yet. Take the random draw: about 60 answers give a first rate."
            )
        rate, gate = found.corrected_low_quality_pct, self._gate
        interval = f"{rate.rate:.1f}% of the data are bad ({rate.lower:.1f} to {rate.upper:.1f}%)"
        said = f"By {found.num_sure:,} answers {interval}"
        if lines := straddled(rate.lower, rate.upper, gate):
            more, line = answers_to_settle(found, gate), " and that of ".join(f"{line:g}%" for line in lines)
            then = (
                "No number of answers on what was heard would" if more is None else f"About {more:,} more answers would"
            )
            return f"{said}, which straddles the line of {line}. {then} settle it."
        return f"{said}, which settles it: {verdict_on(rate.lower, rate.upper, gate)} by the corrected rate."


def _mended(given: Given) -> Given:
    """Without a correction that changes nothing but spaces."""
    corrected = " ".join((given.corrected or "").split())
    if corrected and corrected != " ".join(given.text.split()):
        return given.model_copy(update={"corrected": corrected})
    return given.model_copy(update={"corrected": None, "accepted": False})


def _completed(given: Given, before: Given) -> Given:
    """With what its file has no word for, and what therefore stays as it was: acceptance and decision."""
    if given.text != before.text:
        return given
    is_same = {"accepted": given.corrected == before.corrected, "decides": given.verdict == before.verdict}
    kept = [name for name, is_so in is_same.items() if is_so and name not in given.model_fields_set]
    return given.model_copy(update={name: getattr(before, name) for name in kept})


def _is_newer(given: Given, before: Given) -> bool:
    """Whether it says something else than the same person said before, and was not given earlier."""
    is_older = given.at and before.at and given.at < before.at
    return not is_older and given.model_copy(update={"at": before.at}) != before


def as_wav(samples: Any, rate_hz: int) -> bytes:
    """Samples of -1 to 1 [S] as a WAV file."""
    import numpy as np

    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes(pcm.tobytes())
    return file.getvalue()
