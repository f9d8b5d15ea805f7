"""Sources: every row becomes an utterance or a ledger line with its reason, for each shape that users' data have."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from pydantic import ValidationError

from shibolet.errors import DataError
from shibolet.recipe import load_recipe
from shibolet.records.ledger import count_by_rule
from shibolet.speech import hub
from shibolet.speech.audio import SAMPLE_RATE_HZ, content_hash, encode_flac, load
from shibolet.speech.known_sources import KNOWN_SOURCES
from shibolet.speech.read import all_capitals, read_source
from shibolet.speech.sources import DataSource

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def tone(duration_s: float) -> np.ndarray:
    return (0.3 * np.sin(np.arange(round(duration_s * SAMPLE_RATE_HZ)) * 0.1)).astype(np.float32)


@pytest.fixture
def manifest(tmp_path):
    """Writes a manifest whose rows are dicts or raw lines, beside a 2 s and a 3 s recording."""
    sf.write(tmp_path / "two.wav", tone(2.0), SAMPLE_RATE_HZ)
    sf.write(tmp_path / "three.flac", tone(3.0), SAMPLE_RATE_HZ)

    def write(*rows: dict | str | bytes) -> Path:
        lines = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
        path = tmp_path / "manifest.jsonl"
        path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
        return path

    return write


def read(source: DataSource, tmp_path: Path, **kwargs):
    return read_source(source, tmp_path / "cache", **kwargs)


def test_manifest_row_with_every_field(manifest, tmp_path):
    path = manifest(
        {
            "audio": "three.flac", "text": " שלום עולם ", "id": 7, "recording": "r", "speaker": "s", "domain": "d",
            "language": "he", "start_s": 1, "end_s": 2.5, "sample_rate": 16000,
        },
    )  # fmt: skip
    (utterance,), ledger = read(DataSource(name="mine", manifest=path), tmp_path)
    assert ledger == []
    assert (utterance.id, utterance.source, utterance.text) == ("7", "mine", "שלום עולם")
    assert (utterance.recording, utterance.speaker, utterance.domain) == ("r", "s", "d")
    assert (utterance.language, utterance.duration_s) == ("Hebrew", 1.5)
    assert Path(utterance.audio.path).is_absolute()
    assert len(load(utterance.audio)) == round(1.5 * SAMPLE_RATE_HZ)


def test_official_form_and_ids_from_paths(manifest, tmp_path):
    """The prefix of the official form is not part of what is said; ids that are not given are unique and repeatable."""
    path = manifest(
        {"audio": "two.wav", "text": "language English<asr_text>a"},
        {"audio": "two.wav", "text": "language None<asr_text>b"},
        {"audio": "three.flac", "text": "c", "start_s": 1.5},
        "",
        {"audio": "three.flac", "text": "<|0.00|>d<|1.00|>", "language": "en-GB"},
    )
    source = DataSource(name="mine", manifest=path, language="English", timestamps=False)
    utterances, ledger = read(source, tmp_path)
    assert [u.id for u in utterances] == ["two.wav", "two.wav-2", "three.flac@1.5", "three.flac"]
    assert [u.text for u in utterances] == ["a", "b", "c", "d"]
    assert [u.language for u in utterances] == ["English"] * 4
    assert [u.duration_s for u in utterances] == [2.0, 2.0, 1.5, 3.0]
    assert ledger == []


BAD_ROWS = {
    "missing_file": {"audio": "absent.wav", "text": "a"},
    "undecodable": {"audio": "text.mp3", "text": "a"},
    "empty_audio": {"audio": "no_samples.wav", "text": "a"},
    "missing_audio": {"text": "a"},
    "missing_audio ": {"audio": {"path": "two.wav"}, "text": "a"},
    "empty_text": {"audio": "two.wav", "text": " \u200f\n"},
    "empty_text ": {"audio": "two.wav", "text": "language Hebrew<asr_text>"},
    "empty_text  ": {"audio": "two.wav", "text": "<|0.00|><|2.00|>"},
    "text_too_long": {"audio": "two.wav", "text": "א" * 100_000},
    "control_character": {"audio": "two.wav", "text": "a\x00b"},
    "control_character ": {"audio": "two.wav", "text": "\x1b[31mred"},
    "markup": {"audio": "two.wav", "text": "<i>a</i> b"},
    "markup ": {"audio": "two.wav", "text": "a &amp; b"},
    "markup  ": {"audio": "two.wav", "text": "a <unk> b"},
    "text_not_string": {"audio": "two.wav", "text": 5},
    "text_not_string ": {"audio": "two.wav", "text": None},
    "text_not_string  ": {"audio": "two.wav"},
    "bad_duration": '{"audio": "two.wav", "text": "a", "duration": NaN}',
    "bad_duration ": {"audio": "two.wav", "text": "a", "duration": -1},
    "bad_duration  ": {"audio": "two.wav", "text": "a", "duration": 10**400},
    "bad_duration   ": {"audio": "two.wav", "text": "a", "duration": "2 s"},
    "bad_duration    ": {"audio": "two.wav", "text": "a", "duration": 90000.0},
    "bad_span": {"audio": "two.wav", "text": "a", "start_s": 1.0, "end_s": 1.0},
    "bad_span ": {"audio": "two.wav", "text": "a", "start_s": -1.0},
    "bad_span  ": {"audio": "two.wav", "text": "a", "start_s": "0,5"},
    "bad_span   ": {"audio": "two.wav", "text": "a", "start_s": 2.0},
    "span_beyond_audio": {"audio": "two.wav", "text": "a", "end_s": 2.6},
    "span_beyond_audio ": {"audio": "two.wav", "text": "a", "start_s": 2.0, "end_s": 2.05},
    "not_json": '{"audio": "two.wav", "text"',
    "not_json ": '["two.wav", "a"]',
    "not_utf8": b'{"audio": "two.wav", "text": "\xff"}',
    "not_json  ": r'{"audio": "two.wav", "text": "\ud800"}',
    "not_json   ": "[" * 100_000,
}


def test_each_bad_row_goes_to_the_ledger_with_its_rule(manifest, tmp_path):
    """One bad row must not stop the others or vanish: rows in = utterances + ledger lines."""
    (tmp_path / "text.mp3").write_text("not audio at all " * 100)
    sf.write(tmp_path / "no_samples.wav", np.zeros(0, np.float32), SAMPLE_RATE_HZ)
    good = {"audio": "two.wav", "text": "good"}
    untouched = "a\u200f <b & c\x85 [noise] 3 < 4"
    path = manifest(good, *BAD_ROWS.values(), {**good, "end_s": 2.05}, {**good, "text": untouched})
    utterances, ledger = read(DataSource(name="mine", manifest=path), tmp_path)
    assert [u.text for u in utterances] == ["good", "good", untouched]
    assert utterances[1].duration_s == 2.0  # an end that rounding put beyond the audio
    assert [line.rule for line in ledger] == [rule.strip() for rule in BAD_ROWS]
    for number, line in enumerate(ledger, 2):
        assert f"line {number}" in (line.id, line.detail.split(":")[0])
        assert line.stage == "read" and line.source == "mine" and line.detail


def test_nothing_usable(manifest, tmp_path):
    """A wrong folder gives one clear error with the first reasons, not an empty data set."""
    path = manifest(*({"audio": f"{n}.wav", "text": "a"} for n in range(5)))
    with pytest.raises(DataError) as caught:
        read(DataSource(name="mine", manifest=path), tmp_path)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "none of 5 rows" in message and message.count("missing_file") == 3 and "0.wav" in message
    with pytest.raises(DataError, match="has no rows"):
        read(DataSource(name="mine", manifest=manifest("")), tmp_path)
    with pytest.raises(DataError, match=r"manifest .*absent.jsonl cannot be read"):
        read(DataSource(name="mine", manifest=tmp_path / "absent.jsonl"), tmp_path)


def test_duplicate_ids_are_an_error(manifest, tmp_path):
    """Two utterances with one id would share verdicts, hypotheses and augmentation."""
    rows = [{"audio": "two.wav", "text": "a", "id": id} for id in ("x", "y", "x")]
    with pytest.raises(DataError, match="id 'x' stands at line 1 and at line 3"):
        read(DataSource(name="mine", manifest=manifest(*rows)), tmp_path)
    utterances, _ = read(DataSource(name="mine", manifest=manifest(*rows), columns={"id": None}), tmp_path)
    assert len({u.id for u in utterances}) == 3


def test_one_repeated_id_costs_its_row(manifest, tmp_path):
    """Row 5 of many must not stop the others; more than a slip says that the column holds something else."""
    rows = [{"audio": "two.wav", "text": "a", "id": n} for n in range(200)]
    rows[5] = rows[3]
    utterances, (line,) = read(DataSource(name="mine", manifest=manifest(*rows)), tmp_path)
    assert len(utterances) == 199 and (line.id, line.rule) == ("line 6", "repeated_id")
    assert "id '3' stands at line 4 and at line 6" in line.detail


def test_hours_in_one_row(tmp_path):
    """A ten-hour recording without spans would fill the memory; with spans each is as good as another."""
    silence = np.zeros(10 * 3600 * 100, np.int16)  # at 4,000 Hz a tenth of it
    with sf.SoundFile(tmp_path / "long.flac", "w", 4000, 1, "PCM_16") as file:
        for _ in range(40):
            file.write(silence)
    rows = [
        {"audio": "long.flac", "text": "a"},
        {"audio": "long.flac", "text": "b", "start_s": 35990, "end_s": 35999.5},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    (utterance,), (line,) = read(DataSource(name="mine", manifest=path), tmp_path)
    assert (line.rule, line.duration_s) == ("too_long", 36000) and "36,000 s where 3,600 s" in line.detail
    assert len(load(utterance.audio)) == 9.5 * SAMPLE_RATE_HZ


def test_flags_are_the_booleans_of_a_struct(manifest, tmp_path):
    """What people noted is a free check of the audit: nothing noted is not the same as nobody asked."""
    structs = [
        {"too_long": True, "noisy": True, "max_logprob": -0.2, "skipped": None}, {"noisy": False}, {"noisy": None},
        None, ["noisy"], {"duration": 2.0},
    ]  # fmt: skip
    path = manifest(*({"audio": "two.wav", "text": "a", "extra": struct} for struct in structs))
    utterances, _ = read(DataSource(name="mine", manifest=path, columns={"flags": "extra"}), tmp_path)
    assert [u.flags for u in utterances] == [("noisy", "too_long"), (), None, None, None, None]


def test_columns_limit_and_progress(manifest, tmp_path):
    """Other people's names of fields; the limit takes usable rows; progress ends at the total."""
    rows = [{"wav": "two.wav", "extra": {"words": "a", "noisy": n % 2 == 0}} for n in range(600)]
    path = manifest({"wav": "absent.wav", "extra": {"words": "a"}}, *rows)
    columns = {"audio": "wav", "text": "extra.words", "domain": "extra.noisy"}
    seen = []
    source = DataSource(name="mine", manifest=path, columns=columns)
    utterances, ledger = read(source, tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert len(utterances) == 600 and len(ledger) == 1
    assert [u.domain for u in utterances[:3]] == ["noisy", None, "noisy"]
    assert seen[-1] == (601, 601) and seen == sorted(seen)
    few, _ = read(source.model_copy(update={"max_utterances": 3}), tmp_path)
    assert few == utterances[:3]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "needs one of manifest, hub, parquet"),
        ({"hub": "a/b", "split": "train", "parquet": "x"}, "needs one of"),
        ({"hub": "a/b"}, "name the split"),
        ({"hub": "a/b", "split": "train[:10]"}, "max_utterances"),
        ({"parquet": "x", "split": "train"}, "split belong"),
        ({"manifest": "x", "streaming": True}, "streaming belongs"),
        ({"parquet": "x", "colums": {}}, "colums"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValidationError, match=message):
        DataSource(name="mine", **settings)


