"""The CTC aligner against speech whose word times are known."""

import numpy as np
import pytest

from shibolet.demo.channel import whatsapp
from shibolet.demo.corpus import join_speech, round1_requests
from shibolet.demo.synth import synthesise
from shibolet.listen.open import open_aligner


@pytest.mark.slow
@pytest.mark.parametrize("num_sentences", [1, 6])  # clips of 3 s, and of 20 s, where the tiny Qwen aligner is lost
def test_words_are_where_they_were_said(tmp_path_factory: pytest.TempPathFactory, num_sentences: int) -> None:
    """A lag that is taken for the words' own time, or measured wrongly, moves every word by a third of a second."""
    folder = tmp_path_factory.mktemp("speech")
    speech, rng = list(synthesise(round1_requests(777, 48), folder, 2)), np.random.default_rng(0)
    joined = [join_speech(speech[i : i + num_sentences], rng) for i in range(0, 48, num_sentences)]
    clips = [np.asarray(whatsapp(one.samples, rng), np.float32) for one in joined]
    words = [[word.word for word in one.words] for one in joined]
    aligner = open_aligner("builtin:ctc", "Hebrew")
    found = aligner.align(clips, words)
    said = np.concatenate([[(word.start_s, word.end_s) for word in one.words] for one in joined])
    off = np.abs(np.concatenate([np.stack([a.starts_s, a.ends_s], 1) for a in found]) - said)
    assert len(off) > 200
    assert (off[:, 0] < 0.1).mean() > 0.93 and (off[:, 1] < 0.1).mean() > 0.75
    wrong = aligner.align(clips, words[1:] + words[:1])
    assert np.mean([a.mass.mean() for a in wrong]) < 0.4 < 0.8 < np.mean([a.mass.mean() for a in found])
