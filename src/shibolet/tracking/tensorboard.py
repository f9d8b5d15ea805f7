"""TensorBoard: one folder of events for the whole round."""

from collections.abc import Mapping
from pathlib import Path

from shibolet.tracking.config import Shown, Table
from shibolet.tracking.memory import TrackerMemory

_FLUSH_S = 10  # a process that is killed loses no more of the steps before its last checkpoint


class TensorBoardTracker:
    """Writes events; what was shown of steps that are taken again is purged by TensorBoard itself."""

    def __init__(self, folder: Path) -> None:
        self._log_dir = folder / "tensorboard"
        self._memory = TrackerMemory(folder / "tensorboard.json")
        self._writer = self._open(None)

    def begin(self, after_step: int, training: str) -> None:
        self._memory.begin(training)
        self._memory.forget_documents(after_step)  # TensorBoard purges them with the steps
        self._writer.close()
        self._writer = self._open(after_step + 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def text(self, key: str, value: str, step: int) -> None:
        self._writer.add_text(key, value, step)

    def alert(self, title: str, text: str, step: int) -> None:
        """TensorBoard has no alerts: the event's text is there."""

    def document(self, shown: Shown) -> None:
        if self._memory.line_of_document(shown) is None:
            return
        self.scalars(shown.numbers, shown.step)
        for key, value in shown.texts.items():
            self.text(key, value, shown.step)
        for key, table in shown.tables.items():
            self.text(key, _markdown(table), shown.step)

    def folder(self, name: str, step: int, path: Path) -> None:
        """TensorBoard keeps no files."""

    def close(self) -> None:
        self._writer.close()

    def _open(self, purge_step: int | None):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._log_dir), purge_step=purge_step, flush_secs=_FLUSH_S)


def _markdown(table: Table) -> str:
    """A table as TensorBoard lays text out."""
    rows = [table.columns, ["---"] * len(table.columns), *([_cell(value) for value in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else f"{value:.6g}"
    return " ".join(text.replace("|", "\\|").split())
