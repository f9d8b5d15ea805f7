"""What Python costs the main process in an audit: CPU of each clip while it is heard, and seconds after the last one.

    python benchmarks/audit_python.py --before TREE      this tree and another one, in turns, on one corpus

Stub listeners hear a text with some words wrong and write it at once: the real reading, hashing, decoding (in two
processes of their own, which do not count), signals, calibration, tables, gate and review. `--before` is a checkout of
this project; what both write is compared file by file. Prints a line of JSON for each audit: `s` and `cpu_s`, seconds
and CPU seconds of the main process, of reading the manifest, drawing the sample, hearing, what comes after the last
clip until the report is written, and the gate; at the end `same_bytes`. torch and transformers are loaded as in a
round: Python's collector of garbage then has their objects to look at.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

LETTERS = "אבגדהוזחטיכלמנסעפצקרשת"
VOCABULARY = 20_000
NUM_RECORDINGS = 100
CLIP_S = 0.4
TIMED = {"provenance.json", "start.json", "timings.jsonl", ".lock"}  # they say when and by what, and not what was found


def words_of(row: int) -> str:
    """Ten to sixteen words, the common ones often; a number in every eighth text."""
    rng = random.Random(row)
    ranks = [int(VOCABULARY * rng.random() ** 3) for _ in range(10 + row % 7)]
    words = ["".join(LETTERS[rank // 22**place % 22] for place in range(2 + rank % 4)) for rank in ranks]
    return " ".join(words if row % 8 else [*words, str(row % 300)])


def write_corpus(folder: Path, num_rows: int) -> None:
    """A manifest, its audio and the demo's recipe on them."""
    from importlib.resources import files

    import numpy as np
    import soundfile as sf
    import yaml

    rng = np.random.default_rng(0)
    for i in range(NUM_RECORDINGS):
        swell = np.sin(np.linspace(0, 6 * np.pi, int(16000 * CLIP_S))) ** 2
        sf.write(folder / f"recording-{i:03d}.wav", 0.1 * swell * rng.standard_normal(int(16000 * CLIP_S)), 16000)
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for row in range(num_rows):
            name = f"audio/{row % 1000:03d}/utterance-{row:06d}.wav"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / f"recording-{row % NUM_RECORDINGS:03d}.wav", folder / name)
            fields = {
                "audio": name, "text": words_of(row), "speaker": f"s{row % 500}", "recording": f"r{row // 10}",
                "domain": ("clean", "whatsapp")[row % 2],
            }  # fmt: skip
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    recipe = yaml.safe_load(files("shibolet").joinpath("recipes", "demo.yaml").read_text(encoding="utf-8"))
    recipe |= {"name": "python", "data": {"train": [{"name": "rows", "manifest": str(folder / "manifest.jsonl")}]}}
    recipe["audit"] |= {"sample": {"sample_frac": 1.0, "shares": {}}, "num_workers": 2}
    recipe["evaluate"]["sets"] = []
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")


class Stub:
    """Hears what is written with a word wrong here and there, and of some clips another text."""

    identity = "stub"
    cpu_s = 0.0  # of its own, which is none of the audit's

    def hear(self, clips, words):
        started, found = time.thread_time(), self._hear(clips, words)
        self.cpu_s += time.thread_time() - started
        return found

    def align(self, clips, words):
        started, found = time.thread_time(), self._align(clips, words)
        self.cpu_s += time.thread_time() - started
        return found

    def _hear(self, clips, words):
        import numpy as np

        from shibolet.listen.protocols import Hearing

        found = []
        for clip, said in zip(clips, words, strict=True):
            rng = random.Random(f"{float(clip[:2000].sum()):.4f} {' '.join(said)}")
            wrong = 1.0 if rng.random() < 0.05 else rng.choice([0.0, 0.1, 0.2])
            heard = [word[::-1] if rng.random() < wrong else word for word in said]
            logp = -0.1 - 3 * sum(one != other for one, other in zip(heard, said)) / len(said) - 0.2 * rng.random()
            times_s = np.linspace(0, len(clip) / 16000, sum(map(len, heard)))
            found.append(
                Hearing(
                    hypothesis=" ".join(heard), text_logp=logp, text_score=logp / 2, worst_score=2 * logp,
                    letter_times_s=times_s,
                )
            )  # fmt: skip
        return found

    def _align(self, clips, words):
        import numpy as np

        from shibolet.listen.protocols import Alignment

        edges = [np.linspace(0, len(clip) / 16000, len(said) + 1) for clip, said in zip(clips, words, strict=True)]
        return [Alignment(starts_s=edge[:-1], ends_s=edge[1:]) for edge in edges]


