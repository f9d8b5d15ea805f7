"""The run folder: where every file of a round lies, what made it, and which stages are done.

recipe.yaml                     the recipe in full: defaults and overrides resolved, paths relative to this file
provenance.json                 versions, commit, platform, threads, time of every start; no other file has a time
audit/alignment_report.json     what the audit found, in total and by domain
      utterances.parquet        ... and for each utterance of its sample
      rest.parquet              the same for all others, when prepare hears them
      review.jsonl              a person's verdicts, once there are any
      audit.html                utterances to listen to and to judge
      sounds.jsonl              what it plays, so that nothing is encoded twice
      calibration.json          what a clean clip looks like to these models
      heard/                    what the models said, so that nothing is heard twice
      extended.json             how many utterances `audit --extend` has asked for
calibration.json                what the listeners detect, from `shibolet calibrate`
gate.json                       the verdict and the interval behind it
prepared/                       shards, splits and ledger: what may train
audit-prepared/                 the same as audit/, over what was kept, when a STOP was repaired
gate-prepared.json
train/plan.json                 phases, steps, memory
      metrics.jsonl             one line a step
      dev.jsonl                 one line a dev score
      events.jsonl              steps skipped, roll-backs, memory that ran out
      result.json               which step was chosen, and by what
      checkpoints/
      final/                    the result: the model that the later stages use
evaluate/<label>/<set>/hypotheses.jsonl
                       listing.txt
                       scores.json
compare.json                    the result against the baseline
systems.json                    any systems that were scored here, each against each
tune-decoding/decoding.json     ways to decode on dev, with what each costs
publish/model/                  the repository as it is uploaded: weights, processor, card
       reproduced.json          which hypotheses a fresh process repeated from it
report.html
.stages/<stage>.json            what a stage was begun with, and its outputs once it is done
.aside/<stage>-<inputs>/        what other inputs made; the same inputs take it back
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from shibolet.errors import DataError
from shibolet.records.documents.provenance import Provenance, StageMarker
from shibolet.records.files import hash_file, hash_json, make_folder, sync_dir, take_over
from shibolet.records.provenance import this_start

# stage -> what it makes, and what else goes when its inputs change; `evaluate/<label>/<set>` makes that folder
_OUTPUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "audit": (("audit/alignment_report.json", "audit/utterances.parquet", "audit/calibration.json"), ()),
    "hear-rest": (("audit/rest.parquet",), ()),
    "calibrate": (("calibration.json",), ()),
    "gate": (("gate.json",), ()),
    "prepare": (("prepared",), ()),
    "audit-prepared": (("audit-prepared",), ()),
    "gate-prepared": (("gate-prepared.json",), ()),
    "train": (("train/plan.json", "train/result.json", "train/final"), ("train",)),
    "compare": (("compare.json",), ()),
    "systems": (("systems.json",), ()),
    "publish": (("publish/model", "publish/reproduced.json"), ("publish",)),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of one run, as it stands when it is asked for."""

    folder: "RunFolder"
    name: str
    inputs: dict[str, Any]  # plain data; content hashes for whatever is large
    state: Literal["done", "interrupted", "changed", "new"]
    note: str  # a sentence for the user; empty when there is nothing to say

    @property
    def done(self) -> bool:
        return self.state == "done"

    def finish(self) -> str:
        """Mark the stage as done, after everything else, and return the hash of its outputs."""
        outputs = self.folder._hash_outputs(self.name)
        marker = StageMarker(state="done", inputs=self.inputs, outputs=outputs)
        marker.write(self.folder.path / _marker_of(self.name))
        return hash_json(outputs)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one round, and the markers that let a second start skip what is done."""

    path: Path
    parent: "RunFolder | None" = None  # of the round before

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def provenance(self) -> Path:
        return self.path / "provenance.json"

    def audit(self, *, prepared: bool = False) -> Path:
        return self.path / ("audit-prepared" if prepared else "audit")

    def alignment_report(self, *, prepared: bool = False) -> Path:
        return self.audit(prepared=prepared) / "alignment_report.json"

    def audited_utterances(self, *, prepared: bool = False) -> Path:
        return self.audit(prepared=prepared) / "utterances.parquet"

    @property
    def audited_rest(self) -> Path:
        return self.audit() / "rest.parquet"

    @property
    def review(self) -> Path:
        return self.audit() / "review.jsonl"

    @property
    def sounds(self) -> Path:
        return self.audit() / "sounds.jsonl"

    @property
    def audit_page(self) -> Path:
        return self.audit() / "audit.html"

    @property
    def audit_extension(self) -> Path:
        return self.audit() / "extended.json"

    @property
    def calibration(self) -> Path:
        return self.path / "calibration.json"

    def gate(self, *, prepared: bool = False) -> Path:
        return self.path / ("gate-prepared.json" if prepared else "gate.json")

    @property
    def prepared(self) -> Path:
        return self.path / "prepared"

    @property
    def train(self) -> Path:
        return self.path / "train"

    @property
    def plan(self) -> Path:
        return self.train / "plan.json"

    @property
    def train_result(self) -> Path:
        return self.train / "result.json"

    @property
    def metrics(self) -> Path:
        return self.train / "metrics.jsonl"

    @property
    def dev_scores(self) -> Path:
        return self.train / "dev.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.train / "checkpoints"

    @property
    def final(self) -> Path:
        return self.train / "final"

    def evaluation(self, label: str, set_name: str) -> Path:
        return self.path / "evaluate" / label / set_name

    def hypotheses(self, label: str, set_name: str) -> Path:
        return self.evaluation(label, set_name) / "hypotheses.jsonl"

    def scores(self, label: str, set_name: str) -> Path:
        return self.evaluation(label, set_name) / "scores.json"

    @property
    def compare(self) -> Path:
        return self.path / "compare.json"

    @property
    def systems(self) -> Path:
        return self.path / "systems.json"

    @property
    def publish(self) -> Path:
        return self.path / "publish"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

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

    def stage(self, name: str, inputs: dict[str, Any]) -> Stage:
        """How `name` stands for these inputs; unless it is done, the folder is then ready for its work.

        done         the marker has the same inputs and every output is as it was written
        interrupted  begun with the same inputs and cut off, or an output is gone or altered: go on with what is there
        changed      made from other inputs: that lies in `.aside/` now, and comes back for the same inputs
        new          nothing there
        """
        inputs = json.loads(json.dumps(inputs))  # as the marker will give them back
        marker = self._marker(name)
        if marker is not None and marker.inputs == inputs:
            if marker.state == "begun":
                return Stage(self, name, inputs, "interrupted", f"{name}: was cut off, goes on")
            if not (altered := _differing(marker.outputs, self._hash_outputs(name))):
                return Stage(self, name, inputs, "done", f"{name}: done before, nothing changed")
            self._move(_made_by(name)[0], self.path, self._aside(name, "altered"))
            self._begin(name, inputs)
            return Stage(self, name, inputs, "interrupted", f"{name}: {_first(altered)} not as written; made again")

        aside = self._set_aside(name)
        if self._take_back(name, inputs):
            taken = self.stage(name, inputs)
            return replace(taken, note=f"{name}: taken back from .aside, where the same inputs had left it")
        if self._inherit(name, inputs):
            note = f"{name}: taken over from {self.parent.path}, which made it from the same inputs"
            return Stage(self, name, inputs, "done", note)
        self._begin(name, inputs)
        if aside is None:
            return Stage(self, name, inputs, "new", "")
        why = "made by another version of shibolet"
        if marker is not None:
            why = f"{_first(_differing(marker.inputs, inputs))} changed"
        return Stage(self, name, inputs, "changed", f"{name}: {why}; what was there is now in {aside}")

    def retire(self, *names: str) -> list[str]:
        """Put stages aside that the round does not reach any more; the names of those that were there."""
        return [name for name in names if self._set_aside(name)]

    def evaluated(self, label: str) -> list[str]:
        """Stages that scored what has this label."""
        markers = (self.path / ".stages" / "evaluate" / label).glob("*.json")
        return sorted(f"evaluate/{label}/{path.stem}" for path in markers)

    def digest(self, name: str) -> str:
        """Hash of what a finished stage made: an input of the stages after it."""
        marker = self._marker(name)
        if marker is None or marker.state != "done":
            raise DataError(f"{self.path}: stage '{name}' is not done; run it first, or `shibolet run` for all of them")
        return hash_json(marker.outputs)

    def inputs(self, name: str) -> dict[str, Any]:
        """What a stage that was begun or finished here is made from; nothing for one of another version of shibolet."""
        marker = self._marker(name)
        return marker.inputs if marker else {}

    def finished(self, name: str) -> bool:
        """Whether a stage was ever finished here, whatever has changed since."""
        marker = self._marker(name)
        return marker is not None and marker.state == "done"

    def _marker(self, name: str) -> StageMarker | None:
        return _marker_in(self.path / _marker_of(name))

    def _begin(self, name: str, inputs: dict[str, Any]) -> None:
        StageMarker(state="begun", inputs=inputs).write(self.path / _marker_of(name))

    def _hash_outputs(self, name: str) -> dict[str, str]:
        """Content hash of every file that a stage makes, by path in the run folder."""
        found = []
        for output in _made_by(name)[0]:
            path = self.path / output
            found += [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        return {file.relative_to(self.path).as_posix(): hash_file(file) for file in found}

    def _aside(self, name: str, tag: str) -> Path:
        return self.path / ".aside" / f"{name.replace('/', '-')}-{tag}"

    def _set_aside(self, name: str) -> str | None:
        """Move what a stage made, and its marker after it, to the place of its inputs; None: there was nothing."""
        marker = self._marker(name)
        target = self._aside(name, hash_json(marker.inputs) if marker else "unknown")
        outputs, rest = _made_by(name)
        moved = self._move([*rest, *outputs, _marker_of(name)], self.path, target)
        return str(target.relative_to(self.path)) if moved else None

    def _take_back(self, name: str, inputs: dict[str, Any]) -> bool:
        """Move back what the same inputs made, its marker last."""
        source, marker = self._aside(name, hash_json(inputs)), _marker_of(name)
        if _marker_in(source / marker) is None:
            return False
        outputs, rest = _made_by(name)
        self._move([*rest, *outputs, marker], source, self.path)
        shutil.rmtree(source)
        return True

    def _inherit(self, name: str, inputs: dict[str, Any]) -> bool:
        """Take over what the round before made from the same inputs, its marker last."""
        if self.parent is None or not (name == "prepare" or name.startswith("evaluate/")):
            return False  # tables of an audit name sounds by where the run folder is
        if not self.parent.finished(name) or self.parent.inputs(name) != inputs:
            return False
        if self.parent.digest(name) != hash_json(self.parent._hash_outputs(name)):
            return False
        for output in _made_by(name)[0]:
            take_over(self.parent.path / output, self.path / output)
        take_over(self.parent.path / _marker_of(name), self.path / _marker_of(name))
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

    def write_provenance(self, command: str, num_threads: int | None) -> None:
        """Add this start to `provenance.json`; one of another version goes to `.aside/`, and a new one begins."""
        starts = ()
        if self.provenance.exists():
            try:
                starts = Provenance.read(self.provenance).starts
            except DataError:
                self._move([self.provenance.name], self.path, self.path / ".aside")
        Provenance(starts=(*starts, this_start(command, num_threads))).write(self.provenance)


def _made_by(stage: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _OUTPUTS.get(stage, ((stage,), ()))


def _marker_of(stage: str) -> str:
    return f".stages/{stage}.json"


def _marker_in(path: Path) -> StageMarker | None:
    """How a stage was begun or finished; None where it was not, or by another version of shibolet."""
    try:
        return StageMarker.read(path)
    except DataError:
        return None


def _differing(old: dict, new: dict) -> list[str]:
    """Names of the entries that are not the same in both."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
