"""The train stage: from prepared shards and a base model to `train/final`, continuing what was cut off.

train/  plan.json  ledger.jsonl  metrics.jsonl  dev.jsonl  events.jsonl  tensorboard/  checkpoints/  final/
        result.json  PREEMPTED (after a signal, until the next start)
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shibolet.errors import Preempted, RecipeError
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.lora import has_lora, merge_lora, save_lora
from shibolet.model.protocols import Prompt
from shibolet.records.files import disk_errors, hash_json, read_json, sync_dir, write_bytes, write_json
from shibolet.scoring.selection import optimism_of
from shibolet.train.checkpoint import CheckpointStore, average_weights, load_weights
from shibolet.train.config import TrainConfig
from shibolet.train.data import TrainExample, read_examples
from shibolet.train.ladder import gpu_memory_gib
from shibolet.train.memory import known_gpu
from shibolet.train.packing import check_fit
from shibolet.train.phases import add_adapters
from shibolet.train.plan import make_plan
from shibolet.train.ranks import join_ranks
from shibolet.train.reader import PackReader, threads_beside, worker_count
from shibolet.train.records import Records
from shibolet.train.state import TrainState
from shibolet.train.trackers import TensorBoardTracker, Trackers, WandbTracker, require_wandb
from shibolet.train.trainer import DevScorer, GradualUnfreezeTrainer, StepCallback

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def run_train(
    *,
    prepared_dir: Path,
    out_dir: Path,
    base: str,
    config: TrainConfig,
    language: str,
    seed: int,
    score_dev: DevScorer | None,
    about: Mapping[str, Any],
    num_threads: int | None = None,
    only_through: str | None = None,
    on_step: StepCallback | None = None,
) -> dict:
    """Train, or go on training, and write `final/`; the summary that is in `result.json`.

    Every rank calls it. `score_dev` gives WER and CER of a model on dev; without it the last weights are the result.
    `about` is what trackers show first: the audit's summary, the recipe. `only_through` names the phase whose last
    checkpoint is the result, whatever was trained after it; the plan's last phase brings the whole plan's result back.
    A training that is finished returns its summary at once. Raises Preempted after a signal, RecipeError when `out_dir`
    holds another run.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    if num_threads:
        torch.set_num_threads(num_threads)
    last_phase = phase_index(config, only_through)
    require_wandb(config.wandb_project)
    ranks = join_ranks()
    loaded = load_recogniser(base, dtype=_DTYPES[config.precision])
    family = loaded.family
    targets = family.targets(loaded.tokenizer, Prompt(language))
    examples, ledger = read_examples(prepared_dir, "train", family, targets, family.max_tokens(loaded.model.config))
    fingerprint = fingerprint_of(loaded, examples, config, language, seed)
    result_path = out_dir / "result.json"
    if result_path.exists() and (done := read_json(result_path))["fingerprint"] == fingerprint:
        if only_through in (None, done["through"]):
            return done
    add_adapters(loaded.model, config, seed)
    plan = make_plan(
        config, loaded.model, examples, world_size=ranks.num_processes, gpu=known_gpu(ranks.device),
        gpu_memory_gib=gpu_memory_gib(ranks.device),
    )  # fmt: skip
    config = config.model_copy(update={"pack_tokens": plan["step"]["pack_tokens"]})
    check_fit([e.id for e in examples], [e.tokens_at(config.slowest_speed) for e in examples], config.pack_tokens)
    if ranks.is_main_process:
        write_json(out_dir / "plan.json", plan)
    loaded.model.to(ranks.device)
    if config.fast == "auto":
        family.fuse(loaded.model)
    store = CheckpointStore(out_dir / "checkpoints")
    num_workers = worker_count(config.num_workers, ranks.device, ranks.num_processes)
    threads_before = threads = torch.get_num_threads()
    if num_workers and not num_threads:
        threads = min(threads, threads_beside(num_workers, ranks.num_processes))
    reader = PackReader(
        family, targets.frame, loaded.extractor, device=ranks.device, augment=config.augment, seed=seed,
        cache_gib=config.feature_cache_gib, num_workers=num_workers,
    )  # fmt: skip
    trainer = GradualUnfreezeTrainer(
        loaded=loaded, examples=examples, ledger=ledger, config=config, seed=seed, fingerprint=fingerprint,
        reader=reader, store=store, last_phase=last_phase, score_dev=score_dev, ranks=ranks, on_step=on_step,
        records=Records(
            out_dir, lambda step: start_trackers(out_dir, config, {**about, "plan": plan}, step),
            is_main=ranks.is_main_process,
        ),
    )  # fmt: skip
    marker = out_dir / "PREEMPTED"
    if ranks.is_main_process:
        marker.unlink(missing_ok=True)
    try:
        torch.set_num_threads(threads)
        state = trainer.train()
    except Preempted as stopped:
        if ranks.is_main_process:
            write_bytes(marker, f"{stopped}\n".encode())  # torchrun turns our exit code into 1
        raise
    finally:
        torch.set_num_threads(threads_before)
    chosen = choose(trainer, state, config, last_phase)
    result = {
        "fingerprint": fingerprint,
        "steps": state.step,
        "utterances_seen": state.utterances_seen,
        "through": config.phases[last_phase].name,
        "chosen_step": chosen.steps[0],
        "chosen_by": chosen.reason,
        "chosen_dev": chosen.dev,
        "optimism": chosen.optimism,
        "averaged_steps": chosen.steps if len(chosen.steps) > 1 else [],
        "dev": state.dev,
        "events": state.decisions.events,
        "dropped": len(ledger) + len(trainer.ladder.left()),
        "num_threads": threads,
    }
    if ranks.is_main_process:
        write_final(base, config, seed, average_weights([store.at(step) for step in chosen.steps]), out_dir / "final")
        write_json(result_path, result)
    ranks.wait_for_everyone()
    return result


