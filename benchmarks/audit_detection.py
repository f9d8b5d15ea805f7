"""What the audit detects in the demo's speech, on recordings that did not fit its confidence map.

    python benchmarks/audit_detection.py --seed 401 --out DIR [--foreign MANIFEST]

Builds the corpus of that seed, damages copies of its clean test clips in every way of the matrix (`shibolet calibrate`)
and prints one JSON object: the bars, and the lines of the table by domain.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from shibolet.demo.corpus import build_corpus


def worst(lines: list[dict], rows: tuple[str, ...], figure: str, pick=min) -> float:
    """The worst figure over these rows in every domain."""
    found = [line[figure] for line in lines if line["row"].startswith(rows) and figure in line]
    return pick(found) if found else float("nan")


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
    cuts = ("text_head_cut", "text_tail_cut", "audio_head_cut", "audio_tail_cut")
    noise = [f"{kind}_noise:{db} dB" for kind in ("pink", "babble") for db in (20, 10, 5)]
    bars = {
        "swapped_auroc": worst(lines, ("swapped:random", "swapped:same", "swapped:nearest length"), "auroc"),
        "swapped_recall_at_2%": worst(
            lines, ("swapped:random", "swapped:same", "swapped:nearest length"), "recall_at_2%"
        ),
        "half_cut_recall_at_2%": worst(lines, tuple(f"{cut}:50%" for cut in cuts), "recall_at_2%"),
        "quarter_cut_recall_at_2%": worst(lines, tuple(f"{cut}:25%" for cut in cuts), "recall_at_2%"),
        "no_speech_recall_at_2%": worst(lines, ("no_speech",), "recall_at_2%"),
        "other_language_recall_at_2%": worst(lines, ("other_language",), "recall_at_2%"),
        "untouched_flagged": worst(lines, ("untouched",), "flagged", max),
        "noise_to_5_db_flagged": worst(lines, tuple(noise), "flagged", max),
        "literal_flags_of_swapped": worst(lines, ("swapped",), "flagged_literal", max),
    }
    print(json.dumps({"bars": bars, "made_of": content["made_of"], "detector": content["detector"]}, indent=1))
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
