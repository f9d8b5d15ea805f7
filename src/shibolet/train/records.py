"""What a training leaves to be read, step by step: the main rank writes it, the others write nothing.

metrics.jsonl  dev.jsonl  events.jsonl  ledger.jsonl, and whatever trackers show
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from shibolet.records.documents.training import Event, Memory, StepRow, Timing, write_lines
from shibolet.records.ledger import LedgerLine, write_ledger
from shibolet.train.config import PhaseConfig
from shibolet.train.data import TrainExample
from shibolet.train.state import TrainState
from shibolet.train.trackers import MetricsFile, Trackers

LOG = logging.getLogger(__name__)

_FULL_PCT = 95.0  # of the GPU's memory


class Records:
    """The files and trackers of one run."""

    def __init__(self, out_dir: Path, start_trackers: Callable[[int], Trackers], *, is_main: bool) -> None:
        self._out_dir, self._start_trackers, self._is_main = out_dir, start_trackers, is_main
        self._metrics: MetricsFile | None = None
        self.trackers = Trackers()

    def open(self, state: TrainState) -> None:
        """Begin after the steps of `state`; what was written of later ones is cut off."""
        self.close()
        if self._is_main:
            self._metrics = MetricsFile(self._out_dir / "metrics.jsonl", state.step)
            self.trackers = self._start_trackers(state.step)
            self.dev(state)
            self._write_events(state)

    def step(self, row: StepRow) -> None:
        if self._metrics:
            self._metrics.write(row)
        self.trackers.scalars(scalars_of(row), row.step)
        if row.memory and row.memory.peak_pct > _FULL_PCT:
            LOG.warning("step %d: %.1f%% of the GPU's memory was in use", row.step, row.memory.peak_pct)

    def dev(self, state: TrainState) -> None:
        if state.dev:
            newest = state.dev[-1]
            domains = {f"dev_wer/{name}": own.rate for name, own in newest.by_domain.items() if own.rate is not None}
            self.trackers.scalars({"dev/wer": newest.wer, "dev/cer": newest.cer, **domains}, newest.step)
        if self._is_main:
            write_lines(self._out_dir / "dev.jsonl", state.dev)

    def event(self, state: TrainState, event: str, detail: str) -> None:
        """Keep what happened, with the state that the next checkpoint saves."""
        state.decisions.events.append(Event(step=state.step, event=event, detail=detail))
        if self._is_main:
            LOG.warning("step %d: %s: %s", state.step, event, detail)
            self._write_events(state)
        self.trackers.text("training/events", f"{event}: {detail}", state.step)

    def phase(self, state: TrainState, name: str, parameters: dict[str, int], steps_per_epoch: int) -> None:
        """Announce what trains from here on: parameters by part."""
        sentence = f"{name}: trains " + ", ".join(f"{part} ({num:,})" for part, num in parameters.items())
        self.trackers.text("training/strategy", sentence, state.step)
        if state.phase_index:
            self.trackers.scalars({"training/strategy_switch": state.step / steps_per_epoch}, state.step)
        if self._is_main:
            LOG.info("phase %s", sentence)

    def ledger(self, lines: Sequence[LedgerLine]) -> None:
        if self._is_main:
            write_ledger(self._out_dir / "ledger.jsonl", lines)

    def sync(self) -> None:
        """Make the steps so far durable."""
        if self._metrics:
            self._metrics.sync()

    def close(self) -> None:
        self.trackers.close()
        if self._metrics:
            self._metrics.close()

    def _write_events(self, state: TrainState) -> None:
        write_lines(self._out_dir / "events.jsonl", state.decisions.events)


def step_row(
    state: TrainState,
    phase: PhaseConfig,
    examples: Sequence[TrainExample],
    *,
    epoch_steps: int,
    lr: dict[str, float],
    loss: float | None,
    grad_norm: float,
    grad_norm_by_part: dict[str, float],
    numbers: dict[str, float],
    skipped: str | None,
    seconds: dict[str, float],
    memory: Memory | None,
) -> StepRow:
    """The line of metrics.jsonl of the step after `state`."""
    audio_s, step_s = sum(example.duration_s for example in examples), seconds["step"]
    return StepRow(
        step=state.step + 1,
        phase=phase.name,
        phase_index=state.phase_index,
        step_in_phase=state.step_in_phase + 1,
        epoch=round((state.step + 1) / epoch_steps, 6),
        loss=None if skipped else loss,
        lr=lr,
        grad_norm=None if skipped else grad_norm,
        grad_norm_by_part={} if skipped else grad_norm_by_part,
        skipped=skipped,
        utterances=len(examples),
        audio_s=round(audio_s, 3),
        tokens=sum(example.num_tokens for example in examples),
        targets=sum(example.num_targets for example in examples),
        timing=Timing(
            **{f"{name}_s": round(value, 4) for name, value in seconds.items()},
            utterances_per_s=round(len(examples) / step_s, 2),
            audio_s_per_s=round(audio_s / step_s, 2),
        ),
        numbers={} if skipped else numbers,
        memory=memory,
    )


def scalars_of(row: StepRow) -> dict[str, float]:
    """A row under the tags that the trackers show; a skipped step has neither loss nor norms."""
    values = {
        "training/loss": row.loss,
        "training/grad_norm": row.grad_norm,
        "training/strategy": row.phase_index,
        "training/epoch": row.epoch,
        **{f"training/{name}": value for name, value in row.numbers.items()},
        **{f"lr/{part}": lr for part, lr in row.lr.items()},
        **{f"grad_norm/{part}": norm for part, norm in row.grad_norm_by_part.items()},
        **{f"timing/{name}": value for name, value in row.timing},
        **{f"memory/{name}": value for name, value in row.memory or ()},
    }
    return {tag: value for tag, value in values.items() if value is not None}
