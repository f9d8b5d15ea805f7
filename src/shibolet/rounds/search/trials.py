"""A trial as a training: from the shared checkpoint some steps on, then its loss a label on a part of dev.

It runs in any process and needs nothing but its job. What it has trained is in its folder: one that was killed goes on.
"""

import math
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from statistics import median
from typing import Any

from shibolet.errors import Diverged
from shibolet.records.config import Config
from shibolet.records.documents.training import StepRow
from shibolet.rounds.search.halving import Measured
from shibolet.train.config import Replay, TrainConfig


class SearchJob(Config):
    """The arguments of a trial as far as the end of a rung."""

    prepared_dir: Path
    out_dir: Path
    base: str
    train: TrainConfig
    language: str
    seed: int
    num_threads: int | None
    source: Path  # train/ of the training that made the shared checkpoint
    shared_step: int  # 0: trials begin at the base
    until_step: int
    shares_cache: bool  # with the training that it branches from, encoder states; not where several run at once
    choosing: tuple[str, ...]  # ids of dev utterances
    styles: Mapping[str, str] = {}  # what prompts say of how to write, by source
    replay: Replay | None = None  # other data that each step has too


def carry_out(job: SearchJob) -> Measured:
    """Train as far as the rung, unless that was done; the loss of each utterance, or why there is none."""
    from shibolet.train.checkpoint import CheckpointStore
    from shibolet.train.label_loss import label_losses
    from shibolet.train.stage import trained_to

    try:
        step = _train(job)
    except Diverged as error:
        return Measured((), str(error))
    if step is None:
        return Measured((), "the phase diverged and was given up")
    loaded = trained_to(job.base, job.train, job.seed, CheckpointStore(job.out_dir / "checkpoints"), step)
    found = label_losses(loaded, dev_examples(loaded, job, job.choosing), job.language)
    if not all(math.isfinite(one.loss) for one in found):
        return Measured((), "its loss on dev is not a finite number")
    return Measured(tuple((one.id, one.loss, one.labels) for one in found), step_s=_step_s(job))


def _step_s(job: SearchJob) -> float:
    """The median over the steps after the shared ones."""
    rows = StepRow.read_all(job.out_dir / "metrics.jsonl")
    return median(row.timing.step_s for row in rows if row.step > job.shared_step)


def dev_examples(loaded: Any, job: SearchJob, ids: Iterable[str]) -> list:
    """The dev utterances of these ids as a training of the job would have them, in the order of the ids."""
    from shibolet.train.label_loss import read_dev_examples

    by_id = {e.id: e for e in read_dev_examples(loaded, job.prepared_dir, job.language, job.styles)}
    return [by_id[id] for id in ids if id in by_id]


def _train(job: SearchJob) -> int | None:
    """Train to the step of the rung; the step that was reached, None where the phase was given up before it."""
    from shibolet.train.branch import begin_at
    from shibolet.train.checkpoint import CheckpointStore
    from shibolet.train.stage import Reached, run_train
    from shibolet.train.state import TrainState

    store = CheckpointStore(job.out_dir / "checkpoints")
    if job.shared_step and not store.steps():
        begin_at(job.source, job.shared_step, job.train).fill(job.out_dir)
    cache, shared_cache = job.out_dir / "encoder_cache", job.source / "encoder_cache"
    if job.shares_cache and shared_cache.is_dir() and not cache.is_symlink():
        cache.symlink_to(shared_cache.absolute(), target_is_directory=True)
    if job.until_step not in store.steps():
        with suppress(Reached):
            run_train(
                prepared_dir=job.prepared_dir, out_dir=job.out_dir, base=job.base, config=job.train,
                language=job.language, seed=job.seed, styles=job.styles, replay=job.replay, score_dev=None, about={},
                num_threads=job.num_threads, until_step=job.until_step,
            )  # fmt: skip
    newest = store.latest()
    state = TrainState.from_json(newest.state, newest.path)
    return None if state.decisions.fell_back else state.step


def carry_out_all(jobs: Sequence[SearchJob], at_once: int, on_gpus: bool) -> Iterator[tuple[int, Measured]]:
    """The place of each job in the list, and what it came to, as they end; several run in a process each."""
    if at_once == 1 or len(jobs) == 1:
        for place, job in enumerate(jobs):
            yield place, carry_out(job)
        return
    context = get_context("spawn")
    devices = context.SimpleQueue()
    for device in range(at_once):
        devices.put(device if on_gpus else None)
    with ProcessPoolExecutor(at_once, mp_context=context, initializer=_begin, initargs=(devices,)) as pool:
        places = {pool.submit(carry_out, job): place for place, job in enumerate(jobs)}
        try:
            for done in as_completed(places):
                yield places[done], done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()  # at the end of its step, with a checkpoint
            raise


def _begin(devices: "SimpleQueue[int | None]") -> None:
    """A process with a GPU of its own, which ends where the search was killed."""
    from shibolet.train.launch import stop_without_parent

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the search itself tells its processes
    if (device := devices.get()) is not None:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = shown.split(",")[device] if shown else str(device)
    threading.Thread(target=stop_without_parent, daemon=True).start()
