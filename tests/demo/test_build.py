"""Training the tiny checkpoints from nothing, for a few steps: each learns, and what listens has heard rooms."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
    Wav2Vec2BertForCTC,
)

from shibolet.demo.build import SETTINGS, train_from_nothing
from shibolet.demo.clips import Clip, for_listeners
from shibolet.demo.objectives import NUM_CLASSES, letter_ids, summed_ctc
from shibolet.demo.reader import padded_clips
from shibolet.records.files import read_jsonl

WORDS = ("שלום", "עולם", "בית")
FEATURES = {"round1": (128, 90), "aligner": (128, 90), "ctc": (160, 45)}  # shape of a clip's
CLASSES = {
    "round1": Qwen3ASRForConditionalGeneration,
    "aligner": Qwen3ASRForTokenClassification,
    "ctc": Wav2Vec2BertForCTC,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # sums differ in bits between numbers of threads


def clips_of(name: str) -> list[Clip]:
    """Six clips of noise and two words each."""
    rng, clips = np.random.default_rng(1), []
    for number in range(6):
        words = (WORDS[number % 3], WORDS[(number + 1) % 3])
        features = rng.standard_normal(FEATURES[name]).astype(np.float16)
        clips.append(Clip(features, words, ((0.1, 0.4), (0.4, 0.8))))
    return clips


@pytest.mark.parametrize("name", SETTINGS)
def test_every_loss_falls_and_the_result_loads(name: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS[name], num_steps=12, batch=4, warmup_steps=2, peak_lr=2e-3)
    task = train_from_nothing(settings, clips_of(name), tmp_path / "work", seed=1)
    rows = read_jsonl(tmp_path / "work" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 13)) and rows[-1]["lr"]["all"] < rows[1]["lr"]["all"] / 10
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    main = {"round1": "transcribe", "aligner": "align"}.get(name)
    if main:
        assert all(set(row["numbers"]) == {main, "letters"} for row in rows)
        for number, fallen in ((main, 0.9), ("letters", 0.5)):
            assert rows[-1]["numbers"][number] < fallen * rows[0]["numbers"][number]
        for step, row in enumerate(rows):
            told = row["numbers"]  # the auxiliary weight falls from 0.3 in twelve steps
            assert row["loss"] == pytest.approx(told[main] + 0.3 * (1 - step / 12) * told["letters"], rel=1e-4)
    task.save(tmp_path / "out")
    model = CLASSES[name].from_pretrained(tmp_path / "out")
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in task.model.named_parameters()}
    assert not any("letters" in name for name, _ in model.named_parameters())


def test_a_build_that_was_cut_off_continues_with_the_same_weights(tmp_path: Path, monkeypatch) -> None:
    settings = replace(SETTINGS["aligner"], num_steps=4, batch=4, warmup_steps=1)
    monkeypatch.setattr("shibolet.demo.build.CHECKPOINT_EVERY_STEPS", 2)
    whole = train_from_nothing(settings, clips_of("aligner"), tmp_path / "whole", seed=1).model
    with monkeypatch.context() as cut_off:
        cut_off.setattr("shibolet.demo.build._show", lambda row: 1 / (3 - row.step))
        with pytest.raises(ZeroDivisionError):
            train_from_nothing(settings, clips_of("aligner"), tmp_path / "cut", seed=1)
    again = train_from_nothing(settings, clips_of("aligner"), tmp_path / "cut", seed=1).model
    assert len(read_jsonl(tmp_path / "cut" / "metrics.jsonl")) == 4
    for (name, one), other in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert one.equal(other), name


def test_padding_changes_no_loss_and_clips_of_like_length_are_padded_together() -> None:
    rng = torch.Generator().manual_seed(0)
    lengths = [int(n) for n in torch.randint(20, 90, (70,), generator=rng)]
    features = [torch.randn(160, n, generator=rng) for n in lengths]
    letters = [letter_ids("שלום עולם")[: 2 + n % 5] for n in lengths]
    batches = padded_clips(features, letters, "cpu")
    assert [len(batch.lengths) for batch in batches] == [32, 32, 6]
    assert [n for batch in batches for n in batch.lengths] == sorted(lengths)
    logits = [torch.randn(n, NUM_CLASSES, generator=rng) for n in lengths]
    together = summed_ctc(torch.nn.utils.rnn.pad_sequence(logits), lengths, letters)
    alone = sum(summed_ctc(one[:, None], [n], [ids]) for one, n, ids in zip(logits, lengths, letters, strict=True))
    torch.testing.assert_close(together, alone)
    library = torch.nn.functional.ctc_loss(
        torch.nn.utils.rnn.pad_sequence(logits).log_softmax(-1), torch.tensor([i for ids in letters for i in ids]),
        torch.tensor(lengths), torch.tensor([len(ids) for ids in letters]), zero_infinity=True,
    )  # fmt: skip
    torch.testing.assert_close(together / len(lengths), library)


def test_listeners_hear_every_condition_at_the_same_length() -> None:
    rng = np.random.default_rng(2)
    samples = np.concatenate([0.1 * rng.standard_normal(8000), np.zeros(8000)]).astype(np.float32)
    heard = [for_listeners(samples, rng) for _ in range(60)]
    assert {len(x) for x in heard} == {len(samples)}
    rings = sum(np.std(x[8000:9600]) > 3 * np.std(x[-1600:]) for x in heard)  # the end of speech in a room
    at_limit = sum(np.mean(np.abs(x) >= 0.999 * np.abs(x).max()) > 5e-4 for x in heard)
    assert 10 < rings < 50 and 3 < at_limit < 30
