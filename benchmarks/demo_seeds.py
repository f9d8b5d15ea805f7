"""The demo's bars over several seeds: what the audit finds, what prepare leaves, what the round gains.

    python benchmarks/demo_seeds.py 201 202 203 204 205 --out DIR

Prints one JSON object a seed; the model trained on the raw data is beside the one trained after prepare.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


def figures(summary: dict) -> dict:
    """The figures that the bars ask for, from the summary that `shibolet demo --json` prints; rates in percent."""
    rows = summary["truth"]["rows"]
    share = lambda kind, domain: next(  # noqa: E731
        round(100 * r["flagged"] / r["utterances"], 1) for r in rows if (r["kind"], r["domain"]) == (kind, domain)
    )
    sets = summary["compare"]["sets"]
    wer = lambda name, which: round(100 * sets[name]["wer"][which]["rate"], 2)  # noqa: E731
    left = summary["truth"]["after_prepare"]
    raw = summary["truth"].get("without_prepare")
    return {
        "gate": summary["gate"]["decision"],
        "gate_prepared": summary.get("gate_prepared", {}).get("decision"),  # none without a STOP
        "found": {
            kind: [share(kind, d) for d in ("clean", "whatsapp")] for kind in dict.fromkeys(r["kind"] for r in rows)
        },
        "kept_damaged_pct": round(left["kept_damaged_pct"], 2),
        "good_hours_lost_pct": round(left["good_hours_lost_pct"], 2),
        "clean_wer_pct": [wer("clean", "baseline"), wer("clean", "candidate")],
        "whatsapp_wer_pct": [wer("whatsapp", "baseline"), wer("whatsapp", "candidate")],
        "whatsapp_interval_points": [round(x, 2) for x in sets["whatsapp"]["wer"]["interval_points"]],
        "raw_wer_pct": {n: round(100 * raw[n]["wer"]["candidate"]["rate"], 2) for n in raw} if raw else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    for seed in args.seeds:
        started = time.monotonic()
        command = [Path(sys.executable).parent / "shibolet", "demo", "--seed", str(seed), "--out", args.out / str(seed)]
        done = subprocess.run([*map(str, command), "--without-prepare", "--json"], stdout=subprocess.PIPE, text=True)
        result = figures(json.loads(done.stdout)) if done.returncode in (0, 40) else {}
        seconds = round(time.monotonic() - started)
        print(json.dumps({"seed": seed, "exit_code": done.returncode, "seconds": seconds, **result}), flush=True)


if __name__ == "__main__":
    main()
