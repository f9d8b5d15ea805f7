"""The train stage: from prepared shards and a base model to `train/final`, continuing what was cut off.

train/  plan.json  ledger.jsonl  metrics.jsonl  dev.jsonl  events.jsonl  checkpoints/  final/  result.json
        PREEMPTED (after a signal, until the next start)
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel

from shibolet.errors import ModelError, Preempted, RecipeError
from shibolet.model.encoder import encoder_is_frozen
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.folders import best_device, identity_of, resolve
from shibolet.model.lora import merge_lora, save_lora
from shibolet.model.parts import spread_parts
from shibolet.model.protocols import Prompt, Targets
from shibolet.records.ahead import Ahead
from shibolet.records.documents.plan import Plan
from shibolet.records.documents.training import DevRates, StepRow, TrainResult
from shibolet.records.files import disk_errors, hash_json, sync_dir, write_bytes
from shibolet.records.ledger import LedgerLine
from shibolet.records.provenance import versions
from shibolet.tracking.config import Tracking
from shibolet.tracking.start import start_trackers
from shibolet.tracking.trackers import Trackers
from shibolet.train.checkpoint import CheckpointStore, load_weights
from shibolet.train.choice import Choice, choose, warning_of
from shibolet.train.config import TrainConfig
from shibolet.train.context import with_contexts
from shibolet.train.data import Styles, TrainExample, read_examples, with_texts
from shibolet.train.encoder_cache import EncoderCache
from shibolet.train.fingerprint import fingerprint_of
from shibolet.train.given import Drawing
from shibolet.train.keeper import Expected
from shibolet.train.ladder import MemoryLadder, gpu_memory_gib
from shibolet.train.launch import begin_to_load_workers
from shibolet.train.memory import known_gpu, longest_sizes
from shibolet.train.nodes import once_a_node, this_node
from shibolet.train.objectives.cost import teacher_blueprint
from shibolet.train.objectives.given import Given
from shibolet.train.objectives.registry import objectives_of
from shibolet.train.packing import check_fit
from shibolet.train.phases import add_adapters, enter_phase, phase_groups
from shibolet.train.plan import make_plan
from shibolet.train.ranks import any_rank, by_main, from_main, join_ranks, require_same
from shibolet.train.reader import PackReader
from shibolet.train.records import Records
from shibolet.train.replay import Replay, Replayed, read_replay
from shibolet.train.state import TrainState
from shibolet.train.teacher import NO_TEACHER, Teaching
from shibolet.train.trainer import GradualUnfreezeTrainer, StepCallback
from shibolet.train.utilisation import utilisation_of
from shibolet.train.workers import threads_beside, worker_count

# Scores a model on dev, called on every rank; the text says of which weights: "after step 500".
DevScorer = Callable[[LoadedModel, str], DevRates]
_RESULT = "result.json"
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_AHEAD: dict[tuple[str, str], LoadedModel] = {}  # by name and precision, what waits for a job that trains it


def run_train(
    *,
    prepared_dir: Path,
    out_dir: Path,
    base: str,
    config: TrainConfig,
    language: str,
    seed: int,
    styles: Mapping[str, str] | None = None,  # what prompts say of how to write, by source
    replay: Replay | None = None,  # other data that each step has too
    teacher: str | None = None,  # the model that a phase learns from
    texts: Mapping[str, str] | None = None,  # of the teacher, by utterance: they train beside the references
    score_dev: DevScorer | None,
    release_dev: Callable[[], bool] = lambda: False,  # lets go of memory kept for the next score; whether it had any
    about: Mapping[str, Any],  # plain data about the run for the trackers ...
    tracking: Tracking | None = None,  # ... of this; None: none
    num_threads: int | None = None,
    only_through: str | None = None,  # the phase whose last checkpoint is the result, whatever was trained after it
    is_beginning: bool = False,  # the same call without it goes on: checkpoints are all that it leaves
    until_step: int | None = None,
    on_step: StepCallback | None = None,
) -> TrainResult:
    """Train, or go on training, and write `final/`; what it came to, as `result.json` has it.

    Every rank calls it. Without `score_dev` the last weights are the result. A finished training returns it at once.
    Raises Preempted after a signal, Reached after `until_step`, RecipeError when `out_dir` holds another run.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    last_phase = phase_index(config, only_through)
    if num_threads:
        torch.set_num_threads(num_threads)
    ranks = join_ranks()
    if num_workers := worker_count(config.num_workers, ranks.device, this_node().num_ranks):
        begin_to_load_workers()
    opened = _open(ranks, prepared_dir, base, config, language, seed, styles or {}, replay, teacher, texts or {})
    done = from_main(_result_in(out_dir) if opened.is_main else None)
    if done and done.fingerprint == opened.fingerprint and only_through in (None, done.through):
        return done
    config, plan, expected = _plan(opened, config, seed, out_dir, teacher, last_phase)
    threads = config.num_threads or torch.get_num_threads()
    if num_workers and not (config.num_threads or num_threads):
        threads = min(threads, threads_beside(num_workers, this_node().num_ranks))
    trainer = _trainer(
        opened, config, seed, out_dir, expected, num_workers=num_workers, last_phase=last_phase, score_dev=score_dev,
        on_step=on_step, given=_given(opened, config, language, seed, prepared_dir, out_dir, teacher, score_dev),
        release_dev=release_dev, start_trackers=partial(start_trackers, tracking, {**about, "plan": plan.to_json()}),
    )  # fmt: skip

    def at_end(state: TrainState) -> Choice:
        trainer.keeper.hurry()
        chosen = choose(trainer, state, config, last_phase)
        if not is_beginning:
            by_main(lambda: write_final(opened.loaded, trainer.keeper.weights(chosen.steps), out_dir / "final"))
        return chosen

    chosen = _train(trainer, out_dir / "PREEMPTED", threads, at_end, until_step)
    result = _result(opened, trainer.state, chosen, config.phases[last_phase].name, trainer.ladder, threads)
    if not is_beginning:
        by_main(lambda: result.write(out_dir / _RESULT))
    return result


