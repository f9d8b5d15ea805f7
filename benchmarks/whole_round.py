"""A whole round by its command line in the real size: where its seconds go, how busy GPUs are, and its memory.

    python benchmarks/whole_round.py --hours 10 --work W                  one GPU
    python benchmarks/whole_round.py --hours 10 --work W --gpus 2         two; models and clips are in W already
    python benchmarks/whole_round.py --hours 10 --work W --source OLD     the code of another checkout
    python benchmarks/whole_round.py --hours 40 --work W --limit-s 500    as far as it comes; again with --resume: on
    python benchmarks/whole_round.py --hours 0.03 --work W --gpus 0 --size tiny --test-clips 10    a try on a CPU

`shibolet run` on hebrew-round2 with random weights and noise as FLAC: everything is heard, the gate's INVALID is
accepted, both models are scored on two sets of 200 utterances. Prints a line of JSON for each stretch, with the
seconds of what its main thread and the others did by samples of stacks (they cost 2% of a process), then a summary.
`W/NAME/` keeps the log, the stacks, and in `rows.jsonl` also the commonest stacks of each stretch.

The round is the first of its machine: it knows no hash of a model and has no compiled kernel, but for --cache. Models
and clips were just written or read: what a disk takes to read them is not in the figures.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import psutil
from round_figures import described, stretches, summary, tokens_per_s
from round_material import make_corpus, make_models
from round_watch import GIB, Stacks, Watch

from shibolet.errors import EXIT_REJECT

HERE = Path(__file__).resolve().parent
TOKENIZER = HERE.parents[1] / "shared" / "qwen3-asr"


def write_recipe(args: argparse.Namespace, manifests: dict[str, Path], path: Path) -> None:
    """The checkout's hebrew-round2 on what lies in the work folder."""
    import yaml

    recipe = yaml.safe_load((args.source / "src/shibolet/recipes/hebrew-round2.yaml").read_text(encoding="utf-8"))
    models = args.work / "models"
    recipe["models"] = {"base": str(models / "base"), "baseline": str(models / "round1")}
    recipe["data"]["train"] = [{"name": "noise", "manifest": str(manifests["train"])}]
    recipe["audit"].update(aligner=str(models / "aligner"), recogniser=str(models / "round1"))
    recipe["audit"]["sample"] = {"sample_frac": 1.0, "max_utterances": None}
    del recipe["audit"]["domain_rules"]
    recipe["gate"]["accept"] = ["INVALID"]
    sets = [{"name": name, "manifest": str(made)} for name, made in manifests.items() if name != "train"]
    recipe["evaluate"].update(sets=sets, max_new_tokens_per_s=7.0)
    recipe["tracking"]["wandb_project"] = None
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")


def environment(args: argparse.Namespace, folder: Path, **more: str) -> dict[str, str]:
    """Of a command of the round: the checkout's code, so many GPUs, and caches of hashes and kernels of its own."""
    paths = [str(HERE / "stacks"), str(args.source / "src"), os.environ.get("PYTHONPATH", "")]
    seen = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(args.gpus)))} if args.gpus else {}
    cache = args.cache or folder / "cache"
    kept = {
        "XDG_CACHE_HOME": cache,
        "TRITON_CACHE_DIR": cache / "triton",
        "TORCHINDUCTOR_CACHE_DIR": cache / "inductor",
    }
    env = os.environ | seen | {name: str(path) for name, path in kept.items()} | more
    return env | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "shibolet.cli", *map(str, words)]


