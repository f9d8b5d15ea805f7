"""Training as a job: plain data that any process can carry out, alone, as a rank of ours or as a rank of torchrun."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from shibolet.errors import Preempted, ProcessLost, RankLost, RecipeError, ShiboletError
from shibolet.evaluate.config import EvaluateConfig
from shibolet.model.gpus import num_gpus
from shibolet.records.config import Config
from shibolet.records.files import write_json
from shibolet.records.reading import read_cached
from shibolet.records.runfolder import RunFolder
from shibolet.scoring.wording import shown_pct
from shibolet.tracking.config import Tracking
from shibolet.train.config import Replay, ReplaySource, TrainConfig
from shibolet.train.launch import Place, Ranks, begin_to_load_workers

_MOST_LOSSES = 3  # without a checkpoint between them


class TrainJob(Config):
    """The arguments of a training."""

    run_dir: Path  # the run folder, which the paths below lie in
    prepared_dir: Path
    out_dir: Path
    base: str
    train: TrainConfig
    evaluate: EvaluateConfig
    language: str
    seed: int
    num_threads: int | None
    about: dict[str, Any]  # describes the run to trackers
    tracking: Tracking
    only_through: str | None = None  # the phase whose end is the result
    is_beginning: bool = False  # of a training that goes on later: it has no result yet
    styles: Mapping[str, str] = {}  # what prompts say of how to write, by source
    replay: Replay | None = None  # other data that each step has too
    teacher: str | None = None  # the model that a phase learns from
    texts: Mapping[str, str] = {}  # of the teacher, by utterance

    def at(self, run_dir: Path) -> "TrainJob":
        """The same in another place of the run folder."""

        def moved(path: Path) -> Path:
            return run_dir / path.relative_to(self.run_dir)

        sources = [one.model_copy(update={"prepared_dir": moved(one.prepared_dir)}) for one in self.replayed]
        return self.model_copy(update={
            "run_dir": run_dir, "prepared_dir": moved(self.prepared_dir), "out_dir": moved(self.out_dir),
            "replay": self.replay and self.replay.model_copy(update={"sources": tuple(sources)}),
        })  # fmt: skip

    @property
    def replayed(self) -> Sequence[ReplaySource]:
        return self.replay.sources if self.replay else ()


Send = Callable[[str | tuple[int, int]], None]  # takes a sentence for the user, or the steps done and in all


def carry_out(job: TrainJob, send: Send) -> None:
    """Train in this process, alone or with the other ranks, which call it too; only the main rank sends."""
    from shibolet.records.documents.plan import Plan
    from shibolet.train.ranks import join_ranks
    from shibolet.train.stage import run_train

    num_steps = cache(lambda: Plan.read(job.out_dir / "plan.json").steps)  # there before the first step

    if not join_ranks().is_main_process:
        send = _nobody
    score_dev, release_dev = _dev_scorer(job, send)
    run_train(
        prepared_dir=job.prepared_dir,
        out_dir=job.out_dir,
        base=job.base,
        config=job.train,
        language=job.language,
        seed=job.seed,
        styles=job.styles,
        replay=job.replay,
        teacher=job.teacher,
        texts=job.texts,
        score_dev=score_dev,
        release_dev=release_dev,
        about=job.about,
        tracking=job.tracking,
        num_threads=job.num_threads,
        only_through=job.only_through,
        is_beginning=job.is_beginning,
        on_step=lambda row: send((row.step, num_steps())),
    )


def _nobody(message: object) -> None:
    pass


def require_gpus(gpus: int) -> int:
    """How many GPUs there are; RecipeError where there are some, and fewer than that."""
    if (num_devices := num_gpus()) and gpus > num_devices:
        raise RecipeError(f"--gpus {gpus}: there are {num_devices} GPUs here")
    return num_devices


def get_ready(base: str, has_workers: bool, precision: str) -> None:
    """In a process that will be a rank: load the libraries that a training needs, have its workers' loaded, and load
    the base, which takes no memory of a GPU.
    """
    if has_workers:
        begin_to_load_workers()
    from shibolet.listen.open import import_opener
    from shibolet.model.folders import is_local
    from shibolet.train import stage

    if is_local(base):
        import_opener(base)
        stage.load_ahead(base, precision)


def set_to_work(
    job: TrainJob | None, run_dir: Path, send: Send, *, gpus: int, place: Place, ranks: Ranks | None = None
) -> None:
    """Train in this process, as a rank of torchrun's, or as ranks: those that wait for work, else new ones.

    Several nodes have the job from the main one; None there tells the others that there is nothing to do.
    """
    num_devices = require_gpus(gpus)
    if under_torchrun():
        lead(job, run_dir, send)
    elif gpus > 1 or place.num_nodes > 1:
        ranks = ranks or Ranks(gpus)
        try:
            ranks.run(as_rank, (run_dir, job), on_cpu=not num_devices, on_message=send, place=place)
        except RankLost as lost:
            raise (_counted(lost, job.out_dir) if job else lost) from None
    elif job is not None:
        carry_out(job, send)


def _counted(lost: RankLost, out_dir: Path) -> ShiboletError:
    """The loss; from the third without a checkpoint between them one that a scheduler does not begin again."""
    from shibolet.train.checkpoint import CheckpointStore

    step = max(CheckpointStore(out_dir / "checkpoints").steps(), default=0)
    path = out_dir / "lost.json"
    before = read_cached(path, dict[str, int]) or {}
    times = 1 + before.get("times", 0) * (before.get("after_step") == step)
    write_json(path, {"after_step": step, "times": times})
    if times < _MOST_LOSSES:
        return lost
    return ProcessLost(
        f"{lost}. But this is loss {times} after step {step:,}, with no checkpoint between them, and the next would be "
        "like it: see whether the machine's memory runs out (train.num_workers=2 takes less), and what the system's "
        f"log says. Delete {path} to begin to count again"
    )


def as_rank(given: tuple[Path, TrainJob | None], send: Send) -> None:
    """Train as a rank that `launch` started, in the run folder of this machine; the job is the main rank's.

    The main one holds the folder itself: a launcher that was killed leaves its ranks to write their last checkpoint.
    """
    run_dir, job = given
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    is_main = os.environ["RANK"] == "0"
    logging.getLogger("shibolet").setLevel(logging.INFO if is_main else logging.WARNING)
    with RunFolder(job.out_dir).locked() if is_main and job else nullcontext():
        lead(job, run_dir, send)


def under_torchrun() -> bool:
    """Whether `torchrun` or `accelerate launch` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_follower() -> bool:
    """Whether the job comes from another rank."""
    return under_torchrun() and os.environ.get("RANK", "0") != "0"


