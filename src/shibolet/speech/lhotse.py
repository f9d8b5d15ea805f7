"""Lhotse's manifests, as its `to_dict` writes them: an utterance for each supervision.

A supervision's words belong to its own span of the recording, whatever stretch of it the cut takes.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from shibolet.speech.textfiles import BadRow

_KEEPS_TIMES = {"Resample"}  # of the transforms that a recording still waits for


@dataclass(slots=True)
class Source:
    """A file, or something else, that holds some of a recording's channels."""

    type: str
    channels: tuple[int, ...]
    source: str


@dataclass(slots=True)
class Recording:
    """What a supervision needs of its recording."""

    id: str
    sources: tuple[Source, ...]
    transforms: tuple[dict[str, Any], ...] | None = None


@dataclass(slots=True)
class _Supervision:
    start: float
    duration: float
    channel: int | tuple[int, ...] = 0
    custom: dict[str, Any] | None = None


@dataclass(slots=True)
class _Cut:
    supervisions: tuple[dict[str, Any], ...]
    recording: Recording | None = None
    start: float = 0.0
    custom: dict[str, Any] | None = None


_ADAPTERS = {kind: TypeAdapter(kind) for kind in (Recording, _Supervision, _Cut)}


def is_cut(row: dict[str, Any]) -> bool:
    return str(row.get("type")).endswith("Cut") or {"supervisions", "recording"} <= row.keys()


def is_supervision(row: dict[str, Any]) -> bool:
    return {"id", "recording_id", "start", "duration"} <= row.keys()


def is_recording(row: dict[str, Any]) -> bool:
    return {"id", "sources", "sampling_rate"} <= row.keys()


def rows_of_cut(row: dict[str, Any]) -> Iterator[dict[str, Any] | BadRow]:
    """The rows of a MonoCut or MultiCut; of other cuts, which are no one stretch of a recording, a bad one."""
    if "tracks" in row or row.get("type") == "PaddingCut":
        yield BadRow("mixed_cut", f"a {row.get('type')} is not one stretch of a recording: write it with save_audios()")
        return
    try:
        cut = _parsed(_Cut, row)
        if not cut.supervisions:
            raise BadRow("missing_text", "the cut has no supervision")
    except BadRow as bad:
        yield bad
        return
    for supervision in cut.supervisions:
        yield _row_or_reason(supervision, cut.recording, "in the cut", cut.start, cut.custom)


def recordings_by_id(rows: Iterable[Any]) -> dict[str, Recording]:
    """The recordings that can be used; a supervision whose recording is not among them says so."""
    found = {}
    for row in rows:
        try:
            recording = _parsed(Recording, row)
        except BadRow:
            continue
        found[recording.id] = recording
    return found


def rows_of_supervision(
    recordings: dict[str, Recording], place: str, row: dict[str, Any]
) -> Iterator[dict[str, Any] | BadRow]:
    """The one row of a supervision; `place` is the name of the recordings' file."""
    yield _row_or_reason(row, recordings.get(str(row.get("recording_id"))), f"in {place}")


def _row_or_reason(
    row: dict[str, Any], recording: Recording | None, place: str, from_s: float = 0.0, custom: dict | None = None
) -> dict[str, Any] | BadRow:
    try:
        if recording is None:
            raise BadRow("missing_audio", f"there is no recording '{row.get('recording_id')}' {place}")
        supervision = _parsed(_Supervision, row)
        path = _file_of(recording, supervision)
    except BadRow as bad:
        return bad
    start_s = from_s + supervision.start
    return {
        **row,
        "audio": path,
        "recording": recording.id,
        "start_s": round(start_s, 6),
        "end_s": round(start_s + supervision.duration, 6),
        "custom": {**(custom or {}), **(supervision.custom or {})},
    }


def _file_of(recording: Recording, supervision: _Supervision) -> str:
    """The file that holds the supervision's channels and no others."""
    names = [str(transform.get("name")) for transform in recording.transforms or ()]
    if waiting := [name for name in names if name not in _KEEPS_TIMES]:
        raise BadRow("transformed_audio", f"{', '.join(waiting)} is not in the file yet: write it with save_audios()")
    wanted = {supervision.channel} if isinstance(supervision.channel, int) else set(supervision.channel)
    fitting = [source for source in recording.sources if set(source.channels) == wanted]
    if not fitting:
        there = sorted({channel for source in recording.sources for channel in source.channels})
        raise BadRow("one_of_several_channels", f"channels {sorted(wanted)} of {there}: give them a file of their own")
    if fitting[0].type != "file":
        raise BadRow("missing_audio", f"the audio is of type '{fitting[0].type}', not a file")
    return fitting[0].source


def _parsed(kind: type, row: Any) -> Any:
    try:
        return _ADAPTERS[kind].validate_python(row)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise BadRow("not_a_row", f"'{place}' of the {kind.__name__.strip('_').lower()}: {problem['msg']}") from error
