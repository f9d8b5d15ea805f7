"""From what was seen of a round (`round_watch.py`) to its stretches, and to the figures that it is judged by."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median

from audit_speed import MEAN_S
from round_watch import Stacks, Watch

Stretch = tuple[str, float, float]  # name, start and end
LEAST_S = 0.5  # shorter gaps between stages are not shown


def stretches(watch: Watch, began: float, ended: float) -> Iterator[Stretch]:
    """Stages by `timings.jsonl`; the audit and the training in parts."""
    last = began
    for came, line in watch.stages:
        name, start = line["stage"], max(last, came - line["seconds"])
        if start - last > LEAST_S:
            yield ("start" if last == began else f"before {name}"), last, start
        if name == "audit" and (busy := watch.busy_since(start)) and busy < came:
            yield from (("audit: until a GPU is busy", start, busy), ("audit: hearing", busy, came))
        elif name == "train" and watch.steps:
            yield from _of_training(watch, start, came, (line["training"] or {}).get("end_s"))
        else:
            yield name, start, came
        last = came
    if watch.steps and all(line["stage"] != "train" for _, line in watch.stages):  # stopped in it
        yield from _of_training(watch, last, ended, None)
    elif ended - last > LEAST_S:
        yield "end", last, ended


def _of_training(watch: Watch, start: float, came: float, end_s: float | None) -> Iterator[Stretch]:
    """The first phase begins when its first step has its data; each ends where the next begins its first step."""
    begins: dict[str, float] = {}
    for at, row in (watch.steps[step] for step in sorted(watch.steps)):
        waited_s = 0.0 if begins else row["timing"]["data_s"]
        begins.setdefault(row["phase"], at - row["timing"]["step_s"] + waited_s)
    last = max(at for at, _ in watch.steps.values()) if end_s is None else came - end_s
    bounds = [start, *begins.values(), last, came]
    names = ["train: start", *(f"train: {phase}" for phase in begins), "train: end"]
    yield from zip(names, bounds, bounds[1:])


def described(
    name: str, start: float, end: float, began: float, watch: Watch, main: Stacks, ranks: Sequence[Stacks]
) -> dict:
    """A stretch with GPUs, memory, and what the threads of the main process did, or of all ranks in a training."""
    row = {"stretch": name, "from_s": round(start - began, 1), "seconds": round(end - start, 1)}
    row |= watch.gpu_share(start, end) | watch.cpu_pct(start, end) | {"host_gib": watch.host_gib(start, end)}
    row |= main.kinds(start, end)
    is_shared = name.startswith("train") and ranks
    if is_shared:
        row["ranks"] = [rank.kinds(start, end) for rank in ranks]
    return row | {"top": (ranks[0] if is_shared else main).top(start, end)}


def tokens_per_s(audited: Path, tokenizer: Path) -> float | None:
    """Tokens a second of audio that the audit's hypotheses have; those of speech have about 7."""
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer

    if not audited.is_file():
        return None
    rows = pq.read_table(audited, columns=["hypothesis", "duration_s"]).to_pylist()
    heard = [row for row in rows if row["hypothesis"] is not None]
    texts = Tokenizer.from_file(str(tokenizer)).encode_batch([row["hypothesis"] for row in heard])
    return round(sum(map(len, texts)) / sum(row["duration_s"] for row in heard), 2)


def summary(watch: Watch, rows: Sequence[dict], began: float, audio_s: float, run_dir: Path) -> dict:
    """What a round of so much training data came to; None where it did not come so far."""
    at = {row["stretch"]: (row["from_s"], row["seconds"]) for row in rows}
    done = {line["stage"]: line["done"] for _, line in watch.stages}
    busy = watch.busy_since(began)
    heard = at.get("audit: hearing") or at.get("audit")
    steps = [stretch for stretch in at if stretch.startswith("train: ")][1:-1]
    prepared = done.get("prepare")
    return {
        "run_to_busy_gpu_s": busy and round(busy - began, 1),
        "audit": heard and _hearing(done["audit"]["clips"], audio_s, heard[1]),
        "prepare_audio_s_per_s": prepared and round(prepared["audio_s"] / max(at["prepare"][1], 0.1), 1),
        "audit_to_first_step_s": round(at[steps[0]][0] - sum(heard), 1) if steps and heard else None,
        "phases": _phases(watch, {stretch.removeprefix("train: "): at[stretch][1] for stretch in steps}),
        "last_step_to_end_s": at.get("train: end", (0, None))[1],
        "evaluate_s": _sum(at, "evaluate/"),
        "page_s": _sum(at, "report"),
        "host_peak_gib": max((round(gib, 1) for _, gib in watch.memory), default=None),
        "host_taken_gib": round(max(watch.free_gib) - min(watch.free_gib), 1) if watch.free_gib else None,
        "content": {
            part: _content(run_dir, pattern)
            for part, pattern in (("heard", "audit/heard/**/*"), ("prepared", "prepared/*.parquet"))
        },
    }


def _sum(at: dict[str, tuple[float, float]], head: str) -> float | None:
    return round(sum(seconds for name, (_, seconds) in at.items() if name.startswith(head)), 1) or None


def _hearing(clips: int, audio_s: float, seconds: float) -> dict[str, float]:
    """From a busy GPU to the report of the audit; copies are taken to be as long as what they are of."""
    per_s = audio_s / max(seconds, 0.1)
    num = audio_s / MEAN_S
    return {"seconds": seconds, "clips": clips, "clips_per_s": round(clips / max(seconds, 0.1), 1),
            "audio_s_per_s": round(per_s, 1), "audio_s_per_s_with_copies": round(per_s * clips / num, 1)}  # fmt: skip


def _phases(watch: Watch, seconds: dict[str, float]) -> dict[str, dict]:
    """Of each phase the audio seconds a second of its median step, and of all its time, and what that time went to."""
    found = {}
    for phase, took in seconds.items():
        rows = [row for _, row in watch.steps.values() if row["phase"] == phase]
        timing = [row["timing"] for row in rows]
        audio_s, step_s = sum(row["audio_s"] for row in rows), median(time["step_s"] for time in timing)
        found[phase] = {
            "seconds": took, "steps": len(rows), "median_step_s": round(step_s, 4),
            "audio_s_per_s_of_steps": round(mean(row["audio_s"] for row in rows) / step_s, 1),
            "audio_s_per_s": round(audio_s / took, 1),
            "pct_of_steps": round(100 * len(rows) * step_s / took, 1),
            **{part: round(sum(time[part] for time in timing), 1) for part in ("data_s", "device_s", "checkpoint_s")},
            "slowest_steps_s": sorted((time["step_s"] for time in timing), reverse=True)[:3],
        }  # fmt: skip
    return found


def _content(folder: Path, pattern: str) -> str | None:
    """A hash of the files there and their names, to compare rounds by."""
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    named = b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(named).hexdigest()[:16] if files else None
