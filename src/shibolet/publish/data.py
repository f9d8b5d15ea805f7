"""What prepare kept, as other programs read it, and the audit's verdicts as one table; nothing is decoded again.

datasets   data/<split>-00000-of-00002.parquet with the audio inside, and a card: `datasets.load_dataset(folder)`
lhotse     <split>_recordings.jsonl.gz, <split>_supervisions.jsonl.gz and audio/<split>/*.flac
nemo       <split>_manifest.jsonl and audio/<split>/*.flac
verdicts   verdicts.parquet: a row for each utterance that the audit heard, with what it was judged by
"""

import gzip
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
from huggingface_hub import DatasetCardData

from shibolet.errors import DataError
from shibolet.publish.leaks import refuse_leaks
from shibolet.publish.names import public_name
from shibolet.records.audited import Audited, read_audited, to_table
from shibolet.records.documents.labelled import Labelled
from shibolet.records.documents.prepared import Prepared
from shibolet.records.files import make_folder, write_bytes
from shibolet.records.machine_texts import written_by_machines
from shibolet.records.runfolder import RunFolder
from shibolet.records.shards import has_columns, num_rows, read_shard
from shibolet.speech.text import get_language

Format = Literal["datasets", "lhotse", "nemo", "verdicts"]
SPLITS = ("train", "dev")
FROM_DATA = "data"  # who wrote a text that came with the data; the kinds that machines wrote are those of `label`
WRITTEN = frozenset({"labelled", "corrected"})


def export_data(run: RunFolder, out: Path, format: Format) -> dict[str, int]:
    """Write the new folder `out`, whole or not at all; rows by split. DataError when `out` exists or names a path."""
    if out.exists():
        raise DataError(f"'{out}' exists; name a new folder for the exported data")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    counts = _WRITERS[format](run, partial)
    refuse_leaks(partial, out, run.path)
    os.replace(partial, out)
    return counts


def _shards(run: RunFolder, split: str) -> list[Path]:
    return sorted(run.prepared.glob(f"{split}-*.parquet"))


def _write_datasets(run: RunFolder, out: Path) -> dict[str, int]:
    (out / "data").mkdir()
    counts = {}
    for split in SPLITS:
        shards = _shards(run, split)
        for i, shard in enumerate(shards):
            shutil.copyfile(shard, out / "data" / f"{split}-{i:05d}-of-{len(shards):05d}.parquet")
        if shards:
            counts[split] = sum(map(num_rows, shards))
    write_bytes(out / "README.md", _card(run, counts).encode())
    return counts


