"""The training loop: phases outside, steps inside, the same mathematics whatever the ranks and packs.

A step: count targets, forward and backward each pack, all finite?, clip, update, record. What a step does is a function
of the weights, the moments and its number alone; so a run that was cut off continues bit for bit.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from shibolet.errors import Preempted, ShiboletError
from shibolet.model.load import LoadedModel
from shibolet.model.losses import summed_cross_entropy
from shibolet.model.packed import Pack, decode_pack, output_head, packed_attention
from shibolet.records.files import write_jsonl
from shibolet.train.checkpoint import Checkpoint, CheckpointStore
from shibolet.train.config import PhaseConfig, TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.encoder_cache import EncoderCache, encoder_is_frozen
from shibolet.train.optimizer import MOMENTS, MasterAdamW, assert_optimizer_covers
from shibolet.train.packing import packs_of_rank, step_utterances, steps_per_epoch
from shibolet.train.phases import enter_phase
from shibolet.train.reader import PackReader, PackRequest
from shibolet.train.schedule import lr_factor, phase_steps
from shibolet.train.signals import StopSignals
from shibolet.train.state import TrainState
from shibolet.train.trackers import MetricsFile, Trackers

LOG = logging.getLogger(__name__)

DevScorer = Callable[[LoadedModel], dict[str, float]]  # -> {"wer": ..., "cer": ...}, shares of words and characters
StepCallback = Callable[[dict[str, Any]], None]  # gets the row of numbers of each step


class PackedLoss(nn.Module):
    """The summed token cross-entropy of a pack; call it, and its backward, within `packed_attention`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pack: Pack) -> Tensor:
        return summed_cross_entropy(decode_pack(self.model, pack), output_head(self.model), pack.labels)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of everything random within a step on a rank."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class GradualUnfreezeTrainer:
    """Trains a model through the phases of a plan; calling `train` again after an interruption continues."""

    def __init__(
        self,
        *,
        loaded: LoadedModel,
        examples: Sequence[TrainExample],
        reader: PackReader,
        config: TrainConfig,
        seed: int,
        fingerprint: dict[str, str],
        out_dir: Path,
        score_dev: DevScorer | None,
        accelerator: Accelerator,
        trackers: Callable[[int], Trackers],
        on_step: StepCallback | None = None,
    ) -> None:
        self.loaded, self.model, self.examples, self.reader = loaded, loaded.model, examples, reader
        self.config, self.seed, self.fingerprint, self.out_dir = config, seed, fingerprint, out_dir
        self.score_dev, self.accelerator, self.on_step = score_dev, accelerator, on_step
        self.store = CheckpointStore(out_dir / "checkpoints")
        self.steps_per_epoch = steps_per_epoch(len(examples), config.utterances_per_step)
        self.state = TrainState()
        self._make_trackers = trackers
        self._stop_asked = False
        self._trained_before: set[str] = set()  # parameters of earlier phases, frozen or not by now

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def train(self) -> TrainState:
        """Run what is left of the plan; Preempted after a signal, with a checkpoint."""
        carried = self._resume()
        self.metrics = MetricsFile(self.out_dir / "metrics.jsonl", self.state.step) if self.is_main else None
        self.trackers = self._make_trackers(self.state.step) if self.is_main else Trackers()
        if self.is_main:
            write_jsonl(self.out_dir / "dev.jsonl", self.state.dev)
        try:
            with StopSignals() as signals:
                for index in range(self.state.phase_index, len(self.config.phases)):
                    carried = self._run_phase(index, carried, signals)
        finally:
            self.reader.close()
            self.trackers.close()
            if self.metrics:
                self.metrics.close()
        return self.state

    def _resume(self) -> dict[str, dict[str, Tensor]]:
        """Weights, moments and position of the newest checkpoint; nothing when there is none."""
        checkpoint = self.store.latest()
        self.accelerator.wait_for_everyone()
        if self.is_main:
            self.store.discard_after(checkpoint.state["step"] if checkpoint else -1)
        self.accelerator.wait_for_everyone()
        if checkpoint is None:
            return {}
        self.state = TrainState.from_json(checkpoint.state)
        self.state.require_same_run(self.fingerprint, checkpoint.path)
        self._trained_before = load_weights(self.model, checkpoint)
        LOG.info("continuing after step %d from %s", self.state.step, checkpoint.path)
        moments = checkpoint.tensors("moments")
        return {
            name: {"master": master, **{key: moments[f"{key}/{name}"] for key in MOMENTS}}
            for name, master in checkpoint.tensors("masters").items()
        }

    def _run_phase(
        self, index: int, carried: dict[str, dict[str, Tensor]], signals: StopSignals
    ) -> dict[str, dict[str, Tensor]]:
        phase = self.config.phases[index]
        if index != self.state.phase_index:
            self.state.enter_phase(index)
        num_steps = phase_steps(phase, self.steps_per_epoch)
        groups = enter_phase(self.model, phase)
        optimizer = MasterAdamW(groups, phase.lr_by_part, self.config.optimizer, carried)
        assert_optimizer_covers(self.model, optimizer)
        carried.clear()  # what no longer trains is let go
        self._trained_before |= set(optimizer.weights)
        self._read_ahead(self.state.step - self.state.step_in_phase + num_steps)
        self.accelerator.free_memory()  # wrappers of the phase before would stay referenced
        wrapped = self.accelerator.prepare(PackedLoss(self.model))  # after freezing: DDP looks at requires_grad once
        self._announce(index, phase, optimizer)
        self.model.train()
        while not self.state.phase_ended:
            row = self._step(wrapped, optimizer, phase, num_steps, signals)
            self._after_step(row, optimizer, phase, num_steps)
        return optimizer.state_by_name()

    def _read_ahead(self, end: int) -> None:
        """Let the reader know what comes, up to step `end`, and keep encoder states while no encoder trains."""
        cache = None
        if self.config.encoder_cache and encoder_is_frozen(self.model):
            cache = EncoderCache(
                self.out_dir / "encoder_cache", self.model, self.examples, step=self.state.step, is_main=self.is_main,
                wait=self.accelerator.wait_for_everyone,
            )  # fmt: skip
        self.reader.encoder_cache = cache
        self.reader.follow(lambda: (r for step in range(self.state.step, end) for r in self._requests(step)))

    def _utterances(self, step: int) -> list[int]:
        return step_utterances(
            step, num_utterances=len(self.examples), utterances_per_step=self.config.utterances_per_step, seed=self.seed
        )

    def _requests(self, step: int) -> list[PackRequest]:
        """This rank's packs of a step; none when the step has fewer utterances than there are ranks."""
        utterances, epoch = self._utterances(step), step // self.steps_per_epoch
        lengths = dict(zip(utterances, self.reader.lengths([self.examples[u] for u in utterances], epoch), strict=True))
        packs = packs_of_rank(
            utterances, lengths, rank=self.accelerator.process_index, world_size=self.accelerator.num_processes,
            pack_tokens=self.config.pack_tokens,
        )  # fmt: skip
        return [
            PackRequest(step, number, epoch, tuple(self.examples[u] for u in chosen))
            for number, chosen in enumerate(packs)
        ]

    def _announce(self, index: int, phase: PhaseConfig, optimizer: MasterAdamW) -> None:
        if self.state.step_in_phase:
            return  # resumed within the phase: announced already
        counts = {part: sum(w.numel() for n, w in optimizer.weights.items() if optimizer.part[n] == part)
                  for part in phase.lr_by_part}  # fmt: skip
        sentence = f"{phase.name}: trains " + ", ".join(f"{part} ({n:,})" for part, n in counts.items())
        self.trackers.text("training/strategy", sentence, self.state.step)
        if index:
            epoch = self.state.step / self.steps_per_epoch
            self.trackers.scalars({"training/strategy_switch": epoch}, self.state.step)
        LOG.info("phase %s", sentence)

    def _step(
        self, wrapped: nn.Module, optimizer: MasterAdamW, phase: PhaseConfig, num_steps: int, signals: StopSignals
    ) -> dict[str, Any]:
        """One optimizer step over its utterances; the row of numbers that describes it."""
        started = time.perf_counter()
        step = self.state.step
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        torch.manual_seed(step_seed(self.seed, step, rank))
        utterances = self._utterances(step)
        num_targets = sum(self.examples[u].num_targets for u in utterances)
        requests, weight = self._requests(step), 1.0
        if not requests:  # gradients are averaged over all ranks: one without work takes part with nothing
            shortest = min((self.examples[u] for u in utterances), key=lambda example: example.num_tokens)
            requests, weight = [PackRequest(step, 0, step // self.steps_per_epoch, (shortest,))], 0.0
        optimizer.set_lr(lr_factor(self.state.step_in_phase, phase, num_steps))
        loss_sum = torch.zeros((), device=self.accelerator.device)
        self.reader.waited_s = 0.0
        num_tokens = 0
        with packed_attention(self.model):
            for number, pack in enumerate(self.reader.read(self.model, requests), start=1):
                num_tokens += pack.num_tokens
                with nullcontext() if number == len(requests) else self.accelerator.no_sync(wrapped):
                    loss = wrapped(pack) * weight
                    (loss * (world_size / num_targets)).backward()  # DDP divides the sum over ranks by their number
                loss_sum += loss.detach()
        if self.reader.encoder_cache:
            self.reader.encoder_cache.write(step + 1)
        totals = self.accelerator.reduce(
            torch.stack([loss_sum, torch.full_like(loss_sum, float(signals.received))]), "sum"
        )
        norms = optimizer.collect_gradients()
        part_norms = torch.stack(list(norms.values()))
        grad_norm = torch.linalg.vector_norm(part_norms)
        numbers = torch.cat([totals, grad_norm[None], part_norms]).tolist()  # the one wait for the device in a step
        total, signalled, norm, *by_part = numbers
        loss_value = total / num_targets
        if not (math.isfinite(loss_value) and math.isfinite(norm)):
            raise ShiboletError(
                f"step {step + 1} (phase {phase.name}): loss {loss_value}, gradient norm {norm}; stopped before the "
                f"weights changed; its utterances begin with {[self.examples[u].id for u in utterances[:3]]}"
            )
        optimizer.step(grad_norm)
        self._stop_asked = signalled > 0
        audio_s = sum(self.examples[u].duration_s for u in utterances)
        step_s = time.perf_counter() - started
        return {
            "step": step + 1,
            "phase": phase.name,
            "phase_index": self.state.phase_index,
            "step_in_phase": self.state.step_in_phase + 1,
            "epoch": round((step + 1) / self.steps_per_epoch, 6),
            "loss": loss_value,
            "lr": optimizer.lr_by_part(),
            "grad_norm": norm,
            "grad_norm_by_part": dict(zip(norms, by_part, strict=True)),
            "utterances": len(utterances),
            "audio_s": round(audio_s, 3),
            "tokens": num_tokens,  # of this rank
            "targets": num_targets,
            "timing": {
                "step_s": round(step_s, 4),
                "data_s": round(self.reader.waited_s, 4),
                "utterances_per_s": round(len(utterances) / step_s, 2),
                "audio_s_per_s": round(audio_s / step_s, 2),
            },
        }

    def _after_step(self, row: dict[str, Any], optimizer: MasterAdamW, phase: PhaseConfig, num_steps: int) -> None:
        """Record, score, checkpoint and stop, in that order."""
        state, config = self.state, self.config
        state.step += 1
        state.step_in_phase += 1
        state.utterances_seen += row["utterances"]
        state.phase_ended = state.step_in_phase >= num_steps
        if self.metrics:
            self.metrics.write(row)
        self.trackers.scalars(_scalars(row), state.step)
        improved = False
        if self.score_dev and (state.phase_ended or state.step % config.eval_every_steps == 0):
            improved = state.add_dev_score(phase.name, self._dev_score())
            score = state.dev[-1]
            if config.patience is not None and state.scores_without_gain >= config.patience:
                state.phase_ended = True
            self.trackers.scalars({"dev/wer": score["wer"], "dev/cer": score["cer"]}, state.step)
            if self.is_main:
                write_jsonl(self.out_dir / "dev.jsonl", state.dev)
        if self.on_step and self.is_main:
            self.on_step(row)
        due = state.step % config.checkpoint_every_steps == 0
        if due or improved or state.phase_ended or self._stop_asked:
            self._save(optimizer)
        if self._stop_asked:
            raise Preempted(
                f"stopped by a signal after step {state.step}, with a checkpoint; the same command continues"
            )

    def _dev_score(self) -> dict[str, float]:
        """WER and CER on dev as the main process finds them, the same on every rank."""
        values = torch.zeros(2, dtype=torch.float64)
        if self.is_main:
            self.model.eval()
            with torch.no_grad():
                score = self.score_dev(self.loaded)
            self.model.train()
            values = torch.tensor([score["wer"], score["cer"]], dtype=torch.float64)
        wer, cer = self.accelerator.reduce(values.to(self.accelerator.device), "sum").tolist()
        return {"wer": wer, "cer": cer}

    def _save(self, optimizer: MasterAdamW) -> None:
        if self.state.phase_ended:
            self.state.phase_end_steps.append(self.state.step)
        if self.is_main:
            self.metrics.sync()
            held = optimizer.state_by_name()
            weights = dict(self.model.named_parameters())
            self.store.save(
                self.state.step,
                self.state.to_json(self.fingerprint),
                {
                    "masters": {name: tensors["master"] for name, tensors in held.items()},
                    "moments": {f"{key}/{name}": t[key] for name, t in held.items() for key in MOMENTS},
                    "frozen": {name: weights[name].detach() for name in self._trained_before - set(held)},
                },
            )
            best = [self.state.best["step"]] if self.state.best else []
            self.store.keep_only({*best, *self.state.phase_end_steps})
        self.accelerator.wait_for_everyone()


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> set[str]:
    """Copy a checkpoint's weights into the model; the names that were trained."""
    parameters = dict(model.named_parameters())
    saved = checkpoint.tensors("frozen") | checkpoint.tensors("masters")
    with torch.no_grad():
        for name, tensor in saved.items():
            parameters[name].copy_(tensor)
    return set(saved)


def _scalars(row: dict[str, Any]) -> dict[str, float]:
    """A row under the tags that the trackers show."""
    return {
        "training/loss": row["loss"],
        "training/grad_norm": row["grad_norm"],
        "training/strategy": row["phase_index"],
        "training/epoch": row["epoch"],
        "training/audio_s_per_s": row["timing"]["audio_s_per_s"],
        **{f"lr/{part}": lr for part, lr in row["lr"].items()},
        **{f"grad_norm/{part}": norm for part, norm in row["grad_norm_by_part"].items()},
    }