@dataclass(frozen=True, slots=True)
class Choice:
    """The checkpoints whose weights, averaged when there are several, are the result."""

    steps: list[int]
    reason: str
    dev: dict[str, float] | None  # {"wer", "cer"}
    optimism: dict | None = None  # by how much that WER is too good; None: not chosen by it, or not known


def choose(trainer: GradualUnfreezeTrainer, state: TrainState, config: TrainConfig, last_phase: int) -> Choice:
    """The best dev WER of the run or the average of the best; the end of `last_phase` where that is not the plan's."""
    scores = {score["step"]: {name: score[name] for name in ("wer", "cer")} for score in state.dev}
    if last_phase < len(config.phases) - 1:
        ended = min(last_phase, len(state.phase_end_steps) - 1)
        asked, name = config.phases[last_phase].name, config.phases[ended].name
        why = "as asked" if ended == last_phase else f"since {asked} diverged and was given up"
        step = state.phase_end_steps[ended]
        return Choice([step], f"the end of phase {name}, {why}", scores.get(step))
    if state.best is None:
        return Choice([state.step], "last step; there was no dev score", None)
    candidates = state.best_of(len(state.dev))
    best = Choice([state.best["step"]], "dev WER", scores[state.best["step"]], _optimism(candidates))
    if config.average_best is None:
        return best
    # of one phase: other phases train other parameters
    similar = [score for score in state.best_of(config.average_best) if score["phase"] == state.best["phase"]]
    if len(similar) == 1:
        return best
    steps = [score["step"] for score in similar]
    averaged = trainer.score_average(steps)
    optimism, averaged_dev = _optimism([*candidates, averaged]), {name: averaged[name] for name in ("wer", "cer")}
    if averaged["wer"] >= best.dev["wer"]:
        return replace(best, optimism=optimism)
    return Choice(steps, f"dev WER, averaged over {len(steps)} checkpoints", averaged_dev, optimism)


def _optimism(scores: Sequence[dict]) -> dict | None:
    """How much too good the lowest WER of some dev scores is; None where one does not say what its folds are."""
    folds = [score["folds"] for score in scores if "folds" in score]
    return optimism_of(folds) if len(folds) == len(scores) else None


def phase_index(config: TrainConfig, name: str | None) -> int:
    """The place of a phase in the plan; the last one's for None."""
    names = [phase.name for phase in config.phases]
    if name is not None and name not in names:
        raise RecipeError(f"there is no phase '{name}' in train.phases; they are {', '.join(names)}")
    return len(names) - 1 if name is None else names.index(name)


def fingerprint_of(
    loaded: LoadedModel, examples: list[TrainExample], config: TrainConfig, language: str, seed: int
) -> dict[str, str]:
    """What makes two runs the same: what decides a weight while nothing goes wrong (not ranks, packs, intervals)."""
    return {
        "base model": loaded.identity,
        "training data": hash_json([[e.id, e.text, e.num_frames] for e in examples]),
        "train settings": hash_json(config.identity()),
        "language": language,
        "seed": str(seed),
    }


def write_final(base: str, config: TrainConfig, seed: int, weights: Mapping[str, Tensor], path: Path) -> None:
    """The trained model in the native layout: float32 masters, adapters merged in float32, then bfloat16."""
    loaded = load_recogniser(base)
    add_adapters(loaded.model, config, seed)
    load_weights(loaded.model, weights)
    if has_lora(loaded.model):
        merge_lora(loaded.model)
    partial = path.with_name(f".{path.name}.partial")
    for leftover in (partial, path):
        shutil.rmtree(leftover, ignore_errors=True)
    with disk_errors(path):
        loaded.family.save(loaded, partial)
        os.replace(partial, path)
        sync_dir(path.parent)


def write_adapter(
    base: str, config: TrainConfig, seed: int, weights: Mapping[str, Tensor], path: Path, base_id: str | None
) -> None:
    """The trained adapters, not merged, with what was trained whole beside them; bfloat16, for peft."""
    loaded = load_recogniser(base)
    add_adapters(loaded.model, config, seed)
    load_weights(loaded.model, weights)
    save_lora(loaded.model, list(weights), path, base_id, torch.bfloat16)


def start_trackers(out_dir: Path, config: TrainConfig, about: Mapping[str, Any], step: int) -> Trackers:
    """TensorBoard, and W&B where the recipe names a project; what the run is about is shown first."""
    starters = [lambda: TensorBoardTracker(out_dir / "tensorboard", step)]
    if project := config.wandb_project:
        starters.append(lambda: WandbTracker(project, out_dir, about))
    live = Trackers(starters)
    if step == 0:
        for name, value in about.items():
            live.text(f"about/{name}", "```\n" + json.dumps(value, ensure_ascii=False, indent=1) + "\n```", step)
        audit = about.get("audit", {})
        live.scalars({f"audit/{k}": v for k, v in audit.items() if type(v) in (int, float)}, step)
    return live
