"""What a tracker remembers in the run folder: the id of its run, the last steps and the documents that it was shown."""

from pathlib import Path

from shibolet.records.documents.tracking import Told, TrackerState
from shibolet.tracking.config import Shown


class TrackerMemory:
    """The state of one tracker; every change is on disk when a method returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.state = TrackerState.read(path) if path.exists() else TrackerState()
        self._before: dict[str, int] = {}  # first key -> last step that was shown before `begin`
        self._at: int | None = None  # the step whose line is open

    def name_run(self, run: str) -> None:
        self._update(run=run)

    def begin(self, training: str) -> None:
        """Steps follow; those that were shown of the same training are not shown again."""
        state, self._at = self.state, None
        if state.training not in (None, training):
            self._update(attempt=state.attempt + 1, furthest={})
        if state.training != training:
            self._update(training=training)
        self._before = dict(self.state.furthest)

    def line_of(self, key: str, step: int) -> int | None:
        """The number of a step's history line, for keys of which this is the first; None: they were shown before."""
        if step <= self._before.get(key, -1):
            return None
        lines, self._at = self.state.lines + (step != self._at), step
        if (lines, step) != (self.state.lines, self.state.furthest.get(key)):
            self._update(lines=lines, furthest={**self.state.furthest, key: step})
        return lines - 1

    def line_of_document(self, shown: Shown) -> int | None:
        """The number of a line of its own; None: this content was told before."""
        if self.state.has_told(shown.name, shown.digest):
            return None
        self._at = None
        told = Told(digest=shown.digest, step=shown.step)
        self._update(lines=self.state.lines + 1, told={**self.state.told, shown.name: told})
        return self.state.lines - 1

    def forget_documents(self, after_step: int) -> None:
        """What was told of later steps is gone from the tracker: it is told again."""
        kept = {name: told for name, told in self.state.told.items() if told.step <= after_step}
        if kept != self.state.told:
            self._update(told=kept)

    def _update(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)
        self.state.write(self._path)
