"""Audit and evaluation over N GPUs against one: audio a second, and whether the bytes on disk are the same.

    python benchmarks/hearing_gpus.py --gpus 1 2 4         random weights in the real sizes
    python benchmarks/hearing_gpus.py --gpus 1 2 --cpu     a small try: the package's own checkpoints, on the CPU

Each number of GPUs is a process of its own, which sees so many. A part of the clips is heard first and not timed: every
process has loaded its models then. Clips are those of `audit_speed.py`. Prints a JSON object for each number and work.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

# No torch up here: the processes that decode load this file too.
from audit_speed import TOKENS_PER_S, random_model, recogniser_of, write_clips

from shibolet.audit.clip import Clip
from shibolet.audit.config import AuditConfig
from shibolet.audit.hearing import Listener
from shibolet.listen.executor import Executor, Here, Processes, local_executor
from shibolet.listen.lazy import Engines, Lazy, LazyListener
from shibolet.records.candidate import named
from shibolet.records.utterance import Utterance
from shibolet.speech.audio import load

WORKS = ("audit", "evaluate")
Hear = Callable[[list[Clip], Path], None]


def open_listener(kind: str, cpu: bool):
    """The aligner or the recogniser of the audit, or the engine of an evaluation."""
    from shibolet.listen.family_aligner import FamilyAligner
    from shibolet.listen.open import open_aligner, open_recogniser, open_transcriber
    from shibolet.listen.transcribe import Transcriber

    if cpu:
        name, open_it = {
            "aligner": ("builtin:aligner", open_aligner), "recogniser": ("builtin:ctc", open_recogniser),
            "engine": ("builtin:round1", open_transcriber),
        }[kind]  # fmt: skip
        return open_it(name, "Hebrew")
    if kind == "aligner":
        return FamilyAligner(random_model("aligner", "cuda"))
    loaded = random_model("recogniser", "cuda")
    if kind == "engine":
        return Transcriber(loaded, "Hebrew", max_new_tokens_per_s=TOKENS_PER_S)
    return recogniser_of(loaded, at_once=2)


def auditing(executor: Executor, args: argparse.Namespace) -> Hear:
    config = AuditConfig(aligner="-", recogniser="-", num_workers=args.workers, chunk_utterances=args.chunk)
    ears = [LazyListener(kind, partial(open_listener, kind, args.cpu)) for kind in ("aligner", "recogniser")]
    return lambda clips, folder: Listener(*ears, folder, load, config, "Hebrew", executor).hear(clips)


def scoring(executor: Executor, args: argparse.Namespace) -> Hear:
    from shibolet.evaluate.config import EvaluateConfig
    from shibolet.evaluate.stage import evaluate_set

    engines = Engines(Lazy(partial(open_listener, "engine", args.cpu)), args.batch, executor)

    def evaluate(clips: list[Clip], folder: Path) -> None:
        evaluate_set(
            engines, [utterance_of(clip) for clip in clips], set_name="noise", language="Hebrew",
            config=EvaluateConfig(), out_dir=folder, named=named("model"), identity="model",
        )  # fmt: skip

    return evaluate


def utterance_of(clip: Clip) -> Utterance:
    text = " ".join(clip.words)
    return Utterance(id=clip.key, audio=clip.audio, text=text, duration_s=clip.duration_s, source="noise")


def measure(work: str, clips: list[Clip], args: argparse.Namespace) -> dict:
    """One work over as many processes as `args.child` says; files of the timed part are hashed."""
    on_cpu = Processes([{}] * args.child, num_threads=1) if args.child > 1 else Here()
    prepare = {"audit": auditing, "evaluate": scoring}[work]
    warm, timed = clips[: len(clips) // 5], clips[len(clips) // 5 :]
    with closing(on_cpu if args.cpu else local_executor()) as executor, tempfile.TemporaryDirectory() as scratch:
        if executor.num_processes != args.child:
            raise SystemExit(f"{args.child} GPUs were asked for, and {executor.num_processes} can be used")
        hear = prepare(executor, args)
        hear(warm, Path(scratch) / "warm")
        started = time.perf_counter()
        hear(timed, Path(scratch) / "timed")
        seconds = time.perf_counter() - started
        files = sorted(path for path in (Path(scratch) / "timed").rglob("*") if path.is_file())
        content = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()
    audio_s = sum(clip.duration_s for clip in timed)
    return {
        "work": work, "processes": args.child, "clips": len(timed), "audio_s": round(audio_s),
        "seconds": round(seconds, 2), "audio_s_per_s": round(audio_s / seconds, 1), "content": content[:16],
    }  # fmt: skip


def child(args: argparse.Namespace, clips: list[Clip]) -> None:
    """What the process of one number of GPUs does."""
    import torch

    if args.cpu:
        torch.set_num_threads(1)
    where = f"{os.cpu_count()} CPU cores" if args.cpu else torch.cuda.get_device_name()
    about = {"device": where, "cores": os.cpu_count(), "torch": torch.__version__, "chunk": args.chunk}
    for work in args.only:
        print(json.dumps(measure(work, clips, args) | about), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cpu", action="store_true", help="so many processes on the CPU, with tiny models")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--clips", type=int, help="else 12,000, and 240 on the CPU")
    parser.add_argument("--chunk", type=int, help="clips heard together; else 128, and 12 on the CPU")
    parser.add_argument("--batch", type=int, help="utterances transcribed together; else 256, and 12 on the CPU")
    parser.add_argument("--workers", type=int, help="that decode, in all; else the audit's own")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.clips, args.chunk, args.batch = (
        given or (small if args.cpu else large)
        for given, large, small in ((args.clips, 12_000, 240), (args.chunk, 128, 12), (args.batch, 256, 12))
    )
    parts = [range(first, min(first + 100, args.clips)) for first in range(0, args.clips, 100)]
    with tempfile.TemporaryDirectory() as folder:
        where = args.folder or Path(folder)
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            clips = [clip for part in pool.map(write_clips, [where] * len(parts), parts) for clip in part]
        if args.child:
            child(args, clips)
            return
        first: dict[str, dict] = {}
        for num in args.gpus:
            seen = {} if args.cpu else {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(num)))}
            command = [sys.executable, __file__, *sys.argv[1:], "--child", str(num), "--folder", folder]
            done = subprocess.run(command, env=os.environ | seen, stdout=subprocess.PIPE, text=True, check=True)
            for row in map(json.loads, done.stdout.splitlines()):
                base = first.setdefault(row["work"], row)
                row["times_first"] = round(row["audio_s_per_s"] / base["audio_s_per_s"], 2)
                print(json.dumps(row | {"same_bytes": row["content"] == base["content"]}), flush=True)


if __name__ == "__main__":
    main()