def load_ahead(base: str, precision: str) -> None:
    """Load a base into the host's memory for `run_train`, which this process will be asked for."""
    _AHEAD[base, precision] = load_recogniser(base, dtype=_DTYPES[precision])


def _load(base: str, precision: str) -> LoadedModel:
    found = _AHEAD.pop((base, precision), None)
    _AHEAD.clear()
    if found is not None and found.identity == identity_of(resolve(base)):
        return found
    return load_recogniser(base, dtype=_DTYPES[precision])


def _result_in(out_dir: Path) -> TrainResult | None:
    return TrainResult.read(path) if (path := out_dir / _RESULT).exists() else None


class Reached(Exception):
    """A training has come to the step that it was to stop after, and its checkpoint is on disk."""


def _stop_at(trainer: GradualUnfreezeTrainer, step: int, on_step: StepCallback | None, row: StepRow) -> None:
    if on_step:
        on_step(row)
    trainer.stop_asked = trainer.stop_asked or row.step >= step


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a rank trains, and on what."""

    ranks: PartialState
    loaded: LoadedModel
    targets: Targets
    examples: list[TrainExample]  # its own data, then those that are replayed
    replayed: Replayed
    ledger: list[LedgerLine]
    fingerprint: dict[str, str]

    @property
    def model(self) -> PreTrainedModel:
        return self.loaded.model

    @property
    def is_main(self) -> bool:
        return self.ranks.is_main_process


def _open(
    ranks: PartialState, prepared_dir: Path, base: str, config: TrainConfig, language: str, seed: int,
    by_source: Mapping[str, str], replay: Replay | None, teacher: str | None, texts: Mapping[str, str],
) -> _Opened:  # fmt: skip
    loaded = _load(base, config.precision)
    family = loaded.family
    if why := family.untrainable(loaded.model.config):  # now, not after the untrained model is scored
        raise ModelError(f"model '{base}': {why}")
    targets = family.targets(loaded.tokenizer, Prompt(language))
    styles = Styles.of(by_source, lambda style: family.targets(loaded.tokenizer, Prompt(language, style=style)))
    max_tokens = family.max_tokens(loaded.model.config)
    drawing = Drawing.of(config, family, seed)
    examples, ledger = read_examples(prepared_dir, "train", family, targets, max_tokens, styles, drawing)
    examples, too_long = with_texts(examples, texts, targets, max_tokens)
    examples = with_contexts(
        examples, config.context, family=family, tokenizer=loaded.tokenizer, language=language, seed=seed,
        max_tokens=max_tokens,
    )  # fmt: skip
    replayed = read_replay(replay, family, loaded.tokenizer, max_tokens, examples, drawing)
    teacher_id = teacher and identity_of(resolve(teacher))
    fingerprint = fingerprint_of(loaded, examples, config, language, seed, replayed, teacher_id)
    require_same(fingerprint | versions())
    all_of_them, lines = [*examples, *replayed.examples], [*ledger, *too_long, *replayed.ledger]
    return _Opened(ranks, loaded, targets, all_of_them, replayed, lines, fingerprint)


def _plan(
    opened: _Opened, config: TrainConfig, seed: int, out_dir: Path, teacher: str | None, last_phase: int
) -> tuple[TrainConfig, Plan, Expected]:
    """The settings with the planned length of packs, the plan, and what will train, as it is now.

    The model has its adapters then, and is on its device.
    """
    model, ranks, examples = opened.model, opened.ranks, opened.examples
    add_adapters(model, config, seed)
    plan = make_plan(
        config, model, examples, world_size=ranks.num_processes, gpu=known_gpu(ranks.device),
        gpu_memory_gib=gpu_memory_gib(ranks.device), replay=opened.replayed.plan(config),
        teacher=teacher_blueprint(teacher),
    )  # fmt: skip
    config = config.model_copy(update={"pack_tokens": plan.step.pack_tokens})
    check_fit(
        [e.id for e in examples], [size[0] for size in longest_sizes(examples, config.augment)], config.pack_tokens
    )
    if opened.is_main:
        plan.write(out_dir / "plan.json")
    phases = config.phases[: last_phase + 1]
    trained = [{name for group in phase_groups(model, phase).values() for name in group} for phase in phases]
    names = set().union(*trained)
    weights = {name: weight.detach() for name, weight in model.named_parameters() if name in names}
    untrained = Ahead(lambda: {name: weight.clone() for name, weight in weights.items()})
    model.to(ranks.device)  # from where they would come back more slowly
    if config.fast == "auto":
        opened.loaded.family.fuse(model)
    return config, plan, Expected(trained, untrained)


def _given(
    opened: _Opened, config: TrainConfig, language: str, seed: int, prepared_dir: Path, out_dir: Path,
    teacher: str | None, score_dev: DevScorer | None,
) -> Given:  # fmt: skip
    """What objectives are made from; before the first step a teacher has to be better than who is to learn from it."""
    given = Given(opened.loaded, config, language, seed, replays=bool(opened.replayed.examples))
    if not config.is_taught:
        return given
    if teacher is None:
        raise RecipeError(NO_TEACHER)
    # Beside the data, so that another training on them, or the same one with other settings, finds it.
    cache_dir, frame = once_a_node(prepared_dir.parent / "teacher_cache"), opened.targets.frame
    teaching = Teaching(teacher, opened.loaded, language, frame, opened.examples, cache_dir, opened.ranks)
    if not from_main(CheckpointStore(out_dir / "checkpoints").steps()):
        teaching.require_better(score_dev, config.distil and config.distil.max_teacher_wer_pct)
    return replace(given, teaching=teaching)


def _trainer(
    opened: _Opened, config: TrainConfig, seed: int, out_dir: Path, expected: Expected, *,
    num_workers: int, last_phase: int,
    score_dev: DevScorer | None, release_dev: Callable[[], bool], start_trackers: Callable[[], Trackers],
    on_step: StepCallback | None, given: Given,
) -> GradualUnfreezeTrainer:  # fmt: skip
    model, ranks, examples, family = opened.model, opened.ranks, opened.examples, opened.loaded.family
    objective_of, needs = objectives_of(given)
    replayed = opened.replayed

    def open_cache(step: int) -> EncoderCache | None:
        if not (config.encoder_cache and encoder_is_frozen(model)):
            return None
        root = once_a_node(out_dir / "encoder_cache")
        return EncoderCache(
            root, model, examples, step=step, is_main=this_node().is_first, wait=partial(any_rank, False)
        )

    reader = PackReader(
        family, opened.targets.frame, opened.loaded.extractor, device=ranks.device, augment=config.augment, seed=seed,
        cache_gib=config.feature_cache_gib, num_workers=num_workers, needs=needs, open_cache=open_cache,
    )  # fmt: skip
    trainer = GradualUnfreezeTrainer(
        model=model, thaw=partial(enter_phase, model), objective_of=objective_of, reader=reader, examples=examples,
        checkpoint_activations=partial(family.checkpoint_activations, model),
        release_launches=partial(family.release_launches, model),
        ledger=opened.ledger, config=config, seed=seed, fingerprint=opened.fingerprint, last_phase=last_phase,
        new_ladder=partial(
            MemoryLadder, config, examples, family.num_layers(model)["decoder"], spread_parts=spread_parts(model)
        ),
        store=CheckpointStore(out_dir / "checkpoints"), score_dev=score_dev and partial(score_dev, opened.loaded),
        release_dev=release_dev, ranks=ranks, on_step=on_step,
        draw=replayed.draw(config, len(examples) - len(replayed.examples), seed),
        records=Records(
            out_dir, start_trackers, hash_json(opened.fingerprint), is_main=opened.is_main,
            utilisation=utilisation_of(config, model, examples, ranks.device, ranks.num_processes),
        ),
    )  # fmt: skip
    trainer.keeper.expect(expected)
    return trainer


def _train(
    trainer: GradualUnfreezeTrainer, marker: Path, num_threads: int, at_end: Callable[[TrainState], Choice],
    until_step: int | None,
) -> Choice:  # fmt: skip
    """Train with so many threads of torch; after a signal `marker` says so until the next start."""
    if until_step is not None:
        trainer.on_step = partial(_stop_at, trainer, until_step, trainer.on_step)
    if trainer.is_main:
        marker.unlink(missing_ok=True)
    threads_before = torch.get_num_threads()
    try:
        torch.set_num_threads(num_threads)
        return trainer.train(at_end)
    except Preempted as stopped:
        if trainer.state.step == until_step and not trainer.signals.received:
            raise Reached from None
        if trainer.is_main:
            write_bytes(marker, f"{stopped}\n".encode())  # torchrun turns our exit code into 1
        raise
    finally:
        torch.set_num_threads(threads_before)


def _result(
    opened: _Opened, state: TrainState, chosen: Choice, through: str, ladder: MemoryLadder, num_threads: int
) -> TrainResult:
    """What `result.json` says."""
    return TrainResult(
        fingerprint=opened.fingerprint,
        earlier=state.earlier,
        steps=state.step,
        utterances_seen=state.utterances_seen,
        through=through,
        chosen_step=chosen.steps[0],
        chosen_by=chosen.reason,
        chosen_dev=chosen.dev,
        optimism=chosen.optimism,
        warning=warning_of(state.untrained, chosen.dev),
        averaged_steps=chosen.steps if len(chosen.steps) > 1 else (),
        dev=state.dev,
        events=state.decisions.events,
        dropped=len(opened.ledger) + len(ladder.left()),
        num_threads=num_threads,
    )


def phase_index(config: TrainConfig, name: str | None) -> int:
    """The place of a phase in the plan; the last one's for None."""
    names = [phase.name for phase in config.phases]
    if name is not None and name not in names:
        raise RecipeError(f"there is no phase '{name}' in train.phases; they are {', '.join(names)}")
    return len(names) - 1 if name is None else names.index(name)