def timed_plan(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """What `plan` takes: seconds by the clock, and of CPU time."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command("plan", folder / "recipe.yaml"), env=environment(args, folder), stdout=subprocess.DEVNULL)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {"plan_s": round(time.perf_counter() - started, 1), "plan_cpu_s": round(cpu_s, 1)}


def run_round(args: argparse.Namespace, folder: Path) -> tuple[Watch, float, float, int]:
    """The round under a watch; it, when the round began and ended, and its exit code."""
    (folder / "stacks").mkdir()
    gpus = ["--gpus", args.gpus] if args.gpus > 1 else []
    began = time.time()
    process = subprocess.Popen(
        command("run", folder / "recipe.yaml", "-o", folder / "run", *gpus),
        env=environment(args, folder, STACKS_FOLDER=str(folder / "stacks")), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    watch = Watch(process.pid, folder / "run")
    timers = [
        threading.Timer(args.limit_s + grace_s, os.killpg, (process.pid, number))
        for grace_s, number in ((0, signal.SIGTERM), (60, signal.SIGKILL))
    ]
    for timer in timers:
        timer.start()
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        for line in process.stdout:
            said = f"[{time.time() - began:7.1f}] {line.rstrip()}"
            print(said, file=log, flush=True)
            print(said[:200], file=sys.stderr, flush=True)
    code, ended = process.wait(), time.time()
    for timer in timers:
        timer.cancel()
    watch.close()
    return watch, began, ended, code


def machine() -> dict[str, object]:
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpus = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    except FileNotFoundError:
        gpus = []
    return {"machine": gpus, "cores": os.cpu_count(), "host_gib": round(psutil.virtual_memory().total / GIB)}


def prepare(args: argparse.Namespace) -> Path:
    """Models, clips and the recipe; the folder of the round."""
    started = time.perf_counter()
    maker = get_context("spawn").Process(  # so that this process takes no memory of a GPU
        target=make_models, args=(args.work / "models", args.tokenizer, args.size == "tiny")
    )
    maker.start()
    manifests = make_corpus(args.work / "corpus", args.hours, args.test_clips)
    maker.join()
    if maker.exitcode:
        sys.exit("the models could not be made")
    print(f"models and clips in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    folder = args.work / (args.name or f"{args.hours:g}h-{args.gpus}gpu")
    shutil.rmtree(folder / "stacks" if args.resume else folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    write_recipe(args, manifests, folder / "recipe.yaml")
    return folder


def report(args: argparse.Namespace, folder: Path, planned: dict[str, float]) -> int:
    """Run the round and print what was seen; its exit code."""
    watch, began, ended, code = run_round(args, folder)
    stacks = {path.stem: Stacks(path) for path in (folder / "stacks").iterdir()}
    of_main = stacks.pop(str(watch.pid))
    ranks = [own for _, own in sorted(stacks.items()) if own.has(":as_rank")]
    rows = [described(*one, began, watch, of_main, ranks) for one in stretches(watch, began, ended)]
    about = {"name": folder.name, "hours": args.hours, "size": args.size, "gpus": args.gpus, **machine()}
    last = summary(watch, rows, began, 3600 * args.hours, folder / "run")
    last["tokens_per_s"] = tokens_per_s(
        folder / "run" / "audit" / "utterances.parquet", args.work / "models" / "round1" / "tokenizer.json"
    )
    rows.append({**about, "exit_code": code, **planned, "total_s": round(ended - began, 1), **last})
    with (folder / "rows.jsonl").open("a", encoding="utf-8") as file:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False), file=file)
            print(json.dumps({key: value for key, value in row.items() if key != "top"}), flush=True)
    return code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3.0, help="of training data")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="keeps models and clips for other rounds")
    parser.add_argument("--size", choices=("real", "tiny"), default="real")
    parser.add_argument("--source", type=Path, default=HERE.parent, help="the checkout whose code runs")
    parser.add_argument("--name", help="of the round's folder in the work folder; else hours and GPUs")
    parser.add_argument("--limit-s", type=float, default=7200.0, help="the round is stopped then")
    parser.add_argument("--resume", action="store_true", help="go on with the round that is there")
    parser.add_argument("--cache", type=Path, help="keeps hashes and kernels for other rounds; else none are known")
    parser.add_argument("--test-clips", type=int, default=200, help="of each of two test sets")
    parser.add_argument("--keep", action="store_true", help="checkpoints and the model, some 40 GB")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER if TOKENIZER.is_dir() else None)
    args = parser.parse_args()
    args.work, args.source = args.work.absolute(), args.source.absolute()
    args.cache = args.cache and args.cache.absolute()
    folder = prepare(args)
    code = report(args, folder, timed_plan(args, folder))
    is_done = code in (0, EXIT_REJECT)
    if is_done and not args.keep:
        for part in ("checkpoints", "final", "encoder_cache"):
            shutil.rmtree(folder / "run" / "train" / part, ignore_errors=True)
    sys.exit(not is_done)


if __name__ == "__main__":
    main()
