"""Audio without text as pieces with speech in them, each short enough to be heard at once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from shibolet.errors import AudioError
from shibolet.listen.pieces import cut_at_pauses, cut_stream
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import Utterance
from shibolet.rounds.shared import Progress
from shibolet.speech.activity import speech_spans
from shibolet.speech.audio import SAMPLE_RATE_HZ, load, stream

STAGE = "label"
EDGE_S = 0.2  # kept beside the first and the last speech of a piece


def cut_into_pieces(
    utterances: Sequence[Utterance], max_piece_s: float, min_piece_s: float, on_progress: Progress
) -> tuple[list[Utterance], list[LedgerLine]]:
    """Pieces in the order of their recordings, without a text, and lines for what has no speech or cannot be decoded.

    A piece's id is that of its recording and a number; where nobody says which recording a row is of, it is one itself.
    """
    pieces: list[Utterance] = []
    lines: list[LedgerLine] = []
    for done, utterance in enumerate(utterances, 1):
        whole = utterance if utterance.recording else replace(utterance, recording=utterance.id)
        try:
            for number, (start, samples) in enumerate(_stretches(whole, max_piece_s)):
                _add(whole, number, start, samples, min_piece_s, pieces, lines)
        except AudioError as error:
            lines.append(line_of(whole, error.reason, str(error)))
        on_progress(done, len(utterances))
    return pieces, lines


def whole_of(piece: str) -> str:
    """The id of the utterance that a piece is of, by the piece's."""
    return piece.rpartition("-")[0]


def line_of(utterance: Utterance, rule: str, detail: str) -> LedgerLine:
    """A piece that does not pass."""
    return LedgerLine(
        id=utterance.id, source=utterance.source, stage=STAGE, rule=rule, detail=detail,
        duration_s=round(utterance.duration_s, 3), recording=utterance.recording, speaker=utterance.speaker,
        domain=utterance.domain,
    )  # fmt: skip


def _stretches(whole: Utterance, max_piece_s: float) -> Iterator[tuple[int, np.ndarray]]:
    """Start in samples, within the utterance, and samples; of a whole file a block is in memory at a time."""
    audio = whole.audio
    if audio.row is None and audio.start_s == 0 and audio.end_s is None:
        blocks = stream(audio.path)
        for start, samples in cut_stream(blocks, max_piece_s):
            yield start + round(blocks.start_s * SAMPLE_RATE_HZ), samples
        return
    samples = load(audio)
    for start, end in cut_at_pauses(samples, max_piece_s):
        yield start, samples[start:end]


def _add(
    whole: Utterance, number: int, start: int, samples: np.ndarray, min_piece_s: float, pieces: list[Utterance],
    lines: list[LedgerLine],
) -> None:  # fmt: skip
    """The stretch from its first speech to its last as a piece, or the line that says why it is none."""
    spans, start_s, length_s = speech_spans(samples), start / SAMPLE_RATE_HZ, len(samples) / SAMPLE_RATE_HZ
    first_s = max(0.0, spans[0][0] - EDGE_S) if spans else 0.0
    end_s = min(length_s, spans[-1][1] + EDGE_S) if spans else length_s
    piece = replace(
        whole, id=f"{whole.id}-{number:04d}", text="", duration_s=end_s - first_s,
        audio=whole.audio.cut(round(start_s + first_s, 4), round(start_s + end_s, 4)),
    )  # fmt: skip
    if not spans:
        lines.append(line_of(piece, "no_speech", f"nobody speaks from {start_s:.1f} s to {start_s + length_s:.1f} s"))
    elif piece.duration_s < min_piece_s:
        lines.append(line_of(piece, "too_short", f"{piece.duration_s:.2f} s, at least {min_piece_s:g} s are wanted"))
    else:
        pieces.append(piece)
