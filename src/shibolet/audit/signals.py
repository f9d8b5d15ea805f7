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
from shibolet.speech.text import get_language
from shibolet.speech.text.reading import compare
from shibolet.speech.text.repetition import collapse_loops
from shibolet.speech.text.rules import letters_of

EDGE_LETTERS = 5  # edge CER looks at this many letters at each end, as NeMo's does
# These four are chosen, not measured.
LOWEST_LOGP = -10.0  # a log-probability under it says no more than it
SPEECH_ROOM_S = 0.2  # around speech, in which a word may lie: two and a half classes of an aligner with 80 ms
LAST_LETTER_S = 0.1  # from when a letter is heard to where it ends
SHORTEST_SPEECH_S = 0.05  # in less no rate of letters is known


@dataclass(frozen=True, kw_only=True, slots=True)
class Signals:
    """Raw signals of one utterance of W words; rates are fractions, times are seconds, None is not known.

    Letters are those of the readings in which text and hypothesis are nearest: "26" and "twenty six" are the same.
    """

    num_words: int
    num_letters: int  # written; for words that cannot be checked those heard in their place, where they are more
    speech_s: float  # from the first to the last letter heard, or energy where nothing was heard
    text_logp: float | None  # of a token (CTC: of a letter) of the text, on average
    text_score: float | None  # the same less that of what was heard, at most 0
    worst_score: float | None  # of the least likely token or word of the text
    cer: float  # hypothesis against text, letters only, loops cut short, clipped at 1
    edge_cer: float  # the larger of both ends, clipped at 1
    length_ratio: float  # letters heard / letters written
    words_heard: float  # share of words of which half of the letters stand in the hypothesis
    coverage: float | None  # share of words with evidence, see `covered_words`; None without an aligner
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
    on_speech = (ends >= speech[0] - SPEECH_ROOM_S) & (starts <= speech[1] + SPEECH_ROOM_S)
    return in_order.all(axis=0) & ~zero_length_runs(alignment) & on_speech & (found >= HEARD_SHARE)


def zero_length_runs(alignment: Alignment) -> np.ndarray:
    """Mask `[W]` of words whose span is empty beside another such word; a single one occurs on good data."""
    empty = alignment.ends_s <= alignment.starts_s
    beside = np.concatenate(([False], empty[:-1])) | np.concatenate((empty[1:], [False]))
    return empty & (beside | (len(empty) == 1))


def measure(
    sound: Sound,
    words: Sequence[str],
    verifiable: Sequence[bool],
    alignment: Alignment | None,
    hearing: Hearing,
    language: str,
) -> Signals:
    """Signals of one utterance: what energy says of its audio, its words, and what the listeners said of both.

    At least one word is verifiable; the others (another script) count in lengths, not in shares of words.
    """
    checked = np.array(verifiable)
    hypothesis = collapse_loops(hearing.hypothesis, " ".join(words))
    compared = compare(words, hypothesis, get_language(language))
    text, heard = letters_of("".join(compared.text)), letters_of("".join(compared.heard))
    laid = lay_letters(compared.text, " ".join(compared.heard))
    found = laid.share_found
    # A word that cannot be checked may have been said with any number of letters.
    num_letters = int(np.where(checked, laid.num_letters, np.maximum(laid.num_letters, laid.num_heard)).sum())
    speech = _speech(sound, hearing)
    speech_s = speech[1] - speech[0]
    coverage = None if alignment is None else float(covered_words(alignment, found, speech)[checked].mean())
    edges = [
        count_chars(text[:EDGE_LETTERS], heard[:EDGE_LETTERS]).errors,
        count_chars(text[-EDGE_LETTERS:], heard[-EDGE_LETTERS:]).errors,
    ]
    return Signals(
        num_words=len(words),
        num_letters=num_letters,
        speech_s=speech_s,
        text_logp=_bounded(hearing.text_logp),
        text_score=_bounded(hearing.text_score),
        worst_score=_bounded(hearing.worst_score),
        cer=min(1.0, count_chars(text, heard).errors / num_letters),
        edge_cer=min(1.0, max(edges) / min(EDGE_LETTERS, num_letters)),
        length_ratio=len(heard) / num_letters,
        words_heard=float((found >= HEARD_SHARE)[checked].mean()),
        coverage=coverage,
        letters_per_s=num_letters / speech_s if speech_s > SHORTEST_SPEECH_S else 0.0,
        snr_db=sound.snr_db,
        bandwidth_hz=sound.bandwidth_hz,
    )


def _speech(sound: Sound, hearing: Hearing) -> tuple[float, float]:
    """Start and end of speech: by the letters heard, else by energy; empty where nothing was heard."""
    if len(times := hearing.letter_times_s):
        return float(times[0]), float(times[-1]) + LAST_LETTER_S
    return (sound.speech[0][0], sound.speech[-1][1]) if sound.speech and hearing.hypothesis.strip() else (0.0, 0.0)


def _bounded(logp: float | None) -> float | None:
    return None if logp is None else max(LOWEST_LOGP, float(logp))