def _card(run: RunFolder, counts: dict[str, int]) -> str:
    """A data set card that tells `datasets` where the splits are, from `summary.json`."""
    prepared = Prepared.read(run.prepared / "summary.json")
    language = get_language(prepared.language)
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in counts]
    data = DatasetCardData(
        language=language.code,
        task_categories=["automatic-speech-recognition"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    rows = "".join(f"| {split} | {counts[split]} | {getattr(prepared, split).hours} |\n" for split in counts)
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {language.name} speech, audited\n\n"
        "Kept by `shibolet prepare`: what the audit found wrong is left out, what was too long is cut at words, each\n"
        "piece with its own text. `origin_id`, `origin_start_s` and `origin_end_s` say where in its source it lay.\n\n"
        f"{_on_authors(run)}| split | utterances | hours |\n|---|---|---|\n{rows}\n"
        f"{prepared.utterances.dropped} of {prepared.utterances.given} utterances were dropped. The licences of the "
        "sources bind this copy too.\n"
    )


def _on_authors(run: RunFolder) -> str:
    """A paragraph on texts by machines; empty where there are none."""
    if not (found := written_by_machines(run.prepared)):
        return ""
    labelled = _labelled(run)
    names = labelled and " or ".join(public_name(name) for name in labelled.wrote)
    counts = ", ".join(f"{one.utterances:,} utterances ({one.hours:.3f} h) {kind}" for kind, one in found.items())
    return (
        f"Of some training utterances a model wrote the text{f', {names}' if names else ''}: {counts}. `text_by` says "
        "of which: labelled ones came without a text, corrected ones with another.\n\n"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """A row of a split whose audio was written to a file."""

    id: str
    text: str
    source: str
    domain: str | None
    recording: str | None
    speaker: str | None
    language: str | None
    origin_id: str
    text_by: str | None = None  # as a shard has it; None: the text came with the data
    path: str  # of the file, relative
    info: sf._SoundFileInfo

    @property
    def duration_s(self) -> float:
        return self.info.frames / self.info.samplerate


_OF_ROW = [field.name for field in fields(_Written) if field.name not in ("path", "info", "text_by")]


def _labelled(run: RunFolder) -> Labelled | None:
    """Of a run in which models wrote texts of the training data."""
    path = run.labelled / "label.json"
    return Labelled.read(path) if path.is_file() else None


def _authors(run: RunFolder) -> Callable[["_Written"], dict[str, str]]:
    """What a row says of who wrote its text: a model is named."""
    labelled = _labelled(run)

    def author(row: "_Written") -> dict[str, str]:
        by_model = labelled and row.text_by in WRITTEN
        named = {"text_model": public_name(labelled.author(row.domain))} if by_model else {}
        return {"text_by": row.text_by or FROM_DATA, **named}

    return author


def _write_audio(run: RunFolder, out: Path, split: str) -> Iterator[_Written]:
    """Each row of a split, its audio in a file."""
    (out / "audio" / split).mkdir(parents=True)
    rows = (row for shard in _shards(run, split) for row in _rows(shard))
    for number, (flac, *values) in enumerate(rows):
        path = f"audio/{split}/{number:07d}.flac"  # ids may hold what no file name may
        (out / path).write_bytes(flac)
        row = dict(zip((*_OF_ROW, "text_by"), values))  # an older version has no `text_by`
        try:
            info = sf.info(io.BytesIO(flac))
        except sf.LibsndfileError as error:
            raise DataError(
                f"{run.prepared}: utterance '{row['id']}' cannot be decoded ({error}); run 'shibolet prepare' again"
            ) from error
        yield _Written(**row, path=path, info=info)


def _rows(shard: Path) -> Iterator[tuple]:
    columns = [*_OF_ROW, "text_by"] if has_columns(shard, "text_by") else _OF_ROW
    return read_shard(shard, "audio", *columns)


def _write_lhotse(run: RunFolder, out: Path) -> dict[str, int]:
    counts, author = {}, _authors(run)
    for split in SPLITS:
        recordings, supervisions = [], []
        for row in _write_audio(run, out, split):
            recordings.append(
                {
                    "id": row.id,
                    "sources": [{"type": "file", "channels": [0], "source": row.path}],
                    "sampling_rate": row.info.samplerate,
                    "num_samples": row.info.frames,
                    "duration": row.duration_s,
                    "channel_ids": [0],
                }
            )
            custom = {name: getattr(row, name) for name in ("source", "domain", "recording", "origin_id")}
            custom |= author(row)
            supervision = {
                "id": row.id, "recording_id": row.id, "start": 0.0, "duration": row.duration_s, "channel": 0,
                "text": row.text, "language": row.language, "speaker": row.speaker,
                "custom": {name: value for name, value in custom.items() if value is not None},
            }  # fmt: skip
            supervisions.append({key: value for key, value in supervision.items() if value is not None})
        _write_jsonl_gz(out / f"{split}_recordings.jsonl.gz", recordings)
        _write_jsonl_gz(out / f"{split}_supervisions.jsonl.gz", supervisions)
        counts[split] = len(recordings)
    return counts


def _write_nemo(run: RunFolder, out: Path) -> dict[str, int]:
    counts, author = {}, _authors(run)
    for split in SPLITS:
        lines = []
        for row in _write_audio(run, out, split):
            code = get_language(row.language).code if row.language else None
            line = {
                "audio_filepath": row.path, "duration": row.duration_s, "text": row.text, "lang": code,
                "speaker": row.speaker, "id": row.id, **author(row),
            }  # fmt: skip
            lines.append({key: value for key, value in line.items() if value is not None})
        write_bytes(out / f"{split}_manifest.jsonl", b"".join(_lines(lines)))
        counts[split] = len(lines)
    return counts


def _write_verdicts(run: RunFolder, out: Path) -> dict[str, int]:
    """The audit's tables in one, `pass` saying which; the audio's place is named by file, not by folder."""
    named = {
        "sample": run.audited_utterances(),
        "rest": run.audited_rest,
        "kept": run.audited_utterances(prepared=True),
    }
    tables, counts = [], {}
    for name, path in named.items():
        if not path.is_file():
            continue
        table = to_table(map(_without_folder, read_audited(path)))
        tables.append(table.append_column("pass", pa.array([name] * len(table), pa.string())))
        counts[name] = len(table)
    if not tables:
        raise DataError(f"{run.path}: nothing was audited here yet; run 'shibolet audit'")
    pq.write_table(pa.concat_tables(tables, promote_options="default"), out / "verdicts.parquet")
    return counts


def _without_folder(row: Audited) -> Audited:
    """The row with its audio named by file, in its reasons too."""
    if row.audio is None:
        return row
    folder, _, name = row.audio.path.rpartition("/")
    reasons = tuple(reason.replace(f"{folder}/", "") for reason in row.reasons) if folder else row.reasons
    return replace(row, audio=replace(row.audio, path=name), reasons=reasons)


def _lines(rows: Iterable[dict]) -> Iterator[bytes]:
    return (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _write_jsonl_gz(path: Path, rows: Iterable[dict]) -> None:
    write_bytes(path, gzip.compress(b"".join(_lines(rows)), mtime=0))  # the same rows, the same bytes


_WRITERS: dict[str, Callable[[RunFolder, Path], dict[str, int]]] = {
    "datasets": _write_datasets,
    "lhotse": _write_lhotse,
    "nemo": _write_nemo,
    "verdicts": _write_verdicts,
}
