"""What people say against what the audit says: flags that came with the data, and verdicts saved from the page.

Only a random draw can estimate what the audit gets wrong. Within each domain the bands of its score are drawn apart,
in the order in which the audit's sample takes them, and of each such cell the answered beginning counts: whoever stops
early leaves a smaller random sample, not another one, and a sample that grows adds to its end. Most is asked where an
answer may move the rate most. Verdicts outside of the draw, as on the worst, are counted and estimate nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from shibolet.audit.review_rates import MIN_OF_BAND, Bands, Cell, band_of, bands_of, is_flagged, told
from shibolet.audit.sampling import lot
from shibolet.errors import DataError
from shibolet.records.audited import Audited
from shibolet.records.documents.alignment import Answers, FlagStatistics, HumanFlags, Review, StratumSize
from shibolet.records.documents.gate import Interval
from shibolet.records.files import write_jsonl
from shibolet.records.reading import parse_line
from shibolet.records.review import REMEDY, Answer, read_review
from shibolet.scoring.allocation import turns
from shibolet.scoring.rates import WeightedRate
from shibolet.speech.textfiles import BadRow, explained, read_lines, require_one_object_a_line

NUM_DRAWN = 240  # that the page offers, over all cells; a person answers about 60 in ten minutes
MIN_ANSWERED = 40  # good or bad, all together; fewer give no rate
SHUFFLED = 12  # that come after each other on the page, so that their order gives no cell away


def human_flags(rows: Iterable[Audited]) -> HumanFlags | None:
    """By flag of the data set, how many utterances have it and what the audit says of them; None: no flags at all."""
    noted = [row for row in rows if row.flags is not None]
    if not noted:
        return None
    names = sorted({name for row in noted for name in row.flags})
    return HumanFlags(
        num_utterances=len(noted),
        flags={name: _statistics([row for row in noted if name in row.flags]) for name in names},
        none=_statistics([row for row in noted if not row.flags]),
    )


def _statistics(rows: Sequence[Audited]) -> FlagStatistics:
    low = [row for row in rows if row.is_low_quality]
    return FlagStatistics(
        count=len(rows),
        low_quality_count=len(low),
        low_quality_percentage=round(100 * len(low) / len(rows), 2) if rows else None,
        suspects=dict(sorted(Counter(row.suspect or row.failure for row in low).items())),
    )


def read_saved(path: Path) -> dict[str, Answer]:
    """Answers of a file that a person brings, by utterance id: the later of two; DataError for no answer."""
    with explained(f"review {path}"):
        lines = list(read_lines(path))
    require_one_object_a_line(lines[0][1] if lines else "", f"review {path}")
    answers = {}
    for number, line in lines:
        if isinstance(line, BadRow):
            raise DataError(f"review {path}, line {number}: {line.detail}")
        answer = parse_line(path, number, line.encode(), Answer, REMEDY)
        answers[answer.id] = answer
    return answers


def keep_review(path: Path, kept_path: Path, text_of: Mapping[str, str]) -> str:
    """Add a saved review to what the run folder has of them; a sentence about both.

    Of two answers on an utterance the new one counts. DataError as `require_about`.
    """
    answers = read_saved(path)
    require_about(path, answers, text_of)
    before = read_review(kept_path) if kept_path.is_file() else {}
    replaced = sum(id in before and before[id] != answer for id, answer in answers.items())
    both = before | answers
    write_jsonl(kept_path, [both[id].to_json() for id in sorted(both)])
    return f"review: {len(answers):,} answers to {len(before):,} that were there, {replaced:,} of them changed"


def require_about(path: Path, answers: Mapping[str, Answer], text_of: Mapping[str, str]) -> None:
    """DataError when none of a file's verdicts is about these utterances, given as texts by id."""
    if not any(text_of.get(answer.id) == answer.text for answer in answers.values()):
        raise DataError(
            f"review {path}: none of its {len(answers)} verdicts is about an utterance of this data set; "
            "give the file that this run's audit.html saved"
        )


def draw_cells(rows: Iterable[Audited], seed: int) -> dict[Cell, list[str]]:
    """By cell its ids in random order; what could not be heard is not there: nobody need judge it.

    A sample of a stratum grows in the order of its lots, so what is heard later comes after what was answered.
    """
    cells: dict[Cell, list[str]] = defaultdict(list)
    for row in rows:
        if not row.failure:
            cells[row.domain, band_of(row)].append(row.id)
    return {cell: sorted(cells[cell], key=lambda id: lot(seed, id)) for cell in sorted(cells)}


def in_turns(cells: Mapping[Cell, Sequence[str]], stakes: Mapping[Cell, float], seed: int) -> list[str]:
    """The ids to judge: two of each cell, then most of those that have most at stake."""
    keys = {f"{domain}/{band}": (domain, band) for domain, band in cells}
    sizes = {name: len(cells[cell]) for name, cell in keys.items()}
    order = list(turns(sizes, NUM_DRAWN, {name: stakes[cell] for name, cell in keys.items()}))
    ids = {name: iter(cells[cell]) for name, cell in keys.items()}
    drawn = []
    for start in range(0, len(order), SHUFFLED):
        block = enumerate(order[start : start + SHUFFLED], start)
        drawn += [next(ids[name]) for _, name in sorted(block, key=lambda place: lot(seed + 1, str(place[0])))]
    return drawn


