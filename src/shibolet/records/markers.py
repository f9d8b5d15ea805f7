"""Reading the markers of stages, `.stages/<stage>.json` of a run folder."""

from pathlib import Path

from shibolet.errors import DataError
from shibolet.records.documents.provenance import StageMarker
from shibolet.records.files import open_regular
from shibolet.records.reading import parse_own


def marker_in(path: Path) -> StageMarker | None:
    """How a stage was begun or finished; None where it was not, or by another version of shibolet."""
    try:
        return StageMarker.read(path)
    except DataError:
        return None


def is_broken(path: Path) -> bool:
    """Whether a marker is there, and not one of another version."""
    try:
        with open_regular(path) as file:
            content = parse_own(file.read())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return not isinstance(content, dict) or content.get("format") == StageMarker.FORMAT
