"""Timestamps and previous texts of sources: protects from `<|1.24|>` in a text, and from times of another audio."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from shibolet.errors import DataError
from shibolet.prepare.pieces import Piece
from shibolet.prepare.shards import ShardWriter
from shibolet.records.ledger import LedgerLine
from shibolet.records.manifest import manifest_hash, read_manifest, write_manifest
from shibolet.records.runfolder import RunFolder
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import encode_flac
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource
from shibolet.speech.whisper_slices import rewritten

SLICE = "<|0.00|> אחת,<|1.00|><|1.20|> שתיים<|2.00|>"


@pytest.fixture
def read(tmp_path: Path):
    """Rows of 3 s of noise, in the format of a manifest, to utterances and ledger."""
    sf.write(tmp_path / "a.wav", np.zeros(48_000, np.float32), 16_000)

    def made(*rows: dict, **source) -> tuple[list[Utterance], list[LedgerLine]]:
        lines = [json.dumps({"audio": "a.wav", **row}, ensure_ascii=False) for row in rows]
        (tmp_path / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return read_source(DataSource(name="s", manifest=tmp_path / "m.jsonl", **source), tmp_path)

    return made


def test_timestamps_stand_beside_the_text(read):
    """The text is the same as without them; a row that has none is a plain one."""
    (timed, plain), ledger = read({"text": SLICE}, {"text": "שלוש"}, timestamps=True)
    assert (timed.text, timed.timed_text, timed.duration_s) == ("אחת, שתיים", SLICE, 3.0)
    assert (plain.text, plain.timed_text) == ("שלוש", None) and ledger == []
    (bare,), _ = read({"text": SLICE}, timestamps=True, punctuation="none")
    assert (bare.text, bare.timed_text) == ("אחת שתיים", SLICE.replace(",", ""))
    (without,), _ = read({"text": SLICE}, timestamps=False)
    assert without.text.split() == ["אחת,", "שתיים"] and without.timed_text is None


def test_audio_that_the_text_does_not_cover_leaves(read):
    """An open start says that what follows has no text: OpenAI's training cuts it off where no times are asked for."""
    (one,), (line,) = read({"text": f"{SLICE}<|2.40|>"}, timestamps=True)
    assert (one.audio.end_s, one.duration_s, one.text) == (2.4, 2.4, "אחת, שתיים")
    assert (line.rule, round(line.duration_s, 3)) == ("open_tail", 0.6)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("לפני <|0.00|> אחת<|1.00|>", "no_timestamps"),
        ("<|0.00|> אחת", "no_timestamps"),
        ("<|1.00|> אחת<|0.50|>", "bad_timestamps"),
        ("<|0.00|> אחת<|2.00|><|1.00|> שתיים<|2.50|>", "bad_timestamps"),
        ("<|0.00|> אחת<|9.00|>", "bad_timestamps"),
    ],
)
def test_times_that_cannot_be_are_a_line_of_the_ledger(read, text: str, rule: str):
    utterances, ledger = read({"text": text}, {"text": "שלוש"}, timestamps=True)
    assert [one.text for one in utterances] == ["שלוש"] and [line.rule for line in ledger] == [rule]


def test_a_source_says_whether_its_texts_have_timestamps(read):
    """The audio after an open start would be trained without its words, and nobody would know."""
    with pytest.raises(DataError, match=r"source 's': the text at line 2 has timestamps, such as <\|0\.00\|>: say"):
        read({"text": "שלוש"}, {"text": SLICE})
    with pytest.raises(ValueError, match="format whisper_slices cuts at the timestamps"):
        read({"text": SLICE}, timestamps=True, format="whisper_slices")


def test_timestamps_of_prepared_data_are_read_again(tmp_path: Path):
    """Data that a round has audited are a source of another; the times that it kept stand in a column of their own."""
    stage = RunFolder(tmp_path).prepared
    stage.mkdir(parents=True)
    flac = encode_flac(np.zeros(48_000, np.float32))
    writer = ShardWriter(stage, "train", 1000)
    for name, timed in (("a", SLICE), ("b", None), ("c", "<|0.00|> אחרת<|1.00|>")):
        audio = AudioRef(path="")
        one = Utterance(id=name, audio=audio, text="אחת, שתיים", duration_s=3.0, source="s", timed_text=timed)
        writer.add(Piece.whole(one, flac), flac)
    writer.close()

    def times(**source) -> list[str | None]:
        found, _ = read_source(DataSource(name="s", parquet=stage / "train-*.parquet", **source), tmp_path)
        return [one.timed_text for one in found]

    assert times(timestamps=True) == [SLICE, None, None] and times() == times(timestamps=False) == [None] * 3


def test_a_source_without_any_timestamp_does_not_say_that_it_has_some(read):
    """`train.timestamps_frac` would do nothing, and nobody would know."""
    with pytest.raises(DataError, match=r"source 's': `timestamps: true`, and none of its 2 texts has one"):
        read({"text": "אחת"}, {"text": "שתיים"}, timestamps=True)


@pytest.mark.parametrize("name", ["previous", "prev_transcript", "previous_text"])
def test_what_was_said_before_is_found_by_its_usual_names(read, name: str):
    rows = ({"text": "אחת", name: f"{SLICE}  <|2.40|>"}, {"text": "b", name: ""}, {"text": "c", name: "<b>d</b>"})
    utterances, ledger = read(*rows)
    assert [one.previous for one in utterances] == ["אחת, שתיים", None, None] and ledger == []
    utterances, _ = read(*rows, columns={"previous": None})
    assert [one.previous for one in utterances] == [None] * 3
    utterances, _ = read({"text": "<|0.00|> אחת<|1.00|>", name: "לפני"}, format="whisper_slices")
    assert [one.previous for one in utterances] == [None]


def test_manifests_keep_them_and_others_stay_as_they_were(read, tmp_path: Path):
    """The hash of a manifest without them is that of earlier versions: nothing runs again for two empty fields."""
    (timed, plain), _ = read({"text": SLICE, "prev_transcript": "לפני"}, {"text": "שלוש"}, timestamps=True)
    write_manifest(tmp_path / "kept.jsonl", [timed, plain])
    assert read_manifest(tmp_path / "kept.jsonl") == [timed, plain]
    first, second = map(json.loads, (tmp_path / "kept.jsonl").read_text(encoding="utf-8").splitlines())
    assert first["previous"] == "לפני" and not {"previous", "timed_text"} & second.keys()
    assert manifest_hash([timed]) != manifest_hash([Utterance.from_json({**timed.to_json(), "previous": "אחר"})])


def test_a_trimmed_slice_has_its_times_from_the_new_start():
    """Times are from the start of the audio that is left; where a segment was trimmed away none are right."""
    assert rewritten(SLICE, str, 0.1, 2.5) == "<|0.00|> אחת,<|0.90|><|1.10|> שתיים<|1.90|>"
    assert rewritten(SLICE, lambda text: text.strip(","), 0.0, 3.0) == SLICE.replace(",", "")
    assert rewritten(SLICE, str, 1.1, 2.5) is None
