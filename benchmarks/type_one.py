"""Of real systems made equal by relabelling, the share that the rule for a gain admits: its type I error.

    python benchmarks/type_one.py LANGUAGE SYSTEM SYSTEM [SYSTEM ...] [--relabellings 2000] [--verdicts 200] [--seed 0]

A system is a `hypotheses.jsonl` of `shibolet evaluate`, or several joined by commas: one of each set. Utterances that
a system lacks are left out. In a relabelling the systems are exchanged at random, together for all utterances of a
group of recordings and speakers: afterwards no system is better than another. One function gives the interval of
`compare`, `tune-decoding`, `average` and `search` (`scoring.intervals`), and all of them admit where it ends below 0.
So there are two kinds of row: two systems at 95%, and the best of all against the first at the level of
`tune-decoding` and `average`, which is Bonferroni's. "better" is the share admitted, bar 5%; half of what a two-sided
test rejects is expected. Of the first relabellings `compare` gives its whole verdict, "kept", whose further conditions
can only refuse. Prints a line of JSON a row.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shibolet.compare import CompareConfig, compare
from shibolet.records.candidate import named
from shibolet.records.hypotheses import read_hypothesis_lines
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds.tuning import bonferroni_level
from shibolet.scoring.intervals import LEVEL, lengths, ratio_intervals
from shibolet.scoring.rows import ScoredRow, groups_of, score_row
from shibolet.speech.text import get_language

BAR = 0.05
AT_ONCE = 100  # relabellings: their draws lie in memory together


def read_systems(given: Sequence[str], language: str) -> list[list[ScoredRow]]:
    """Rows of each system, of the utterances that all have, in one order."""
    systems = [
        {
            (row.set, row.id): row
            for place, path in enumerate(one.split(","))
            for row in read_rows(Path(path), f"set{place}", language)
        }
        for one in given
    ]
    common = [key for key in systems[0] if all(key in system for system in systems)]
    if not common:
        raise SystemExit("the systems have no utterance in common; evaluate all on the same manifest")
    return [[system[key] for key in common] for system in systems]


def read_rows(path: Path, set_name: str, language: str) -> list[ScoredRow]:
    """The rows of a file of hypotheses, scored by today's rules."""
    return [
        score_row(
            Utterance(
                id=line.id, audio=AudioRef(path=""), text=line.reference, duration_s=line.duration_s, source=set_name,
                domain=line.domain, recording=line.recording, speaker=line.speaker,
            ),
            line.hypothesis, set=set_name, normaliser=get_language(language).to_scoring,
        )
        for line in read_hypothesis_lines(path)
    ]  # fmt: skip


def relabelled(num_systems: int, groups: Sequence[str], runs: int, seed: int) -> np.ndarray:
    """[runs, systems, U] which system stands under each name, an order drawn for each group."""
    rng = np.random.default_rng(seed)
    names, member_of = np.unique(groups, return_inverse=True)
    orders = rng.permuted(np.tile(np.arange(num_systems)[:, None], (runs, 1, len(names))), axis=1)
    return orders[:, :, member_of]


def admitted(systems: Sequence[Sequence[ScoredRow]], orders: np.ndarray, level: float) -> dict[str, float]:
    """Shares of relabellings in which some system is better, or worse, than the first."""
    groups, length = groups_of(systems[0]), lengths([row.words for row in systems[0]])
    errors = np.array([[row.words.errors for row in system] for system in systems], dtype=float)
    under = np.take_along_axis(np.broadcast_to(errors, orders.shape), orders, axis=1)  # [runs, systems, U]
    better = np.zeros(len(orders), dtype=bool)
    worse = better.copy()
    for start in range(0, len(orders), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        for system in range(1, len(systems)):
            changes = (under[some, system] - under[some, 0]).T
            found = ratio_intervals(changes, np.tile(length[:, None], changes.shape[1]), groups, level=level)
            better[some] |= [one.high < 0 for one in found]
            worse[some] |= [one.low > 0 for one in found]
    return {"better": float(better.mean()), "worse": float(worse.mean())}


def kept(systems: Sequence[Sequence[ScoredRow]], orders: np.ndarray) -> float:
    """Share of relabellings of two systems that the whole verdict keeps."""
    names = named("First"), named("Second")
    verdicts = []
    for order in orders:
        sides = [[systems[which][i] for i, which in enumerate(own)] for own in order]
        verdicts.append(compare(sides, names, CompareConfig(bootstrap_samples=1000)).is_kept)
    return float(np.mean(verdicts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language")
    parser.add_argument("systems", nargs="+")
    parser.add_argument("--relabellings", type=int, default=2000)
    parser.add_argument("--verdicts", type=int, default=200, help="relabellings of which the whole verdict is made")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    systems = read_systems(args.systems, args.language)
    groups = groups_of(systems[0])
    about = {"utterances": len(groups), "groups": len(set(groups)), "relabellings": args.relabellings}
    for one, two in itertools.combinations(range(len(systems)), 2):
        pair = [systems[one], systems[two]]
        orders = relabelled(2, groups, args.relabellings, args.seed)
        found = admitted(pair, orders, LEVEL)
        if args.verdicts:
            found["kept"] = kept(pair, orders[: args.verdicts])
        show([args.systems[one], args.systems[two]], about, found)
    if len(systems) > 2:
        orders = relabelled(len(systems), groups, args.relabellings, args.seed)
        show(args.systems, about, admitted(systems, orders, bonferroni_level(len(systems))))


def show(systems: Sequence[str], about: dict, found: dict) -> None:
    print(json.dumps({"systems": systems, **about, **found, "ok": found["better"] <= BAR}), flush=True)


if __name__ == "__main__":
    main()
