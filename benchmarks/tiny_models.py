"""What the shipped tiny checkpoints hear, by condition: word error rates, and where the aligner puts words.

    python benchmarks/tiny_models.py --sentences 200

Sentences of the demo's test voices, which are in nobody's training. A line of JSON a condition. Needs the extra `demo`.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator

import numpy as np

from shibolet.demo.channel import ChannelConfig, clean, whatsapp
from shibolet.demo.lexicon import load_lexicon
from shibolet.demo.sentences import sample_sentence
from shibolet.demo.synth import Speaker, Speech
from shibolet.demo.voices import TEST_VOICES, draw_manner
from shibolet.listen.open import open_aligner, open_recogniser
from shibolet.listen.transcribe import Transcriber
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.scoring.counts import EditCounts, count_words
from shibolet.speech.augment import clip_loudest, reverberate

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
HARD = ChannelConfig(snr_db=(3.0, 15.0))
CHANGES: dict[str, Change] = {
    "clean": clean,
    "clean, in a room of 0.3 s": lambda x, rng: reverberate(clean(x, rng), 0.3, rng),
    "clean, in a room of 0.6 s": lambda x, rng: reverberate(clean(x, rng), 0.6, rng),
    "clean, 5% clipped": lambda x, rng: clip_loudest(clean(x, rng), 0.05),
    "whatsapp": whatsapp,
    "whatsapp, in a room of 0.6 s": lambda x, rng: reverberate(whatsapp(x, rng), 0.6, rng),
    "whatsapp at 3 to 15 dB": lambda x, rng: whatsapp(x, rng, HARD),
}


def speak(num: int, seed: int) -> Iterator[Speech]:
    rng, speaker, lexicon = random.Random(seed), Speaker(), load_lexicon()
    for number in range(num):
        words = [entry.spelling for entry in sample_sentence(rng, lexicon)]
        yield speaker.speak(words, draw_manner(rng, TEST_VOICES.variants[number % len(TEST_VOICES.variants)]))


def word_error_rate(texts: list[str], heard: list[str]) -> float:
    return round(sum((count_words(t, h) for t, h in zip(texts, heard, strict=True)), EditCounts()).rate, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--seed", type=int, default=101)
    args = parser.parse_args()
    said = list(speak(args.sentences, args.seed))
    words = [[word.word for word in speech.words] for speech in said]
    texts = [" ".join(of) for of in words]
    starts_s = np.array([word.start_s for speech in said for word in speech.words])
    round1 = Transcriber(load_recogniser("builtin:round1"), "Hebrew")
    ctc, aligner = open_recogniser("builtin:ctc", "Hebrew"), open_aligner("builtin:aligner", "Hebrew")
    for name, change in CHANGES.items():
        rng = np.random.default_rng(args.seed)
        clips = [change(speech.samples, rng) for speech in said]
        first, heard = round1.transcribe(clips), [hearing.hypothesis for hearing in ctc.hear(clips, words)]
        late_s = np.abs(np.concatenate([found.starts_s for found in aligner.align(clips, words)]) - starts_s)
        row = {
            "condition": name, "round1_wer": word_error_rate(texts, first), "ctc_wer": word_error_rate(texts, heard),
            "round1_wer_of_another": word_error_rate(texts[1:] + texts[:1], first),
            "starts_within_100_ms": round(float(np.mean(late_s < 0.1)), 4),
            "starts_within_200_ms": round(float(np.mean(late_s < 0.2)), 4),
        }  # fmt: skip
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
