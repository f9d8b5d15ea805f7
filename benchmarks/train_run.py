"""A whole training from FLAC in Parquet, in the 1.7B size on one GPU: what its loop loses beside its steps.

    python benchmarks/train_run.py --scratch DIR --out train_run.json
    python benchmarks/train_run.py --tiny --utterances 4 --steps-b 8 --steps-a 4 --checkpoint-every 4 --dev-utterances 4

`run_train` with the shipped recipe, its two phases shortened, on random weights and noise; B's first epoch runs the
encoder, its second reads what was kept. DIR takes 45 GB: three checkpoints of 11 and 12 GB, the weights twice. The best
dev score so far writes a checkpoint too, so scores are taken in the steps that write one anyway.

Random weights never stop writing: dev scoring is bounded to 7 tokens a second of audio, about what a text has, where
the recipe allows 25. Seconds from the first step's start to the last one's end are divided up; shares are given as
measured and for the recipe's interval, every 500 steps, from the same seconds. A kind of step is its phase, whether
the encoder's output was kept, and its packs; its median is over steps with no checkpoint being written beside them.
"""

import argparse
import math
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from real_size import Report, best_device, free, machine, new_model, recipe_config, synchronize
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ASRFeatureExtractor

from shibolet.demo.lexicon import load_lexicon
from shibolet.evaluate.dev import dev_scorer, read_dev
from shibolet.model.family import LoadedModel
from shibolet.model.folders import resolve
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.prompt import AUDIO_TOKEN, TIMESTAMP, TranscriptionPrompt
from shibolet.model.qwen3_asr.save import save_model
from shibolet.recipe import load_recipe
from shibolet.records.cores import usable_cores
from shibolet.records.documents.plan import Plan
from shibolet.records.documents.training import DevRates, StepRow
from shibolet.speech.audio import encode_flac
from shibolet.speech.augment import make_noise
from shibolet.speech.tables import BATCH_ROWS
from shibolet.train import keeper
from shibolet.train.checkpoint import CheckpointStore
from shibolet.train.config import TrainConfig
from shibolet.train.memory import Sizes, assumed_sizes
from shibolet.train.stage import run_train
from shibolet.train.writer import CheckpointWriter

LANGUAGE = "Hebrew"
ROWS_PER_SHARD = 512
DEV_TOKENS_PER_S = 7.0
CHECKPOINT_BAR_PCT, DEV_BAR_PCT = 2.0, 5.0
FEWEST_QUIET = 3  # steps with nothing written beside them; with fewer of a kind all of it are taken
# One token each in the real tokenizer, so in this one too: a frame of 15 tokens and a target's of 4, as is assumed.
PROMPT_WORDS = ["system", "user", "assistant", "language", f" {LANGUAGE}"]

Kind = tuple[str, bool, int]  # phase, whether the encoder's output was kept, packs


def write_model(path: Path, tiny: bool) -> PreTrainedTokenizerBase:
    """Random weights under the demo's tokenizer, as `load_recogniser` reads them; the tokenizer."""
    source = resolve("builtin:round1")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens(PROMPT_WORDS)
    model = new_model(best_device(), tiny).cpu()
    model.config.audio_token_id, model.config.timestamp_token_id = tokenizer.convert_tokens_to_ids(
        [AUDIO_TOKEN, TIMESTAMP]
    )
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    save_model(LoadedModel(model, tokenizer, Qwen3ASRFeatureExtractor(), source, ""), path)
    return tokenizer


def write_texts(sizes: Sequence[Sizes], prompt: TranscriptionPrompt, seed: int) -> list[str]:
    """Words of the lexicon, until each target has about its labels."""
    rng, words, texts = np.random.default_rng(seed), [entry.spelling for entry in load_lexicon().entries], []
    for _, _, labels in sizes:
        text = str(rng.choice(words))
        while prompt.frame.num_targets(len(prompt.encode([text])[0])) < labels - 1:
            text += f" {rng.choice(words)}"
        texts.append(text)
    return texts


def write_shard(path: Path, sizes: Sequence[Sizes], texts: Sequence[str], num_rows: int) -> None:
    """Rows as `prepare` writes them; clips are made once and come again under other ids."""
    rng = np.random.default_rng([*path.name.encode()])
    clips = [encode_flac(0.1 * make_noise(160 * frames, "babble", rng)) for _, frames, _ in sizes]
    rows = []
    for number in range(num_rows):
        clip = number % len(clips)
        rows.append({
            "id": f"{path.stem}-{number}", "audio": {"bytes": clips[clip], "path": None}, "text": texts[clip],
            "duration_s": sizes[clip][1] / 100, "domain": "noise", "recording": f"{path.stem}-{clip}", "speaker": None,
            "language": LANGUAGE,
        })  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=BATCH_ROWS)


