"""One utterance: refused with a ledger line, or decoded, trimmed, cut and encoded again."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shibolet.errors import AudioError, DataError
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.resegment import Segment, owners, resegment, text_of
from shibolet.prepare.verdicts import Reviewed
from shibolet.records.audited import Audited
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import SAMPLE_RATE_HZ, encode_flac, load
from shibolet.speech.text import Language
from shibolet.speech.text.rules import has_words, split_words
from shibolet.speech.whisper_slices import rewritten, without_timestamps

HashOf = Callable[[AudioRef], str]  # of all encoded bytes
MIN_COVERAGE = 0.9  # of a flagged text has evidence, before it is looked for between edges that it lacks


@dataclass(frozen=True, slots=True)
class Piece:
    """What is kept of an utterance, or of a piece of it."""

    utterance: Utterance  # with the piece's id, target and length; its audio is still the whole
    sha256: str  # of the FLAC
    origin_id: str  # of the whole
    span_s: tuple[float, float]  # in the whole
    origin_sha256: str  # of the encoded audio that the whole lies in
    origin_offset_s: float  # where in it the whole begins
    text_by: str | None = None  # "labelled" or "corrected": a machine wrote the text; None: it came with the data

    @classmethod
    def whole(cls, utterance: Utterance, flac: bytes) -> "Piece":
        """An utterance that is its own origin."""
        sha256 = hashlib.sha256(flac).hexdigest()
        return cls(utterance, sha256, utterance.id, (0.0, utterance.duration_s), sha256, 0.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an utterance: pieces and lines for what is missing between them, or no piece and one line."""

    duration_s: float  # as decoded; as the header says where it was not
    pieces: tuple[Piece, ...]
    lines: tuple[LedgerLine, ...]  # their durations and those of the pieces are together `duration_s`
    is_cut: bool = False
    flacs: Sequence[bytes | memoryview] = ()  # of each piece its audio, encoded


def refuse(utterance: Utterance, verdict: Reviewed | None, language: Language, config: PrepareConfig) -> Outcome | None:
    """Why an utterance is dropped by what is known without its audio; None when nothing speaks against it.

    DataError when the verdict is about another text.
    """
    words = tuple(split_words(language.to_target(utterance.text)))
    if verdict and verdict.review == "bad":
        return drop(utterance, "review:bad", "a person who listened to it found it bad")
    if verdict and verdict.row.failure:
        return drop(utterance, verdict.row.failure, "; ".join(verdict.row.reasons))
    if not has_words(utterance.text):
        return drop(utterance, "no_words", f"no word outside brackets in '{utterance.text[:40]}'")
    if verdict and (verdict.row.words != words or len(verdict.row.starts_s) not in (0, len(words))):
        raise DataError(
            f"utterance '{utterance.id}' of {utterance.source}: the audit heard {len(verdict.row.words)} words in "
            f"{len(verdict.row.starts_s)} places, its text has {len(words)} ('{' '.join(words)[:40]}'); run "
            "'shibolet audit' again"
        )
    if verdict and verdict.is_low_quality and not _may_hold_good(utterance, verdict.row, config):
        return _condemned(utterance, verdict.row)
    return None


def _may_hold_good(utterance: Utterance, row: Audited, config: PrepareConfig) -> bool:
    """Whether a part of what the audit flagged may be right: of a long one, or between edges that the text lacks."""
    if not row.starts_s:  # nobody knows where its words are
        return False
    is_within = row.suspect == "text_missing" and (row.coverage or 0.0) >= MIN_COVERAGE
    return utterance.duration_s > config.max_duration_s or is_within


def _condemned(utterance: Utterance, row: Audited, duration_s: float | None = None) -> Outcome:
    return drop(utterance, f"low_quality:{row.suspect}", "; ".join(row.reasons), duration_s)


def drop(utterance: Utterance, rule: str, detail: str, duration_s: float | None = None) -> Outcome:
    """An utterance that leaves whole."""
    duration_s = utterance.duration_s if duration_s is None else duration_s
    return Outcome(duration_s, (), (_line(utterance, utterance.id, rule, detail, duration_s),))


def note(utterance: Utterance, rule: str, detail: str) -> LedgerLine:
    """Of an utterance that stays whole."""
    return _line(utterance, utterance.id, rule, detail, 0.0)