def follow(run_dir: Path, *, gpus: int, place: Place) -> None:
    """Take part in the training that the main rank leads, if there is one, as a rank of torchrun's or as a node."""
    set_to_work(None, run_dir, _nobody, gpus=gpus, place=place)


def lead(job: TrainJob | None, run_dir: Path, send: Send) -> None:
    """Train with the other ranks, who call it too; the job is the main one's, and None sends all home."""
    with _among_ranks():
        if (job := _shared(job, run_dir)) is not None:
            carry_out(job, send)


def _shared(job: TrainJob | None, run_dir: Path) -> TrainJob | None:
    """The main rank's job in this node's run folder, which then has what it reads there; the same on every rank."""
    from shibolet.train.copies import copy_from_main, look_for_main
    from shibolet.train.nodes import this_node
    from shibolet.train.ranks import from_main, join_ranks

    join_ranks()
    job = from_main(job)
    if job is None or this_node().count == 1:
        return job
    look_for_main(run_dir)
    job = job.at(run_dir)
    for folder in (job.prepared_dir, *(source.prepared_dir for source in job.replayed)):
        copy_from_main(folder)
    return job


@contextmanager
def _among_ranks() -> Iterator[None]:
    """Leaves the process group in the end, unless an error broke it."""
    from shibolet.train.ranks import await_loss, leave_ranks

    try:
        yield
    except Preempted:  # all ranks agreed on it
        leave_ranks()
        raise
    except Exception as error:
        await_loss(error)
        raise
    leave_ranks()


def _dev_scorer(job: TrainJob, tell: Send) -> tuple[Callable | None, Callable[[], bool]]:
    """What finds WER and CER of a model in training on the dev split, and what lets go of the memory that it keeps.

    Each rank hears its share; None: no dev split.
    """
    from shibolet.evaluate.dev import dev_scorer, read_dev
    from shibolet.records.documents.training import DevRates
    from shibolet.train.label_loss import DevLoss
    from shibolet.train.ranks import share_out

    if not (rows := read_dev(job.prepared_dir, with_source=bool(job.styles))):
        tell("train: there is no dev split, so the last weights are the result")
        return None, lambda: False
    score = dev_scorer(rows, job.language, job.evaluate, share_out, job.styles)
    loss_of = DevLoss(job.prepared_dir, job.language, job.styles, score.ids)
    since: float | None = None  # the end of the first score: what comes before it is no measure of a training
    scored_s, advised = 0.0, False

    def score_and_tell(loaded, when: str) -> DevRates:
        nonlocal since, scored_s, advised
        started = time.perf_counter()
        scores, loss = score(loaded), loss_of(loaded)
        ended = time.perf_counter()
        domains = {name: part.wer for name, part in scores.by_domain.items()}
        said = ", ".join(f"{name} {_pct(wer.rate)}" for name, wer in domains.items())
        took = f"{scores.num_utterances} utterances in {ended - started:.1f} s"
        if since is None:
            since = ended
        else:
            scored_s += ended - started
            share = scored_s / (ended - since)
            advice = "" if advised else _too_much(share, scores.num_utterances, by_epoch=job.train.eval_every_epoch)
            advised = advised or bool(advice)  # once is enough: the number differs each time
            took += f", {_pct(share)} of the time so far{advice}"
        of_loss = "" if loss is None else f", loss {loss:.3f} a label"
        tell(f"dev WER {when}: {_pct(scores.wer.rate)} ({said}){of_loss}; {took}")
        return DevRates(wer=scores.wer.rate, cer=scores.cer.rate, loss=loss, folds=scores.folds, by_domain=domains)

    return score_and_tell, score.release


DEV_FRAC_OF_TIME = 0.05  # scoring on dev may hold training up by so much
FEWEST_DEV = 30  # utterances; no checkpoint should be chosen on fewer to save time


def _too_much(share: float, num_utterances: int, *, by_epoch: bool) -> str:
    """What to change where dev scoring holds training up by more than it may."""
    if share <= DEV_FRAC_OF_TIME:
        return ""
    fitting = int(num_utterances * DEV_FRAC_OF_TIME / share * (1 - share) / (1 - DEV_FRAC_OF_TIME))
    ways = [f"evaluate.dev_utterances={fitting} would keep to that"] if fitting >= FEWEST_DEV else []
    ways += ["train.eval_every_epoch=false scores less often"] if by_epoch else []
    return f", more than {_pct(DEV_FRAC_OF_TIME)}; {', or '.join(ways)}" if ways else ""


def _pct(rate: float | None) -> str:
    return shown_pct(rate) or "n/a"
