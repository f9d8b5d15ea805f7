"""The nouns of speech: where an utterance's audio lies, what is said in it, who says it, where it comes from."""

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

from shibolet.records.groups import cluster_of
from shibolet.records.pickled import pickled_fast
from shibolet.records.store import is_url


@pickled_fast
@dataclass(frozen=True, kw_only=True, slots=True)
class AudioRef:
    """Where samples lie: a file, or one row of a table with encoded bytes, and the span to take from it."""

    path: str  # an audio file, or a .parquet / .arrow table; either also as the URL in a store
    row: int | None = None  # row of the table, counted over the whole file; None for an audio file
    column: str = "audio"  # the table's column of {bytes, path}
    start_s: float = 0.0
    end_s: float | None = None  # None: to the end

    def cut(self, start_s: float, end_s: float) -> "AudioRef":
        """The same audio, narrowed; times are relative to this reference's own start."""
        return AudioRef(
            path=self.path, row=self.row, column=self.column,
            start_s=self.start_s + start_s, end_s=self.start_s + end_s,
        )  # fmt: skip

    def whole(self) -> "AudioRef":
        """All of the audio that this is a span of."""
        if not self.start_s and self.end_s is None:
            return self
        return AudioRef(path=self.path, row=self.row, column=self.column)

    def from_folder(self, folder: Path) -> "AudioRef":
        """The same audio as files in `folder` name it: relative when it lies below, so that both can be moved."""
        if is_url(self.path):
            return self
        path = _absolute(self.path).removeprefix(os.path.join(folder.absolute(), ""))
        return self if path == self.path else replace(self, path=path)

    def in_folder(self, folder: Path) -> "AudioRef":
        """The reverse of `from_folder`: with an absolute path, or a URL."""
        return self if is_url(self.path) else replace(self, path=str(folder.absolute() / self.path))

    def to_json(self) -> dict:
        """A flat JSON object: `asdict` takes four times as long."""
        return {name: getattr(self, name) for name in _AUDIO_FIELDS}


def _absolute(path: str) -> str:
    """As pathlib has it, which takes 5 us: most paths are whole."""
    is_whole = path.startswith("/") and not path.endswith("/") and "//" not in path and "/." not in path
    return path if is_whole else str(Path(path).absolute())


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """A stretch of one recording and the words that are said to be in it."""

    id: str
    audio: AudioRef
    text: str  # as given, less the language that some formats put before it and Whisper's <|t|> tokens
    duration_s: float
    source: str  # the recipe's name of the data set
    recording: str | None = None  # None: unknown
    speaker: str | None = None
    domain: str | None = None  # None: not known; of training data the recipe's domain rules decide
    language: str | None = None  # name as in the prompt, "Hebrew"
    flags: tuple[str, ...] | None = None  # what people noted of it: ("noisy",), () for nothing; None: nobody was asked
    previous: str | None = None  # what was said before it, where its source tells; no part of its text
    timed_text: str | None = None  # `text` between timestamps, `<|0.00|> a b<|2.40|>`; None: no times are known

    @property
    def cluster(self) -> str:
        """What shares its fate in an audit, or the utterance itself; scores count `groups.connected`."""
        return cluster_of(self.source, self.recording, self.speaker) or f"{self.source}/{self.id}"

    def to_json(self) -> dict:
        """A JSON object; `Utterance.from_json` reads it back."""
        row = {name: getattr(self, name) for name in _FIELDS} | {"audio": self.audio.to_json()}
        if self.previous is not None or self.timed_text is not None:  # else as before there were these two
            row |= {"previous": self.previous, "timed_text": self.timed_text}
        return row

    @classmethod
    def from_json(cls, row: dict) -> "Utterance":
        audio, flags = AudioRef(**row["audio"]), row.get("flags")
        return cls(**{**row, "audio": audio, "flags": None if flags is None else tuple(flags)})


_FIELDS, _AUDIO_FIELDS = ([field.name for field in fields(kind)] for kind in (Utterance, AudioRef))
_FIELDS = _FIELDS[: _FIELDS.index("previous")]
