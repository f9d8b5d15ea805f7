"""The run folder: what made its files, which stages are done, and whether files are still as they were written.

A stage is known by its marker, `.stages/<stage>.json`: its inputs, the content hash of every file that it made, and
which stages it read. Who reads a file of another stage asks `verified` first, and a page `intact`.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from shibolet.errors import DataError
from shibolet.records.differences import differing, first, flat
from shibolet.records.documents.provenance import Provenance, StageMarker
from shibolet.records.files import hash_file, hash_files, hash_json, make_folder, sync_dir, take_over
from shibolet.records.markers import is_broken, marker_in
from shibolet.records.provenance import this_start
from shibolet.records.runpaths import RunPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What a stage, or a command that keeps something, leaves in the run folder."""

    outputs: tuple[str, ...]  # altered or gone, they are made again
    records: tuple[str, ...] = ()  # read by people alone: altered they are not shown, and nothing is made again
    also: tuple[str, ...] = ()  # goes with them when the inputs change
    again: str  # how they are made again


_MADE = {
    "audit": _Made(
        outputs=("audit/alignment_report.json", "audit/utterances.parquet", "audit/calibration.json"),
        again="run 'shibolet audit' with the recipe",
    ),
    "hear-rest": _Made(outputs=("audit/rest.parquet",), again="run 'shibolet prepare' with the recipe"),
    "hear-long": _Made(outputs=("audit/long.parquet",), again="run 'shibolet prepare' with the recipe"),
    "calibrate": _Made(outputs=("calibration.json",), again="run 'shibolet calibrate'"),
    "gate": _Made(outputs=("gate.json",), again="run 'shibolet gate' with the recipe"),
    "label": _Made(
        outputs=("labelled/label.json", "labelled/manifest.jsonl", "labelled/texts.jsonl", "labelled/ledger.jsonl"),
        again="run 'shibolet label' with the recipe",
    ),
    "prepare": _Made(outputs=("prepared",), again="run 'shibolet prepare' with the recipe"),
    "audit-prepared": _Made(outputs=("audit-prepared",), again="run 'shibolet run' with the recipe"),
    "gate-prepared": _Made(outputs=("gate-prepared.json",), again="run 'shibolet run' with the recipe"),
    "train": _Made(
        outputs=("train/plan.json", "train/result.json", "train/final"),
        records=("train/metrics.jsonl", "train/dev.jsonl", "train/events.jsonl"),
        also=("train",),
        again="run 'shibolet train' with the recipe",
    ),
    "search": _Made(outputs=("search/search.json",), also=("search",), again="run 'shibolet search' with the recipe"),
    "compare": _Made(outputs=("compare.json",), again="run 'shibolet compare' with the recipe"),
    "systems": _Made(outputs=("systems.json",), again="run 'shibolet compare' with its --system again"),
    "waterfall": _Made(outputs=("waterfall.json",), again="run 'shibolet compare' with its --chain again"),
    "publish": _Made(
        outputs=("publish/model", "publish/reproduced.json"), also=("publish",), again="run 'shibolet publish'"
    ),
    # No stages, but files that a command keeps: `seal` says so.
    "start": _Made(outputs=("recipe.yaml", "provenance.json"), again="start a command with the recipe's own file"),
    "extend": _Made(outputs=("audit/extended.json",), again="delete it, and 'shibolet audit --extend' asks again"),
    "review": _Made(outputs=("audit/review.jsonl",), again="delete it, and give yours with 'shibolet audit --review'"),
    "truth": _Made(outputs=("truth.json",), again="run 'shibolet demo'"),
}