def write_final(loaded: LoadedModel, weights: Mapping[str, Tensor], path: Path) -> None:
    """Write the model that was trained, with these weights, in the native layout; it is of no other use then.

    Adapters are merged in float32 from `weights`, which has every weight that ever trained; the family then rounds all,
    or leaves it in the precision of the training (`Family.save`).
    """
    load_weights(loaded.model, weights)
    merge_lora(loaded.model, weights)
    partial = path.with_name(f".{path.name}.partial")
    for leftover in (partial, path):
        shutil.rmtree(leftover, ignore_errors=True)
    with disk_errors(path):
        loaded.family.save(loaded, partial)
        os.replace(partial, path)
        sync_dir(path.parent)


def model_at(base: str, config: TrainConfig, seed: int, weights: Mapping[str, Tensor]) -> LoadedModel:
    """The model of a checkpoint in float32, its adapters not merged."""
    loaded = load_recogniser(base)
    add_adapters(loaded.model, config, seed)
    load_weights(loaded.model, weights)
    return loaded


def write_adapter(
    base: str, config: TrainConfig, seed: int, weights: Mapping[str, Tensor], path: Path, named: str
) -> None:
    """The trained adapters, not merged, and what was trained whole beside them, for peft on the base `named`.

    In the precision of the training, so that modules of a training in float32 are those that dev scores are of.
    """
    loaded = model_at(base, config, seed, weights)
    save_lora(loaded.model, list(weights), path, named, _DTYPES[config.precision])


def trained_to(base: str, config: TrainConfig, seed: int, store: CheckpointStore, step: int) -> LoadedModel:
    """The model as it was at a checkpoint, adapters not merged, in evaluation mode and where models run.

    As in a training, so that what it writes is what a dev score of that step is of.
    """
    device = best_device()
    loaded = load_recogniser(base, dtype=_DTYPES[config.precision])
    add_adapters(loaded.model, config, seed)
    load_weights(loaded.model, store.at(step).weights())
    loaded.model.to(device).eval()
    return loaded
