"""The verdict on one utterance: coverage, confidence, length mismatch, and what is the matter, in words."""

from dataclasses import dataclass

from shibolet.audit.config import AuditConfig
from shibolet.audit.signals import Signals
from shibolet.records.documents.calibration import Calibration
from shibolet.speech.text.language import Words

# What names the damage behind a low confidence. Chosen, not measured: no verdict depends on them.
MANY_OTHER_LETTERS = 0.3  # CER: over it the letters are a reason
NOTHING_HEARD = 0.2  # letters heard / written: under it nobody speaks
OTHER_WORDS = 0.35  # share of words heard: under it another text
MORE_SAID, LESS_SAID = 1.25, 0.8  # letters heard / written
EDGE_LOST = 0.5  # edge CER: over it speech runs to the very edge of the audio


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the audit says of one utterance."""

    low_quality: bool
    coverage: float | None  # None: nothing aligned it
    confidence: float  # the score that decides; no probability
    length_mismatch: bool
    # A guess: wrong_text, text_missing, text_extra, audio_cut, no_speech, other_language; None: not low.
    suspect: str | None
    reasons: tuple[str, ...]  # sentences with the number that decided


def judge(signals: Signals, confidence: float, calibration: Calibration, config: AuditConfig) -> Verdict:
    """Low quality is a confidence under the line, which is calibrated; nothing else decides.

    The specification's coverage and length mismatch have no line that anything calibrates: where the confidence is low
    they say why it may be (on real speech they flagged 73 and 61% of good clips, docs/decisions.md).
    """
    low_quality = confidence < config.min_confidence
    low, high = calibration.letters_per_s
    mismatch = []
    if signals.speech_s > 0 and not low <= signals.letters_per_s <= high:
        mismatch.append(
            f"{signals.letters_per_s:.1f} letters a second of speech, good clips have {low:.1f} to {high:.1f}"
        )
    ratio = max(signals.length_ratio, 1 / max(signals.length_ratio, 0.01))
    if ratio > config.max_length_ratio:
        mismatch.append(f"{signals.length_ratio:.2f} letters heard for each letter written")
    reasons = []
    if low_quality:
        reasons.append(f"confidence {confidence:.2f}, a score whose line is {config.min_confidence}")
        if signals.cer > MANY_OTHER_LETTERS:
            reasons.append(f"{signals.cer:.0%} of its letters were heard otherwise")
        if signals.coverage is not None and signals.coverage < config.min_coverage:
            reasons.append(
                f"evidence for {signals.coverage:.0%} of {signals.num_words} words, under {config.min_coverage:.0%}"
            )
        reasons += mismatch
    return Verdict(
        low_quality=low_quality,
        coverage=signals.coverage,
        confidence=confidence,
        length_mismatch=bool(mismatch),
        suspect=suspect(signals) if low_quality else None,
        reasons=tuple(reasons),
    )


def suspect(signals: Signals) -> str:
    """The likeliest damage behind a low quality."""
    if signals.length_ratio < NOTHING_HEARD:
        return "no_speech"
    if signals.words_heard < OTHER_WORDS:
        return "wrong_text"
    if signals.length_ratio > MORE_SAID:
        return "text_missing"
    if signals.length_ratio < LESS_SAID:
        # Words are missing from the audio: when it is cut, speech runs to the very edge.
        return "audio_cut" if signals.edge_cer > EDGE_LOST else "text_extra"
    return "wrong_text"


def is_foreign(words: Words) -> bool:
    """Whether most of a text's words are in letters of another script; words without a letter are of no language.

    Only the script tells: French in place of English, or English that was heard as Hebrew letters, is a wrong text.
    """
    own = [ok for token, ok in zip(words.tokens, words.verifiable, strict=True) if any(map(str.isalpha, token))]
    return sum(own) < len(own) / 2
