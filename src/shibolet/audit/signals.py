"""What the listeners' evidence says about one utterance, as numbers that can be low.

No thresholds here: raw signals are kept with each utterance, so that a verdict can be taken again without listening.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from shibolet.listen.letters import HEARD_SHARE, lay_letters
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.listen.word_times import longest_in_order
from shibolet.scoring.counts import count_chars
from shibolet.speech.activity import Sound
from shibolet.speech.text.rules import letters_of

EDGE_LETTERS = 5  # edge CER looks at this many letters at each end, as NeMo's does


@dataclass(frozen=True, kw_only=True, slots=True)
class Signals:
    """Raw signals of one utterance of W words; rates are fractions, times are seconds."""

    num_words: int
    num_letters: int  # written; for words that cannot be checked those heard in their place, where they are more
    speech_s: float  # from the first to the last letter heard, or energy where nothing was heard
    text_score: float  # of the text against the recogniser's free best path, per letter, clipped at -10; 0: unknown
    worst_word_score: float  # the lowest of the same within one word, clipped at -10
    cer: float  # hypothesis against text, letters only, clipped at 2
    edge_cer: float  # the larger of both ends, clipped at 1
    length_ratio: float  # letters heard / letters written
    words_heard: float  # share of words of which half of the letters stand in the hypothesis
    coverage: float  # share of words with evidence, see `covered_words`
    uncovered_head_s: float  # letters heard before the first word
    uncovered_tail_s: float  # letters heard after the last word
    uncovered_frac: float  # share of letters heard outside every word, edges included
    letters_per_s: float  # written letters per second of speech
    snr_db: float
    bandwidth_hz: float

    def to_json(self) -> dict:
        return asdict(self)


def covered_words(alignment: Alignment, found: np.ndarray, speech: tuple[float, float]) -> np.ndarray:
    """Mask `[W]` of words with evidence.

    Its start is in order among the starts and its end among the ends (a word's end and the next one's start are the
    same moment, and may be a class apart), it is not in a run of zero-length words, it lies on speech, and half of its
    letters were heard.
    """
    starts, ends = alignment.starts_s, alignment.ends_s
    in_order = np.zeros((2, len(starts)), bool)
    in_order[0, longest_in_order(starts)] = in_order[1, longest_in_order(ends)] = True
    on_speech = (ends >= speech[0] - 0.2) & (starts <= speech[1] + 0.2)
    return in_order.all(axis=0) & ~zero_length_runs(alignment) & on_speech & (found >= HEARD_SHARE)


def zero_length_runs(alignment: Alignment) -> np.ndarray:
    """Mask `[W]` of words whose span is empty beside another such word; a single one occurs on good data."""
    empty = alignment.ends_s <= alignment.starts_s
    beside = np.concatenate(([False], empty[:-1])) | np.concatenate((empty[1:], [False]))
    return empty & (beside | (len(empty) == 1))


def measure(
    sound: Sound, words: Sequence[str], verifiable: Sequence[bool], alignment: Alignment, hearing: Hearing
) -> Signals:
    """Signals of one utterance: what energy says of its audio, its words, and what the listeners said of both.

    At least one word is verifiable; the others (digits, another script) count in lengths, not in shares of words.
    """
    checked = np.array(verifiable)
    words = [letters_of(word) for word in words]
    heard = letters_of(hearing.hypothesis)
    times = hearing.letter_times_s
    if len(times):
        speech = (float(times[0]), float(times[-1]) + 0.1)
    else:  # a recogniser without times: energy says where speech is
        speech = (sound.speech[0][0], sound.speech[-1][1]) if sound.speech and heard else (0.0, 0.0)
        times = np.linspace(*speech, len(heard)) if heard else times
    laid = lay_letters(words, hearing.hypothesis)
    found = laid.share_found
    # A word that cannot be checked, such as digits, may have been said with any number of letters.
    num_letters = int(np.where(checked, laid.num_letters, np.maximum(laid.num_letters, laid.num_heard)).sum())
    covered = covered_words(alignment, found, speech)
    first, last = float(alignment.starts_s.min()), float(max(alignment.ends_s.max(), alignment.starts_s.max()))
    # A letter counts as outside when it is 0.25 s away: classes are 80 ms wide and CTC fires late.
    outside = np.ones(len(times), bool)
    for start, end in zip(alignment.starts_s, alignment.ends_s, strict=True):
        outside &= (times < start - 0.25) | (times > end + 0.25)
    speech_s = speech[1] - speech[0]
    text = "".join(words)
    edges = [
        count_chars(text[:EDGE_LETTERS], heard[:EDGE_LETTERS]).errors,
        count_chars(text[-EDGE_LETTERS:], heard[-EDGE_LETTERS:]).errors,
    ]
    return Signals(
        num_words=len(words),
        num_letters=num_letters,
        speech_s=speech_s,
        text_score=max(-10.0, hearing.text_score) if hearing.text_score is not None else 0.0,
        worst_word_score=max(-10.0, float(hearing.word_scores.min())) if len(hearing.word_scores) else 0.0,
        cer=min(2.0, count_chars(text, heard).errors / num_letters),
        edge_cer=min(1.0, max(edges) / min(EDGE_LETTERS, num_letters)),
        length_ratio=len(heard) / num_letters,
        words_heard=float((found >= HEARD_SHARE)[checked].mean()),
        coverage=float(covered[checked].mean()),
        uncovered_head_s=max(0.0, min(first, sound.duration_s) - speech[0]) if speech_s else 0.0,
        uncovered_tail_s=max(0.0, speech[1] - last) if speech_s else 0.0,
        uncovered_frac=float(outside.mean()) if len(outside) else 0.0,
        letters_per_s=num_letters / speech_s if speech_s > 0.05 else 0.0,
        snr_db=sound.snr_db,
        bandwidth_hz=sound.bandwidth_hz,
    )
