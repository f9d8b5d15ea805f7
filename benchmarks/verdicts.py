"""Whether the numbers that decide hold: coverage, width, wrong verdicts, by simulation through the project's functions.

    python benchmarks/verdicts.py [--part rates extend corrected review keep seeds labels] [--runs 2000] [--seed 0]

Prints JSON: by part and cell what was measured, its bar and whether it holds, and the cells that miss. A cell that
misses is measured again with 20,000 runs, and these decide.
"""

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
PARTS = ("rates", "extend", "corrected", "review", "keep", "seeds", "labels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found, missed = {}, []
    for part in args.part:
        started = time.monotonic()
        cells = importlib.import_module(f"simulations.{part}").cells(args.runs, args.seed)
        found[part] = cells
        missed += [f"{part}: {name}" for name, cell in cells.items() if not cell["ok"]]
        print(f"{part}: {len(cells)} cells, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(json.dumps({"runs": args.runs, "seed": args.seed, "missed": missed, "parts": found}, indent=1))


if __name__ == "__main__":
    main()