_NOT_SHOWN = ("calibrate", "extend", "ngram", "tune-decoding", "average", "parts", "publish")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of one run, as it stands when it is asked for."""

    folder: "RunFolder"
    name: str
    inputs: dict[str, Any]  # plain data; content hashes for whatever is large
    state: Literal["done", "interrupted", "changed", "new"]
    note: str  # a sentence for the user; empty when there is nothing to say
    reads: Mapping[str, str] = field(default_factory=dict)  # stage whose files it reads -> hash of what that made

    @property
    def done(self) -> bool:
        return self.state == "done"

    def finish(self) -> str:
        """Mark the stage as done, after everything else, and return the hash of its outputs.

        DataError where a file that it read was changed meanwhile.
        """
        for name, digest in self.reads.items():
            if self.folder.verified(name) != digest:
                raise DataError(f"{self.folder.path}: '{name}' was made anew while '{self.name}' ran; run it again")
        return self.folder.seal(self.name, self.inputs, self.reads)


@dataclass(frozen=True, slots=True)
class RunFolder(RunPaths):
    """A round's folder, and the markers that let a second start skip what is done."""

    parent: "RunFolder | None" = None  # of the round before

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; DataError when another one writes there."""
        make_folder(self.path)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"run folder '{self.path}' is in use by another shibolet; wait for it") from error
            yield

    def stage(
        self, name: str, inputs: dict[str, Any], reads: Sequence[str] = (), fill: Callable[[Path], str] | None = None
    ) -> Stage:
        """How `name` stands for these inputs; unless it is done, the folder is then ready for its work.

        done         the marker has the same inputs and every output is as it was written
        interrupted  begun with the same inputs and cut off, or an output is gone or altered: go on with what is there
        changed      made from other inputs: that lies in `.aside/` now, and comes back for the same inputs
        new          nothing there

        `reads` are stages whose files it reads; DataError where one of them is not as it was written. `fill` puts the
        part of what other inputs made that holds for these too into a folder like this one, and says in a sentence
        what that is: a stage that was changed then begins with it.
        """
        inputs = json.loads(json.dumps(inputs))  # as the marker will give them back
        return self._stage(name, inputs, {one: self.verified(one) for one in reads}, fill)

    def _stage(
        self, name: str, inputs: dict[str, Any], reads: Mapping[str, str], fill: Callable[[Path], str] | None = None
    ) -> Stage:
        marker = self._marker(name)
        if marker is not None and marker.inputs == inputs:
            if marker.state == "begun":
                return Stage(self, name, inputs, "interrupted", f"{name}: was cut off, goes on", reads)
            if not (altered := differing(marker.outputs, self._hashes(_made_by(name).outputs))):
                if marker.reads != reads:
                    marker.model_copy(update={"reads": dict(reads)}).write(self.path / _marker_of(name))
                return Stage(self, name, inputs, "done", f"{name}: done before, nothing changed", reads)
            self._require_records(name, marker)
            self._move(_made_by(name).outputs, self.path, self._aside(name, "altered"))
            self._begin(name, inputs)
            note = f"{name}: {first(altered)} changed since they were written; made again"
            return Stage(self, name, inputs, "interrupted", note, reads)

        broken = marker is None and is_broken(self.path / _marker_of(name))
        filled = self._filled_aside(name, inputs, fill)
        aside = None if self._is_half_back(name, inputs) else self._set_aside(name)
        if self._take_back(name, inputs):
            taken = self._stage(name, inputs, reads)
            if filled:
                note = f"{name}: {filled}{f'; what was there is now in {aside}' if aside else ''}"
                return replace(taken, state="changed", note=note)
            return replace(taken, note=f"{name}: taken back from .aside, where the same inputs had left it")
        if self._inherit(name, inputs, reads):
            note = f"{name}: taken over from {self.parent.path}, which made it from the same inputs"
            return Stage(self, name, inputs, "done", note, reads)
        self._begin(name, inputs)
        if aside is None:
            return Stage(self, name, inputs, "new", "", reads)
        why = "its marker is not as it was written" if broken else "made by another version of shibolet"
        if marker is not None:
            why = f"{first(differing(flat(marker.inputs), flat(inputs)))} changed"
        return Stage(self, name, inputs, "changed", f"{name}: {why}; what was there is now in {aside}", reads)

    def seal(self, name: str, inputs: dict[str, Any] | None = None, reads: Mapping[str, str] | None = None) -> str:
        """Keep the hashes of what `name` made, which is done; the hash of its outputs."""
        made = _made_by(name)
        outputs, records = self._hashes(made.outputs), self._hashes(made.records)
        marker = StageMarker(state="done", inputs=inputs or {}, outputs=outputs, records=records, reads=reads or {})
        marker.write(self.path / _marker_of(name))
        return hash_json(outputs)

    def retire(self, *names: str) -> list[str]:
        """Put stages aside that the round does not reach any more; the names of those that were there."""
        return [name for name in names if self._set_aside(name)]

    def evaluated(self, label: str = "*") -> list[str]:
        """Stages that scored what has this label, or anything."""
        return self._stages("evaluate", f"{label}/*")

    def audited_sets(self) -> list[str]:
        """Stages that audited an evaluation set."""
        return self._stages("audit-sets", "*")

    def replays(self) -> list[str]:
        """Stages that prepared what is replayed."""
        return self._stages("prepare-replay", "*")

    def doubtful(self, label: str = "*") -> list[str]:
        """Stages that scored what has this label, or anything, without the references in doubt."""
        return self._stages("doubtful", f"{label}/*")

    def non_speech_stages(self, label: str = "*") -> list[str]:
        """Stages in which what has this label, or anything, heard clips without speech."""
        return self._stages("non-speech", label)

    def _stages(self, kind: str, names: str) -> list[str]:
        """Stages of this kind, by their markers."""
        markers = self.path / ".stages"
        found = (markers / kind).glob(f"{names}.json")
        return sorted(path.relative_to(markers).as_posix().removesuffix(".json") for path in found)

    def verified(self, name: str) -> str:
        """Hash of what a finished stage made: an input of the stages that read it.

        DataError where it is not finished, a file is not as it wrote it, or it was made from another outcome of a stage
        before it than the one that is there.
        """
        marker = self._checked(name)
        if marker is None or marker.state != "done":
            raise DataError(f"{self.path}: stage '{name}' is not done; run it first, or `shibolet run` for all of them")
        self._require_outputs(name, marker)
        for source, digest in marker.reads.items():
            if (before := self._marker(source)) is None or before.state != "done" or before.digest != digest:
                raise DataError(
                    f"{self.path}: '{name}' was made from another '{source}' than the one that is there; "
                    f"{_made_by(name).again}, then this command"
                )
        return marker.digest

    def intact(self, *names: str, records: bool = True) -> None:
        """DataError where a file of these, or of all that pages and the card show, is not as it was written.

        What no marker speaks of passes: another version of shibolet may have written it.
        """
        markers = self.path / ".stages"
        known = sorted(path.relative_to(markers).with_suffix("").as_posix() for path in markers.rglob("*.json"))
        for name in names or [name for name in known if name.partition("/")[0] not in _NOT_SHOWN]:
            marker = self._checked(name)
            if marker is not None and marker.state == "done":
                self._require_outputs(name, marker)
                if records:
                    self._require_records(name, marker)

    def inputs(self, name: str) -> dict[str, Any]:
        """What a stage that was begun or finished here is made from; nothing for one of another version of shibolet."""
        marker = self._marker(name)
        return marker.inputs if marker else {}

    def finished(self, name: str) -> bool:
        """Whether a stage was ever finished here, whatever has changed since."""
        marker = self._marker(name)
        return marker is not None and marker.state == "done"

    def _require_outputs(self, name: str, marker: StageMarker) -> None:
        if altered := differing(marker.outputs, self._hashes(_made_by(name).outputs)):
            raise DataError(
                f"{self.path}: {first(altered)} changed since '{name}' wrote it; {_made_by(name).again}, "
                "then this command"
            )

    def _require_records(self, name: str, marker: StageMarker) -> None:
        """A record may be deleted: nothing is made from it."""
        now = self._hashes(_made_by(name).records)
        if altered := [path for path in differing(marker.records, now) if path in now]:
            raise DataError(
                f"{self.path}: {first(altered)} changed since '{name}' wrote it; put it back, or delete it: "
                "nothing is made from it, and the page does without"
            )

    def _marker(self, name: str) -> StageMarker | None:
        return marker_in(self.path / _marker_of(name))

    def _checked(self, name: str) -> StageMarker | None:
        """The marker of a stage; DataError where it is there and not as it was written."""
        if (marker := self._marker(name)) is None and is_broken(self.path / _marker_of(name)):
            raise DataError(
                f"{self.path}: {_marker_of(name)} is not as it was written, so what '{name}' made cannot be checked; "
                f"{_made_by(name).again}, then this command"
            )
        return marker

    def _begin(self, name: str, inputs: dict[str, Any]) -> None:
        StageMarker(state="begun", inputs=inputs).write(self.path / _marker_of(name))

    def _hashes(self, paths: Sequence[str]) -> dict[str, str]:
        """Content hash of every file at or below these paths, by path in the run folder."""
        found = []
        for path in (self.path / path for path in paths):
            found += [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        return {file.relative_to(self.path).as_posix(): digest for file, digest in zip(found, hash_files(found))}

    def _aside(self, name: str, tag: str) -> Path:
        return self.path / ".aside" / f"{name.replace('/', '-')}-{tag}"

    def _set_aside(self, name: str) -> str | None:
        """Move what a stage made, and its marker after it, to the place of its inputs; None: there was nothing."""
        marker = self._marker(name)
        target = self._aside(name, hash_json(marker.inputs) if marker else "unknown")
        moved = self._move([*_places_of(name), _marker_of(name)], self.path, target)
        return str(target.relative_to(self.path)) if moved else None

    def _filled_aside(self, name: str, inputs: dict[str, Any], fill: Callable[[Path], str] | None) -> str:
        """Begin the stage aside with what `fill` puts there, its marker last; a crash leaves what is here untouched."""
        target = self._aside(name, hash_json(inputs))
        if fill is None or marker_in(target / _marker_of(name)) is not None:
            return ""
        shutil.rmtree(target, ignore_errors=True)
        filled = fill(target)
        StageMarker(state="begun", inputs=inputs).write(target / _marker_of(name))
        return filled

    def _is_half_back(self, name: str, inputs: dict[str, Any]) -> bool:
        """Whether a crash came while what these inputs made was taken back: files are here, the marker is not yet."""
        source = self._aside(name, hash_json(inputs))
        if (self.path / _marker_of(name)).exists() or marker_in(source / _marker_of(name)) is None:
            return False
        here = [place for place in _places_of(name) if (self.path / place).exists()]
        return bool(here) and not any((source / place).exists() for place in here)

    def _take_back(self, name: str, inputs: dict[str, Any]) -> bool:
        """Move back what the same inputs made, its marker last."""
        source, marker = self._aside(name, hash_json(inputs)), _marker_of(name)
        if marker_in(source / marker) is None:
            return False
        self._move([*_places_of(name), marker], source, self.path)
        shutil.rmtree(source)
        return True

    def _inherit(self, name: str, inputs: dict[str, Any], reads: Mapping[str, str]) -> bool:
        """Take over what the round before made from the same inputs, its marker last."""
        if self.parent is None or not (name == "prepare" or name.startswith("evaluate/")):
            return False  # tables of an audit name sounds by where the run folder is
        theirs, outputs = self.parent._marker(name), _made_by(name).outputs
        if theirs is None or theirs.state != "done" or theirs.inputs != inputs:
            return False
        if theirs.outputs != self.parent._hashes(outputs):
            return False
        for output in outputs:
            take_over(self.parent.path / output, self.path / output)
        theirs.model_copy(update={"reads": dict(reads)}).write(self.path / _marker_of(name))
        return True

    @staticmethod
    def _move(paths: Sequence[str], source: Path, target: Path) -> bool:
        """Move those of the paths that are there from one folder to the other; whether there were any."""
        moved = False
        for path in paths:
            if (source / path).exists():
                if (target / path).is_dir():
                    shutil.rmtree(target / path)
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(source / path, target / path)
                sync_dir((source / path).parent)
                moved = True
        return moved

    def write_provenance(self, command: str, num_threads: int | None) -> str | None:
        """Add this start to `provenance.json`, and seal it and the recipe; a sentence where a new one begins.

        One of another version, or that is not as it was written, goes to `.aside/`.
        """
        starts, said = (), None
        if self.provenance.exists():
            try:
                sealed = marker.outputs if (marker := self._marker("start")) else {}
                if sealed.get(self.provenance.name, hash_file(self.provenance)) != hash_file(self.provenance):
                    raise DataError("not as written")
                starts = Provenance.read(self.provenance).starts
            except DataError:
                self._move([self.provenance.name], self.path, self.path / ".aside")
                said = f"{self.provenance.name}: not as written, or of another version; it is now in .aside"
        Provenance(starts=(*starts, this_start(command, num_threads))).write(self.provenance)
        self.seal("start")
        return said


def _made_by(stage: str) -> _Made:
    """Stages of a set, such as `evaluate/<label>/<set>`, and `tune-decoding` make the folder of their name."""
    kind = stage.partition("/")[0]
    other = {"prepare-replay": "prepare", "parts": "compare", "teach": "train"}
    other |= dict.fromkeys(("audit-sets", "doubtful", "non-speech"), "evaluate")
    again = f"run 'shibolet {other.get(kind, kind)}' as before"
    return _MADE.get(stage) or _Made(outputs=(stage,), again=again)


def _places_of(stage: str) -> tuple[str, ...]:
    """All that goes aside with a stage."""
    return (*_made_by(stage).also, *_made_by(stage).outputs)


def _marker_of(stage: str) -> str:
    return f".stages/{stage}.json"