class Clock:
    """Seconds and CPU seconds of this process since the last call."""

    def __init__(self) -> None:
        self.lap()

    def lap(self) -> dict[str, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        now = time.perf_counter(), used.ru_utime + used.ru_stime
        took = [round(one - other, 2) for one, other in zip(now, getattr(self, "_before", now), strict=True)]
        self._before = now
        return dict(zip(("s", "cpu_s"), took, strict=True))


def audit(folder: Path, run: Path) -> dict:
    """An audit of the recipe in the folder; what was heard in the run folder before is not heard again."""
    import transformers.generation.utils  # noqa: F401

    from shibolet.audit.hearing import Listener
    from shibolet.listen.executor import Here
    from shibolet.recipe import load_recipe
    from shibolet.rounds import auditing
    from shibolet.rounds.shared import open_round
    from shibolet.speech.audio import load

    recipe = load_recipe(folder / "recipe.yaml")
    clock, found, ears = Clock(), {}, (Stub(), Stub())

    def heard(done: int, total: int) -> None:
        if done == total:
            found["hear"] = clock.lap()
            found["hear"]["cpu_s"] = round(found["hear"]["cpu_s"] - sum(one.cpu_s for one in ears), 2)

    class Told(Listener):
        def hear(self, clips, on_progress=None, shard=(0, 1)):
            found["sample"] = clock.lap()
            return super().hear(clips, heard, shard)

    with open_round(recipe, run, "benchmark", lambda said: None) as current, closing(Here()) as here:
        listener = Told(*ears, run / "audit" / "heard", load, recipe.audit, recipe.language, here)
        auditing.listener_of = lambda current, prepared=False: listener
        auditing._hear_ahead = lambda current, prepared=False: None
        found["read"] = (current.data, clock.lap())[1]
        auditing.do_audit(current)
        found["after"] = clock.lap()
        auditing.do_gate(current)
        found["gate"] = clock.lap()
    if listener.num_heard:
        found["hear"]["cpu_ms_a_clip"] = round(1000 * found["hear"]["cpu_s"] / listener.num_heard, 3)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {"clips": listener.num_clips, "heard": listener.num_heard, **found, "peak_mib": peak_mib}


def contents(run: Path) -> dict[str, bytes]:
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in TIMED)
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=24_668)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--before", type=Path, help="a checkout of the project with which to compare")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # the child's
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        return print(json.dumps(audit(args.folder, args.run)))
    trees = {"before": args.before.absolute()} if args.before else {}
    trees |= {"now": Path(__file__).parents[1]}
    with TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        folder = Path(scratch)
        write_corpus(folder, args.rows)
        kept: dict[str, dict[str, bytes]] = {}
        for turn in range(args.turns):
            for name, tree in trees.items():
                run = folder / "run"  # one place for all, as tables name audio relative to it
                child = [sys.executable, __file__, "--folder", str(folder), "--run", str(run)]
                environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
                environment |= {"XDG_CACHE_HOME": str(folder / "cache")}
                took = json.loads(subprocess.check_output(child, env=environment))
                print(json.dumps({"tree": name, "turn": turn, **took}), flush=True)
                kept[name] = contents(run)
                run.rename(folder / f"run-{name}-{turn}")
        print(json.dumps({"same_bytes": len({str(sorted(one.items())) for one in kept.values()}) == 1}))


if __name__ == "__main__":
    main()
