"""Seeds of one training against each other: how often two, and two times three, are told apart.

    python benchmarks/seed_pairs.py --out DIR [--seeds 20] [--jobs 16] [--world 7] [--train 800] [--test 320]
    python benchmarks/seed_pairs.py --out DIR --seeds 6 --train 96 --test 48 --set "train.phases=[...]"    a trial

One corpus of the demo without damage and one split; the trainings differ in their seed alone, one process each. Prints
a line of JSON a training, then one for all pairs of seeds by the interval over groups that `compare` has for two models
(two seeds are two models, so more than 5% are expected to differ), and one for disjoint triples, drawn at random, by
the rule for seeds (`scoring.seeds`; bar 5%) and by the interval over groups alone. "told_apart" counts both directions.
Triples of 20 seeds share seeds with each other, so the share of the triples is less certain than their number suggests:
the line has also the standard deviation between seeds beside the standard error over groups, on which it depends. The
same command goes on with what is missing.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.special import stdtr
from search_rates import recipe_of, trained, wer_pct

from shibolet.demo.corpus import CorpusConfig, build_corpus
from shibolet.evaluate.stage import read_rows
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.scoring.seeds import MIN_SEEDS, seeds_difference

SAMPLES = 2000
ONE_CORE = ("num_threads=1", "train.num_threads=1", "train.num_workers=0")


def train(world: Path, seed: int, split: int, changes: Sequence[str]) -> tuple[int, list[ScoredRow], float]:
    """Rows of the test sets after the training of a seed, and the seconds that it took."""
    started = time.monotonic()
    own = [f"prepare.seed={split}", "prepare.dev_frac=0.18", *ONE_CORE, *changes]
    folders = trained(recipe_of(world, seed, own), world / f"seed{seed}")
    rows = [row for folder in folders.values() for row in read_rows(folder)]
    return seed, rows, time.monotonic() - started


def pairs(systems: Sequence[Sequence[ScoredRow]]) -> dict:
    """All pairs of seeds, as two models are compared."""
    groups = groups_of(systems[0])
    found = [
        difference_interval([r.words for r in one], [r.words for r in two], groups, samples=SAMPLES)
        for one, two in itertools.combinations(systems, 2)
    ]
    differences = [100 * abs(one.value) for one in found]
    return {
        "pairs": len(found), "groups": len(set(groups)), "told_apart": float(np.mean([one.p < 0.05 for one in found])),
        "mean_difference_points": float(np.mean(differences)), "largest_points": max(differences),
    }  # fmt: skip


def triples(systems: Sequence[Sequence[ScoredRow]], draws: int, seed: int) -> dict:
    """Disjoint triples of seeds by the rule for seeds, and by the interval over groups alone."""
    rng, groups = np.random.default_rng(seed), groups_of(systems[0])
    counts = [[row.words for row in system] for system in systems]
    by_rule, by_groups, spreads, errors = [], [], [], []
    for _ in range(draws):
        drawn = rng.permutation(len(systems))[: 2 * MIN_SEEDS].tolist()
        sides = [[counts[i] for i in half] for half in (drawn[:MIN_SEEDS], drawn[MIN_SEEDS:])]
        found = seeds_difference(*sides, groups, samples=SAMPLES)
        by_rule.append(found.estimate.p < 0.05)
        by_groups.append(2 * stdtr(len(set(groups)) - 1, -abs(found.estimate.value / found.groups_error)) < 0.05)
        spreads += found.spreads
        errors.append(found.groups_error)
    return {
        "triples": draws, "told_apart": float(np.mean(by_rule)),
        "told_apart_by_groups_alone": float(np.mean(by_groups)),
        "seeds_sd_points": 100 * float(np.sqrt(np.mean(np.square(spreads)))),
        "groups_error_points": 100 * float(np.mean(errors)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one a core")
    parser.add_argument("--world", type=int, default=7, help="seed of the corpus and of the split")
    parser.add_argument("--train", type=int, default=800, help="utterances for train and dev")
    parser.add_argument("--test", type=int, default=320, help="utterances of each test set")
    parser.add_argument("--draws", type=int, default=1000, help="pairs of triples")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    args = parser.parse_args()
    if args.seeds < 2 * MIN_SEEDS:
        parser.error(f"--seeds {args.seeds}: two disjoint triples take {2 * MIN_SEEDS}")
    world = args.out.absolute()
    build_corpus(world / "corpus", args.world, CorpusConfig(num_train=args.train, num_test=args.test, damaged_frac=0.0))
    rows = read_jsonl(world / "corpus" / "train" / "manifest.jsonl")
    write_jsonl(world / "heard.jsonl", [{"id": row["id"], "hypothesis": row["text"]} for row in rows])
    systems = {}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(train, world, s, args.world, args.set) for s in range(args.seeds)]):
            seed, systems[seed], seconds = done.result()
            show({"seed": seed, "wer_pct": wer_pct(systems[seed]), "seconds": round(seconds)})
    in_order = [systems[seed] for seed in sorted(systems)]
    show({"seeds": args.seeds, **pairs(in_order)})
    show({"seeds": args.seeds, **triples(in_order, args.draws, args.world)})


def show(line: dict) -> None:
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in line.items()}
    print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
