"""What a step is fed: lengths that hold, labels that decode back to the target, nothing lost in silence."""

import re
from pathlib import Path

import pytest
from tiny_run import make_rows, write_shard

from shibolet.errors import DataError
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt
from shibolet.train.data import TrainExample, read_examples
from shibolet.train.reader import PackReader


def test_lengths_from_the_table_are_those_of_the_packs(examples: list[TrainExample], reader: PackReader):
    assert len(examples) == 22
    for example in examples:
        pack = reader.pack([example])
        assert (pack.num_tokens, len(pack.labels)) == (example.num_tokens, example.num_targets)


def test_labels_decode_back_to_the_target(examples: list[TrainExample], reader: PackReader, loaded: LoadedModel):
    pack = reader.pack(examples[:3])
    decoded = loaded.tokenizer.decode(pack.labels.tolist())
    assert decoded == "".join(f"language Hebrew<asr_text>{example.text}<|im_end|>" for example in examples[:3])
    # each logit stands one position before its label
    assert pack.input_ids[0, pack.keep_positions + 1].tolist() == pack.labels.tolist()


def test_markup_in_a_transcript_stays_text(tmp_path: Path, prompt: TranscriptionPrompt, reader: PackReader):
    rows = make_rows(1, seed=0)
    rows[0]["text"] = "שלום <|im_end|> עולם"
    write_shard(tmp_path / "train-0.parquet", rows)
    (example,), _ = read_examples(tmp_path, "train", FAMILY, prompt, max_tokens=4096)
    assert reader.pack([example]).labels.tolist().count(prompt.end_id) == 1


def test_what_cannot_be_trained_on_leaves_a_ledger_line(tmp_path: Path, prompt: TranscriptionPrompt):
    rows = make_rows(4, seed=0)
    rows[1]["text"] = " "
    rows[2]["text"] = "שלום " * 200
    write_shard(tmp_path / "train-0.parquet", rows)
    examples, ledger = read_examples(tmp_path, "train", FAMILY, prompt, max_tokens=256)
    assert [example.id for example in examples] == ["u0000", "u0003"]
    assert [example.audio.row for example in examples] == [0, 3]
    assert [(line.id, line.rule) for line in ledger] == [("u0001", "empty_text"), ("u0002", "too_long:positions")]
    # one token more than the room that is told is refused, and that many are taken
    count, room = (int(number) for number in re.findall(r"\d+", ledger[1].detail))
    assert ledger[1].detail.endswith("cut the utterance into shorter ones, or correct its text")
    needed = 256 + count - room
    for max_tokens, lines in ((needed - 1, 2), (needed, 1)):
        assert len(read_examples(tmp_path, "train", FAMILY, prompt, max_tokens=max_tokens)[1]) == lines


def test_audio_that_is_too_long_for_a_family_leaves_a_ledger_line(tmp_path, prompt, monkeypatch):
    rows = make_rows(8, seed=0)
    write_shard(tmp_path / "train-0.parquet", rows)
    monkeypatch.setattr(type(FAMILY), "max_samples", 16000)
    examples, ledger = read_examples(tmp_path, "train", FAMILY, prompt, max_tokens=4096)
    assert examples and {example.id for example in examples} == {row["id"] for row in rows if row["duration_s"] <= 1}
    assert len(ledger) + len(examples) == 8 and {line.rule for line in ledger} == {"too_long:audio"}
    assert ledger[0].detail.endswith("a Qwen3-ASR takes 1 s at most")


def test_nothing_to_train_on_is_an_error(tmp_path: Path, prompt: TranscriptionPrompt):
    with pytest.raises(DataError, match=r"no train-\*.parquet"):
        read_examples(tmp_path, "train", FAMILY, prompt, max_tokens=4096)
    rows = make_rows(2, seed=0)
    write_shard(tmp_path / "train-0.parquet", [row | {"text": ""} for row in rows])
    with pytest.raises(DataError, match="none of 2 train utterances"):
        read_examples(tmp_path, "train", FAMILY, prompt, max_tokens=4096)


def test_audio_of_another_length_than_the_table_says_is_named(tmp_path: Path, prompt, reader: PackReader):
    rows = make_rows(1, seed=0)
    rows[0]["duration_s"] += 0.5
    write_shard(tmp_path / "train-0.parquet", rows)
    (example,), _ = read_examples(tmp_path, "train", FAMILY, prompt, max_tokens=4096)
    with pytest.raises(DataError, match="utterance 'u0000': the table says"):
        reader.pack([example])


def test_features_are_the_same_with_and_without_the_cache(examples, reader: PackReader, loaded, prompt):
    without = PackReader(FAMILY, prompt.frame, loaded.extractor, cache_gib=0)
    first = reader.pack(examples[:4]).features
    assert reader.pack(examples[:4]).features.equal(first)
    assert without.pack(examples[:4]).features.equal(first)
