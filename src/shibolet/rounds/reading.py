"""Short work on each of many files, in the processes that decode: this one imports libraries meanwhile."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial

from shibolet.errors import ProcessLost
from shibolet.listen.decoders import AnyWorker, Decoders, run_each
from shibolet.listen.processes import WorkerLost
from shibolet.records.batches import ForEach, Result, in_threads

MANY_FILES = 2000  # from here on two processes have started and read them before threads would have
TOGETHER = 64  # files that a process is given at once
LIMIT_S = 60.0  # for a file, on a disk however slow; ten times that for several


def by(decoders: Decoders) -> ForEach:
    """By threads of this process where files are few, else by processes, which start at the first."""

    def for_each(function: Callable[[str], Result], paths: Sequence[str]) -> Generator[Result, None, None]:
        if len(paths) < MANY_FILES or not decoders.num_workers:
            yield from in_threads(function, paths)
            return
        work, batches = partial(_each, function), [paths[at : at + TOGETHER] for at in range(0, len(paths), TOGETHER)]
        with closing(decoders.map(partial(_hand_over, work), batches)) as results:
            for batch, found in zip(batches, results, strict=True):
                for path, result in zip(batch, found, strict=True):
                    if isinstance(result, WorkerLost):
                        raise ProcessLost(
                            f"every process that reads {path} crashes or hangs: take the file out of its source, or "
                            "see whether the memory is full, and run the same command again"
                        )
                    yield result

    return for_each


def _hand_over(work: Callable[[Sequence[str]], list], worker: AnyWorker, paths: Sequence[str]) -> list:
    return run_each(worker, work, paths, lambda paths: LIMIT_S * (10 if len(paths) > 1 else 1))


def _each(function: Callable[[str], Result], paths: Sequence[str]) -> list[Result]:
    return [function(path) for path in paths]
