"""Long recordings through the audit's listening and prepare's cutting, against word times that are known.

Protects from word times that are late or lost in minutes of audio, from cuts through words and from wrong sentences.
`pytest -s -m slow tests/prepare/test_long_recordings.py` prints the figures.
"""

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from audit_documents import audited
from spoken import distance_s

from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.pieces import make_pieces
from shibolet.prepare.verdicts import Reviewed
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import SAMPLE_RATE_HZ, content_hash, encode_flac, load
from shibolet.speech.text import get_language

pytestmark = pytest.mark.slow("prepare", seconds=12)
HEBREW = get_language("he")
SIZES = (18, 40, 75)  # sentences: about one, two and four minutes


class Recordings:
    """Sentences in a row, spoken and recorded; `texts` are what the data set says of them."""

    def __init__(self, folder: Path, voices: str, sizes: tuple[int, ...], seed: int) -> None:
        from shibolet.demo.channel import ChannelConfig, Condition
        from shibolet.demo.corpus import join_speech, sentences
        from shibolet.demo.lexicon import load_lexicon
        from shibolet.demo.synth import SpeechRequest, synthesise
        from shibolet.demo.voices import TRAIN_VOICES, draw_manner, vary

        rng, noise = random.Random(seed), np.random.default_rng(seed)
        self.stream = sentences(rng, load_lexicon(), range(10))
        requests = []
        for size in sizes:
            person = draw_manner(rng, TRAIN_VOICES.draw(rng))
            for _ in range(size):
                own = vary(rng, person) if voices == "one voice" else draw_manner(rng, TRAIN_VOICES.draw(rng))
                requests.append(SpeechRequest(words=next(self.stream), voice=own))
        spoken = synthesise(requests, folder / "speech", 1)
        self.texts: list[list[list[str]]] = []  # of each recording the words of its sentences
        self.times: list[list[tuple[float, float]]] = []
        self.paths: list[Path] = []
        for number, size in enumerate(sizes):
            said = [next(spoken) for _ in range(size)]
            speech = join_speech(said, noise)
            draw = Condition.whatsapp if number % 2 else Condition.clean
            samples = draw(noise, ChannelConfig()).record(speech.samples, noise)
            self.paths.append(folder / f"{number}.flac")
            self.paths[-1].write_bytes(encode_flac(np.asarray(samples, np.float32)))
            self.times.append([(word.start_s, word.end_s) for word in speech.words])
            self.texts.append([[word.word for word in one.words] for one in said])

    def prepared(self, cache_dir: Path, **verdict) -> list:
        """What prepare makes of each recording from what the demo's listeners hear."""
        from shibolet.audit.clip import clip_of
        from shibolet.audit.config import AuditConfig
        from shibolet.audit.hearing import Listener
        from shibolet.listen.open import open_aligner, open_recogniser

        utterances = []
        for number, (path, text) in enumerate(zip(self.paths, self.texts, strict=True)):
            ref = AudioRef(path=str(path))
            duration_s = len(load(ref)) / SAMPLE_RATE_HZ
            words = " ".join(word for sentence in text for word in sentence)
            utterances.append(Utterance(id=str(number), audio=ref, text=words, duration_s=duration_s, source="long"))
        config = AuditConfig(recogniser="builtin:ctc", aligner_max_s=4, num_workers=0)
        listeners = open_aligner("builtin:aligner", "Hebrew"), open_recogniser("builtin:ctc", "Hebrew")
        heard = Listener(*listeners, cache_dir, load, config, "Hebrew").hear([clip_of(u, HEBREW) for u in utterances])
        outcomes = []
        for utterance in utterances:
            evidence = heard[utterance.id]
            row = audited(
                utterance.id, coverage=1.0, hypothesis=evidence.hypothesis, starts_s=evidence.starts_s,
                words=HEBREW.to_words(utterance.text).tokens, ends_s=evidence.ends_s, **verdict,
            )  # fmt: skip
            outcomes.append(make_pieces(utterance, Reviewed(row), HEBREW, PrepareConfig(), content_hash))
        return outcomes


@pytest.mark.parametrize("voices", ["one voice", "many voices"])
def test_cuts_fall_between_words_and_no_word_is_lost_or_doubled(tmp_path, voices):
    recordings = Recordings(tmp_path, voices, SIZES, seed=5)
    away_s, num_kept, num_words = [], 0, 0
    for outcome, text, times in zip(recordings.prepared(tmp_path), recordings.texts, recordings.times, strict=True):
        words = [word for sentence in text for word in sentence]
        pieces = [piece.utterance.text.split() for piece in outcome.pieces]
        at = 0
        for piece, span_s in zip(pieces, (piece.span_s for piece in outcome.pieces), strict=True):
            while words[at : at + len(piece)] != piece:  # over a piece that was left out
                at += 1
                assert at < len(words)
            away_s += [distance_s(span_s[0], times, at)] if at else []
            at += len(piece)
            away_s += [distance_s(span_s[1], times, at)] if at < len(words) else []
            assert span_s[1] - span_s[0] <= 15
        for before, after in pairwise(outcome.pieces):
            assert before.span_s[1] <= after.span_s[0]
        num_kept += sum(map(len, pieces))
        num_words += len(words)
    good = np.mean(np.array(away_s) <= 0.1)
    print(f"\n{voices}: {good:.1%} of {len(away_s)} cuts within 0.1 s; {num_kept} of {num_words} words kept")
    assert len(away_s) > 50 and num_words > 600
    assert good >= 0.99
    assert num_kept >= 0.99 * num_words  # what the recogniser did not hear is left out, with a line


def test_a_wrong_sentence_goes_alone_and_with_a_line(tmp_path):
    recordings = Recordings(tmp_path, "one voice", (12,) * 6, seed=6)
    for number, text in enumerate(recordings.texts):
        text[3 + number] = ["זזזז", "גגגג", "טטטט", "פפפפ"]  # what was said there is something else
    num_kept = num_right = num_wrong = 0
    for outcome, text in zip(recordings.prepared(tmp_path, is_low_quality=True), recordings.texts, strict=True):
        kept = " ".join(piece.utterance.text for piece in outcome.pieces).split()
        num_wrong += kept.count("זזזז")
        num_right += sum(len(sentence) for sentence in text) - 4
        num_kept += len(kept)
        assert [line.rule for line in outcome.lines if line.rule == "part:not_heard"]
    print(f"\n{num_wrong} of 6 wrong sentences and {num_kept} of {num_right} words of the others are kept")
    assert num_wrong == 0
    assert num_kept >= 0.95 * num_right
