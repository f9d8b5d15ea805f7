"""How much audio prepare decodes, trims and encodes a second, from FLAC on disk to shards on disk.

    python benchmarks/prepare_speed.py                             6,000 clips, all cores but two
    python benchmarks/prepare_speed.py --clips 800 --processes 0 2     this process, then two others

Clips are those of audit_speed.py, each with the verdict of a good one and word times that fill it. Prints a JSON object
for each number of processes, which have started when the clock does, as after an audit; 0 is this one. `main_thread_s`,
CPU seconds of the thread that hands out and puts together, is what no further process takes over; `main_process_s` has
the threads that write too. `audio_s_per_cpu_s` counts the start. `same_bytes`: all files are those of the first number.
"""

import argparse
import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier

import numpy as np

# No torch up here: the processes that decode load this file too.
from audit_speed import write_clips

from shibolet.audit.clip import Clip
from shibolet.listen.decoders import AnyWorker, Decoders, num_decoders
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.stage import run_prepare
from shibolet.prepare.verdicts import ReviewedRows
from shibolet.records.audited import Audited, write_audited
from shibolet.records.utterance import Utterance


def utterance(number: int, clip: Clip) -> Utterance:
    """Eighty clips a speaker, eight a recording."""
    return Utterance(
        id=clip.key, audio=clip.audio, text=" ".join(clip.words), duration_s=clip.duration_s, source="noise",
        speaker=f"s{number // 80}", recording=f"r{number // 8}", domain="clean",
    )  # fmt: skip


def verdict(clip: Clip) -> Audited:
    """Heard as written, and each word as long as the others."""
    edges_s = np.linspace(0.1, clip.duration_s - 0.1, len(clip.words) + 1).round(3).tolist()
    text = " ".join(clip.words)
    return Audited(
        id=clip.key, source="noise", domain="clean", text=text, duration_s=clip.duration_s, is_low_quality=False,
        coverage=1.0, hypothesis=text, words=clip.words, starts_s=tuple(edges_s[:-1]), ends_s=tuple(edges_s[1:]),
    )  # fmt: skip


def spent_s() -> float:
    """CPU seconds of this process and of those that it started and that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def start(worker: AnyWorker, ready: Barrier) -> None:
    worker.run(os.getpid, timeout_s=60.0)
    ready.wait(600)


def measure(utterances: Sequence[Utterance], tables: Sequence[Path], out_dir: Path, processes: int) -> dict:
    cpu_s = spent_s()
    with closing(Decoders(processes)) as decoders:
        ready = Barrier(processes + 1)
        for _ in range(processes):
            decoders.submit(start, ready)
        ready.wait(600)
        own_s, thread_s, started = time.process_time(), time.thread_time(), time.perf_counter()
        run_prepare(
            utterances, ReviewedRows(tables, {}), config=PrepareConfig(), language="Hebrew", seed=0, out_dir=out_dir,
            decoders=decoders,
        )  # fmt: skip
        seconds, thread_s = time.perf_counter() - started, time.thread_time() - thread_s
        own_s = time.process_time() - own_s
    cpu_s = spent_s() - cpu_s
    audio_s = sum(one.duration_s for one in utterances)
    return {
        "processes": processes, "audio_s_per_s": round(audio_s / seconds), "audio_s_per_cpu_s": round(audio_s / cpu_s),
        "seconds": round(seconds, 2), "main_thread_s": round(thread_s, 2), "main_process_s": round(own_s, 2),
        "ms_a_row": round(1000 * thread_s / len(utterances), 3), "clips": len(utterances), "audio_s": round(audio_s),
    }  # fmt: skip


def digest(folder: Path) -> str:
    """Of all files of a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=6000)
    parser.add_argument("--processes", type=int, nargs="+", default=[num_decoders(None)])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [range(first, min(first + 100, args.clips)) for first in range(0, args.clips, 100)]
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            clips = [clip for part in pool.map(write_clips, [folder / "clips"] * len(parts), parts) for clip in part]
        print(f"{len(clips)} clips", file=sys.stderr)
        write_audited(folder / "utterances.parquet", map(verdict, clips))
        utterances = [utterance(*one) for one in enumerate(clips)]
        digests = []
        for processes in args.processes:
            out_dir = folder / f"prepared-{len(digests)}"
            result = measure(utterances, [folder / "utterances.parquet"], out_dir, processes)
            digests.append(digest(out_dir))
            print(json.dumps({**result, "same_bytes": digests[-1] == digests[0], "cores": os.cpu_count()}), flush=True)


if __name__ == "__main__":
    main()
