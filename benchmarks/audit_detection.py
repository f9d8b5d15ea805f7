"""What the audit detects in the demo's speech, on recordings that did not fit its confidence map.

    python benchmarks/audit_detection.py --seed 401 --out DIR [--foreign MANIFEST]

Builds the corpus of that seed, damages copies of its clean test clips in every way of the matrix (`shibolet calibrate`)
and prints the bars, those that are missed first, then the lines of the table by domain. Without --foreign the bar of
other languages is one of shuffled letters alone.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from shibolet.demo.corpus import build_corpus

CUTS = ("text_head_cut", "text_tail_cut", "audio_head_cut", "audio_tail_cut")
SWAPPED = ("swapped:random", "swapped:same", "swapped:nearest length")
# name -> rows of the matrix by the beginnings of their names, the figure of each domain's line, and where its bar lies
AT_LEAST = {
    "swapped_auroc": (SWAPPED, "auroc", 0.99),
    "swapped_recall_at_2%": (SWAPPED, "recall_at_2pct", 0.95),
    "half_cut_recall_at_2%": (tuple(f"{cut}:50%" for cut in CUTS), "recall_at_2pct", 0.90),
    "quarter_cut_recall_at_2%": (tuple(f"{cut}:25%" for cut in CUTS), "recall_at_2pct", 0.75),
    "no_speech_recall_at_2%": (("no_speech",), "recall_at_2pct", 0.95),
    "other_language_recall_at_2%": (("other_language", "shuffled_letters"), "recall_at_2pct", 0.95),
}
NOISE = ("pink_noise", "babble_noise")
NOT_UNDERSTOOD = tuple(f"{kind}:0 dB" for kind in NOISE)  # the bar goes down to 5 dB
AT_MOST = {
    "untouched_flagged": (("untouched",), "flagged", 0.05),
    "noise_to_5_db_flagged": (NOISE, "flagged", 0.05),
    **{f"{kind}_flagged": ((kind,), "flagged", 0.05)
       for kind in ("clipping", "opus", "mp3", "telephone_band", "reverb", "speed", "gain", "spelling")},
    "literal_flags_of_swapped": (("swapped",), "flagged_literal", 0.0),
}  # fmt: skip


def bars(lines: list[dict]) -> dict[str, dict]:
    """The worst line of each bar over all domains, and whether it is met; a bar without a line is not."""
    found = {}
    for limits, pick, meets in ((AT_LEAST, min, float.__ge__), (AT_MOST, max, float.__le__)):
        for name, (rows, figure, bar) in limits.items():
            own = [line for line in lines if line["row"].startswith(rows) and line.get(figure) is not None]
            own = [line for line in own if line["row"] not in NOT_UNDERSTOOD]
            if not own:
                found[name] = {"bar": bar, "met": False, "worst": None}
                continue
            line = pick(own, key=lambda line: line[figure])
            worst = {"worst": line[figure], "row": line["row"], "domain": line["slice"], "num": line["num"]}
            found[name] = {"bar": bar, "met": meets(float(line[figure]), bar), **worst}
    return found


def uncovered(lines: list[dict]) -> list[str]:
    """Harmless rows that no bar looks at."""
    looked_at = tuple(row for rows, _, _ in AT_MOST.values() for row in rows)
    return sorted({line["row"] for line in lines if line["harmless"] and not line["row"].startswith(looked_at)})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=401)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--foreign", type=Path)
    parser.add_argument("--copies", type=int, default=200, help="of each row of the matrix, in each half")
    args = parser.parse_args()
    build_corpus(args.out / "corpus", args.seed)
    shibolet = Path(sys.executable).parent / "shibolet"
    command = [shibolet, "calibrate", "demo", "--json", "-o", args.out / "run"]
    for name in ("test_clean", "test_whatsapp"):
        command += ["--clean", args.out / "corpus" / name / "manifest.jsonl"]
    command += ["--foreign", args.foreign] if args.foreign else []
    command += ["--set", f"calibrate.copies_per_row={args.copies}", "--set", "calibrate.max_utterances=640"]
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=True)
    content = json.loads(done.stdout)
    lines = [line for line in content["table"] if line["by"] == "domain"]
    found = bars(lines)
    missed = [name for name, one in found.items() if not one["met"]] + uncovered(lines)
    print(
        json.dumps(
            {"missed": missed, "bars": found, "made_of": content["made_of"], "detector": content["detector"]}, indent=1
        )
    )
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