def write_shards(folder: Path, prompt: TranscriptionPrompt, *, rows: int, clips: int, dev: int) -> None:
    """`rows` training utterances, of them `clips` different ones, and `dev` others, all at once."""
    starts = range(0, rows, ROWS_PER_SHARD)
    sizes = assumed_sizes(FAMILY, max(min(clips, rows), len(starts)), seed=0)
    texts = write_texts(sizes, prompt, seed=0)
    jobs = [(folder / f"train-{n:05d}.parquet", sizes[n :: len(starts)], texts[n :: len(starts)],
             min(ROWS_PER_SHARD, rows - start)) for n, start in enumerate(starts)]  # fmt: skip
    dev_sizes = assumed_sizes(FAMILY, dev, seed=1)
    jobs.append((folder / "dev-00000.parquet", dev_sizes, write_texts(dev_sizes, prompt, seed=1), dev))
    folder.mkdir()
    cores = usable_cores()
    with ProcessPoolExecutor(min(cores, len(jobs)), mp_context=get_context("forkserver")) as pool:
        list(pool.map(write_shard, *zip(*jobs, strict=True)))


def shortened(args: argparse.Namespace) -> tuple[TrainConfig, int]:
    """The recipe's settings with B and A of so many steps, and the steps of an epoch: B has its two."""
    changes: dict[str, Any] = {
        "eval_every_steps": args.eval_every or args.checkpoint_every,
        "eval_every_epoch": False,  # these epochs are short
        "checkpoint_every_steps": args.checkpoint_every,
        "utterances_per_step": args.utterances,
    }
    if args.no_cache:
        changes["encoder_cache"] = False
    if args.pack_tokens:
        changes["pack_tokens"] = args.pack_tokens
    b, a = recipe_config().phases
    per_epoch = math.ceil(args.steps_b / b.num_epochs)
    phases = (
        b.model_copy(update={"num_epochs": args.steps_b / per_epoch}),
        a.model_copy(update={"num_epochs": args.steps_a / per_epoch}),
    )
    return recipe_config(phases=phases, **changes), per_epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step as the loop recorded it, with the dev scoring that came after it."""

    row: StepRow  # its line of metrics.jsonl
    dev_s: float
    ended: float  # with dev scoring

    @property
    def seconds(self) -> float:
        return self.row.timing.step_s

    @property
    def started(self) -> float:
        return self.ended - self.dev_s - self.seconds


class Watch:
    """What the loop calls as it goes: dev scoring, timed, and the steps."""

    def __init__(self, prepared_dir: Path, dev_utterances: int, report: Report) -> None:
        self._report = report
        changes = {"max_new_tokens_per_s": DEV_TOKENS_PER_S, "dev_utterances": dev_utterances}
        evaluate = load_recipe("hebrew-round2").evaluate.model_copy(update=changes)
        self._score = dev_scorer(read_dev(prepared_dir), LANGUAGE, evaluate)
        self.release_dev = self._score.release
        self._dev_s = 0.0
        self.steps: list[Step] = []

    def score_dev(self, loaded: LoadedModel, when: str) -> DevRates:
        synchronize()
        started = time.perf_counter()
        scores = self._score(loaded)
        self._dev_s = time.perf_counter() - started
        self._report.add(dev_after_step=len(self.steps) + 1, utterances=scores.num_utterances,
                         dev_s=round(self._dev_s, 2))  # fmt: skip
        return DevRates(wer=scores.wer.rate, cer=scores.cer.rate)

    def on_step(self, row: StepRow) -> None:
        self.steps.append(Step(row=row, dev_s=self._dev_s, ended=time.perf_counter()))
        self._dev_s = 0.0


@dataclass(slots=True)
class Written:
    """One checkpoint: seconds, and when it was written beside the loop."""

    step: int
    waited_s: float  # until the one before had left its copies
    held_s: float = 0.0  # beyond that, until it was copied
    started: float = math.inf
    ended: float = math.inf
    gib: float = 0.0


class TimedWriter(CheckpointWriter):
    """The loop's writer, and what each checkpoint took."""

    def __init__(self, store: CheckpointStore, checkpoints: list[Written], report: Report, **settings) -> None:
        super().__init__(store, **settings)
        self._checkpoints, self._report = checkpoints, report

    def submit(self, step: int, *args) -> float:
        started = time.perf_counter()
        self._written.wait()
        self._checkpoints.append(Written(step, time.perf_counter() - started))
        held_s = self._checkpoints[-1].held_s = super().submit(step, *args)
        return held_s

    def _write(self, before, step: int, *args) -> None:
        written = next(one for one in self._checkpoints if one.step == step)
        written.started = time.perf_counter()
        super()._write(before, step, *args)
        written.ended = time.perf_counter()
        written.gib = gib_of(self._store.path(step))
        self._report.add(checkpoint_of_step=step, gib=written.gib, held_s=round(written.held_s, 3),
                         waited_for_the_one_before_s=round(written.waited_s, 3),
                         background_s=round(written.ended - written.started, 2))  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Where the seconds of a training went, from its first step's start to its last one's end."""

    steps: Sequence[Step]
    checkpoints: Sequence[Written]
    plan: Plan

    def kind(self, step: Step) -> Kind:
        phase = self.plan.phases[step.row.phase_index]
        kept = phase.encoder_kept and step.row.step > self.plan.step.steps_per_epoch
        return phase.name, kept, math.ceil(step.row.tokens / self.plan.step.pack_tokens)

    def by_kind(self) -> dict[Kind, list[Step]]:
        kinds: dict[Kind, list[Step]] = {}
        for step in self.steps:
            kinds.setdefault(self.kind(step), []).append(step)
        return kinds

    def beside(self, steps: Sequence[Step]) -> list[Step]:
        """Those during which a checkpoint was being written."""
        spans = [(written.started, written.ended) for written in self.checkpoints]
        return [
            step for step in steps
            if any(step.started < end and start < step.started + step.seconds for start, end in spans)
        ]  # fmt: skip

    def quiet(self, steps: Sequence[Step]) -> list[Step]:
        """The others; all, where there are hardly any."""
        loud = self.beside(steps)
        left = [step for step in steps if step not in loud]
        return left if len(left) >= FEWEST_QUIET else list(steps)

    def medians(self) -> dict[Kind, float]:
        """Seconds of a step of each kind."""
        return {kind: median(step.seconds for step in self.quiet(steps)) for kind, steps in self.by_kind().items()}

    def slowed_frac(self) -> float | None:
        """The share of a step that is lost while a checkpoint is being written; None where it cannot be seen."""
        expected = taken = 0.0
        for steps in self.by_kind().values():
            loud, quiet = self.beside(steps), self.quiet(steps)
            if loud and len(quiet) < len(steps):
                expected += len(loud) * median(step.seconds for step in quiet)
                taken += sum(step.seconds for step in loud)
        return 1 - expected / taken if taken else None

    def seconds(self) -> dict[str, float]:
        """By purpose; they add up to `all`."""
        medians, first, last = self.medians(), self.steps[0], self.steps[-1]
        waited = {written.step: written.waited_s for written in self.checkpoints}
        at_median = sum(medians[self.kind(step)] for step in self.steps)
        parts = dict.fromkeys(("checkpoint_held", "checkpoint_before_it", "phase_switch", "rest"), 0.0)
        for before, step in zip(self.steps[:-1], self.steps[1:], strict=True):
            held = step.row.timing.checkpoint_s
            for_earlier = waited.get(before.row.step, 0.0)
            parts["checkpoint_held"] += held - for_earlier
            parts["checkpoint_before_it"] += for_earlier
            switches = before.row.phase_index != step.row.phase_index
            parts["phase_switch" if switches else "rest"] += step.started - before.ended - held
        return {
            "steps_at_their_median": at_median,
            "steps_over_it": sum(step.seconds for step in self.steps) - at_median,
            "dev": sum(step.dev_s for step in self.steps),
            **parts,
            "all": last.ended - first.started,
        }

    def audio_s(self) -> float:
        return sum(step.row.audio_s for step in self.steps)

    def peaks_gib(self) -> dict[str, float] | None:
        """Of steps alone, and of those with dev scoring or the start of a phase before them; None without a GPU."""
        if self.steps[0].row.memory is None:
            return None
        alone, others = [], [self.steps[0].row.memory.allocated_peak_gib]
        for before, step in zip(self.steps[:-1], self.steps[1:], strict=True):
            plain = before.dev_s == 0 and before.row.phase_index == step.row.phase_index
            (alone if plain else others).append(step.row.memory.allocated_peak_gib)
        return {"steps_alone": max(alone, default=0.0), "dev_or_start_of_phase": max(others)}


def each_step(account: Account) -> dict[str, list]:
    """The steps' rows, a list a column."""
    columns = {
        "step": [step.row.step for step in account.steps],
        "packs": [account.kind(step)[2] for step in account.steps],
        "audio_s": [round(step.row.audio_s) for step in account.steps],
        "step_s": [round(step.seconds, 3) for step in account.steps],
        "data_s": [round(step.row.timing.data_s, 3) for step in account.steps],
    }
    if account.peaks_gib():
        columns["peak_gib"] = [round(step.row.memory.allocated_peak_gib, 1) for step in account.steps]
    return columns


