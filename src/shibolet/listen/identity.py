"""What a listener is by its content: known before a library that could open it is loaded."""

import os
from pathlib import Path

from shibolet.errors import ModelError
from shibolet.model.folders import identity_of, resolve
from shibolet.records.files import hash_file

HYPOTHESES = (
    ".jsonl",
    ".jsonl.gz",
    ".csv",
    ".tsv",
)  # a recogniser's name that ends so is a file of what was heard elsewhere


def listener_identity(name: str) -> str:
    """Content hash of a listener: of its configuration and weights, or of its file of hypotheses."""
    return hash_file(hypotheses_file(name)) if name.endswith(HYPOTHESES) else identity_of(resolve(name))


def hypotheses_file(name: str) -> Path:
    """The file of that name; ModelError where there is none."""
    path = Path(os.path.expanduser(name))
    if not path.is_file():
        raise ModelError(f"recogniser '{name}': there is no such file of hypotheses")
    return path
