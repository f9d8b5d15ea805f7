"""Opening the trackers of a round."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from shibolet.errors import DataError
from shibolet.records.documents.tracking import TrackerState
from shibolet.records.files import hash_json
from shibolet.tracking.config import Shown, Tracking
from shibolet.tracking.tensorboard import TensorBoardTracker
from shibolet.tracking.trackers import Tracker, Trackers
from shibolet.tracking.weights_and_biases import WandbTracker


def show(tracking: Tracking, about: Mapping[str, Any]) -> None:
    """Show the documents; where there are none, or every tracker was shown them before, none is opened."""
    if tracking.documents and not are_told(tracking):
        start_trackers(tracking, about).close()


def are_told(tracking: Tracking) -> bool:
    names = ["tensorboard", *(["wandb"] if tracking.settings.wandb_project else [])]
    for path in (tracking.folder / f"{name}.json" for name in names):
        try:
            state = TrackerState.read(path)
        except DataError:
            return False
        if not all(state.has_told(shown.name, shown.digest) for shown in tracking.documents):
            return False
    return True


def start_trackers(tracking: Tracking | None, about: Mapping[str, Any]) -> Trackers:
    """TensorBoard, and W&B where a project is named, with the documents so far; None: no trackers.

    `about` are plain data by name that describe the run: its configuration in W&B, texts in TensorBoard.
    """
    if tracking is None:
        return Trackers()
    starters: dict[str, Callable[[], Tracker]] = {"TensorBoard": lambda: TensorBoardTracker(tracking.folder)}
    if tracking.settings.wandb_project:
        starters |= {"W&B (WANDB_MODE=offline writes it here)": lambda: WandbTracker(tracking, about)}
    live = Trackers(starters)
    for name, value in about.items():
        text = "```\n" + json.dumps(value, ensure_ascii=False, indent=1) + "\n```"
        live.document(
            Shown(name=f"about/{name}", digest=hash_json(value), step=0, numbers={}, texts={f"about/{name}": text})
        )
    for shown in tracking.documents:
        live.document(shown)
    return live