def of_kind(account: Account, kind: Kind, steps: Sequence[Step]) -> dict[str, Any]:
    phase, kept, packs = kind
    loud, quiet = account.beside(steps), account.quiet(steps)
    return {
        "phase": phase, "encoder_kept": kept, "packs": packs, "steps": len(steps),
        "median_step_s": round(median(step.seconds for step in quiet), 4),
        "audio_s_per_s": round(median(step.row.timing.audio_s_per_s for step in quiet), 1),
        "beside_a_checkpoint": len(loud),
        "median_step_s_beside": round(median(step.seconds for step in loud), 4) if loud else None,
        "quiet": len(steps) - len(loud),
    }  # fmt: skip


def recipe_step(account: Account) -> tuple[float, float, str]:
    """Seconds and audio of the mean step of the recipe's own epochs, from those that were run; and in words."""
    medians, step_s, audio_s, epochs, words = account.medians(), 0.0, 0.0, 0.0, []
    kinds = account.by_kind()
    for phase, planned in zip(recipe_config().phases, account.plan.phases, strict=True):
        shares = {False: 1.0, True: phase.num_epochs - 1} if planned.encoder_kept else {False: phase.num_epochs}
        for kept, share in shares.items():
            own = [kind for kind in kinds if kind[:2] == (phase.name, kept)]
            steps = [step for kind in own for step in kinds[kind]]
            if not steps:  # a training cut to less than an epoch has none with the encoder kept
                continue
            mean_s = sum(medians[kind] * len(kinds[kind]) for kind in own) / len(steps)
            step_s += share * mean_s
            audio_s += share * sum(step.row.audio_s for step in steps) / len(steps)
            epochs += share
            words.append(f"{share:g} x {mean_s:.4f} s ({phase.name}{', encoder kept' if kept else ''})")
    return step_s / epochs, audio_s / epochs, f"({' + '.join(words)}) / {epochs:g} = {step_s / epochs:.4f} s a step"


