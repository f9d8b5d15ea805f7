"""An upload as the pieces that the model takes; a worker does this, in a process that an upload may bring down."""

from dataclasses import dataclass
from pathlib import Path

from shibolet.errors import AudioError
from shibolet.listen.decoders import AnyWorker
from shibolet.listen.pieces import cut_stream
from shibolet.listen.recordings import Clip
from shibolet.serve.config import Limits
from shibolet.speech.audio import SAMPLE_RATE_HZ, probe_encoded, stream

NAME = "the upload"  # what a sentence calls it: the name that a client gives it is not used anywhere


@dataclass(frozen=True, slots=True)
class Upload:
    """A recording that was sent, decoded and cut."""

    clips: list[Clip]
    duration_s: float  # to the end of its sound
    notes: tuple[str, ...]  # what of it could not be decoded, and what was chosen in it


def decode(content: bytes, limits: Limits) -> Upload:
    """What `transcribe` would cut a file of these bytes into; AudioError for what is no audio, too long or cut short.

    A header that promises too much is refused before anything is decoded, and decoding ends at the limit: a small file
    can hold days of silence.
    """
    if (promised_s := probe_encoded(content, NAME).duration_s) > limits.max_audio_s:
        raise _too_long(f"its header says {promised_s:,.0f} s", limits)
    blocks, clips = stream(content), []
    for start, samples in cut_stream(blocks, limits.max_piece_s):
        clips.append(Clip(Path(NAME), start + round(blocks.start_s * SAMPLE_RATE_HZ), samples))
        if clips[-1].end_s > limits.max_audio_s:
            raise _too_long(f"it is longer than {limits.max_audio_s:,.0f} s", limits)
    if blocks.is_cut_short:
        raise AudioError(f"{NAME} is not whole: {'; '.join(blocks.notes)}; send all of it", "cut_short")
    return Upload(clips, clips[-1].end_s, tuple(blocks.notes))


def decode_beside(worker: AnyWorker, given: tuple[bytes, Limits]) -> Upload:
    """The same by a worker, in bounded time; WorkerLost where it crashes or does not end."""
    return worker.run(decode, *given, timeout_s=given[1].decode_s)


def _too_long(found: str, limits: Limits) -> AudioError:
    return AudioError(
        f"{NAME} is too long: {found}, and this server takes {limits.max_audio_s:,.0f} s; send it in parts", "too_long"
    )
