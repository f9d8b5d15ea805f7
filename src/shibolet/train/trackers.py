"""Where a run can be watched: `metrics.jsonl` (the record), TensorBoard, and Weights & Biases where asked.

A tracker that fails is reported once and left out from then on; the record is ours, and its failure ends the run.
"""

import html
import importlib.util
import json
import logging
import os
import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shibolet.errors import RecipeError
from shibolet.records.documents.training import StepRow
from shibolet.records.files import write_bytes
from shibolet.records.reading import parse_line

LOG = logging.getLogger(__name__)


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


class Tracker(Protocol):
    """Takes numbers and texts by tag, and folders by name."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...
    def text(self, tag: str, value: str, step: int) -> None: ...
    def folder(self, name: str, path: Path) -> None: ...
    def close(self) -> None: ...


class TensorBoardTracker:
    def __init__(self, log_dir: Path, resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(log_dir), purge_step=resumed_step + 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def text(self, tag: str, value: str, step: int) -> None:
        self._writer.add_text(tag, value, step)

    def folder(self, name: str, path: Path) -> None:
        """TensorBoard keeps no files."""

    def close(self) -> None:
        self._writer.close()


class WandbTracker:
    """One W&B run for one run folder: its id is kept there, so that a continued training continues it."""

    def __init__(self, project: str, run_dir: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        id_file = run_dir / "wandb-id"
        if not id_file.exists():
            write_bytes(id_file, uuid.uuid4().hex[:12].encode())
        self._run = wandb.init(
            project=project, id=id_file.read_text(), resume="allow", dir=str(run_dir), config=dict(config)
        )
        # an axis of our own: W&B's never goes back, a continued training and a roll-back do
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def text(self, tag: str, value: str, step: int) -> None:
        self._run.log({tag: self._wandb.Html(f"<pre>{html.escape(value)}</pre>"), "step": step})

    def folder(self, name: str, path: Path) -> None:
        artifact = self._wandb.Artifact(f"{name}-{self._run.id}", type="checkpoint")
        artifact.add_dir(str(path), policy="immutable")  # read where it lies: a phase's last checkpoint stays
        self._run.log_artifact(artifact)

    def close(self) -> None:
        self._run.finish()


def require_wandb(project: str | None) -> None:
    """RecipeError when W&B is asked for and not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise RecipeError(
            f"train.wandb_project is '{project}' but wandb is not installed; pip install 'shibolet[wandb]' or leave "
            "train.wandb_project out"
        )


class Trackers:
    """All trackers of a run, fed from a thread of their own: none can stop the training or make it wait.

    The first failure of one is reported and silences it. One that falls `_MOST_WAITING` calls behind is left out too.
    """

    def __init__(self, starters: Sequence[Callable[[], Tracker]] = ()) -> None:
        self._feeds = [_Feed(start) for start in starters]

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._each("scalars", dict(values), step)

    def text(self, tag: str, value: str, step: int) -> None:
        self._each("text", tag, value, step)

    def folder(self, name: str, path: Path) -> None:
        self._each("folder", name, path)

    def close(self) -> None:
        """Let them finish, for at most `_CLOSE_S` seconds each."""
        self._each("close")
        for feed in self._feeds:
            feed.join()
        self._feeds = []

    def _each(self, method: str, *args: Any) -> None:
        for feed in self._feeds:
            feed.put(method, *args)


_MOST_WAITING = 10_000  # calls: hours of steps
_CLOSE_S = 60.0


class _Feed:
    """A tracker and the thread that calls it."""

    def __init__(self, start: Callable[[], Tracker]) -> None:
        self._calls: queue.Queue[tuple[str, tuple]] = queue.Queue(_MOST_WAITING)
        self._dead = False
        self._name = "a tracker"
        self._thread = threading.Thread(target=self._run, args=(start,), name="tracker", daemon=True)
        self._thread.start()

    def put(self, method: str, *args: Any) -> None:
        if self._dead:
            return
        try:
            self._calls.put_nowait((method, args))
        except queue.Full:
            self._die("it does not keep up")

    def join(self) -> None:
        self._thread.join(0 if self._dead else _CLOSE_S)
        if self._thread.is_alive() and not self._dead:
            self._die(f"it did not finish within {_CLOSE_S:.0f} s")

    def _run(self, start: Callable[[], Tracker]) -> None:
        try:
            tracker = start()
            self._name = type(tracker).__name__
            method = ""
            while method != "close" and not self._dead:
                method, args = self._calls.get()
                getattr(tracker, method)(*args)
        except Exception as error:  # an outside service must not end the training
            self._die(repr(error))

    def _die(self, why: str) -> None:
        self._dead = True
        LOG.warning("%s failed and is left out from now on: %s", self._name, why)
