"""Where a recipe's data come from: one entry of `data.train` or `evaluate.sets`, and how it becomes utterances."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from shibolet.errors import DataError
from shibolet.records.config import Config
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import Utterance
from shibolet.speech.known_sources import KNOWN_SOURCES

Progress = Callable[[int, int], None]  # rows done, rows in all (0: not known)

MIN_IN_SCRIPT_FRAC = (
    0.1  # of words; of Hebrew Wikipedia's 99% are, 64% in the worst of 741 sentences, of romanised none
)
SCRIPT_SAMPLE = 5000  # utterances looked at


class Columns(Config):
    """Where each field stands in a row; dots reach into structs: `metadata.entry_id`.

    `audio`, `text` and every column with a name of its own must be there, the others may be missing; null: not read.
    """

    audio: str = "audio"  # of a manifest a path relative to it, of a table {bytes, path}
    text: str = "text"
    id: str | None = "id"
    recording: str | None = "recording"
    speaker: str | None = "speaker"
    domain: str | None = "domain"  # a boolean column gives its own name where it is true: `extra_data.noisy` -> noisy
    language: str | None = "language"  # name or ISO code
    flags: str | None = "flags"  # a struct whose booleans are what people noted: {noisy: true, too_long: false}
    start_s: str | None = "start_s"
    end_s: str | None = "end_s"
    duration: str | None = "duration"  # seconds, only looked at for nonsense: the audio's header decides

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
    manifest: Path | None = None  # JSONL of ours, NeMo's or Lhotse's, TSV, or a folder of audio with .txt beside it
    hub: str | None = None  # Hub id or a local copy of the repository
    config: str | None = None  # of the Hub data set, e.g. "he_il"
    split: str | None = None  # of the Hub data set, e.g. "train"
    revision: str | None = None  # of the Hub data set: branch, tag or commit
    streaming: bool = False  # read once into shards of our own instead of the `datasets` cache
    parquet: Path | None = None  # path or glob of Parquet or Arrow files, read in place
    columns: Columns = Columns()
    format: Literal["plain", "whisper_slices"] = "plain"  # whisper_slices: cut at closed <|t|> pairs
    max_utterances: int | None = Field(None, gt=0)  # the first usable ones in the order of the files
    language: str | None = None  # of rows that do not say, as in the prompt: "Hebrew"

    @model_validator(mode="before")
    @classmethod
    def _fill_known(cls, given: Any) -> Any:
        known = KNOWN_SOURCES.get(given.get("hub")) if isinstance(given, dict) else None
        if known is None:
            return given
        columns = given.get("columns", {})
        return {**known, **given, "columns": {**known["columns"], **columns} if isinstance(columns, dict) else columns}

    @field_validator("split")
    @classmethod
    def _plain_split(cls, split: str | None) -> str | None:
        if split is not None and not re.fullmatch(r"[\w.-]+", split):
            raise ValueError(f"'{split}' is not the name of a split; for a part of one use max_utterances")
        return split

    @model_validator(mode="after")
    def _one_place(self) -> "DataSource":
        places = [place for place in ("manifest", "hub", "parquet") if getattr(self, place) is not None]
        if len(places) != 1:
            raise ValueError(f"source '{self.name}' needs one of manifest, hub, parquet; it has {places or 'none'}")
        if self.hub is None and (stray := [k for k in ("config", "split", "revision") if getattr(self, k) is not None]):
            raise ValueError(f"source '{self.name}': {', '.join(stray)} belong to a hub data set")
        if self.hub is None and self.streaming:
            raise ValueError(f"source '{self.name}': streaming belongs to a hub data set")
        if self.hub is not None and self.split is None:
            raise ValueError(f"source '{self.name}': name the split of '{self.hub}', e.g. split: train")
        return self


def read_source(
    source: DataSource, cache_dir: Path, on_progress: Progress | None = None
) -> tuple[list[Utterance], list[LedgerLine]]:
    """Every usable utterance of a source, headers probed but nothing decoded, and a line for each row that is not.

    `cache_dir` holds what is read from streams. DataError when the source cannot be read, two rows have the same id, or
    nothing is usable.
    """
    from shibolet.speech import manifests, readers, rows  # decoders and pyarrow load only when data are read

    sink = rows.RowSink(source)
    if source.manifest is not None:
        place = str(source.manifest)
        readers.read_manifest_rows(manifests.open_manifest(source), sink, on_progress)
    elif source.parquet is not None:
        place = str(source.parquet)
        readers.read_table_rows(*readers.glob_tables(source), sink, on_progress)
    else:
        from shibolet.speech import hub

        place = source.hub
        readers.read_table_rows(*hub.hub_tables(source, cache_dir), sink, on_progress)
    sink.require_own_ids()
    if not sink.utterances:
        reasons = "; ".join(f"{line.id}: {line.rule}, {line.detail}" for line in sink.ledger[:3])
        raise DataError(
            f"source '{source.name}' ({place}): none of {sink.num_rows:,} rows can be used. {reasons}"
            if sink.num_rows
            else f"source '{source.name}' ({place}) has no rows"
        )
    return sink.utterances, sink.ledger


def require_script(utterances: Sequence[Utterance], language: str, source: str) -> None:
    """DataError when hardly a word of a source is in the language's letters: nothing that listens could judge it."""
    from shibolet.speech.text import get_language

    rules = get_language(language)
    looked_at = utterances[:: -(-len(utterances) // SCRIPT_SAMPLE)]
    words = [rules.to_words(utterance.text) for utterance in looked_at]
    # Digits can be read in any language, so they say nothing here.
    in_letters = [
        ok for text in words for token, ok in zip(text.tokens, text.verifiable) if any(map(str.isalpha, token))
    ]
    num_words, in_script = len(in_letters), sum(in_letters)
    if in_script <= MIN_IN_SCRIPT_FRAC * num_words:
        raise DataError(
            f"source '{source}': {in_script:,} of {num_words:,} words are in {rules.name} letters, under "
            f"{MIN_IN_SCRIPT_FRAC:.0%} ('{looked_at[0].text[:40]}', ...): is `language: {language}` right, are the "
            "texts romanised, does `columns` name another one?"
        )
