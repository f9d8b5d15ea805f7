"""Utterances whose words are tones."""

import numpy as np
import pytest
import soundfile as sf
from ears import VOCABULARY, samples_of

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
