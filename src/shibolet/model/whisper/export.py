"""Rewriting a Whisper for other programs: as transformers has it, or in CTranslate2's format for faster-whisper.

native        the same files, bit for bit, with what other programs ask for where it is missing
ctranslate2   by CTranslate2's own converter, weights in float16; it cannot be converted back
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from shibolet.errors import ModelError
from shibolet.model.folders import INDEX, opening, weight_files
from shibolet.model.whisper.load import EXTRACTOR_FILES, ModelFolder, open_folder
from shibolet.model.whisper.save import KEPT
from shibolet.records.files import make_folder

EXTRACTOR = "preprocessor_config.json"
PRECISION = "float16"  # of CTranslate2's weights


def convert(source: str, path: Path, layout: str, languages: Sequence[str] = ()) -> None:
    """`Family.convert`; no layout of a Whisper lists languages."""
    if path.exists():
        raise ModelError(f"'{path}' exists; name a new folder for the converted model")
    folder = open_folder(source)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    (_to_ctranslate2 if layout == "ctranslate2" else _copy)(folder, partial)
    os.replace(partial, path)


def _copy(folder: ModelFolder, path: Path) -> None:
    settings = (folder.path / name for name in ("config.json", *KEPT, INDEX))
    for file in (*weight_files(str(folder.path), folder.path), *settings):
        if file.is_file():
            shutil.copyfile(file, path / file.name)
    if not any((path / name).is_file() for name in EXTRACTOR_FILES):
        folder.extractor.to_json_file(path / EXTRACTOR)


def _to_ctranslate2(folder: ModelFolder, path: Path) -> None:
    """The converter's files, and what faster-whisper reads beside them: tokenizer and number of mel bins."""
    from ctranslate2.converters import TransformersConverter

    with opening(folder.path):
        TransformersConverter(str(folder.path), load_as_float16=True).convert(
            str(path), quantization=PRECISION, force=True
        )
        folder.tokenizer.backend_tokenizer.save(str(path / "tokenizer.json"))
        folder.extractor.to_json_file(path / EXTRACTOR)
