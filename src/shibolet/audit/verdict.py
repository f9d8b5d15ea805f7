"""The verdict on one utterance: coverage, confidence, length mismatch, and what is the matter, in words."""

from dataclasses import dataclass

from shibolet.audit.calibration import Calibration
from shibolet.audit.config import AuditConfig
from shibolet.audit.signals import Signals
from shibolet.speech.text.language import Language


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the audit says of one utterance."""

    low_quality: bool
    coverage: float
    confidence: float
    length_mismatch: bool
    suspect: str | None  # wrong_text, text_missing, text_extra, audio_cut, no_speech, other_language; None: not low
    reasons: tuple[str, ...]  # sentences with the number that decided


def judge(signals: Signals, confidence: float, calibration: Calibration, config: AuditConfig) -> Verdict:
    """low quality = coverage or confidence too low, or a length mismatch; the specification's rule with real inputs."""
    reasons = []
    if signals.coverage < config.min_coverage:
        reasons.append(
            f"evidence for {signals.coverage:.0%} of {signals.num_words} words, under {config.min_coverage:.0%}"
        )
    if confidence < config.min_confidence:
        reasons.append(
            f"the text belongs to this audio with probability {confidence:.2f}, under {config.min_confidence}"
        )
    mismatch = []
    low, high = calibration.letters_per_s
    if signals.speech_s > 0 and not low <= signals.letters_per_s <= high:
        mismatch.append(
            f"{signals.letters_per_s:.1f} letters a second of speech, clean clips have {low:.1f} to {high:.1f}"
        )
    uncovered_s = signals.uncovered_frac * signals.speech_s
    if uncovered_s > max(config.max_uncovered_s, config.max_uncovered_frac * signals.speech_s):
        mismatch.append(f"{uncovered_s:.1f} s of speech that no word covers")
    ratio = max(signals.length_ratio, 1 / max(signals.length_ratio, 0.01))
    if ratio > config.max_length_ratio:
        mismatch.append(f"{signals.length_ratio:.2f} letters heard for each letter written")
    reasons += mismatch
    return Verdict(
        low_quality=bool(reasons),
        coverage=signals.coverage,
        confidence=confidence,
        length_mismatch=bool(mismatch),
        suspect=suspect(signals) if reasons else None,
        reasons=tuple(reasons),
    )


def suspect(signals: Signals) -> str:
    """The likeliest damage behind a low quality."""
    if signals.length_ratio < 0.2:
        return "no_speech"
    if signals.words_heard < 0.35:
        return "wrong_text"
    if signals.length_ratio > 1.25:
        return "text_missing"
    if signals.length_ratio < 0.8:
        # Words are missing from the audio: when it is cut, speech runs to the very edge.
        return "audio_cut" if signals.edge_cer > 0.5 else "text_extra"
    return "wrong_text"


def is_foreign(text: str, language: Language) -> bool:
    """Whether most of its words are in letters of another script; words without a letter are of no language.

    Only the script tells: French in place of English, or English that was heard as Hebrew letters, is a wrong text.
    """
    words = language.to_words(text)
    own = [ok for token, ok in zip(words.tokens, words.verifiable, strict=True) if any(map(str.isalpha, token))]
    return sum(own) < len(own) / 2