def shares(account: Account) -> list[dict[str, Any]]:
    """What checkpoints, dev scoring and data cost: as measured, then at the recipe's interval."""
    seconds, recipe = account.seconds(), recipe_config()
    total_s = seconds["all"]
    audio_s = account.audio_s()
    alone = audio_s / seconds["steps_at_their_median"]
    measured = {
        "every_steps": "as run",
        "checkpoint_held_pct": pct(seconds["checkpoint_held"], total_s),
        "dev_pct": pct(seconds["dev"], total_s),
        "waiting_for_data_pct": pct(sum(step.row.timing.data_s for step in account.steps), total_s),
        "audio_s_per_s_median_steps": round(alone, 1),
        "audio_s_per_s_end_to_end": round(audio_s / total_s, 1),
        "end_to_end_pct": pct(audio_s / total_s, alone),
    }
    every = recipe.checkpoint_every_steps
    if recipe.eval_every_steps != every:
        raise AssertionError("the recipe scores dev and writes checkpoints in different steps; mend the arithmetic")
    step_s, step_audio_s, words = recipe_step(account)
    later = account.checkpoints[1:] or account.checkpoints  # the first also takes the host memory for its copies
    held_s = median(written.held_s for written in later)
    dev_s = median([step.dev_s for step in account.steps if step.dev_s] or [0.0])
    interval_s = every * step_s + held_s + dev_s
    slowed = account.slowed_frac()
    background_s = median(written.ended - written.started for written in account.checkpoints)
    slowed_s = None if slowed is None else slowed * min(background_s, every * step_s)
    lost_s = held_s + dev_s + (slowed_s or 0.0)
    scaled = {
        "every_steps": every,
        "checkpoint_held_pct": pct(held_s, interval_s),
        "checkpoint_bar_pct": CHECKPOINT_BAR_PCT,
        "with_steps_slowed_beside_it_pct": None if slowed_s is None else pct(held_s + slowed_s, interval_s + slowed_s),
        "dev_pct": pct(dev_s, interval_s),
        "dev_bar_pct": DEV_BAR_PCT,
        "end_to_end_pct": pct(every * step_s, every * step_s + lost_s),
        "audio_s_per_s_end_to_end": round(every * step_audio_s / (every * step_s + lost_s), 1),
        "step": words,
        "interval": f"{every} x {step_s:.4f} s + {held_s:.3f} s held + {dev_s:.3f} s dev = {interval_s:.2f} s",
        "beside": None if slowed_s is None else f"{100 * slowed:.1f}% of {background_s:.2f} s = {slowed_s:.3f} s",
        "background_fits": background_s < every * step_s,
    }
    return [measured, scaled]


