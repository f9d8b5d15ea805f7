"""Votes of several systems on one manifest (ROVER), against each system: what `shibolet combine` gains or loses.

    python benchmarks/system_votes.py MANIFEST LANGUAGE NAME=hypotheses.jsonl NAME=... > votes.jsonl

The files are those that `shibolet evaluate --model MODEL --manifest MANIFEST -o DIR` writes. Prints JSON lines: WER of
each system; of the vote in each order of the systems, since the first wins ties; for each order the difference in
points from the system that the manifest itself shows to be best (a choice that favours the single system) and from the
first, with 95% intervals over recordings and speakers. Nothing is chosen by these numbers.
"""

import argparse
import itertools
import json
from pathlib import Path

from shibolet.records.hypotheses import read_hypothesis_lines
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.rover import transcript, vote
from shibolet.scoring.rows import ScoredRow, groups_of, score_row
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("language")
    parser.add_argument("systems", nargs="+", metavar="NAME=FILE")
    given = parser.parse_args()
    language = get_language(given.language)
    utterances, _ = read_source(DataSource(name="set", manifest=given.manifest), Path("."), language=language.name)
    heard = {}
    for one in given.systems:
        name, _, path = one.partition("=")
        heard[name] = {line.id: line.hypothesis for line in read_hypothesis_lines(Path(path))}

    def rows_of(texts: dict[str, str]) -> list[ScoredRow]:
        return [score_row(u, texts[u.id], set="set", normaliser=language.to_scoring) for u in utterances]

    rows = {name: rows_of(texts) for name, texts in heard.items()}
    rates = {name: wer(own) for name, own in rows.items()}
    for name, rate in rates.items():
        print(json.dumps({"system": name, "utterances": len(utterances), "wer_pct": rate}), flush=True)
    best = min(rates, key=rates.get)
    for order in itertools.permutations(heard):
        votes = {u.id: vote([transcript(heard[name][u.id], language) for name in order]) for u in utterances}
        voted = rows_of({id: one.text for id, one in votes.items()})
        slots = sum(one.num_slots for one in votes.values())
        print(
            json.dumps(
                {
                    "order": order, "wer_pct": wer(voted),
                    "unanimous_pct": round(100 * sum(one.num_unanimous for one in votes.values()) / slots, 1),
                    f"points_from_best_{best}": points(rows[best], voted),
                    f"points_from_first_{order[0]}": points(rows[order[0]], voted),
                }
            ),
            flush=True,
        )  # fmt: skip


def wer(rows: list[ScoredRow]) -> float:
    return round(100 * sum((row.words for row in rows), EditCounts()).rate, 2)


def points(first: list[ScoredRow], second: list[ScoredRow]) -> dict:
    """The second minus the first."""
    found = difference_interval([row.words for row in first], [row.words for row in second], groups_of(first))
    span = None if found.low is None else [round(100 * found.low, 2), round(100 * found.high, 2)]
    return {"points": round(100 * found.value, 2), "interval": span, "groups": found.num_clusters}


if __name__ == "__main__":
    main()
