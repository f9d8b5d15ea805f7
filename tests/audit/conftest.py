"""Utterances whose words are tones, and clips of noise."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf
from ears import VOCABULARY, half, samples_of

from shibolet.audit.clip import Clip
from shibolet.records.utterance import AudioRef, Utterance


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """160 utterances of six to eight words, 10 of them with another text."""
    folder, rng, utterances = tmp_path_factory.mktemp("corpus"), np.random.default_rng(3), []
    for i in range(160):
        words = [VOCABULARY[j] for j in rng.integers(0, len(VOCABULARY), rng.integers(6, 9))]
        samples = samples_of(words)
        path = folder / f"{i:03d}.wav"
        sf.write(path, samples, 16000)
        text = " ".join(VOCABULARY[j] for j in rng.integers(0, len(VOCABULARY), 7)) if i < 10 else " ".join(words)
        utterances.append(
            Utterance(
                id=f"u{i:03d}", audio=AudioRef(path=str(path)), text=text, duration_s=len(samples) / 16000, source="s",
                recording=f"r{i // 4}", domain="kan_clean" if i % 2 else "whatsapp_noisy",
            )
        )  # fmt: skip
    return utterances


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """40 clips of 0.2 to 2.2 s, no two of one length, and a copy of every fifth with half of its audio."""
    folder, rng, made = tmp_path_factory.mktemp("clips"), np.random.default_rng(0), []
    for i in range(40):
        samples = (0.1 * rng.standard_normal(3200 + 797 * i)).astype(np.float32)
        sf.write(folder / f"{i}.wav", samples, 16000)
        clip = Clip(
            key=f"u{i}", utterance=f"u{i}", audio=AudioRef(path=str(folder / f"{i}.wav")), words=("שלום", "עולם"),
            verifiable=(True, True), duration_s=len(samples) / 16000,
        )  # fmt: skip
        made.append(clip)
        if i % 5 == 0:
            made.append(replace(clip, key=f"half/u{i}", change_audio=half))
    return made
