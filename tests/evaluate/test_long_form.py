"""Recordings of minutes: protects from scores in which seams lose words, and from loops in them that nobody sees."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from shibolet.cli.tables import show_compare
from shibolet.compare import CompareConfig, compare
from shibolet.demo.corpus import CorpusConfig, build_corpus
from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.stage import evaluate_set, read_rows
from shibolet.listen.executor import Here
from shibolet.listen.open import open_engines
from shibolet.records.candidate import named
from shibolet.records.documents.scores import Scores
from shibolet.records.files import read_jsonl
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import SAMPLE_RATE_HZ, load

PAUSE_S = 0.5


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Utterance:
    """Five minutes: sentences of the demo's clean test set, with pauses between them."""
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(folder, 3, CorpusConfig(num_train=8, num_long=1, num_test=100))
    rows = list(read_jsonl(folder / "test_clean" / "manifest.jsonl"))
    noise, pause, parts, texts = np.random.default_rng(0), np.zeros(int(PAUSE_S * SAMPLE_RATE_HZ)), [], []
    while sum(map(len, parts)) < 300 * SAMPLE_RATE_HZ:
        row = rows[len(texts)]
        texts.append(row["text"])
        parts += [load(AudioRef(path=str(folder / "test_clean" / row["audio"]))), pause]
    samples = np.concatenate(parts)
    sf.write(folder / "long.flac", samples + 1e-4 * noise.standard_normal(len(samples)), SAMPLE_RATE_HZ)
    return Utterance(
        id="long", audio=AudioRef(path=str(folder / "long.flac")), text=" ".join(texts),
        duration_s=len(samples) / SAMPLE_RATE_HZ, source="s", recording="r", domain="clean",
    )  # fmt: skip


def scored(recording: Utterance, max_piece_s: float, out_dir: Path) -> Scores:
    return evaluate_set(
        open_engines(Here(), "builtin:round1", "Hebrew"), [recording], set_name="minutes", language="Hebrew",
        config=EvaluateConfig(max_piece_s=max_piece_s), out_dir=out_dir, named=named(out_dir.name), identity="1",
    )  # fmt: skip


@pytest.mark.slow("evaluate", seconds=20)
def test_five_minutes_lose_nothing_at_the_seams_and_loops_in_too_long_pieces_are_seen(
    recording, tmp_path, capsys
) -> None:
    """The tiny model knows clips of a few seconds, as one that trained on 15 s may know no piece of 30 s."""
    short, long = (scored(recording, piece_s, tmp_path / f"round{piece_s:g}") for piece_s in (5.0, 30.0))
    assert recording.duration_s > 300 and short.wer.words > 400
    for one in (short, long):
        assert list(one.by_bucket) == ["long-form"] and one.by_bucket["long-form"].wer.words == one.wer.words
    assert short.wer.rate < 0.05 and short.wer.deletions <= 2 and short.loops.utterances == 0
    assert long.wer.rate > 0.5 and long.wer.deletions > 50 and long.loops.utterances == 1
    names = named("Round 30"), named("Round 5")
    rows = read_rows(tmp_path / "round30"), read_rows(tmp_path / "round5")
    compared = compare(rows, names, CompareConfig(bootstrap_samples=100))
    assert compared.buckets["long-form"].wer.delta_points < -50
    show_compare(compared)
    assert "bucket long-form" in " ".join(capsys.readouterr().out.split())
