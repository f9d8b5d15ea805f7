"""Every command that reads artefacts, on a copy of the tiny round; and what is left of it."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from tiny_round import FEW_DOSES, FIRST_LOOK, Answer, shibolet

_ROUND = ("{base}/tiny.yaml", "-o", "{base}/run")
_LOOK = tuple(word for change in FIRST_LOOK for word in ("--set", change))
COMMANDS: dict[str, tuple[str, ...]] = {
    "run": ("run", *_ROUND),
    "audit": ("audit", *_ROUND),
    "audit --extend": ("audit", *_ROUND, *_LOOK, "--extend"),
    "audit of the first look": ("audit", *_ROUND, *_LOOK),
    "audit with other settings": ("audit", *_ROUND, "--set", "audit.min_confidence=0.4"),
    "audit with calibration": ("audit", *_ROUND, "--set", "audit.calibration={base}/run/calibration.json"),
    "audit of the next round": ("audit", "{base}/next.yaml", "-o", "{base}/out"),
    "gate": ("gate", *_ROUND),
    "prepare": ("prepare", *_ROUND),
    "train": ("train", *_ROUND),
    "train --only-through": ("train", *_ROUND, "--only-through", "B"),
    "evaluate": ("evaluate", *_ROUND),
    "compare": ("compare", *_ROUND),
    "compare --system": ("compare", *_ROUND, "--system", "one", "--system", "two"),
    "compare --chain": ("compare", *_ROUND, "--chain", "two", "--chain", "one"),
    "robustness": ("robustness", *_ROUND, "--set", FEW_DOSES.replace("{", "{{").replace("}", "}}")),
    "report": ("report", "{base}/run"),
    "figures": ("report", "{base}/run", "--figures", "{base}/out"),
    "rounds": ("rounds", "{base}/run"),
    "next": ("next", "{base}/run", "--out", "{base}/out.yaml"),
    "plan": ("plan", *_ROUND),
    "plan --rates-from": ("plan", "{base}/tiny.yaml", "-o", "{base}/out", "--rates-from", "{base}/run"),
    "calibrate": ("calibrate", *_ROUND, "--clean", "{base}/run/corpus/train/manifest.jsonl"),
    "ngram": ("ngram", *_ROUND),
    "tune-decoding": ("tune-decoding", *_ROUND, "--beam-size", "2", "--length-penalty", "1", "--mbr-samples", "2"),
    "export-adapter": ("export-adapter", "{base}/run", "{base}/out"),
    "export-data": ("export-data", "{base}/run", "{base}/out"),
    "export-data lhotse": ("export-data", "{base}/run", "{base}/out", "--format", "lhotse"),
    "export-data nemo": ("export-data", "{base}/run", "{base}/out", "--format", "nemo"),
    "export-data verdicts": ("export-data", "{base}/run", "{base}/out", "--format", "verdicts"),
    "publish": ("publish", "{base}/run", "--to", "org/name", "--no-upload"),
}
# Not the same from one start to the next, or moved there and so of no use in a comparison.
_UNCOMPARED = re.compile(
    r"run/(\.lock|\.aside/.*|provenance\.json|timings\.jsonl|\.stages/start\.json|tracking/.*|train/encoder_cache/.*"
    r"|audit/heard/.*|corpus/.*)|out/(\.lock|provenance\.json|timings\.jsonl|\.stages/.*|audit/heard/.*)"
)
_TIMED = ("timing", "seconds", "audio_s_per_s", "times_greedy", "records")  # keys of JSON whose values are a clock's


@dataclass(frozen=True, slots=True)
class Seen:
    """What a command came to, and the files that are there then: path -> hash of what does not depend on a clock."""

    answer: Answer
    files: Mapping[str, str]
    aside: frozenset[str]  # hashes of what lies in .aside


def run(command: str, base: Path) -> Seen:
    """Run a command on a copy of the round."""
    answer = shibolet(*(word.format(base=base) for word in COMMANDS[command]))
    put_aside = (path for path in sorted((base / "run" / ".aside").rglob("*")) if path.is_file())
    return Seen(answer, files_of(base), frozenset(_hash(path, base) for path in put_aside))


def files_of(base: Path) -> dict[str, str]:
    paths = ((path.relative_to(base).as_posix(), path) for path in sorted(base.rglob("*")) if path.is_file())
    return {name: _hash(path, base) for name, path in paths if not _UNCOMPARED.fullmatch(name)}


def copy_of(round_: Path, base: Path) -> Path:
    """A copy to write to: of links, since files are replaced and never written into. A lock is of one folder alone."""
    shutil.copytree(round_, base, copy_function=_link)
    return base


def _link(source: str, target: str) -> None:
    shutil.copyfile(source, target) if source.endswith(".lock") else os.link(source, target)


def _hash(path: Path, base: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".parquet" and path.is_relative_to(base / "out"):  # names audio of another folder by full paths
        content = repr(pq.read_table(path).to_pylist()).encode()
    content = content.replace(str(base).encode(), b"<base>")
    # Of tune-decoding, by where the round was.
    content = re.sub(rb'"/[^"]*(?=/run/(?:train/final|ngram/ngram\.arpa)")', b'"<base>', content)
    if path.suffix in (".json", ".jsonl"):
        content = _without_clock(content, path.match(".stages/tune-decoding.json"))
    elif path.suffix == ".html":
        content = re.sub(rb"(?<=<dt>Commit</dt><dd>)[^<]*", b"", content)  # who tests may change it meanwhile
    return hashlib.sha256(content).hexdigest()


def _without_clock(content: bytes, has_timed_outputs: bool) -> bytes:
    try:
        lines = [json.loads(line) for line in content.split(b"\n") if line]
    except ValueError:
        try:
            lines = [json.loads(content)]
        except ValueError:
            return content

    def without(value):
        if isinstance(value, dict):
            dropped = (*_TIMED, "outputs", "sha256") if has_timed_outputs else _TIMED
            return {key: without(inner) for key, inner in value.items() if key not in dropped}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    if not any(word.encode() in content for word in _TIMED):
        return content
    return json.dumps(without(lines), ensure_ascii=False).encode()
