"""What people say against what the audit says: flags that came with the data, and verdicts saved from the page.

Only a random draw can estimate what the audit gets wrong. Within each domain the flagged and the passed are drawn
apart, in the order in which the audit's sample takes them, and of each such cell the answered beginning counts:
whoever stops early leaves a smaller random sample, not another one, and a sample that grows adds to its end. Verdicts
outside of it, as on the worst, are counted and estimate nothing.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from pydantic import ValidationError

from shibolet.audit.sampling import lot
from shibolet.errors import DataError
from shibolet.records.files import write_jsonl
from shibolet.records.groups import cluster_of
from shibolet.records.review import Answer
from shibolet.scoring.rates import GateRecord, Rate, RateEstimate, StratumSize, estimate_rate, korn_graubard

NUM_DRAWN = 240  # that the page offers, over all cells; a person answers about 60 in ten minutes
MIN_ANSWERED = 20  # good or bad, of the flagged and of the passed each; fewer give no rate
COLUMNS = (  # that are read of a row
    "id", "source", "recording", "speaker", "domain", "text", "failure", "is_low_quality", "suspect",
)  # fmt: skip
VERDICTS = ("good", "bad", "unsure")
Cell = tuple[str, bool]  # domain, flagged


def human_flags(rows: Iterable[Mapping]) -> dict | None:
    """By flag of the data set, how many utterances have it and what the audit says of them; None: no flags at all."""
    noted = [row for row in rows if row.get("flags") is not None]
    names = sorted({name for row in noted for name in row["flags"]})
    return {
        "num_utterances": len(noted),
        "flags": {name: _tally([row for row in noted if name in row["flags"]]) for name in names},
        "none": _tally([row for row in noted if not row["flags"]]),
    } if noted else None  # fmt: skip


def _tally(rows: Sequence[Mapping]) -> dict:
    low = [row for row in rows if row["is_low_quality"]]
    suspects = Counter(row.get("suspect") or row.get("failure") for row in low)
    return {
        "count": len(rows),
        "low_quality_count": len(low),
        "low_quality_percentage": round(100 * len(low) / len(rows), 2) if rows else None,
        "suspects": dict(sorted(suspects.items())),
    }


def read_review(path: Path) -> dict[str, Answer]:
    """Answers by utterance id; of two on the same utterance the later. DataError names the line that is none."""
    answers = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: U+2028 may stand inside a text
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"review {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            answer = Answer.model_validate_json(line)
        except ValidationError as error:
            raise DataError(
                f"review {path}, line {number}: {'.'.join(map(str, error.errors()[0]['loc']))}: "
                f"{error.errors()[0]['msg']}; give the file that audit.html saved, or lines like "
                '{"id": "...", "verdict": "good, bad or unsure", "text": "that was judged"}'
            ) from error
        answers[answer.id] = answer
    return answers


def keep_review(path: Path, kept_path: Path, text_of: Mapping[str, str]) -> str:
    """Add a saved review to what the run folder has of them; a sentence about both.

    Of two answers on an utterance the new one counts. DataError when none is about these utterances.
    """
    answers = read_review(path)
    if not any(text_of.get(answer.id) == answer.text for answer in answers.values()):
        raise DataError(
            f"review {path}: none of its {len(answers)} verdicts is about an utterance of this data set; "
            "give the file that this run's audit.html saved"
        )
    before = read_review(kept_path) if kept_path.is_file() else {}
    replaced = sum(id in before and before[id] != answer for id, answer in answers.items())
    both = before | answers
    write_jsonl(kept_path, [both[id].model_dump() for id in sorted(both)])
    return f"review: {len(answers):,} answers to {len(before):,} that were there, {replaced:,} of them changed"


def draw_cells(rows: Iterable[Mapping], seed: int) -> dict[Cell, list[str]]:
    """By cell its ids in random order; what could not be heard is not there: nobody need judge it.

    A sample of a stratum grows in the order of its lots, so what is heard later comes after what was answered.
    """
    cells: dict[Cell, list[str]] = defaultdict(list)
    for row in rows:
        if not row["failure"]:
            cells[row["domain"], row["is_low_quality"]].append(row["id"])
    return {cell: sorted(cells[cell], key=lambda id: lot(seed, id)) for cell in sorted(cells)}


def in_turns(cells: Mapping[Cell, Sequence[str]], seed: int) -> list[str]:
    """The ids to judge, the first of each cell before the second of any; a turn is shuffled and gives no cell away."""
    turns = [(turn, lot(seed + 1, id), id) for ids in cells.values() for turn, id in enumerate(ids)]
    return [id for _, _, id in sorted(turns)[:NUM_DRAWN]]


def review(
    rows: Sequence[Mapping], strata: Mapping[str, Mapping], answers: Mapping[str, Answer], seed: int, level: float
) -> dict:
    """The draw, what was answered, and the rates behind it with their intervals, in percent.

    `rows` are those of `utterances.parquet`, `strata` the report's: sizes of the population by domain.
    """
    cells, by_id = draw_cells(rows, seed), {row["id"]: row for row in rows}
    verdicts = {id: answer.verdict for id, answer in answers.items()
                if id in by_id and by_id[id]["text"] == answer.text}  # fmt: skip
    counted = {cell: list(takewhile(verdicts.__contains__, ids)) for cell, ids in cells.items()}
    sure = {cell: [id for id in ids if verdicts[id] != "unsure"] for cell, ids in counted.items()}
    tallies: dict[str, Counter] = defaultdict(Counter)
    for id, verdict in sorted(verdicts.items()):
        row = by_id[id]
        tallies[(row["suspect"] or row["failure"]) if row["is_low_quality"] else "passed"][verdict] += 1
    result = {
        "num_answered": len(verdicts),
        "num_counted": sum(map(len, counted.values())),
        "answers": {name: {v: tally[v] for v in VERDICTS} for name, tally in sorted(tallies.items())},
        "false_discovery_pct": None,
        "false_omission_pct": None,
        "corrected_low_quality_pct": None,
        "sensitivity": None,
        "specificity": None,
        "notes": _notes(answers, verdicts, counted, sure, by_id),
        "draw": in_turns(cells, seed),
    }
    if short := [reason for flagged in (True, False) if (reason := _shortage(cells, sure, flagged))]:
        result["notes"] += [f"Too few for rates: {'; '.join(short)}."] if answers else []
        return result
    return result | _rates(rows, strata, sure, verdicts, level)


def _rates(
    rows: Sequence[Mapping],
    strata: Mapping[str, Mapping],
    sure: Mapping[Cell, Sequence[str]],
    verdicts: Mapping[str, str],
    level: float,
) -> dict:
    """False discovery, false omission, and the rate of bad utterances in the population by sampling twice.

    Of the population, the audit heard a sample that shows each cell's size; of each cell, a person heard a sample that
    shows its share of bad ones. Cells that could not be heard are bad. Sensitivity and specificity follow from the same
    cells, so that Rogan-Gladen on the audit's rate gives this rate again.
    """
    by_id = {row["id"]: row for row in rows}
    heard = Counter(row["domain"] for row in rows)
    failed = Counter(row["domain"] for row in rows if row["failure"])
    in_cell = Counter((row["domain"], row["is_low_quality"]) for row in rows if not row["failure"])

    def size(domain: str, num: int) -> StratumSize:
        """Of `num` utterances among those heard, in the population."""
        whole = round(strata[domain]["num_utterances"] * num / heard[domain])
        return StratumSize(num_utterances=max(whole, num), hours=0.0)

    def records(cells: Iterable[Cell], verdict: str, name) -> list[GateRecord]:
        return [_record(by_id[id], name(cell), verdicts[id] == verdict) for cell in cells for id in sure[cell]]

    def share(flagged: bool, verdict: str) -> RateEstimate:
        """Of what the audit flagged, or let pass, the share with this verdict."""
        cells = [cell for cell in sure if cell[1] == flagged]
        sizes = {cell[0]: size(cell[0], in_cell[cell]) for cell in cells}
        return estimate_rate(records(cells, verdict, lambda cell: cell[0]), sizes, level)

    discovery, omission = share(True, "good").total, share(False, "bad").total
    name_of = {cell: f"{cell[0]}, {'flagged' if cell[1] else 'passed'}" for cell in sure}
    sizes = {name_of[cell]: size(cell[0], in_cell[cell]) for cell in sure}
    sizes |= {f"{domain}, failed": size(domain, num) for domain, num in failed.items()}
    failures = [_record(row, f"{row['domain']}, failed", True) for row in rows if row["failure"]]
    bad = estimate_rate([*records(sure, "bad", name_of.get), *failures], sizes, level)
    known = {domain: StratumSize(num_utterances=strata[domain]["num_utterances"], hours=0.0) for domain in heard}
    apparent = estimate_rate([_record(row, row["domain"], row["is_low_quality"]) for row in rows], known, level).total
    lower, upper = _sampled_twice(bad.total, apparent, 1 - discovery.rate - omission.rate, level)

    population = sum(stratum.num_utterances for stratum in sizes.values())
    weight = {name: stratum.num_utterances / population for name, stratum in sizes.items()}
    passed = [cell for cell in sure if not cell[1]]
    missed = sum(weight[name_of[cell]] * bad.strata[name_of[cell]].rate for cell in passed)
    right = sum(weight[name_of[cell]] for cell in passed) - missed
    rate = bad.total.rate
    return {
        "false_discovery_pct": _interval(discovery.rate, discovery.lower, discovery.upper),
        "false_omission_pct": _interval(omission.rate, omission.lower, omission.upper),
        "corrected_low_quality_pct": _interval(rate, lower, upper),
        "sensitivity": round(1 - missed / rate, 5) if rate > 0 else None,
        "specificity": round(right / (1 - rate), 5) if rate < 1 else None,
    }


def _sampled_twice(rate: Rate, apparent: Rate, slope: float, level: float) -> tuple[float, float]:
    """The interval of a rate whose cells are sampled by a person, their sizes by the audit.

    Variances add up: that of the person's sample with the sizes as known, and that of the audit's rate times the
    squared slope, the share of bad among flagged less that among passed (Neyman 1938; one slope for all domains).
    """
    variance = sum(
        factor * part.rate * (1 - part.rate) / (part.effective_n - 1)
        for factor, part in ((1.0, rate), (slope**2, apparent))
        if math.isfinite(part.effective_n) and part.effective_n > 1
    )
    if variance == 0:
        return rate.lower, rate.upper
    effective_n = 1 + rate.rate * (1 - rate.rate) / variance
    return korn_graubard(rate.rate, effective_n, rate.num_heard, max(rate.degrees_of_freedom, 1), level)


def _record(row: Mapping, stratum: str, is_low_quality: bool) -> GateRecord:
    cluster = cluster_of(row["source"], row["recording"], row["speaker"])
    return GateRecord(stratum=stratum, cluster=cluster, is_low_quality=is_low_quality, duration_s=0.0)


def _shortage(cells: Mapping[Cell, Sequence[str]], sure: Mapping[Cell, Sequence[str]], flagged: bool) -> str | None:
    """Why one side of the verdict has no rate yet, in words."""
    which = "flagged" if flagged else "passed"
    drawn = {cell: len(ids) for cell, ids in cells.items() if cell[1] == flagged}
    if not drawn:
        return f"no utterance was {which}"
    needed = min(MIN_ANSWERED, sum(drawn.values()))
    if (num := sum(len(sure[cell]) for cell in drawn)) < needed:
        return f"{num} of the {which} are judged good or bad, and {needed} are needed"
    if empty := [domain for domain, _ in drawn if not sure[domain, flagged]]:
        return f"none of the {which} of {', '.join(empty)} is judged good or bad"
    return None


def _notes(
    answers: Mapping[str, Answer],
    verdicts: Mapping[str, str],
    counted: Mapping[Cell, Sequence[str]],
    sure: Mapping[Cell, Sequence[str]],
    by_id: Mapping[str, Mapping],
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


def _interval(rate: float, lower: float, upper: float) -> dict[str, float]:
    return {"rate": round(100 * rate, 3), "lower": round(100 * lower, 3), "upper": round(100 * upper, 3)}
