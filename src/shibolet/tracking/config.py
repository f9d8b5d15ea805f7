"""Settings of trackers, and what a process needs to open them."""

from pathlib import Path

from pydantic import Field

from shibolet.records.config import Config


class TrackingConfig(Config):
    """Where a round is tracked beside TensorBoard, which is always written."""

    # Project on Weights & Biases, which needs the extra `wandb`; null: TensorBoard alone
    wandb_project: str | None = None
    wandb_artifacts: bool = False  # upload the checkpoint at the end of each phase as an artifact of Weights & Biases
    wandb_examples: bool = False  # upload tables of utterances too: what people said, and what was heard


class Table(Config):
    """Rows to read."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]


class Shown(Config):
    """A document under the keys that trackers show."""

    name: str  # "gate"; told once for each content
    digest: str  # of the content
    step: int  # 0, or the last of the training that it speaks of
    numbers: dict[str, float]
    texts: dict[str, str] = Field(default_factory=dict)
    tables: dict[str, Table] = Field(default_factory=dict)


class Tracking(Config):
    """Plain data that any process opens the same trackers with."""

    settings: TrackingConfig
    folder: Path  # of the round's trackers
    name: str  # of the run there
    group: str
    tags: tuple[str, ...]
    documents: tuple[Shown, ...] = ()  # told first
