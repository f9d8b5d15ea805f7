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
    """Names of the columns of a data set; a dot reaches into a struct, as in `metadata.entry_id`.

    `audio`, `text` and each column that is named otherwise than here must be there. The others may be missing. null:
    the column is not read.
    """

    audio: str = "audio"  # the audio: in a manifest a path relative to it, in a table `{bytes, path}`
    text: str | None = "text"  # what is said; null only for a source of `data.unlabelled`
    id: str | None = "id"  # id of the utterance; without it, one is made
    recording: str | None = "recording"  # the recording it was cut from; intervals and the split depend on it
    speaker: str | None = "speaker"  # the speaker; intervals and the split depend on it
    # The domain; a boolean column such as `extra_data.noisy` gives its own last name, `noisy`, where it is true
    domain: str | None = "domain"
    language: str | None = "language"  # name or code, such as Hebrew, he or he-IL; a row in another language is dropped
    flags: str | None = "flags"  # a struct of booleans that people noted, such as `{noisy: true, too_long: false}`
    start_s: str | None = "start_s"  # start of the utterance in its file, in seconds
    end_s: str | None = "end_s"  # end of the utterance in its file, in seconds
    # Duration of the span or of the audio, in seconds; a row that neither agrees with is dropped
    duration: str | None = "duration"
    # What was said before, for `train.previous_text_frac`; names such as `prev_transcript` are read too
    previous: str | None = "previous"

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
    """A data set: a manifest, a Hub data set or Parquet files, by one of the keys `manifest`, `hub` and `parquet`.

    Split, columns and format of some data sets on the Hub are known (`speech/known_sources.py`); they can be left out.
    """

    name: str = Field(min_length=1)  # name in every utterance, ledger line and report; domain rules can look at it
    # A JSONL, TSV or CSV file, a NeMo or Lhotse manifest, or a folder of audio and .txt files. It may be in an object
    # store, as s3://bucket/speech/manifest.jsonl; its relative paths then start there too.
    manifest: Place | None = None
    hub: str | None = None  # id of a data set on the Hub, or a local copy of its repository
    config: str | None = None  # configuration of the Hub data set, such as he_il
    split: str | None = None  # split of the Hub data set, such as train; needed with `hub`
    revision: str | None = None  # branch, tag or commit of the Hub data set
    streaming: bool = False  # read the Hub data set once and write shards, without the cache of `datasets`
    # Path or glob of Parquet or Arrow files, which are read in place; those of an object store, as
    # s3://bucket/speech/*.parquet, are copied first
    parquet: Place | None = None
    columns: Columns = Columns()  # names of the columns, where they differ from the usual ones
    # `whisper_slices` cuts the audio at closed pairs of Whisper's timestamp tokens
    format: Literal["plain", "whisper_slices"] = "plain"
    # Whether the texts contain timestamp tokens as those of Whisper's training sets do: true keeps them beside the
    # text, for `train.timestamps_frac`, false removes them, null says that there are none. For prepared data (parquet:
    # `RUN/prepared/train-*.parquet`) true takes those of the column `timed_text`.
    timestamps: bool | None = None
    letter_case: Literal["written", "lower"] = "written"  # `lower` reads every text in small letters
    punctuation: Literal["written", "none"] = "written"  # `none` removes the marks . , ? ! : ; from every text
    # How this source writes, in a few words such as no punctuation; in training the prompt of its utterances says so,
    # and `shibolet transcribe --style` can ask for it. null: the prompt says nothing of it.
    style: str | None = Field(None, min_length=1)
    # Take only the first usable ones, in the order of the files; null: all
    max_utterances: int | None = Field(None, gt=0)
    # How many rows the data set is said to have, by who says so; `shibolet plan` counts with it before the data are
    # read
    rows: Mapping[str, Annotated[int, Field(gt=0)]] = {}
    language: str | None = None  # language of rows that name none, such as Hebrew; null: that of the recipe

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

    Texts in the data are not read, so `format`, `timestamps`, `letter_case`, `punctuation` and `style` are refused.
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
