"""Hearing on a Ray cluster of three nodes on this machine: the bytes of one process, whatever is killed meanwhile.

    python benchmarks/ray_cluster.py same --clips 20000      tiny models, 1% of the clips broken; documents and evidence
    python benchmarks/ray_cluster.py kills --times 20        a node is killed at a random moment and another one comes
    python benchmarks/ray_cluster.py driver                  the command is killed; the same one hears only the rest
    python benchmarks/ray_cluster.py memory --clips 20000 200000     peak of the process that hands out, with its rows
    python benchmarks/ray_cluster.py prepare --clips 2000    nodes cut and encode; what the process that asked computes

`kills`, `driver` and `memory` listen with a stub that takes a few milliseconds a clip. Clips are spans of one file of
noise, of 0.4 to 1 s, in `prepare` of 4 to 8 s. Needs the extra `cluster`, and neither a GPU nor the internet. Prints a
JSON object for each event, with the seconds since the start, so a run that is cut off has said what it saw; the objects
without `event` are results. `same --folder F` keeps there what was heard, and the same command goes on from it.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread

import numpy as np
import soundfile as sf

from shibolet.audit.clip import Clip
from shibolet.audit.config import AuditConfig, SelfTestConfig
from shibolet.audit.hearing import Listener
from shibolet.audit.material import clips_of
from shibolet.audit.sampling import SampleConfig
from shibolet.audit.stage import run_audit
from shibolet.errors import ShiboletError
from shibolet.listen.executor import Executor, Here
from shibolet.listen.lazy import LazyListener
from shibolet.listen.open import listener_identity, open_executor
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.stage import run_prepare
from shibolet.records.spilled import SpilledList
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import load

RATE_HZ = 16000
NOISE_S = 60.0
STUB_S = 0.004  # of a clip
EVENT_S = 10.0  # between two lines of progress
BEGAN_S = time.monotonic()
_WHO = resource.RUSAGE_SELF, resource.RUSAGE_THREAD
WORDS = "שלום עולם בוקר טוב מה שלומך היום אני הולך לבית ספר עם חבר".split()


def say(**facts: object) -> None:
    print(json.dumps({"at_s": round(time.monotonic() - BEGAN_S, 1), **facts}), flush=True)


class Progress:
    """Says now and then how far somebody is, and at which rate since this started."""

    def __init__(self, who: str) -> None:
        self._who, self._began_s = who, time.monotonic()
        self._said_s = self._began_s

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s > EVENT_S:
            self._said_s = now_s
            rate = round(done / (now_s - self._began_s), 1)
            say(event="progress", who=self._who, done=done, of=total, clips_per_s=rate)


class Stub:
    """Hears a text that follows from the samples and from who shares the chunk; a line for each clip in `noted`."""

    identity = "stub"

    def __init__(self, noted: Path | None) -> None:
        self._noted = noted

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        time.sleep(STUB_S * len(clips))
        if self._noted is not None:
            with self._noted.open("a") as file:
                file.write("".join(f"{len(clip)}-{float(clip[:400].sum()):.6f}\n" for clip in clips))
        together = sum(map(len, clips)) % 9973 / 1e4
        return [Hearing(hypothesis=" ".join(said), text_score=-together) for said in words]

    def align(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Alignment]:
        return [Alignment(starts_s=np.zeros(len(said)), ends_s=np.full(len(said), 0.1)) for said in words]


def open_stub(noted: Path | None) -> Stub:
    return Stub(noted)


def open_tiny(does: str, name: str):
    from shibolet.listen.open import open_aligner, open_recogniser

    return {"align": open_aligner, "hear": open_recogniser}[does](name, "Hebrew")


def made(
    folder: Path, num: int, broken_frac: float, lengths_s: tuple[float, float] = (0.4, 1.0)
) -> SpilledList[Utterance]:
    """Spans of noise; every hundredth, where so many are to be broken, is a file of its own that is no audio."""
    noise, path = np.random.default_rng(0).standard_normal(int(NOISE_S * RATE_HZ)), folder / "noise.wav"
    swell = np.sin(2 * np.pi * 3 * np.arange(len(noise)) / RATE_HZ) ** 2
    sf.write(path, 0.3 * noise * swell, RATE_HZ, subtype="PCM_16")
    rng, utterances = random.Random(1), SpilledList()
    for i in range(num):
        duration_s = round(rng.uniform(*lengths_s), 3)
        start_s = round(rng.uniform(0, NOISE_S - duration_s), 3)
        ref = AudioRef(path=str(path), start_s=start_s, end_s=start_s + duration_s)
        if broken_frac and i % round(1 / broken_frac) == 7:
            bad = folder / f"bad-{i}.wav"
            bad.write_bytes(b"RIFF" + i.to_bytes(4, "little"))
            ref = AudioRef(path=str(bad))
        text = " ".join(rng.choices(WORDS, k=rng.randint(2, 4)))
        utterances.append(
            Utterance(
                id=f"u{i}", audio=ref, text=text, duration_s=duration_s, source="noise", domain="noise",
                recording=f"r{i // 5}",
            )
        )  # fmt: skip
    return utterances


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".parquet"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


class Nodes:
    """Three nodes that hear on this machine, beside a head that does not."""

    def __init__(self) -> None:
        # Nobody is told, and a machine that others fill is no reason to end an actor: who is killed is said here.
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
        from ray.cluster_utils import Cluster

        # In a container /dev/shm may have 64 MB, and four nodes that believe in more of it would crash.
        small = {"object_store_memory": 80_000_000, "plasma_directory": tempfile.gettempdir()}
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small}
        )
        self._add = partial(self.cluster.add_node, num_cpus=1, **small)
        self.nodes: list = []
        self.fill()
        os.environ["RAY_ADDRESS"] = self.cluster.address
        say(event="cluster", nodes=len(self.nodes))

    def fill(self) -> None:
        """Nodes come in the place of those that are gone."""
        while len(self.nodes) < 3:
            self.nodes.append(self._add())
            say(event="node", node=self.nodes[-1].node_id[:6])

    def kill_one(self, rng: random.Random) -> None:
        """With SIGKILL, as a machine that is taken away."""
        node = self.nodes.pop(rng.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)
        say(event="killed", node=node.node_id[:6])

    def close(self) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()


@contextmanager
def hearing(on: str | None) -> Iterator[Executor]:
    with closing(open_executor(on, num_threads=1)) as executor:
        yield executor


def stub_listener(folder: Path, noted: Path | None, executor: Executor) -> Listener:
    config = AuditConfig(aligner="-", recogniser="-", chunk_utterances=16, num_workers=0)
    ears = LazyListener("stub", partial(open_stub, noted))
    return Listener(ears, ears, folder, load, config, "Hebrew", executor)


def same(args: argparse.Namespace, scratch: Path) -> dict:
    import torch

    torch.set_num_threads(1)
    utterances = made(scratch, args.clips[0], broken_frac=0.01)
    config = AuditConfig(
        aligner="builtin:aligner", recogniser="builtin:ctc", chunk_utterances=16, num_workers=0,
        sample=SampleConfig(shares={}, min_utterances=len(utterances)), selftest=SelfTestConfig(num_clips=20),
    )  # fmt: skip
    ears = [
        LazyListener(listener_identity(name), partial(open_tiny, does, name))
        for does, name in (("align", config.aligner), ("hear", config.recogniser))
    ]
    took_s, reports = {}, []
    for name, on in (("one", None), ("cluster", "ray")):
        started = time.perf_counter()
        with hearing(on) as executor:
            listener = Listener(*ears, scratch / name / "heard", load, config, "Hebrew", executor)
            out_dir = scratch / name / "audit"
            report = run_audit(
                utterances, [], out_dir=out_dir, listener=listener, config=config, language="Hebrew",
                on_progress=Progress(name),
            )  # fmt: skip
            reports.append(report)
        took_s[name] = round(time.perf_counter() - started, 1)
        say(event="audited", who=name, asked=listener.num_clips, heard_now=listener.num_heard, seconds=took_s[name])
    one, found = files_of(scratch / "one"), files_of(scratch / "cluster")
    return {
        "clips": len(utterances), "heard": listener.num_clips,
        "broken": sum("bad-" in u.audio.path for u in utterances), "files": len(one),
        "documents": sorted(name for name in one if "heard" not in name), "same_bytes": one == found,
        "same_report": reports[0] == reports[1], "seconds": took_s,
    }  # fmt: skip


def kills(args: argparse.Namespace, scratch: Path, nodes: Nodes) -> None:
    utterances = made(scratch, args.clips[0], broken_frac=0.01)
    clips, _ = clips_of(utterances, "Hebrew")
    stub_listener(scratch / "one", None, Here()).hear(clips)
    one, rng = files_of(scratch / "one"), random.Random(args.seed)
    undisturbed_s, runs = 0.0, []
    for number in range(args.times + 1):  # nothing is killed in the first one
        nodes.fill()
        facts = {"run": number, "killed_after_s": round(rng.uniform(0, undisturbed_s), 2), "in": len(clips)}
        try:
            facts |= disturbed(scratch, number, clips, one, nodes, facts["killed_after_s"], rng)
        except ShiboletError as error:
            facts |= {"error": str(error), "same_bytes": False}
        say(**facts)
        runs.append(facts)
        undisturbed_s = undisturbed_s or facts.get("seconds", 0.0)
    killed = [facts for facts in runs if facts.get("nodes_killed")]
    say(event="end", kills=len(killed), same_bytes=sum(facts["same_bytes"] for facts in killed))


def disturbed(
    scratch: Path, number: int, clips: Sequence[Clip], one: dict[str, bytes], nodes: Nodes, moment_s: float,
    rng: random.Random,
) -> dict:  # fmt: skip
    """A hearing in which a node is killed after so many seconds; 0: none is."""
    over, num_killed, noted = Event(), [0], scratch / f"noted-{number}"

    def kill() -> None:
        if moment_s and not over.wait(moment_s):
            num_killed[0] += 1
            nodes.kill_one(rng)

    with hearing("ray") as executor:
        stub_listener(scratch / f"warm-{number}", None, executor).hear(clips[:20])
        killer, started = Thread(target=kill), time.perf_counter()
        killer.start()
        listener = stub_listener(scratch / f"run-{number}", noted, executor)
        try:
            heard = listener.hear(clips, Progress(f"run {number}"))
            seconds = time.perf_counter() - started
        finally:
            over.set()
            killer.join()
        failed = sum(one.failure is not None for one in heard.values())
    return {
        "nodes_killed": num_killed[0], "seconds": round(seconds, 1), "kept": len(heard) - failed, "failed": failed,
        "given_up": listener.num_lost, "same_bytes": files_of(scratch / f"run-{number}") == one,
        "heard_twice": len(noted.read_text().split()) - (len(clips) - failed),
    }  # fmt: skip


def driver(args: argparse.Namespace, scratch: Path) -> dict:
    """A command that is killed and started again; what was heard a second time, and had been on disk, is counted."""
    utterances = made(scratch, args.clips[0], broken_frac=0.01)
    clips, _ = clips_of(utterances, "Hebrew")
    stub_listener(scratch / "one", None, Here()).hear(clips)
    command = [sys.executable, __file__, "part", "--clips", str(args.clips[0]), "--folder", str(scratch)]
    first = subprocess.Popen([*command, "--noted", str(scratch / "first")])
    while len(list((scratch / "run").rglob("*.jsonl"))) < len(clips) // 16 // 3:
        if first.poll() is not None:
            raise SystemExit(f"the first command ended with {first.returncode} before it could be killed")
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    lines = [line for path in (scratch / "run").rglob("*.jsonl") for line in path.read_text().splitlines()[1:]]
    say(event="killed", on_disk=len(lines), of=len(clips))
    heard_before = sum(not json.loads(line).get("failure") for line in lines)
    started = time.perf_counter()
    subprocess.run([*command, "--noted", str(scratch / "second")], check=True)
    second = len((scratch / "second").read_text().split())
    can_be_heard = sum("bad-" not in utterance.audio.path for utterance in utterances)
    return {
        "clips": len(clips), "undecodable": len(clips) - can_be_heard, "on_disk_when_killed": len(lines),
        "heard_by_the_second": second, "heard_again_that_was_on_disk": second - (can_be_heard - heard_before),
        "same_bytes": files_of(scratch / "run") == files_of(scratch / "one"),
        "seconds_of_the_second": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def prepare(args: argparse.Namespace, scratch: Path) -> dict:
    """By this process, then by nodes. CPU seconds are of this process then, and of its thread that collects rows."""
    utterances = made(scratch, args.clips[0], broken_frac=0.01, lengths_s=(4.0, 8.0))
    config, took_s, spent = PrepareConfig(unheard="keep"), {}, []
    for name in ("one", "cluster"):
        started, before = time.perf_counter(), [resource.getrusage(who) for who in _WHO]
        with hearing("ray" if name == "cluster" else None) as executor:
            elsewhere = {"decoders": executor.share(1), "executor": executor} if name == "cluster" else {}
            run_prepare(
                utterances, {}, config=config, language="Hebrew", seed=0, out_dir=scratch / name,
                on_progress=Progress(name), **elsewhere,
            )  # fmt: skip
        took_s[name] = round(time.perf_counter() - started, 1)
        after = [resource.getrusage(who) for who in _WHO]
        spent = [b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True)]
        say(event="prepared", who=name, seconds=took_s[name])
    one, found = files_of(scratch / "one"), files_of(scratch / "cluster")
    return {
        "clips": len(utterances), "audio_s": round(sum(u.duration_s for u in utterances)),
        "mb": round(sum(len(content) for name, content in found.items() if name.endswith(".parquet")) / 1e6, 1),
        "same_bytes": one == found, "files": len(one), "seconds": took_s,
        "process_ms_a_clip": round(1e3 * spent[0] / len(utterances), 2),
        "thread_ms_a_clip": round(1e3 * spent[1] / len(utterances), 2), "peak_mib": after[0].ru_maxrss // 1024,
    }  # fmt: skip


def part(args: argparse.Namespace) -> None:
    """What `driver` starts and kills."""
    clips, _ = clips_of(made(args.folder, args.clips[0], broken_frac=0.01), "Hebrew")
    with hearing("ray") as executor:
        stub_listener(args.folder / "run", args.noted, executor).hear(clips)


def memory(args: argparse.Namespace, scratch: Path) -> dict:
    """Of this process alone, in which no cluster was begun; and the time that it computes itself."""
    clips, _ = clips_of(made(scratch, args.clips[0], broken_frac=0.0), "Hebrew")
    before = resource.getrusage(resource.RUSAGE_SELF)
    with hearing("ray") as executor:
        stub_listener(scratch / "run", None, executor).hear(clips)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": len(clips), "with_rows_mib": before.ru_maxrss // 1024, "peak_mib": after.ru_maxrss // 1024,
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["same", "kills", "driver", "memory", "prepare", "part", "rows"])
    parser.add_argument("--clips", type=int, nargs="+", default=[1000])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and nodes of `kills`")
    parser.add_argument("--folder", type=Path, help="of `same`: keep there what was heard, and go on from it")
    parser.add_argument("--noted", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "part":
        return part(args)
    with ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        if args.what == "rows":
            return say(**memory(args, folder))
        nodes = stack.enter_context(closing(Nodes()))
        if args.what == "kills":
            kills(args, folder, nodes)
        elif args.what == "memory":
            for num in args.clips:
                subprocess.run([sys.executable, __file__, "rows", "--clips", str(num)], check=True)
        else:
            say(**{"same": same, "driver": driver, "prepare": prepare}[args.what](args, folder))


if __name__ == "__main__":
    # Actors read functions of this file by its name.
    import ray_cluster

    ray_cluster.main()