def make_pieces(
    utterance: Utterance, verdict: Reviewed | None, language: Language, config: PrepareConfig, hash_of: HashOf
) -> Outcome:
    """The utterance as FLAC, trimmed, and in pieces where it is long."""
    try:
        samples = load(utterance.audio)
        origin_sha256 = hash_of(utterance.audio.whole())
    except AudioError as error:
        return drop(utterance, error.reason, str(error))
    duration_s = len(samples) / SAMPLE_RATE_HZ
    text = language.to_target(utterance.text)
    tokens, owner, said = text.split(), owners(text.split()), language.to_words(utterance.text)
    is_flagged = bool(verdict and verdict.is_low_quality)
    if verdict and (row := verdict.row).starts_s:
        hypothesis = None if verdict.review == "good" else row.hypothesis
        found = resegment(samples, text, said, row.starts_s, row.ends_s, hypothesis, config, is_flagged=is_flagged)
    else:
        found = [Segment(0, len(owner), 0.0, duration_s)]
    pieces, flacs, lines, start_s = [], [], [], utterance.audio.start_s
    for number, segment in enumerate(found):
        segment_id = utterance.id if len(found) == 1 else f"{utterance.id}-p{number:02d}"
        piece_text = text_of(tokens, owner, segment)
        segment = _checked(segment, piece_text, config)
        first, end = round(segment.start_s * SAMPLE_RATE_HZ), round(segment.end_s * SAMPLE_RATE_HZ)
        length_s = (end - first) / SAMPLE_RATE_HZ
        if segment.rule:
            lines.append(_line(utterance, segment_id, f"part:{segment.rule}", segment.detail, length_s))
            continue
        span_s = (first / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ)
        piece = replace(
            utterance, id=segment_id, text=piece_text, duration_s=length_s, language=language.name,
            previous=_previous(utterance, language) if segment.first == 0 else None,
            timed_text=_timed(utterance, piece_text, span_s, language),
        )  # fmt: skip
        flacs.append(encode_flac(samples[first:end]))
        sha256 = hashlib.sha256(flacs[-1]).hexdigest()
        pieces.append(Piece(piece, sha256, utterance.id, span_s, origin_sha256, start_s))
    if not pieces and is_flagged:
        return _condemned(utterance, verdict.row, duration_s)
    if not pieces:
        worst = max(lines, key=lambda line: line.duration_s)
        return drop(utterance, worst.rule.removeprefix("part:"), worst.detail, duration_s)
    left_s = duration_s - sum(segment.length_s for segment in found)
    if len(found) > 1:
        detail = f"{len(pieces)} of {len(found)} pieces are kept; {left_s:.2f} s of pauses and edges are left out"
        lines.append(_line(utterance, utterance.id, "cut", detail, left_s))
    elif left_s > 0:
        head_s, tail_s = found[0].start_s, duration_s - found[0].end_s
        detail = f"{head_s:.2f} s before the first word and {tail_s:.2f} s after the last are left out"
        lines.append(_line(utterance, utterance.id, "trimmed", detail, left_s))
    return Outcome(duration_s, tuple(pieces), tuple(lines), len(found) > 1, flacs)


def _previous(utterance: Utterance, language: Language) -> str | None:
    """What was said before, written as a target is."""
    return language.to_target(utterance.previous) or None if utterance.previous else None


def _timed(utterance: Utterance, text: str, span_s: tuple[float, float], language: Language) -> str | None:
    """The piece's text between timestamps from the piece's start; None for a part of the text, whose times are others.

    Also where a timed segment lies in what was trimmed: its times are wrong then.
    """
    if utterance.timed_text is None:
        return None
    timed = rewritten(utterance.timed_text, language.to_target, *span_s)
    return timed if timed and without_timestamps(timed).split() == text.split() else None


def _checked(segment: Segment, text: str, config: PrepareConfig) -> Segment:
    """The segment, with a reason where its length is against it."""
    num_letters = sum(char.isalnum() for char in text)
    rule, detail = segment.rule, segment.detail
    if rule is None and segment.length_s > config.max_duration_s:
        rule, detail = "too_long", f"{segment.length_s:.1f} s, and no word times to cut it at"
    elif rule is None and segment.length_s < config.min_duration_s:
        rule, detail = "too_short", f"{segment.length_s:.2f} s, at least {config.min_duration_s:g} s are wanted"
    elif rule is None and num_letters > config.max_letters_per_s * segment.length_s:
        rule, detail = "too_much_text", f"{num_letters} letters in {segment.length_s:.2f} s"
    return replace(segment, rule=rule, detail=detail)


def _line(utterance: Utterance, id: str, rule: str, detail: str, duration_s: float) -> LedgerLine:
    return LedgerLine(
        id=id, source=utterance.source, stage="prepare", rule=rule, detail=detail, duration_s=round(duration_s, 3)
    )
