"""Names that a recipe or a command line gives and that become folders: what they may be, in one place."""

import re
import unicodedata
from collections.abc import Iterable

from shibolet.errors import RecipeError

_FOLDER = re.compile(r"\w(?:[\w .,+&()-]*[\w+)-])?")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
MAX_NAME_BYTES = 200  # file systems take 255, and our own endings follow


def check_name(key: str, name: str) -> None:
    """RecipeError where a name cannot name a folder on every system."""
    if not _FOLDER.fullmatch(name) or _DEVICE.fullmatch(name):
        raise RecipeError(
            f"{key}: {name[:100]!r} cannot name a folder; use letters, digits, spaces and - _ . , + & ( ), a letter or "
            "a digit first, no '.' or space last, and no device of Windows such as 'con'"
        )
    if len(name.encode()) > MAX_NAME_BYTES:
        raise RecipeError(f"{key}: '{name[:50]}...' is too long to name a folder; {MAX_NAME_BYTES} bytes are the most")


def check_names(key: str, names: Iterable[str]) -> None:
    """RecipeError where one cannot name a folder, or two would name the same one where case does not count."""
    seen: dict[str, str] = {}
    for name in names:
        check_name(key, name)
        folder = unicodedata.normalize("NFKC", name.casefold())
        if seen.get(folder) == name:
            raise RecipeError(f"{key}: {name} named twice; each needs a name of its own")
        if folder in seen:
            raise RecipeError(
                f"{key}: '{seen[folder]}' and '{name}' differ only in case, and on some disks they are the same folder"
            )
        seen[folder] = name
