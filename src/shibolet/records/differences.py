"""What differs between two pieces of plain data, by the dotted paths that `--set` takes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """Every value by its dotted path, such as `train.phases.1.lr_by_part.head`; a list of plain values is one value."""
    return dict(_leaves(data, ""))


def differing(old: Mapping, new: Mapping) -> list[str]:
    """Names of the entries that are not the same in both."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def first(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        entries = list(value.items())
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        entries = list(enumerate(value))
    else:
        yield path, value
        return
    for name, item in entries:
        yield from _leaves(item, f"{path}.{name}" if path else str(name))