def review(
    rows: Sequence[Audited], strata: Mapping[str, StratumSize], answers: Mapping[str, Answer], seed: int, level: float
) -> Review:
    """The draw, what was answered, and the rates behind it with their intervals, in percent.

    `rows` are those of `utterances.parquet`, which may be short; `strata` are the report's.
    """
    cells, by_id = draw_cells(rows, seed), {row.id: row for row in rows}
    sizes = {name: stratum.num_utterances for name, stratum in strata.items()}
    verdicts = {id: answer.verdict for id, answer in answers.items()
                if id in by_id and by_id[id].text == answer.text}  # fmt: skip
    counted = {cell: list(takewhile(verdicts.__contains__, ids)) for cell, ids in cells.items()}
    sure = {cell: [id for id in ids if verdicts[id] != "unsure"] for cell, ids in counted.items()}
    bands = bands_of(rows, sizes, sure, verdicts)
    tallies: dict[str, Counter] = defaultdict(Counter)
    for id, verdict in sorted(verdicts.items()):
        row = by_id[id]
        tallies[(row.suspect or row.failure or "flagged") if row.is_low_quality else "passed"][verdict] += 1
    notes = _notes(answers, verdicts, counted, sure, by_id)
    if short := _shortage(cells, sure):
        notes += [f"Too few for rates: {short}."] if answers else []
    else:
        notes += _ended(cells, sure, verdicts)
    return Review(
        num_answered=len(verdicts),
        num_counted=sum(map(len, counted.values())),
        num_sure=sum(map(len, sure.values())),
        answers={name: Answers(**(dict.fromkeys(Answers.model_fields, 0) | tallies[name])) for name in sorted(tallies)},
        **(NO_RATES if short else _rates(bands, level)),
        notes=tuple(notes),
        draw=tuple(in_turns(cells, bands.stakes(rows), seed)),
    )


NO_RATES = {
    "false_discovery_pct": None, "false_omission_pct": None, "corrected_low_quality_pct": None, "sensitivity": None,
    "specificity": None, "forecast": (),
}  # fmt: skip


def _rates(bands: Bands, level: float) -> dict[str, Any]:
    """False discovery, false omission, and the rate of bad utterances in the population, in percent.

    Sensitivity and specificity follow from the same answers, so that Rogan-Gladen on the audit's rate gives this rate.
    """
    flagged, passed = (bands.side(flagged=side, level=level) for side in (True, False))
    found = bands.rate(level)
    passed_share = bands.share_passed()
    missed = passed_share * passed.rate if passed else 0.0
    right = passed_share - missed
    return {
        "false_discovery_pct": flagged
        and _interval(WeightedRate(1.0, 1 - flagged.rate, 1 - flagged.upper, 1 - flagged.lower)),
        "false_omission_pct": passed and _interval(passed),
        "corrected_low_quality_pct": _interval(found),
        "sensitivity": round(1 - missed / found.rate, 5) if found.rate > 0 else None,
        "specificity": round(right / (1 - found.rate), 5) if found.rate < 1 else None,
        "forecast": bands.forecast(level),
    }


def _shortage(cells: Mapping[Cell, Sequence[str]], sure: Mapping[Cell, Sequence[str]]) -> str | None:
    """Why there is no rate yet, in words."""
    needed = min(MIN_ANSWERED, sum(map(len, cells.values())))
    if (num := sum(map(len, sure.values()))) < needed:
        return f"{num} utterances are judged good or bad, and {needed} are needed"
    for which, flagged in (("flagged", True), ("passed", False)):
        own = [cell for cell in cells if is_flagged(cell[1]) == flagged]
        needed = min(MIN_OF_BAND, sum(len(cells[cell]) for cell in own))
        if (num := sum(len(sure[cell]) for cell in own)) < needed:
            return f"{num} of the {which} are judged good or bad, and {needed} are needed"
    return None


def _notes(
    answers: Mapping[str, Answer],
    verdicts: Mapping[str, str],
    counted: Mapping[Cell, Sequence[str]],
    sure: Mapping[Cell, Sequence[str]],
    by_id: Mapping[str, Audited],
) -> list[str]:
    notes = []
    if other := sum(answer.id in by_id and answer.id not in verdicts for answer in answers.values()):
        notes.append(f"{other} verdicts are about another text than the one at hand and do not count.")
    if unknown := sum(id not in by_id for id in answers):
        notes.append(f"{unknown} verdicts are about utterances outside of the audit's sample and do not count.")
    num_counted = sum(map(len, counted.values()))
    if chosen := len(verdicts) - num_counted:
        notes.append(
            f"{chosen} verdicts are on utterances that the person chose, or that come after one of the random draw "
            "that has no answer: they are counted, and no rate is taken from them."
        )
    if unsure := num_counted - sum(map(len, sure.values())):
        notes.append(f"{unsure} of {num_counted} in the draw are unsure and left out, as if they were like the others.")
    return notes


def _ended(cells: Mapping[Cell, Sequence[str]], sure: Mapping[Cell, Sequence[str]], verdicts: Mapping) -> list[str]:
    """Sentences on the cells of which no answer counts."""
    where = lambda domain, band: f"of domain '{domain}' where the score lies {told(band)}"  # noqa: E731
    state = lambda id: "is unsure" if id in verdicts else "has no answer"  # noqa: E731
    return [
        f"Nothing is known {where(domain, band)}: '{cells[domain, band][0]}', the first of "
        f"{len(cells[domain, band]):,} to judge, {state(cells[domain, band][0])}."
        for domain, band in cells
        if not sure[domain, band]
    ]


def _interval(part: WeightedRate) -> Interval:
    return Interval(**{name: round(100 * getattr(part, name), 3) for name in Interval.model_fields})
