"""Speech of the demo's synthesiser, for tests of the models that ship with the package."""

import random

import pytest


def sentences(count: int, seed: int) -> list:
    """Spoken sentences of test voices (`shibolet.demo.synth.Speech`); skips the test without the demo's extra."""
    pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")
    from shibolet.demo.lexicon import load_lexicon
    from shibolet.demo.sentences import sample_sentence
    from shibolet.demo.synth import Speaker
    from shibolet.demo.voices import TEST_VOICES, draw_manner

    rng, speaker, lexicon = random.Random(seed), Speaker(), load_lexicon()
    return [
        speaker.speak(
            [entry.spelling for entry in sample_sentence(rng, lexicon)],
            draw_manner(rng, TEST_VOICES.variants[i % len(TEST_VOICES.variants)]),
        )
        for i in range(count)
    ]
