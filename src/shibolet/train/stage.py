"""The train stage: from prepared shards and a base model to `train/final`, continuing what was cut off.

train/  plan.json  ledger.jsonl  metrics.jsonl  dev.jsonl  tensorboard/  checkpoints/  final/  result.json
"""

import json
import os
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from shibolet.model.load import LoadedModel, load_recogniser
from shibolet.model.lora import has_lora, merge_lora, save_lora
from shibolet.model.prompt import TranscriptionPrompt
from shibolet.model.save import save_model
from shibolet.records.files import hash_json, read_json, sync_dir, write_json
from shibolet.records.ledger import write_ledger
from shibolet.train.checkpoint import CheckpointStore
from shibolet.train.config import TrainConfig
from shibolet.train.data import PackReader, TrainExample, read_examples
from shibolet.train.packing import check_fit
from shibolet.train.phases import add_adapters
from shibolet.train.plan import make_plan
from shibolet.train.trackers import TensorBoardTracker, Trackers, WandbTracker
from shibolet.train.trainer import DevScorer, GradualUnfreezeTrainer, StepCallback, load_weights

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_MATHEMATICS = {"phases", "untie_head", "lora", "optimizer", "utterances_per_step", "precision", "patience"}


def run_train(
    *,
    prepared_dir: Path,
    out_dir: Path,
    base: str,
    config: TrainConfig,
    language: str,
    seed: int,
    score_dev: DevScorer | None,
    audit_summary: dict,
    num_threads: int | None = None,
    on_step: StepCallback | None = None,
) -> dict:
    """Train, or go on training, and write `final/`; the summary that is in `result.json`.

    `score_dev` gives WER and CER of a model on dev; without it the last weights are the result. A training that is
    finished returns its summary at once. Raises Preempted after a signal, RecipeError when `out_dir` holds another run.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    if num_threads:
        torch.set_num_threads(num_threads)
    accelerator = Accelerator(
        mixed_precision="no",
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=False)],
    )
    loaded = load_recogniser(base, dtype=_DTYPES[config.precision])
    prompt = TranscriptionPrompt(loaded.tokenizer, language)
    examples, ledger = read_examples(
        prepared_dir, "train", prompt, loaded.model.config.text_config.max_position_embeddings
    )
    check_fit([e.id for e in examples], [e.num_tokens for e in examples], config.pack_tokens)
    fingerprint = fingerprint_of(loaded, examples, config, language, seed)
    result_path = out_dir / "result.json"
    if result_path.exists() and (done := read_json(result_path))["fingerprint"] == fingerprint:
        return done
    add_adapters(loaded.model, config, seed)
    world_size = accelerator.num_processes
    if accelerator.is_main_process:
        write_ledger(out_dir / "ledger.jsonl", ledger)
        write_json(out_dir / "plan.json", make_plan(config, loaded.model, examples, world_size=world_size))
    loaded.model.to(accelerator.device)
    trainer = GradualUnfreezeTrainer(
        loaded=loaded, examples=examples, config=config, seed=seed, fingerprint=fingerprint, out_dir=out_dir,
        reader=PackReader(prompt, loaded.extractor, config.feature_cache_gib),
        score_dev=score_dev, accelerator=accelerator, on_step=on_step,
        trackers=lambda step: start_trackers(out_dir, config, audit_summary, step),
    )  # fmt: skip
    state = trainer.train()
    chosen = state.best["step"] if state.best else state.step
    result = {
        "fingerprint": fingerprint,
        "steps": state.step,
        "utterances_seen": state.utterances_seen,
        "chosen_step": chosen,
        "chosen_by": "dev WER" if state.best else "last step; there was no dev score",
        "dev": state.dev,
        "dropped": len(ledger),
        "num_threads": torch.get_num_threads(),
    }
    if accelerator.is_main_process:
        write_final(base, config, seed, CheckpointStore(out_dir / "checkpoints"), chosen, out_dir / "final")
        write_json(result_path, result)
    accelerator.wait_for_everyone()
    return result


def fingerprint_of(
    loaded: LoadedModel, examples: list[TrainExample], config: TrainConfig, language: str, seed: int
) -> dict[str, str]:
    """What makes two runs the same run: all that decides a weight, and nothing else (ranks, packs, intervals)."""
    return {
        "base model": loaded.identity,
        "training data": hash_json([[e.id, e.text, e.num_frames] for e in examples]),
        "train settings": hash_json(json.loads(config.model_dump_json(include=_MATHEMATICS))),
        "language": language,
        "seed": str(seed),
    }


def write_final(base: str, config: TrainConfig, seed: int, store: CheckpointStore, step: int, path: Path) -> None:
    """The model of a checkpoint in the native layout: float32 masters, adapters merged in float32, then bfloat16."""
    loaded = load_recogniser(base)
    add_adapters(loaded.model, config, seed)
    load_weights(loaded.model, store.at(step))
    if has_lora(loaded.model):
        merge_lora(loaded.model)
    partial = path.with_name(f".{path.name}.partial")
    for leftover in (partial, path):
        shutil.rmtree(leftover, ignore_errors=True)
    save_model(loaded, partial)
    os.replace(partial, path)
    sync_dir(path.parent)


def write_adapter(
    base: str, config: TrainConfig, seed: int, store: CheckpointStore, step: int, path: Path, base_id: str | None
) -> None:
    """The adapters of a checkpoint, not merged, with what was trained whole beside them; bfloat16, for peft."""
    loaded = load_recogniser(base)
    add_adapters(loaded.model, config, seed)
    trained = load_weights(loaded.model, store.at(step))
    save_lora(loaded.model, trained, path, base_id, torch.bfloat16)


def start_trackers(out_dir: Path, config: TrainConfig, audit_summary: dict, step: int) -> Trackers:
    """TensorBoard, and W&B where the recipe names a project; the audit's summary and the settings shown first."""
    settings = json.loads(config.model_dump_json())
    starters = [lambda: TensorBoardTracker(out_dir / "tensorboard", step)]
    if project := config.wandb_project:
        starters.append(lambda: WandbTracker(project, out_dir, settings))
    live = Trackers(starters)
    if step == 0:
        live.text("audit/summary", _as_markdown(audit_summary), step)
        live.text("train/settings", _as_markdown(settings), step)
        live.scalars({f"audit/{k}": v for k, v in audit_summary.items() if type(v) in (int, float)}, step)
    return live


def _as_markdown(value: dict) -> str:
    return "```\n" + json.dumps(value, ensure_ascii=False, indent=1) + "\n```"