def pct(part: float, whole: float) -> float:
    return round(100 * part / whole, 2)


def gib_of(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.iterdir()) / 2**30, 3)


def run(args: argparse.Namespace, folder: Path, report: Report) -> None:
    config, per_epoch = shortened(args)
    clock = [time.perf_counter()]
    tokenizer = write_model(folder / "base", args.tiny)
    free()
    clock.append(time.perf_counter())
    write_shards(folder / "prepared", TranscriptionPrompt(tokenizer, LANGUAGE), rows=args.utterances * per_epoch,
                 clips=args.clips, dev=args.dev_utterances)  # fmt: skip
    clock.append(time.perf_counter())
    report.add(writing_weights_s=round(clock[1] - clock[0], 2), writing_clips_s=round(clock[2] - clock[1], 2))
    watch, checkpoints = Watch(folder / "prepared", args.dev_utterances, report), []
    timed = partial(TimedWriter, checkpoints=checkpoints, report=report)
    with patch.object(keeper, "CheckpointWriter", timed):
        result = run_train(
            prepared_dir=folder / "prepared", out_dir=folder / "train", base=str(folder / "base"), config=config,
            language=LANGUAGE, seed=0, score_dev=watch.score_dev, release_dev=watch.release_dev, about={},
            on_step=watch.on_step,
        )  # fmt: skip
    ended = time.perf_counter()
    plan = Plan.read(folder / "train" / "plan.json")
    account = Account(steps=watch.steps, checkpoints=checkpoints, plan=plan)
    report.add(steps=each_step(account))
    report.add(training_set=plan.training_set.model_dump(), step=plan.step.model_dump(),
               encoder_cache_gib=plan.encoder_cache_gib, shards_gib=gib_of(folder / "prepared"),
               weights_gib=gib_of(folder / "base"))  # fmt: skip
    report.add(set_up_s={
        "loading_and_first_pack": round(account.steps[0].started - clock[2], 2),
        "last_checkpoint_and_final": round(ended - account.steps[-1].ended, 2),
    })  # fmt: skip
    for kind, steps in sorted(account.by_kind().items(), key=lambda item: item[1][0].row.step):
        report.add(**of_kind(account, kind, steps))
    planned = {phase.name: phase.peak_tensors_gib for phase in plan.phases}
    report.add(peak_gib=account.peaks_gib(), planned_tensors_gib=planned,
               host_peak_gib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2))  # fmt: skip
    report.add(
        seconds={name: round(value, 3) for name, value in account.seconds().items()},
        events=[event.model_dump() for event in result.events],
    )
    for row in shares(account):
        report.add(**row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps-b", type=int, default=160)
    parser.add_argument("--steps-a", type=int, default=80)
    parser.add_argument("--checkpoint-every", type=int, default=80)
    parser.add_argument("--eval-every", type=int, help="else with each checkpoint")
    parser.add_argument("--utterances", type=int, default=64, help="of a step")
    parser.add_argument("--pack-tokens", type=int, help="else the recipe's")
    parser.add_argument("--clips", type=int, default=1200, help="different ones; an epoch has them several times")
    parser.add_argument("--dev-utterances", type=int, default=256)
    parser.add_argument("--no-cache", action="store_true", help="run the encoder in B's second epoch too")
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to train on; else the system's")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    started, report = time.perf_counter(), Report(args.out)
    report.add(**machine())
    with TemporaryDirectory(dir=args.scratch) as folder:
        run(args, Path(folder), report)
    report.add(took_s=round(time.perf_counter() - started, 1))


if __name__ == "__main__":
    main()