def encoded(duration_s: float) -> dict:
    return {"bytes": encode_flac(tone(duration_s)), "path": "clip.flac"}


HUB_ROWS = {
    "ivrit-ai/crowd-transcribe-v5": {
        "uuid": ["u1", "u2"], "audio": [encoded(1.0), encoded(2.0)], "orig_sentence": ["x", "y"],
        "sentence": ["שלום", "עולם"], "is_retranscribe": [False, True], "transcriber": ["t", "t"],
        "extra_data": [{"duration": 1.0, "noisy": True}, {"duration": 2.0, "noisy": False}],
    },
    "ivrit-ai/eval-d1": {"audio": [encoded(1.0)], "text": ["שלום"], "uuid": ["a"]},
    "ivrit-ai/eval-whatsapp": {"audio": [encoded(1.0)], "text": ["שלום"]},
    "upai-inc/saspeech": {"audio": [encoded(1.0)], "text": ["שלום"]},
    "google/fleurs": {
        "id": [3, 3], "audio": [encoded(1.0), encoded(1.5)], "transcription": ["שלום", "שלום"],
        "raw_transcription": ["שלום.", "שלום."], "gender": [0, 1], "language": ["Hebrew", "Hebrew"],
    },
    "mozilla-foundation/common_voice_17_0": {
        "client_id": ["s1", "s2"], "path": ["a.mp3", "b.mp3"], "audio": [encoded(1.0), encoded(1.5)],
        "sentence": ["שלום", "עולם"], "locale": ["he", "he"],
    },
    "imvladikon/hebrew_speech_kan": {"audio": [encoded(1.0)], "sentence": ["שלום"]},
    "ivrit-ai/crowd-recital-whisper-training": {
        "audio": [encoded(10.0), encoded(6.0), encoded(3.0)],
        "transcript": [
            "<|0.00|> אחת<|2.40|><|2.60|> שתיים<|6.00|><|6.20|>",
            "<|0.00|> שלוש<|6.04|>",
            "<|1.00|>",
        ],
        "metadata": [{"seek": s, "source": "src", "entry_id": e} for s, e in ((0.0, "e1"), (6.0, "e1"), (0.0, "e2"))],
        "has_prev": [False, True, False], "has_timestamps": [True] * 3,
        "prev_transcript": ["", "<|0.00|> אחת<|2.40|>", ""],
    },
}  # fmt: skip


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    """A Hub of local repositories, each with one Parquet file of the split that the source asks for."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    asked = []

    def publish(id: str, rows: dict, split: str) -> Path:
        data = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(16000))
        folder = tmp_path / id / "data"
        folder.mkdir(parents=True)
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        return folder

    def load_dataset(id, config, split, **kwargs):
        asked.append((id, config, split))
        return datasets.load_dataset(str(tmp_path / id), split=split, cache_dir=str(tmp_path / "hf"), **kwargs)

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    publish.asked = asked
    return publish


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("id", KNOWN_SOURCES)
def test_known_sources(local_hub, tmp_path, id, streaming):
    """Each data set of the specification is read from its id alone, from the cache and streamed alike."""
    source = DataSource(name="set", hub=id, streaming=streaming)
    local_hub(id, HUB_ROWS[id], source.split)
    utterances, ledger = read(source, tmp_path)
    assert local_hub.asked == [(id, KNOWN_SOURCES[id].get("config"), source.split)]
    assert all(u.language == "Hebrew" and u.source == "set" for u in utterances)
    assert all(Path(u.audio.path).suffix == (".parquet" if streaming else ".arrow") for u in utterances)
    if id == "ivrit-ai/crowd-recital-whisper-training":
        check_whisper_slices(utterances, ledger)
        return
    assert ledger == []
    rows = HUB_ROWS[id]
    assert [u.text for u in utterances] == rows[source.columns.text]
    cells = [hashlib.sha256(cell["bytes"]).hexdigest() for cell in rows["audio"]]
    assert [content_hash(u.audio) for u in utterances] == cells
    assert [u.recording for u in utterances] == [None] * len(utterances)
    assert len({u.id for u in utterances}) == len(utterances)
    if id == "ivrit-ai/crowd-transcribe-v5":
        assert [u.id for u in utterances] == ["u1", "u2"]
        assert [u.flags for u in utterances] == [("noisy",), ()]
    if id == "mozilla-foundation/common_voice_17_0":
        assert [u.speaker for u in utterances] == ["s1", "s2"]


def test_a_known_source_can_be_read_in_another_format():
    """What is known of it speaks of its plain texts, and is no reason to refuse what the recipe says."""
    entry = {"name": "set", "hub": "ivrit-ai/crowd-transcribe-v5"}
    assert DataSource(**entry).timestamps is False and DataSource(**entry, format="plain").timestamps is False
    assert DataSource(**entry, format="whisper_slices").timestamps is None
    with pytest.raises(ValueError, match="format whisper_slices cuts at the timestamps"):
        DataSource(**entry, format="whisper_slices", timestamps=False)


def check_whisper_slices(utterances, ledger):
    """Closed segments with their own audio; what an open start leaves without text is dropped and said."""
    assert [(u.id, u.text, u.recording) for u in utterances] == [
        ("set-000000-00", "אחת", "e1"), ("set-000000-01", "שתיים", "e1"), ("set-000001-00", "שלוש", "e1"),
    ]  # fmt: skip
    assert [(u.audio.start_s, u.audio.end_s) for u in utterances] == [(0.0, 2.4), (2.6, 6.0), (0.0, 6.0)]
    assert [len(load(u.audio)) for u in utterances] == [round(u.duration_s * SAMPLE_RATE_HZ) for u in utterances]
    lost = [(line.id, line.rule, round(line.duration_s, 3)) for line in ledger]
    assert lost == [("set-000000-tail", "open_tail", 3.8), ("set-000002", "empty_text", 3.0)]


def test_whole_slices_as_the_whisper_recipe_reads_them(local_hub, tmp_path):
    """The data set of the recipe: texts without tokens up to the last closed time, times and previous text beside."""
    recital = load_recipe("hebrew-whisper-turbo").data.train[1]
    local_hub(recital.hub, HUB_ROWS[recital.hub], recital.split)
    (first, second), ledger = read(recital, tmp_path)
    assert (first.text, first.previous, first.recording) == ("אחת שתיים", None, "e1")
    assert (first.timed_text, first.audio.end_s) == ("<|0.00|> אחת<|2.40|><|2.60|> שתיים<|6.00|>", 6.2)
    assert (second.text, second.previous, second.duration_s) == ("שלוש", "אחת", 6.0)
    assert [line.rule for line in ledger] == ["open_tail", "empty_text"]


def test_whisper_slices_that_are_not_whole(manifest, tmp_path):
    """Text without a time, times that run backwards or beyond the slice: dropped by name, the rest is kept."""
    path = manifest(
        {"audio": "three.flac", "id": "a", "text": "before<|0.00|>one<|1.00|><|1.00|>two<|0.50|>"},
        {"audio": "three.flac", "id": "b", "text": "no times at all"},
        {"audio": "three.flac", "id": "c", "text": "<|0.00|>one<|2.00|><|2.00|>two<|9.00|>"},
        {"audio": "three.flac", "id": "d", "text": "<|0.00|>one<|2.00|><|2.20|>open"},
    )
    utterances, ledger = read(DataSource(name="mine", manifest=path, format="whisper_slices"), tmp_path)
    assert [u.id for u in utterances] == ["a-00", "c-00", "d-00"]
    assert [(line.id, line.rule) for line in ledger] == [
        ("a", "untimed_text"), ("a-01", "bad_span"), ("b", "no_timestamps"), ("c-01", "span_beyond_audio"),
        ("d-tail", "open_tail"),
    ]  # fmt: skip


def test_stream_that_was_cut_off_is_continued(local_hub, tmp_path, monkeypatch):
    """After a crash the shards that are there are kept; after the end the Hub is not asked again."""
    monkeypatch.setattr(hub, "SHARD_ROWS", 2)
    rows = {"audio": [encoded(1 + n / 10) for n in range(5)], "text": [f"t{n}" for n in range(5)]}
    local_hub("me/set", rows, "train")
    source = DataSource(name="set", hub="me/set", split="train", streaming=True)
    few, _ = read(source.model_copy(update={"max_utterances": 1}), tmp_path)
    assert [u.text for u in few] == ["t0"]
    assert len(list((tmp_path / "cache").rglob("*.parquet"))) == 1  # no more was read than needed
    every, _ = read(source, tmp_path)
    assert [u.text for u in every] == [f"t{n}" for n in range(5)]
    assert [round(u.duration_s, 3) for u in every] == [1.0, 1.1, 1.2, 1.3, 1.4]
    num_asked = len(local_hub.asked)
    again, _ = read(source, tmp_path)
    assert again == every and len(local_hub.asked) == num_asked == 2
    shard = sorted((tmp_path / "cache").rglob("*.parquet"))[1]
    whole = shard.read_bytes()
    pq.write_table(pq.read_table(shard).slice(0, 1), shard)  # a row less would pass as all of the data
    with pytest.raises(DataError, match=r"has 3 shards with 4 rows, .* delete the folder to read it again"):
        read(source, tmp_path)
    shard.unlink()
    with pytest.raises(DataError, match="has 2 shards with 3 rows"):
        read(source, tmp_path)
    shard.write_bytes(whole)
    assert read(source, tmp_path)[0] == every


def test_local_parquet(tmp_path):
    """Files in place, in order of their names; bad cells have reasons; a column that is not there is named."""
    for number, cells in enumerate([[encoded(1.0), None], [{"bytes": b"junk", "path": None}, encoded(2.0)]]):
        table = pa.table({"audio": cells, "said": ["a", "b"], "start_s": [0.25, 0.0]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    source = DataSource(name="mine", parquet=tmp_path / "*.parquet", columns={"text": "said"})
    utterances, ledger = read(source, tmp_path)
    assert [(u.id, u.audio.row, u.duration_s) for u in utterances] == [
        ("mine-000000", 0, 0.75),
        ("mine-000003", 1, 2.0),
    ]
    assert [(line.id, line.rule) for line in ledger] == [
        ("mine-000001", "missing_audio"), ("mine-000002", "undecodable"),
    ]  # fmt: skip
    assert ledger[1].detail.startswith("row 0 of 1.parquet: ")
    with pytest.raises(DataError, match="has no column 'text', only audio, said, start_s"):
        read(DataSource(name="mine", parquet=source.parquet), tmp_path)
    with pytest.raises(DataError, match=r"has no column 'said.he'"):
        read(DataSource(name="mine", parquet=source.parquet, columns={"text": "said.he"}), tmp_path)
    with pytest.raises(DataError, match="no file matches"):
        read(DataSource(name="mine", parquet=tmp_path / "*.pq"), tmp_path)
    (tmp_path / "0.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match=r"table .*0.parquet cannot be read"):
        read(source, tmp_path)


@pytest.mark.parametrize(
    "error, message",
    [
        (
            datasets.exceptions.DatasetNotFoundError("'a/b' is a gated dataset on the Hub."),
            "is gated: ask for access at",
        ),
        (datasets.exceptions.DatasetNotFoundError("'a/b' doesn't exist"), "does not exist or is private: look at"),
        (ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"), "not in the local cache"),
        (ValueError('Unknown split "tset".\nMore.'), r'config None, split test\): Unknown split "tset".$'),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_hub_errors_say_what_to_do(tmp_path, monkeypatch, error, message, streaming):
    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    source = DataSource(name="set", hub="a/b", split="test", streaming=streaming)
    with pytest.raises(DataError, match=rf"source 'set': Hub data set 'a/b'.*{message}"):
        read(source, tmp_path)


def test_presets_give_way_to_the_recipe():
    """What is known is only a default, and a resolved recipe reads back as itself."""
    source = DataSource(name="v", hub="google/fleurs", split="validation", columns={"text": "raw_transcription"})
    assert (source.config, source.split) == ("he_il", "validation")
    assert (source.columns.text, source.columns.id) == ("raw_transcription", None)
    assert DataSource(**source.model_dump()) == source
    assert source.columns.required == ["audio", "raw_transcription"]


@pytest.mark.parametrize("name, language, count", [("yesno_he", "Hebrew", 46), ("an4_en", "English", 300)])
def test_real_manifests(tmp_path, name, language, count):
    path = SHARED / name / "manifest.jsonl"
    if not path.exists():
        pytest.skip("shared/data is not beside the repository")
    utterances, ledger = read(DataSource(name=name, manifest=path), tmp_path)
    assert len(utterances) == count and count_by_rule(ledger) == {}
    declared = [json.loads(line)["duration"] for line in path.read_text().splitlines()]
    assert [u.duration_s for u in utterances] == pytest.approx(declared, abs=0.06)
    assert {u.language for u in utterances} == {language} and all(u.speaker for u in utterances)


def test_settings_load_without_decoders():
    """`shibolet --help` loads the recipe's classes; decoders, pyarrow and datasets would cost it seconds."""
    code = (
        "import sys, shibolet.speech.sources; "
        "print([m for m in ('numpy', 'av', 'soundfile', 'pyarrow', 'datasets', 'torch', 'scipy') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_texts_in_capital_letters_are_told_and_can_be_small(manifest, tmp_path):
    """A Whisper that is trained on capitals writes FOURTY."""
    rows = [{"audio": "two.wav", "text": "ENTER FORTY ONE"}, {"audio": "three.flac", "text": "É 41"}]
    as_written = DataSource(name="an4", manifest=manifest(*rows))
    utterances, _ = read(as_written, tmp_path)
    assert [u.text for u in utterances] == ["ENTER FORTY ONE", "É 41"]
    assert "'ENTER FORTY ONE'" in (advice := all_capitals(utterances, "an4")) and "letter_case: lower" in advice
    small, _ = read(as_written.model_copy(update={"letter_case": "lower"}), tmp_path)
    assert [u.text for u in small] == ["enter forty one", "é 41"] and all_capitals(small, "an4") is None
    letterless, _ = read(DataSource(name="he", manifest=manifest({"audio": "two.wav", "text": "שלום 41"})), tmp_path)
    assert all_capitals(letterless, "he") is None
    rows = [{"audio": "two.wav", "text": "ראיתי את זה ב CNN"}, {"audio": "three.flac", "text": "שלום לכולם"}]
    acronym, _ = read(DataSource(name="he", manifest=manifest(*rows)), tmp_path)
    assert all_capitals(acronym, "he") is None
