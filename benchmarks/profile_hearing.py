"""Where a GPU's time goes while models of the real size hear: kernels by time, how busy it is, what the host takes.

    python benchmarks/profile_hearing.py --clips 4096 --out profile.json
    python benchmarks/profile_hearing.py --device cpu --clips 8 --passes prefill     a try where there is no GPU

prefill  the recogniser reads every prompt and writes one token
greedy   and writes 7 tokens a second of audio
hear     and scores the hypothesis and the text, as an audit does
align    the aligner
both     `hear` and `align` in two threads, as an audit runs them

Clips are noise, 5.8 s on average, in memory, in chunks of which so many are heard at once as in an audit. A pass runs
once to warm up, once by the clock, once under torch's profiler. Prints a line of JSON for each.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from audit_speed import TOKENS_PER_S, WORDS_PER_S, random_model, recogniser_of
from torch.profiler import ProfilerActivity, profile

from shibolet.demo.lexicon import load_lexicon
from shibolet.listen.family_aligner import FamilyAligner

PASSES = ("prefill", "greedy", "hear", "align", "both")
GPU_WORK = {"kernel", "gpu_memcpy", "gpu_memset"}


def noise(count: int) -> tuple[list[np.ndarray], list[list[str]]]:
    rng, vocabulary = np.random.default_rng(0), [entry.spelling for entry in load_lexicon().entries]
    durations_s = np.clip(rng.lognormal(np.log(5.2), 0.5, count), 1.0, 15.0)
    clips = [(0.05 * rng.standard_normal(int(16000 * seconds))).astype(np.float32) for seconds in durations_s]
    words = [list(rng.choice(vocabulary, max(1, round(WORDS_PER_S * seconds)))) for seconds in durations_s]
    return clips, words


def gpu_work(run: Callable[[], None]) -> dict[str, object]:
    """Seconds in which the GPU did something, the commonest kernels, and the longest waits between two."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        profiled.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    work = sorted((e["ts"], e["ts"] + e["dur"], e["name"]) for e in events if e.get("cat") in GPU_WORK)
    busy, idle, end = 0.0, Counter(), work[0][0]
    for start, stop, _ in work:
        if start > end:
            idle["under 20 us" if start - end < 20 else "under 1 ms" if start - end < 1000 else "longer"] += start - end
        busy, end = busy + max(0.0, stop - max(start, end)), max(end, stop)
    by_name, calls = Counter(), Counter()
    for start, stop, name in work:
        by_name[name[:90]] += stop - start
        calls[name[:90]] += 1
    return {
        "span_s": round((end - work[0][0]) / 1e6, 3), "busy_s": round(busy / 1e6, 3), "launched": len(work),
        "idle_s": {name: round(us / 1e6, 3) for name, us in idle.items()},
        "kernels": [[round(us / 1e6, 4), calls[name], name] for name, us in by_name.most_common(24)],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=4096)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    clips, words = noise(args.clips)
    audio_s = sum(map(len, clips)) / 16000
    recogniser = recogniser_of(random_model("recogniser", args.device), args.at_once)
    chunks = [slice(first, first + args.chunk) for first in range(0, args.clips, args.chunk)]
    aligner = FamilyAligner(random_model("aligner", args.device)) if {"align", "both"} & set(args.passes) else None

    def write(chunk: slice, tokens_per_s: float) -> None:
        with recogniser._transcribing() as writer:
            writer._max_new_tokens_per_s = tokens_per_s
            writer.write(clips[chunk])
            writer._max_new_tokens_per_s = TOKENS_PER_S

    def run(**threads: int) -> None:
        with ExitStack() as stack:
            pools = {name: stack.enter_context(ThreadPoolExecutor(num)) for name, num in threads.items()}
            started = [pool.submit(does[name], chunk) for chunk in chunks for name, pool in pools.items()]
            for one in started:
                one.result()

    does = {
        "prefill": partial(write, tokens_per_s=1e-3), "greedy": partial(write, tokens_per_s=TOKENS_PER_S),
        "hear": lambda chunk: recogniser.hear(clips[chunk], words[chunk]),
        "align": lambda chunk: aligner.align(clips[chunk], words[chunk]),
    }  # fmt: skip

    runs = {name: partial(run, **{name: 1 if name == "align" else args.at_once}) for name in does}
    runs["both"] = partial(run, hear=args.at_once, align=1)
    for name in args.passes:
        runs[name]()
        started, cpu = time.perf_counter(), time.thread_time()
        runs[name]()
        seconds, cpu = time.perf_counter() - started, time.thread_time() - cpu
        row = {
            "pass": name, "audio_s_per_s": round(audio_s / seconds), "seconds": round(seconds, 3),
            "host_s": round(cpu, 3), "clips": len(clips), "audio_s": round(audio_s),
        }  # fmt: skip
        if args.device != "cpu":
            row |= {"device": torch.cuda.get_device_name(), "at_once": args.at_once, **gpu_work(runs[name])}
        print(json.dumps(row), flush=True)
        if args.out:
            with args.out.open("a", encoding="utf-8") as file:
                print(json.dumps(row), file=file)


if __name__ == "__main__":
    main()
