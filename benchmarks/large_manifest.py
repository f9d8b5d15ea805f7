"""A manifest of many rows: what planning and sampling take, in seconds and in the memory of all processes.

    python benchmarks/large_manifest.py rows FOLDER --rows 5000000     a manifest, its recordings and a recipe
    python benchmarks/large_manifest.py plan FOLDER                    `shibolet plan`
    python benchmarks/large_manifest.py sample FOLDER                  `shibolet audit`, until the first clip is heard
    python benchmarks/large_manifest.py same FOLDER                    hashes of the data, the sample and its clips

Rows are spans of silent recordings, hard links to a few small files: what reading audio takes is not in the figures.
With `--own-files` each row has a file of its own. `sample` ends the command once the first evidence is on disk: its
sample, a tenth of the rows, is drawn and identified then. Each prints a JSON object; memory is the sum of the
proportional set sizes of all processes, looked at every half second, and CPU seconds are of all of them too.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import soundfile as sf
import yaml

LETTERS = "אבגדהוזחטיכלמנסעפצקרשת"
VOCABULARY = 20_000
SPANS, SPAN_S, RATE_HZ = 250, 3.0, 8000  # of a recording
LINKS = 50_000  # to one file: ext4 allows 65,000
LOOK_S = 0.5


def words_of(rng: random.Random) -> str:
    ranks = [int(VOCABULARY * rng.random() ** 3) for _ in range(rng.randint(4, 12))]
    return " ".join("".join(LETTERS[rank // 22**place % 22] for place in range(2 + rank % 4)) for rank in ranks)


def write_rows(folder: Path, num_rows: int, own_files: bool) -> dict:
    """The manifest, recordings and a recipe: the demo's with a sample of a tenth."""
    rng, spans = random.Random(0), 1 if own_files else SPANS
    original = folder / "original.flac"
    folder.mkdir(parents=True)
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for row in range(num_rows):
            recording, number = divmod(row, spans)
            name = f"audio/{recording // 1000:04d}/recording-{recording:07d}.flac"
            if number == 0:
                if recording % LINKS == 0:
                    original = folder / f"original-{recording // LINKS}.flac"
                    sf.write(original, np.zeros(int(spans * SPAN_S * RATE_HZ)), RATE_HZ)
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(original, folder / name)
            fields = {
                "id": f"session-{recording:07d}-{number:04d}", "audio": name, "text": words_of(rng),
                "speaker": f"speaker-{recording % 5000}", "recording": f"session-{recording:07d}",
                "domain": ("news", "talk", "phone")[recording % 3],
            }  # fmt: skip
            if not own_files:
                fields |= {"start_s": number * SPAN_S, "end_s": number * SPAN_S + round(rng.uniform(0.5, SPAN_S), 2)}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    recipe = yaml.safe_load(files("shibolet").joinpath("recipes", "demo.yaml").read_text(encoding="utf-8"))
    recipe |= {"name": "large", "data": {"train": [{"name": "large", "manifest": str(folder / "manifest.jsonl")}]}}
    recipe["audit"]["sample"] = {"sample_frac": 0.1, "shares": {"news": 0.5, "talk": 0.3, "phone": 0.2}}
    recipe["evaluate"]["sets"] = []
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    return {"rows": num_rows, "mib": (folder / "manifest.jsonl").stat().st_size >> 20}


def looked_at(pid: int) -> tuple[int, float]:
    """Memory in bytes and CPU seconds of a process and of all below it."""
    num_bytes, ticks, waiting = 0, 0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            num_bytes += 1024 * int(Path(f"/proc/{one}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
            ticks += sum(map(int, Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:15]))
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):  # it has ended
            continue
    return num_bytes, ticks / os.sysconf("SC_CLK_TCK")


def watched(command: list[str], log: Path, until: Callable[[], bool] = lambda: False) -> dict:
    """Run a command to its end, or until something is there; seconds and the peak of memory of all its processes."""
    started, peak, cpu_s, is_reached = time.monotonic(), 0, 0.0, False
    with log.open("w") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    while child.poll() is None:
        num_bytes, spent_s = looked_at(child.pid)
        peak, cpu_s = max(peak, num_bytes), max(cpu_s, spent_s)
        if is_reached := until():
            child.terminate()
            break
        time.sleep(LOOK_S)
    seconds, code = round(time.monotonic() - started, 1), child.wait()
    if code and not is_reached:
        raise SystemExit(f"{' '.join(command)} ended with {code}: {log.read_text()[-2000:]}")
    return {"seconds": seconds, "cpu_s": round(cpu_s, 1), "peak_gib": round(peak / 2**30, 3)}


def plan(folder: Path) -> dict:
    command = ["plan", str(folder / "recipe.yaml"), "-o", str(folder / "run")]
    return watched([sys.executable, "-m", "shibolet.cli", *command], folder / "plan.log")


def sample(folder: Path) -> dict:
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    command = ["audit", str(folder / "recipe.yaml"), "-o", str(run)]
    has_heard = lambda: any((run / "audit" / "heard").glob("*/*.jsonl"))  # noqa: E731
    return watched([sys.executable, "-m", "shibolet.cli", *command], folder / "sample.log", has_heard)


def same(folder: Path) -> dict:
    """What must not change with how rows are kept."""
    from shibolet.audit.material import material_of
    from shibolet.recipe import load_recipe
    from shibolet.rounds.shared import open_round

    recipe = load_recipe(folder / "recipe.yaml")
    with open_round(recipe, folder / "same", "benchmark", print) as current:
        data = current.data
        material = material_of(data.utterances, recipe.audit, recipe.language)
        ids = [utterance.id for utterance in data.utterances]
        id_of = lambda places: [ids[place] for place in places]  # noqa: E731
        strata = material.sample.strata.values()
        sampled = [[one.num_utterances, one.hours, id_of(one.places)] for one in strata]
        hashed = {"sample": [sampled, id_of(material.sample.in_order), material.sample.notes]}
        hashed |= {"utterances": [u.to_json() for u in material.utterances], "clips": list(map(repr, material.clips))}
        hashed |= {"copies": [repr(clip) for own in material.copies.values() for clip in own]}
        hashes = {name: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16] for name, value in hashed.items()}
        return {"rows": len(data.utterances), "left": len(data.ledger), "digest": data.digest, **hashes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rows", "plan", "sample", "same"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--own-files", action="store_true")
    args = parser.parse_args()
    if args.what == "rows":
        found = write_rows(args.folder.absolute(), args.rows, args.own_files)
    else:
        found = {"plan": plan, "sample": sample, "same": same}[args.what](args.folder.absolute())
    print(json.dumps({"what": args.what, **found}))


if __name__ == "__main__":
    main()
