"""Where a recipe's data come from: one entry of `data.train` or `evaluate.sets`."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, WrapValidator, field_validator, model_validator

from shibolet.errors import RecipeError
from shibolet.records.config import Config
from shibolet.records.store import is_url, require_place
from shibolet.speech.known_sources import KNOWN_SOURCES

Progress = Callable[[int, int], None]  # rows done, rows in all (0: not known)


def _as_place(given: Any, as_path: Callable[[Any], Path]) -> Path | str:
    try:
        require_place(given)
    except RecipeError as error:
        raise ValueError(str(error)) from error  # pydantic names the key
    return given if is_url(given) else as_path(given)


# A file or a folder, or the text of a URL in a store of objects.
Place = Annotated[
    Path,
    WrapValidator(_as_place),
    PlainSerializer(str, when_used="json-unless-none"),
]


class Columns(Config):
    """Where each field stands in a row; dots reach into structs: `metadata.entry_id`.

    `audio`, `text` and every column with a name of its own must be there, the others may be missing; null: not read.
    """

    audio: str = "audio"  # of a manifest a path relative to it, of a table {bytes, path}
    text: str | None = "text"  # null: only of a source of `data.unlabelled`, which never has one
    id: str | None = "id"
    recording: str | None = "recording"
    speaker: str | None = "speaker"
    domain: str | None = "domain"  # a boolean column gives its own name where it is true: `extra_data.noisy` -> noisy
    language: str | None = "language"  # name or code ("Hebrew", "he", "he-IL"); a row in another language leaves
    flags: str | None = "flags"  # a struct whose booleans are what people noted: {noisy: true, too_long: false}
    start_s: str | None = "start_s"
    end_s: str | None = "end_s"
    duration: str | None = "duration"  # seconds, of the span or of the audio; a row that neither agrees with leaves
    previous: str | None = "previous"  # what was said before, for `train.previous_text_frac`; also `prev_transcript`

    @property
    def required(self) -> list[str]:
        """Columns that a table must have."""
        named = {field: getattr(self, field) for field in type(self).model_fields}
        defaults = {field: info.default for field, info in type(self).model_fields.items()}
        return [
            column
            for field, column in named.items()
            if column is not None and (field in ("audio", "text") or column != defaults[field])
        ]


class DataSource(Config):
    """A data set: a manifest, a Hub data set or local Parquet. What is known of a Hub id need not be said."""

    name: str = Field(min_length=1)  # stands in every utterance, ledger line and report; domain rules look at it
    # JSONL of ours, NeMo's or Lhotse's, TSV, CSV, or a folder of audio and .txt. Both may be in a store of objects:
    # s3://bucket/speech/manifest.jsonl; its relative paths then start there too.
    manifest: Place | None = None
    hub: str | None = None  # Hub id or a local copy of the repository
    config: str | None = None  # of the Hub data set, e.g. "he_il"
    split: str | None = None  # of the Hub data set, e.g. "train"
    revision: str | None = None  # of the Hub data set: branch, tag or commit
    streaming: bool = False  # read once into shards of our own instead of the `datasets` cache
    # Path or glob of Parquet or Arrow files, read in place; of a store, s3://bucket/speech/*.parquet, by copies.
    parquet: Place | None = None
    columns: Columns = Columns()
    format: Literal["plain", "whisper_slices"] = "plain"  # whisper_slices: cut at closed <|t|> pairs
    # Whether texts have <|t|> tokens, as those of Whisper's training sets: true keeps them beside the text, for
    # `train.timestamps_frac`, false leaves them out, and null says that there are none. Nothing else ever sees them.
    # Of prepared data (parquet: RUN/prepared/train-*.parquet) true takes those of the column `timed_text`.
    timestamps: bool | None = None
    letter_case: Literal["written", "lower"] = "written"  # lower: every text in small letters
    punctuation: Literal["written", "none"] = "written"  # none: every text without its marks .,?!:;
    # How this source writes, in a word or a few that the model is told in training with each of its utterances, such as
    # "no punctuation"; `shibolet transcribe --style` then asks for the one or the other. null: nothing is told.
    style: str | None = Field(None, min_length=1)
    max_utterances: int | None = Field(None, gt=0)  # the first usable ones in the order of the files
    rows: Mapping[str, Annotated[int, Field(gt=0)]] = {}  # by who says so: for `shibolet plan`, before any is read
    language: str | None = None  # of rows that do not say, as in the prompt: "Hebrew"

    @model_validator(mode="before")
    @classmethod
    def _fill_known(cls, given: Any) -> Any:
        hub = given.get("hub") if isinstance(given, dict) else None
        known = KNOWN_SOURCES.get(hub) if isinstance(hub, str) else None
        if known is None:
            return given
        if given.get("format", "plain") != "plain":  # which says itself what becomes of timestamps
            known = {key: value for key, value in known.items() if key != "timestamps"}
        columns = given.get("columns", {})
        return {**known, **given, "columns": {**known["columns"], **columns} if isinstance(columns, dict) else columns}

    @field_validator("split")
    @classmethod
    def _plain_split(cls, split: str | None) -> str | None:
        if split is not None and not re.fullmatch(r"[\w.-]+", split):
            raise ValueError(f"'{split}' is not the name of a split; for a part of one use max_utterances")
        return split

    @property
    def has_texts(self) -> bool:
        """Whether a row without a text is at fault."""
        return True

    @model_validator(mode="after")
    def _texts_have_a_place(self) -> "DataSource":
        if self.has_texts and self.columns.text is None:
            raise ValueError(
                f"source '{self.name}' names no column of texts; audio without text goes under data.unlabelled"
            )
        return self

    @model_validator(mode="after")
    def _one_place(self) -> "DataSource":
        places = [place for place in ("manifest", "hub", "parquet") if getattr(self, place) is not None]
        if len(places) != 1:
            raise ValueError(f"source '{self.name}' needs one of manifest, hub, parquet; it has {places or 'none'}")
        if self.hub is None and (stray := [k for k in ("config", "split", "revision") if getattr(self, k) is not None]):
            raise ValueError(f"source '{self.name}': {', '.join(stray)} belong to a hub data set")
        if self.hub is None and self.streaming:
            raise ValueError(f"source '{self.name}': streaming belongs to a hub data set")
        if self.timestamps is not None and self.format == "whisper_slices":
            raise ValueError(
                f"source '{self.name}': format whisper_slices cuts at the timestamps, and its pieces have none; for "
                "whole slices with their timestamps say `format: plain, timestamps: true`"
            )
        if self.hub is not None and self.split is None:
            raise ValueError(f"source '{self.name}': name the split of '{self.hub}', e.g. split: train")
        return self


def manifest_at(place: str | Path, name: str | None = None) -> DataSource:
    """A manifest of the command line, by its path or URL, called as its file is or by another name.

    RecipeError for a URL of another kind.
    """
    require_place(place)
    return DataSource(name=name or Path(place).stem, manifest=place)


class UnlabelledSource(DataSource):
    """Audio without text, of any length: a manifest, a folder of audio, a Hub data set or Parquet, as in `data.train`.

    A text that is there all the same is not read.
    """

    @property
    def has_texts(self) -> bool:
        return False

    @model_validator(mode="before")
    @classmethod
    def _no_texts(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        columns = given.get("columns", {})
        return {**given, "columns": {**columns, "text": None, "previous": None}} if isinstance(columns, dict) else given

    @model_validator(mode="after")
    def _nothing_of_texts(self) -> "UnlabelledSource":
        for key in ("format", "timestamps", "letter_case", "punctuation", "style"):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"source '{self.name}': {key} speaks of texts, and data.unlabelled has none")
        return self
