"""What `whole_round.py` sees of a round while it runs: its files as they grow, GPUs, memory, and stacks of Python.

Times are seconds since 1970.
"""

import json
import re
import subprocess
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

GIB = 2**30
LONGEST_S = 10.0  # between two samples of a stack: an import can hold the interpreter so long
# What a thread does, by the innermost frame that one of these matches; else "wait", if it stands in one, or "work".
KINDS = {
    "import": r"^<frozen importlib",
    "hash": r":(hash_\w+|\w*content_hash|identity_of|manifest_hash|audited_hash)$|hashlib\.py:",
    "kernels": r"^triton/|/triton/|_inductor/|_dynamo/|:(capture\w*|_lazy_init|make_graphed\w*|_try_largest_pack)$",
    "load": r":(from_pretrained|load_recogniser|load_aligner|load_model|load_file|load_now|load_state_dict|safe_open"
    r"|read_weights|open_recogniser|open_aligner|open_transcriber|_load_\w+)$",
    "write": r":(_?sync_\w+|write_bytes|write_json|write_final|save_file|save_torch_state_dict|save_model|copyfile)$",
}
IDLE = "concurrent/futures/thread.py:_worker"  # which has no frame for its wait
_KINDS = {kind: re.compile(pattern) for kind, pattern in KINDS.items()}
_WAITS = re.compile(
    r"(threading|queue|selectors|connection|subprocess|popen_\w+|_base|synchronize|process)\.py:(wait|get|select|poll"
    r"|_wait\w*|_poll|_recv\w*|recv\w*|result|acquire|join|_try_wait|as_completed|__enter__)$"
)


@dataclass
class Watch:
    """A round in `run_dir`, whose main process is `pid`, until it is closed; what was there before is not seen."""

    pid: int
    run_dir: Path
    gpus: list[tuple[float, int, float, float]] = field(default_factory=list)  # time, GPU, busy %, GiB
    memory: list[tuple[float, float]] = field(default_factory=list)  # time, GiB of all processes
    stages: list[tuple[float, dict]] = field(default_factory=list)  # when the line of `timings.jsonl` came
    steps: dict[int, tuple[float, dict]] = field(default_factory=dict)  # when the row of `metrics.jsonl` came
    free_gib: list[float] = field(default_factory=list)  # memory of the machine
    cpus: list[tuple[float, float, float]] = field(default_factory=list)  # time, percent at work, and taken by others

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._timings = Lines(self.run_dir / "timings.jsonl")
        self._metrics = Lines(self.run_dir / "train" / "metrics.jsonl")
        self._smi = _nvidia_smi()
        watched = [self._watch_files, self._watch_memory, *([self._watch_gpus] if self._smi else [])]
        self._threads = [threading.Thread(target=target, daemon=True) for target in watched]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """See the last of the files, and end."""
        self._over.set()
        if self._smi:
            self._smi.terminate()
        for thread in self._threads:
            thread.join(10)

    def _watch_files(self) -> None:
        ended = False
        while not ended:
            ended = self._over.wait(0.1)
            self.stages += [(time.time(), line) for line in self._timings.new()]
            self.steps |= {row["step"]: (time.time(), row) for row in self._metrics.new()}

    def _watch_memory(self) -> None:
        psutil.cpu_times_percent()
        while not self._over.wait(4.0):  # a look at 25 GB takes a tenth of a second, in which they cannot grow
            used = psutil.cpu_times_percent()
            self.cpus.append((time.time(), 100 - used.idle, getattr(used, "steal", 0.0)))
            try:
                tree = [psutil.Process(self.pid)]
                tree += tree[0].children(recursive=True)
            except psutil.NoSuchProcess:
                continue
            self.memory.append((time.time(), sum(map(_pss, tree)) / GIB))
            self.free_gib.append(psutil.virtual_memory().available / GIB)

    def _watch_gpus(self) -> None:
        for line in self._smi.stdout:
            index, busy, used = (float(value) for value in line.split(","))
            self.gpus.append((time.time(), int(index), busy, used / 1024))

    def busy_since(self, start: float, least: float = 50.0) -> float | None:
        """When a GPU first was busy in two samples one after the other."""
        last: dict[int, float] = {}
        for at, gpu, busy, _ in self.gpus:
            if at >= start:
                if busy >= least and last.get(gpu, 0.0) >= least:
                    return at
                last[gpu] = busy
        return None

    def gpu_share(self, start: float, end: float) -> dict[str, list]:
        """Of each GPU: how busy it was, in percent of the time, and its memory at most."""
        of: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for at, gpu, busy, used in self.gpus:
            if start <= at < end:
                of[gpu].append((busy, used))
        return {
            "gpu_busy_pct": [round(sum(b for b, _ in of[gpu]) / len(of[gpu])) for gpu in sorted(of)],
            "gpu_gib": [round(max(u for _, u in of[gpu]), 1) for gpu in sorted(of)],
        }

    def cpu_pct(self, start: float, end: float) -> dict[str, float | None]:
        """How much of all cores was at work, and what other machines took of them; None where no sample fell."""
        seen = [used for at, *used in self.cpus if start <= at < end]
        means = [round(sum(column) / len(seen)) for column in zip(*seen, strict=True)] if seen else [None, None]
        return dict(zip(("cpu_busy_pct", "cpu_steal_pct"), means, strict=True))

    def host_gib(self, start: float, end: float) -> float | None:
        """Memory of all processes together at most; None where no sample fell."""
        return max((round(gib, 1) for at, gib in self.memory if start <= at < end), default=None)


