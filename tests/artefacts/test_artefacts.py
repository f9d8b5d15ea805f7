"""Damaged artefacts: protects from a verdict that rests on a file which is not what was written."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from artefact_commands import COMMANDS, Seen, files_of, run
from artefact_damage import damage
from artefact_kinds import CHANGES, DOCUMENT, KINDS, Kind, kind_of

DOCUMENTED = {
    int(code)
    for code in re.findall(
        r"^\| (\d+) \|", (DOCUMENT.parent / "exit-codes.md").read_text(encoding="utf-8"), re.MULTILINE
    )
}
REFUSALS = (2, 3, 50)
RECORDS_OF_TRAINING = {
    f"run/{name}" for name in (".stages/train.json", "train/metrics.jsonl", "train/dev.jsonl", "train/result.json")
}
# Damage that a stage undoes in a whole `run`, or the command after `run` that makes such a file.
STAGES = (
    ("audit", "audit/utterances.parquet", "run"),
    ("gate", "gate.json", "run"),
    ("hear-rest", "audit/rest.parquet", "run"),
    ("prepare", "prepared/train-<shard>.parquet", "run"),
    ("audit-prepared", "audit-prepared/utterances.parquet", "run"),
    ("gate-prepared", "gate-prepared.json", "run"),
    ("train", "train/final/model.safetensors", "run"),
    ("evaluate", "evaluate/<label>/<set>/hypotheses.jsonl", "run"),
    ("audit-sets", "audit-sets/<set>/utterances.parquet", "run"),
    ("doubtful", "doubtful/<label>/<set>/doubtful.json", "run"),
    ("compare", "compare.json", "run"),
    ("systems", "systems.json", "compare --system"),
    ("waterfall", "waterfall.json", "compare --chain"),
    ("robustness", "robustness/robustness.json", "robustness"),
    ("publish", "publish/model/model.safetensors", "publish"),
)
# Cases of the whole walk that need no stage to be done again.
CORE = (
    ("audit/utterances.parquet", "different", "gate"),
    ("audit/utterances.parquet", "bit", "prepare"),
    ("gate.json", "different", "prepare"),
    ("gate.json", "cut", "report"),
    ("prepared/train-<shard>.parquet", "different", "train"),
    ("prepared/manifest.jsonl", "cut", "train"),
    ("train/final/model.safetensors", "bit", "evaluate"),
    ("train/final/tokenizer_config.json", "different", "next"),
    ("evaluate/<label>/<set>/scores.json", "different", "rounds"),
    ("compare.json", "bit", "rounds"),
    ("timings.jsonl", "different", "plan --rates-from"),
)


def named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def example(kind: Kind, base: Path) -> Path:
    found = sorted((base / "run").glob(kind.example))
    assert found, f"the tiny round has no {kind.name}"
    return found[-1]


def fault(kind: Kind, path: str, before: Mapping[str, str], seen: Seen, control: Seen) -> str:
    """What is wrong with how a command took a damaged file; empty where it was refused by name or made again.

    `before` are the files of the damaged round, `control` is what the command comes to on the undisturbed one.
    """
    code, said, place = seen.answer.code, seen.answer.said, f"run/{path}"
    if code not in DOCUMENTED - {1} or "Traceback" in said:
        return f"ended with {code}: {said[-300:]}"
    is_named = any(name in said for name in names_of(path))
    if code in REFUSALS:
        # Stages before the one that refused may have been made from other settings, as in the undisturbed round.
        written = {name for name, content in seen.files.items() if content != before.get(name)}
        written -= {name for name in written if control.files.get(name) != before.get(name)}
        return "" if is_named and not written - {place} else f"refused, {is_named=}, {written=}: {said[-300:]}"
    if code != control.answer.code:
        return f"ended with {code}, undisturbed with {control.answer.code}: {said[-300:]}"
    both = seen.files.keys() | control.files.keys()
    differing = {name for name in both if seen.files.get(name) != control.files.get(name)}
    # What a stage after the one that is made again had made is put aside, and taken back when it is asked for.
    differing -= {name for name in differing if name not in seen.files and control.files[name] in seen.aside}
    if is_named and "checkpoints" in path:  # its steps are forgotten, and the model is that of an earlier one
        differing -= {name for name in differing if name.startswith(f"{Path(place).parent}/")} | RECORDS_OF_TRAINING
    if kind.readers == () or is_named:
        differing.discard(place)
    if path == "provenance.json" and is_named:  # the page lists the starts that are known
        differing.discard("run/report.html")
    return f"ended with {code}, {is_named=}, other files than undisturbed: {sorted(differing)[:6]}" if differing else ""


def names_of(path: str) -> tuple[str, ...]:
    """What a sentence may call a file by."""
    if path.startswith(".stages/"):
        stage = path.removeprefix(".stages/").removesuffix(".json")
        return f"'{stage}'", f"{stage}:", path, *{"start": ("recipe.yaml", "provenance.json")}.get(stage, ())
    if "checkpoints/" in path:
        return (Path(path).parent.name,)
    return path, Path(path).name


def walk(kind: Kind, way: str, readers: tuple[str, ...], rounds) -> list[str]:
    """Damage a file of this kind and run each of its readers on it; what went wrong."""
    faults = []
    for command in readers:
        control, base = rounds.control(command), rounds.copy()
        path = example(kind, base)
        if not damage(path, way, kind.change):
            break
        before = files_of(base)
        place = path.relative_to(base / "run").as_posix()
        seen = run(command, base)
        if found := fault(kind, place, before, seen, control):
            faults.append(f"{place} {way}, shibolet {command}: {found}")
        shutil.rmtree(base)
    return faults


@pytest.mark.parametrize(("name", "way", "command"), CORE)
def test_a_damaged_file_is_refused_by_name_or_made_again(name, way, command, small_round):
    """The core of the walk over all kinds: a model of other texts once passed as that of the right ones."""
    assert walk(named(name), way, (command,), small_round) == []


def test_the_kinds_that_can_be_changed_are_those_of_the_document():
    assert [kind.name for kind in KINDS if not kind.name.startswith(".stages/")] == list(CHANGES)
    assert {command for kind in KINDS for command in kind.readers} == set(COMMANDS)


@pytest.mark.slow("artefacts", seconds=80)
def test_no_artefact_of_a_finished_round_is_forgotten(full_round):
    run_dir = full_round.path / "run"
    files = [path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file()]
    files = [path for path in files if not path.startswith("corpus/")]
    assert [path for path in files if kind_of(path) is None] == []
    found = {kind_of(path).name for path in files}
    assert {kind.name for kind in KINDS} - found == set(), "the table has a kind that no file is of"
    assert len(found) > 70


@pytest.mark.slow("artefacts", seconds=6)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_command_uses_a_damaged_artefact(kind, full_round):
    """Each ends with a documented code, and names the file or makes it again as it was."""
    faults = [fault for way in kind.ways for fault in walk(kind, way, kind.readers or ("run", "report"), full_round)]
    assert faults == []


@pytest.mark.slow("artefacts", seconds=5)
@pytest.mark.parametrize(("stage", "name", "command"), STAGES, ids=[stage for stage, *_ in STAGES])
def test_a_stage_whose_output_was_damaged_ends_with_the_bytes_of_an_undisturbed_round(stage, name, command, full_round):
    kind, base = named(name), full_round.copy()
    assert damage(example(kind, base), "different", kind.change)
    seen, control = run(command, base), full_round.control(command)
    assert seen.answer.code == control.answer.code, seen.answer.said
    assert seen.files == control.files
    shutil.rmtree(base)
