"""What a model or data set of this machine is called where others read of it."""

from pathlib import Path


def is_path(name: str | None) -> bool:
    """Whether a name is one of a folder or file here, and not of the Hub."""
    return name is not None and (name.startswith((".", "/", "~")) or Path(name).exists())


def public_name(name: str) -> str:
    """A Hub id or a shipped model's name as it is; of a path its last part, and of a run's model the run's folder."""
    if name.startswith("builtin:") or not (is_path(name) or "/" not in name):
        return name
    path = Path(name)
    is_of_run = path.parts[-2:] == ("train", "final") and len(path.parts) > 2
    return path.parts[-3] if is_of_run else path.name