def _nvidia_smi() -> subprocess.Popen | None:
    query = "--query-gpu=index,utilization.gpu,memory.used"
    try:
        return subprocess.Popen(
            ["nvidia-smi", query, "--format=csv,noheader,nounits", "-lms", "500"], stdout=subprocess.PIPE, text=True
        )
    except FileNotFoundError:
        return None


class Lines:
    """A file of JSON lines that grows, and is cut where a training goes back."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._seen = path, 0, set()
        self.new()

    def new(self) -> list[dict]:
        """The lines that were never there before."""
        if not self._path.is_file():
            return []
        if self._path.stat().st_size < self._offset:
            self._offset = 0
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = [line for line in whole.splitlines() if line not in self._seen]
        self._seen.update(lines)
        return [json.loads(line) for line in lines]


def _pss(process: psutil.Process) -> float:
    """Bytes, those shared by several processes in parts; page-locked memory of a driver is not in them."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    return 0.0


class Stacks:
    """The samples of one process that `stacks/sitecustomize.py` wrote."""

    def __init__(self, path: Path) -> None:
        self._names: dict[int, str] = {}
        self._times: list[float] = []
        self._ids: list[list[int]] = []  # of each sample, the main thread first
        for line in path.read_text(encoding="utf-8").splitlines():
            first, _, rest = line.partition(" ")
            if first == "=":
                number, _, stack = rest.partition(" ")
                self._names[int(number)] = stack
            elif rest:
                self._times.append(float(first))
                self._ids.append([int(number) for number in rest.split()])

    def has(self, frame: str) -> bool:
        return any(frame in stack for stack in self._names.values())

    def seconds(self, start: float, end: float, of_main: bool) -> Counter[str]:
        """By stack, of what lies between two times: of the main thread, or of all others that do not wait."""
        found: Counter[str] = Counter()
        for i in range(bisect_left(self._times, start), bisect_left(self._times, end)):
            until = self._times[i + 1] if i + 1 < len(self._times) else self._times[i]
            for number in self._ids[i][:1] if of_main else self._ids[i][1:]:
                if of_main or _kind(self._names[number]) != "wait":
                    found[self._names[number]] += min(LONGEST_S, until - self._times[i])
        return found

    def kinds(self, start: float, end: float) -> dict[str, dict[str, float]]:
        """Seconds of a stretch by what the main thread does, and by what the others do."""
        by_kind: dict[str, dict[str, float]] = {}
        for threads, of_main in (("main", True), ("threads", False)):
            found: Counter[str] = Counter()
            for stack, seconds in self.seconds(start, end, of_main).items():
                found[_kind(stack)] += seconds
            by_kind[threads] = {kind: round(seconds, 1) for kind, seconds in found.most_common() if seconds >= 0.05}
        return by_kind

    def top(self, start: float, end: float, most: int = 12) -> list[tuple[float, str, str]]:
        """Seconds, kind and the inner frames of the commonest stacks; those of other threads are marked by a +."""
        found: Counter[tuple[str, str]] = Counter()
        for mark, of_main in (("", True), ("+", False)):
            for stack, seconds in self.seconds(start, end, of_main).items():
                found[mark + _kind(stack), _short(stack)] += seconds
        return [(round(s, 1), kind, stack) for (kind, stack), s in found.most_common(most) if s >= 0.1]


@cache
def _kind(stack: str) -> str:
    frames = stack.split(";")
    for frame in reversed(frames):
        for kind, pattern in _KINDS.items():
            if pattern.search(frame):
                return kind
    return "wait" if _WAITS.search(frames[-1]) or frames[-1] == IDLE else "work"


def _short(stack: str) -> str:
    """The last three frames of ours and the last two of all, in their order."""
    frames = [frame for frame in stack.split(";") if not frame.startswith("<frozen")]
    own = [i for i, frame in enumerate(frames) if frame.startswith("shibolet/") or "/shibolet/" in frame]
    shown = sorted({*own[-3:], *range(len(frames))[-2:]})
    return " > ".join(frames[i].removeprefix("src/").removeprefix("shibolet/") for i in shown)
