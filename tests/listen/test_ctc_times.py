"""The CTC aligner against speech whose word times are known."""

import numpy as np
import pytest

from shibolet.demo.channel import whatsapp
from shibolet.demo.corpus import join_speech, round1_requests
from shibolet.demo.synth import synthesise
from shibolet.listen.ctc import CtcModel
from shibolet.listen.open import open_aligner
from shibolet.model.folders import resolve


@pytest.mark.slow("listen", seconds=4)
@pytest.mark.parametrize("num_sentences", [1, 6])  # clips of 3 s, and of 20 s, where the tiny Qwen aligner is lost
def test_words_are_where_they_were_said(tmp_path_factory: pytest.TempPathFactory, num_sentences: int) -> None:
    """A lag that is taken for the words' own time, or measured wrongly, moves every word by a third of a second."""
    folder = tmp_path_factory.mktemp("speech")
    speech, rng = list(synthesise(round1_requests(777, 48), folder, 2)), np.random.default_rng(0)
    joined = [join_speech(speech[i : i + num_sentences], rng) for i in range(0, 48, num_sentences)]
    clips = [np.asarray(whatsapp(one.samples, rng), np.float32) for one in joined]
    words = [[word.word for word in one.words] for one in joined]
    found = open_aligner("builtin:ctc", "Hebrew").align(clips, words)
    said = np.concatenate([[(word.start_s, word.end_s) for word in one.words] for one in joined])
    off = np.abs(np.concatenate([np.stack([a.starts_s, a.ends_s], 1) for a in found]) - said)
    assert len(off) > 200
    assert (off[:, 0] < 0.1).mean() > 0.93 and (off[:, 1] < 0.1).mean() > 0.75


@pytest.mark.slow("listen", seconds=8)
def test_the_lag_of_one_clip_is_that_of_many(tmp_path):
    """Measured at a clip's two edges alone, a clip that is heard by itself has all of its words moved by the chance of
    one onset and one end."""
    rng = np.random.default_rng(1)
    speech = list(synthesise(round1_requests(778, 96), tmp_path, 2))
    joined = [join_speech(speech[i : i + 12], rng) for i in range(0, 96, 12)]
    clips = [np.asarray(whatsapp(one.samples, rng), np.float32) for one in joined]
    words = [[word.word for word in one.words] for one in joined]
    model = CtcModel(resolve("builtin:ctc"), "Hebrew")
    spoken = model.speak(clips, words)
    together = model.lag_s(clips, spoken)
    alone = np.array([model.lag_s([clip], [own]) for clip, own in zip(clips, spoken, strict=True)])
    print(f"\ntogether {np.round(together, 3)}, alone {alone.round(3).tolist()}")
    assert np.abs(alone - together)[:, 0].max() < 0.05 and np.abs(alone - together)[:, 1].max() < 0.1
