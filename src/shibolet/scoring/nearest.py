"""Two systems' scored rows in the nearest reading: numbers as they are said, and words that are spelled as letters.

A system that writes "268" and "JOHN" where the references have "TWO SIX EIGHT" and "J O H N" has heard all of it. A
training that teaches it the references' writing gains much by the plain rate and nothing by this one.
"""

from collections.abc import Sequence
from dataclasses import replace

from shibolet.errors import DataError
from shibolet.scoring.counts import EditCounts, count_chars, count_words
from shibolet.scoring.rows import ScoredRow
from shibolet.speech.text.language import Language
from shibolet.speech.text.reading import number_aware
from shibolet.speech.text.spelled import spelled_as


def in_nearest_reading(systems: Sequence[Sequence[ScoredRow]], language: Language) -> list[list[ScoredRow]]:
    """The rows of systems on the same utterances, in the same order, counted again; DataError where these differ.

    Each hypothesis is read as is nearest to the reference. A reference has one reading for all systems: of those that
    are nearest to one of the hypotheses, the one with the fewest errors in all of them, so that lengths stay equal; of
    several such the first by the alphabet, whatever the order of the systems.
    """
    if len({len(rows) for rows in systems}) > 1:
        numbers = ", ".join(str(len(rows)) for rows in systems)
        raise DataError(f"the systems have {numbers} scored utterances; evaluate all of them on the same sets")
    read = [_read(rows, language) for rows in zip(*systems, strict=True)]
    return [list(rows) for rows in zip(*read, strict=True)] or [[] for _ in systems]


def _read(rows: Sequence[ScoredRow], language: Language) -> list[ScoredRow]:
    if len({(row.set, row.id, row.reference) for row in rows}) > 1:
        raise DataError(f"utterance '{rows[0].id}' of set '{rows[0].set}' differs between systems; evaluate both on it")
    readings = dict.fromkeys(number_aware(row.reference, row.hypothesis, language)[0] for row in rows)
    counted = [[_counted(row, said, language) for row in rows] for said in readings]
    return min(counted, key=lambda own: (sum((row.words for row in own), EditCounts()).errors, own[0].said))


def _counted(row: ScoredRow, said: str, language: Language) -> ScoredRow:
    heard = number_aware(said, row.hypothesis, language)[1]
    heard = " ".join(spelled_as(heard.split(), said.split()))
    return replace(row, said=said, heard=heard, words=count_words(said, heard), chars=count_chars(said, heard))
