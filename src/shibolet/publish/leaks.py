"""What must not leave with an export: tokens, and paths of the machine that it was made on."""

import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import get_token

from shibolet.errors import DataError

_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
_BLOCK_BYTES, _OVERLAP_BYTES = 1 << 24, 1 << 12


def refuse_leaks(export: Path, *places: Path) -> None:
    """DataError when a file of the export holds a Hub token, this user's home, or the absolute path of a place."""
    secrets = {f"{Path.home()}/", *(str(path.absolute()) for path in (export, *places))} - {"//"}
    needles = [secret.encode() for secret in sorted(secrets | {get_token() or ""} - {""})]
    for file in sorted(path for path in export.rglob("*") if path.is_file()):
        for block in _blocks(file):
            found = _TOKEN.search(block) or next((needle for needle in needles if needle in block), None)
            if found:
                what = (
                    "a path of this machine" if isinstance(found, bytes) and found.startswith(b"/") else "a Hub token"
                )
                raise DataError(f"{file} holds {what} and is not published; take it out of what the file is made from")


def _blocks(file: Path) -> Iterator[bytes]:
    """The file in pieces that overlap, so that nothing is cut in two; of weights only the header is text."""
    with file.open("rb") as handle:
        if file.suffix == ".safetensors":
            yield handle.read(int.from_bytes(handle.read(8), "little"))
            return
        tail = b""
        while block := handle.read(_BLOCK_BYTES):
            yield tail + block
            tail = block[-_OVERLAP_BYTES:]
