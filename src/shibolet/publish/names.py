"""What a model or data set of this machine is called where others read of it."""

from pathlib import Path


def is_path(name: str | None) -> bool:
    """Whether a name is one of a folder or file here, and not of the Hub, whose ids have one slash at most."""
    return name is not None and (name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists())


def public_name(name: str) -> str:
    """A Hub id or a shipped model's name as it is; of a path its last part, and of a run's model the run's folder.

    An average of a run's models has its own name behind the run's.
    """
    if name.startswith("builtin:") or not (is_path(name) or "/" not in name):
        return name
    match Path(name).parts:
        case (*_, run, "train", "final") | (*_, run, "publish", "model"):
            return run
        case (*_, run, "average" | "parts", own, "model"):
            return f"{run}-{own}"
    return Path(name).name
