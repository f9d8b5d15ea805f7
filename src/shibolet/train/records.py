"""What a training leaves to be read, step by step: the main rank writes it, the others write nothing.

metrics.jsonl  dev.jsonl  events.jsonl  ledger.jsonl, and whatever trackers show
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from shibolet.records.documents.training import Event, Memory, StepRow, Timing, write_lines
from shibolet.records.files import write_bytes
from shibolet.records.ledger import LedgerLine, write_ledger
from shibolet.records.reading import parse_line
from shibolet.tracking.trackers import Trackers
from shibolet.train.config import PhaseConfig
from shibolet.train.data import TrainExample
from shibolet.train.state import TrainState
from shibolet.train.utilisation import Utilisation

LOG = logging.getLogger(__name__)

MEMORY_FULL = "memory_full"  # the event that trackers alert on
LOOK_EVERY_S = 10.0  # at the host's memory


class MetricsFile:
    """One JSON line a step; what depends on the clock stands under `timing`, all else is the same in every run."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        """Lines beyond `resumed_step` belong to steps that will be taken again and are cut off."""
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # a line cut off by a kill has no newline
        rows = (parse_line(path, number, line, StepRow, StepRow.REMEDY) for number, line in enumerate(lines, 1))
        kept = [line + b"\n" for line, row in zip(lines, rows, strict=True) if row.step <= resumed_step]
        write_bytes(path, b"".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: StepRow) -> None:
        self._file.write(json.dumps(row.model_dump(mode="json"), ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make the lines so far durable."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Records:
    """The files and trackers of one run."""

    def __init__(
        self, out_dir: Path, start_trackers: Callable[[], Trackers], training: str, *, is_main: bool,
        utilisation: Utilisation | None = None,
    ) -> None:  # fmt: skip
        """`training` differs between trainings that take other steps."""
        self._out_dir, self._start_trackers, self._training, self._is_main = out_dir, start_trackers, training, is_main
        self._utilisation = utilisation
        self._metrics: MetricsFile | None = None
        self._rollbacks = 0
        self._next_look_s = 0.0  # at the host's memory, of the clock of `monotonic`
        self.trackers = Trackers()

    def open(self, state: TrainState) -> None:
        """Begin after the steps of `state`; what was written of later ones is cut off."""
        if not self._is_main:
            return
        if self._metrics:
            self._metrics.close()
        else:
            self.trackers = self._start_trackers()
        self._metrics = MetricsFile(self._out_dir / "metrics.jsonl", state.step)
        write_lines(self._out_dir / "dev.jsonl", state.dev)
        self._write_events(state)
        self._begin(state)

    def step(self, row: StepRow) -> None:
        if self._metrics:
            self._metrics.write(row)
            mfu = self._utilisation.mfu(row) if self._utilisation else None
            used = {} if mfu is None else {"timing/mfu": mfu}
            self.trackers.scalars(scalars_of(row) | used | self._host_memory(), row.step)

    def _host_memory(self) -> dict[str, float]:
        """What the machine and this process use, in GiB, now and then: to find out takes a hundredth of a step."""
        if (now_s := time.monotonic()) < self._next_look_s:
            return {}
        self._next_look_s = now_s + LOOK_EVERY_S
        host = psutil.virtual_memory()
        return {
            "system/host_used_gib": (host.total - host.available) / 2**30,
            "system/host_used_pct": host.percent,
            "system/process_gib": psutil.Process().memory_info().rss / 2**30,
        }

    def dev(self, state: TrainState) -> None:
        if state.dev:
            newest = state.dev[-1]
            domains = {f"dev_wer/{name}": own.rate for name, own in newest.by_domain.items() if own.rate is not None}
            loss = {} if newest.loss is None else {"dev/loss": newest.loss}
            self.trackers.scalars({"dev/wer": newest.wer, "dev/cer": newest.cer, **loss, **domains}, newest.step)
        if self._is_main:
            write_lines(self._out_dir / "dev.jsonl", state.dev)

    def event(self, state: TrainState, event: str, detail: str) -> None:
        """Keep what happened, with the state that the next checkpoint saves."""
        state.decisions.events.append(Event(step=state.step, event=event, detail=detail))
        if self._is_main:
            LOG.warning("step %d: %s: %s", state.step, event, detail)
            self._write_events(state)
        if state.decisions.rollbacks != self._rollbacks:
            self._begin(state)
        self.trackers.text("training/events", f"{event}: {detail}", state.step)
        if event == MEMORY_FULL:
            self.trackers.alert("GPU memory is almost full", f"step {state.step}: {detail}", state.step)

    def phase(self, state: TrainState, name: str, parameters: dict[str, int], steps_per_epoch: int) -> None:
        """Announce what trains from here on: parameters by part."""
        sentence = f"{name}: trains " + ", ".join(f"{part} ({num:,})" for part, num in parameters.items())
        self.trackers.text("training/strategy", name, state.step)
        self.trackers.text("training/trains", sentence, state.step)
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

    def _begin(self, state: TrainState) -> None:
        """Tell the trackers from where steps follow."""
        self._rollbacks = state.decisions.rollbacks
        self.trackers.begin(state.step, f"{self._training}, roll-backs {self._rollbacks}")

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
        "training/phase_index": row.phase_index,
        "training/loss": row.loss,
        "training/grad_norm": row.grad_norm,
        "training/epoch": row.epoch,
        **{f"training/{name}": value for name, value in row.numbers.items()},
        **{f"lr/{part}": lr for part, lr in row.lr.items()},
        **{f"grad_norm/{part}": norm for part, norm in row.grad_norm_by_part.items()},
        **{f"timing/{name}": value for name, value in row.timing},
        **{f"memory/{name}": value for name, value in row.memory or ()},
    }
    return {tag: value for tag, value in values.items() if value is not None}
