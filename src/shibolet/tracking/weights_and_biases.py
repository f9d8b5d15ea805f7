"""Weights & Biases: one run for one run folder, whichever process writes; offline in the run folder without a login."""

import importlib.util
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shibolet.errors import RecipeError
from shibolet.tracking.config import Shown, Tracking
from shibolet.tracking.memory import TrackerMemory

LOG = logging.getLogger(__name__)


def require_wandb(project: str | None) -> None:
    """RecipeError when W&B is asked for and not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise RecipeError(
            f"tracking.wandb_project is '{project}' but wandb is not installed; pip install 'shibolet[wandb]', or do "
            "without it: --set tracking.wandb_project=null"
        )


class WandbTracker:
    """A W&B run; its id and what it was shown are kept in the run folder.

    W&B's own count of lines only grows, so the axis is `step`; a line has all that is known of a step. Steps that are
    taken again after a kill are not shown twice; after a roll-back they are, under the next `training/attempt`.
    """

    def __init__(self, tracking: Tracking, config: Mapping[str, Any]) -> None:
        import wandb

        self._wandb, self._settings = wandb, tracking.settings
        self._memory = TrackerMemory(tracking.folder / "wandb.json")
        if self._memory.state.run is None:
            self._memory.name_run(uuid.uuid4().hex[:12])
        folder = str(tracking.folder)
        is_online = wandb.setup().settings.mode == "online"
        mode = None if not is_online or wandb.login(prompt=False, verify=False) else "offline"
        self._run = wandb.init(
            project=tracking.settings.wandb_project, id=self._memory.state.run, resume="allow", dir=folder, mode=mode,
            name=tracking.name, group=tracking.group, tags=tracking.tags, config=dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")
        self._line: int | None = None  # the one that is being written
        self._texts: dict[str, str] = {}  # of that line
        if mode == "offline":
            LOG.warning(
                "W&B: nobody is logged in here ('wandb login'), so the run is written to %s/wandb; "
                "'wandb sync %s/wandb/offline-run-*' sends it",
                folder, folder,
            )  # fmt: skip
        elif is_online:
            LOG.info("W&B: %s", self._run.url)

    def begin(self, after_step: int, training: str) -> None:
        self._memory.begin(training)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        line = self._memory.line_of(next(iter(values)), step)
        self._log({**values, "training/attempt": self._memory.state.attempt}, step, line)

    def text(self, key: str, value: str, step: int) -> None:
        line = self._memory.line_of(key, step)
        if line is not None and line == self._line and key in self._texts:
            value = f"{self._texts[key]}\n{value}"
        self._log({key: value}, step, line)
        if line is not None:
            self._texts[key] = value

    def alert(self, title: str, text: str, step: int) -> None:
        self._run.alert(title=title, text=text, level=self._wandb.AlertLevel.WARN)

    def document(self, shown: Shown) -> None:
        if shown.name.startswith("about/"):  # the run's configuration has it
            return
        line = self._memory.line_of_document(shown)  # also of what is held back, so that no run is opened for it again
        if shown.name.startswith("examples/") and not self._settings.wandb_examples:
            return
        tables = {
            key: self._wandb.Table(
                columns=list(table.columns), data=[list(row) for row in table.rows], allow_mixed_types=True
            )
            for key, table in shown.tables.items()
        }
        self._log({**shown.numbers, **shown.texts, **tables}, shown.step, line)

    def folder(self, name: str, step: int, path: Path) -> None:
        if self._settings.wandb_artifacts:
            artifact = self._wandb.Artifact(f"{name}-{self._run.id}", type=name, metadata={"step": step})
            artifact.add_dir(str(path), policy="immutable")  # read where it lies: a phase's last checkpoint stays
            self._run.log_artifact(artifact, aliases=["latest", f"step-{step}"])

    def close(self) -> None:
        self._run.finish()

    def _log(self, values: Mapping[str, Any], step: int, line: int | None) -> None:
        """Add to a line of the history; None: it was shown before."""
        if line is None:
            return
        if line != self._line:
            self._line, self._texts = line, {}
        self._run.log({**values, "step": step}, step=line)
