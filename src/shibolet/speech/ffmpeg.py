"""Decoding by FFmpeg (PyAV): MP3, AAC, AMR, video, and files of any kind that are damaged or say what is not so.

A damaged frame costs itself: decoding goes on after it, silence stands for what is lost, so that what follows keeps its
time, and a `Fault` says where. A file's sound may begin after its picture: `lead_s`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

import av
import numpy as np

from shibolet.errors import AudioError
from shibolet.speech.channels import Mixer
from shibolet.speech.containers import audible_track, demuxed, first_frame, open_container, tracks_of
from shibolet.speech.encoded import MAX_DURATION_S, SHORT_S, Encoded, Fault, require_rate
from shibolet.speech.extents import Extent, mp3_promised_frames, ogg_pages

_PREROLL_S = 1.0  # decoded and thrown away before a span: AAC and Opus need up to 80 ms to settle
_RAW = {"mp3", "aac"}  # frames without times
_COUNTED = {"mp3", "aac", "amr", "wav", "avi"}  # packets that follow each other without a gap: their lengths are exact
_MAX_FRAME_BYTES = 2048  # for each channel; what is larger holds bytes that are no frames
_SOUGHT = {"mov", "matroska"}  # a seek lands where it should
# A gap between times is lost sound.
_TIMED = {"flac", "ogg", "mpegts", "flv", "asf", "nut", "mpeg"} | _SOUGHT
_MAX_GAP_S = 600.0  # times that jump further are broken; they are not followed
_MAX_LEAD_S = 3600.0  # a sound that starts later has the clock of a broadcast, not of a file
_MAX_PAD_SAMPLES = 2048  # decoded after the end that an MP4 gives: the rest of a codec's last frame
_MP3_PAD_FRAMES = 4  # an encoder's delay and padding, at most
_SILENCE_S = 10.0  # at a time
_MAX_PLANES = 8
_MAX_ERRORS = 100  # of reading, after which a file is given up


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a packet was decoded to."""

    time: int | None  # by the file, in samples
    planes: np.ndarray  # [C, S]
    num_lost: int  # samples before it that are known to be lost

    @property
    def num_samples(self) -> int:
        return self.planes.shape[1]


class FFmpegSound:
    """A file that FFmpeg has opened, and of its tracks the one that can be heard."""

    def __init__(self, encoded: Encoded, extent: Extent | None = None) -> None:
        self._encoded, self._extent = encoded, extent
        self._container = open_container(encoded)
        self._track, self._num_tracks = 0, len(tracks_of(self._container))
        if self._num_tracks > 1:
            self._track = audible_track(self._container)
            self._open_again()
        self._stream = tracks_of(self._container)[self._track]
        first = None
        if len(self._container.streams) > 1 or not self._stream.codec_context.sample_rate:
            first = first_frame(self._container, self._stream)
            self._open_again()
            self._stream = tracks_of(self._container)[self._track]
        self._kinds = set(self._container.format.name.split(","))
        if "flac" in self._kinds:
            self._stream.codec_context.options = {"err_detect": "crccheck+explode"}
        self._tick_s = float(self._stream.time_base)
        self._first_s = (self._stream.start_time or 0) * self._tick_s
        if first is not None and first.pts is not None:  # FFmpeg takes 0 for what starts after it stopped looking
            begins_s = float(first.pts * first.time_base)
            self._first_s = begins_s if begins_s > self._first_s + SHORT_S else self._first_s
        self.rate_hz = require_rate(self._stream.codec_context.sample_rate or (first.sample_rate if first else 0))
        self.channels = self._stream.codec_context.channels or (first.layout.nb_channels if first else 1)
        self.lead_s = self._find_lead_s()
        promised_s = self._find_promised_s(encoded)
        self._promised = None if promised_s is None else max(0, round(promised_s * self.rate_hz))
        self.num_samples: int | None = None  # known when all has been decoded
        self._times_present = extent.times_present if extent else 1.0
        self._mixer, self._planar = Mixer(), {}
        self._error: av.FFmpegError | AudioError | None = None  # the first of what could not be read or decoded
        self._num_skipped = 0  # samples that were lost where nothing was decoded, before a span
        self._num_pending = 0  # samples after the last frame that could not be decoded
        self._has_jumped = False
        self.faults: list[Fault] = []

    def _open_again(self) -> None:
        self._container.close()
        self._container = open_container(self._encoded)

    def __enter__(self) -> "FFmpegSound":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def notes(self) -> list[str]:
        notes = [f"track {self._track + 1} of {self._num_tracks} was taken"] if self._num_tracks > 1 else []
        if self._has_jumped:
            notes.append("its times jump by more than ten minutes; they were not followed")
        return [*notes, self._mixer.note] if self._mixer.note else notes

    def length_s(self) -> float:
        """By the header where it speaks of this track alone; else packets are counted without decoding them."""
        if self._promised is not None and self._kinds & _SOUGHT:
            return self._promised / self.rate_hz
        num_ticks, last, is_told = 0, 0, True
        for packet, _ in self._packets():
            num_ticks += packet.duration or 0
            last = max(last, (packet.pts or 0) + (packet.duration or 0))
            is_told = is_told and bool(packet.duration or not packet.size)
            if num_ticks * self._tick_s > MAX_DURATION_S:
                break
        if is_told:
            is_summed = self._kinds & _COUNTED or not last
            summed_s = num_ticks * self._tick_s  # more than the last time tells where times begin anew
            timed_s = last * self._tick_s - self._first_s
            return summed_s if is_summed or summed_s > timed_s + SHORT_S else timed_s
        with FFmpegSound(self._encoded, self._extent) as anew:
            return sum(len(block) for block in anew.blocks(0, None)) / self.rate_hz

    def blocks(self, start: int, end: int | None, block_samples: int | None = None) -> Iterator[np.ndarray]:
        """Mono samples from `start` on, up to `end`, in blocks; afterwards `faults` has what is missing in them."""
        most = block_samples or round(_SILENCE_S * self.rate_hz)
        held, num_held, position = [], 0, start
        for position, planes in self._trimmed(self._placed(start)):
            within = planes[:, max(0, start - position) : None if end is None else max(0, end - position)]
            position += planes.shape[1]
            if held and len(held[0]) != len(within):  # the number of channels changes
                yield self._mixer.mix(np.concatenate(held, axis=1))
                held, num_held = [], 0
            if within.shape[1]:
                held.append(within)
                num_held += within.shape[1]
            if num_held >= most:
                yield self._mixer.mix(np.concatenate(held, axis=1))
                held, num_held = [], 0
            if end is not None and position >= end:
                break
        else:
            # Where a seek found nothing, the position is the one that was asked for.
            self.num_samples = position if self._promised is None else min(position, self._promised)
            self._look_for_end(position, end)
        if held:
            yield self._mixer.mix(np.concatenate(held, axis=1))

    def _look_for_end(self, position: int, end: int | None) -> None:
        """Note what is missing at the end, when all that there is has been decoded."""
        promised = max(self._promised or 0, round(position * self._times_present))
        wanted = promised if end is None else min(end, promised)
        if wanted > position + SHORT_S * self.rate_hz:
            self._add_fault("cut_short", position, wanted)
        elif self._lost_at_end(position) and (end is None or position < end):
            self._add_fault("damaged", position, position + self._num_pending)
        elif "ogg" in self._kinds and (end is None or position < end) and ogg_pages(self._encoded).is_cut:
            self._add_fault("cut_short", position, position)

    def _lost_at_end(self, position: int) -> bool:
        """Whether more than a frame is lost after the last sample: not where the file has given what it promises.

        Programs leave zeros and tags of their own there.
        """
        short = SHORT_S * self.rate_hz
        is_complete = self._promised is not None and abs(position - self._promised) <= 2 * short
        return self._num_pending > short and not is_complete

    def _add_fault(self, reason: str, start: int, end: int) -> None:
        self.faults.append(Fault(reason, self.lead_s + start / self.rate_hz, self.lead_s + end / self.rate_hz))

    def _find_lead_s(self) -> float:
        if self._stream.start_time is None:
            return 0.0
        zero_s = 0.0 if self._kinds & _SOUGHT else (self._container.start_time or 0) / av.time_base
        lead_s = self._first_s - zero_s
        return lead_s if SHORT_S < lead_s <= _MAX_LEAD_S else 0.0

    def _find_promised_s(self, encoded: Encoded) -> float | None:
        """The length that the file gives for this track; None where it gives none, or an estimate."""
        stream, container = self._stream, self._container
        if "mp3" in self._kinds:
            frames = mp3_promised_frames(encoded)
            return frames and (frames - _MP3_PAD_FRAMES) * (stream.codec_context.frame_size or 0) / self.rate_hz
        if "matroska" in self._kinds:
            end_s = _seconds(stream.metadata.get("DURATION", ""))
            if end_s is None and len(container.streams) == 1 and container.duration is not None:
                end_s = container.duration / av.time_base
            return end_s and end_s - self._first_s
        if "ogg" in self._kinds and self._first_s > SHORT_S:  # recorded from a broadcast: its length counts from before
            return None
        if "flv" in self._kinds and len(container.streams) == 1 and container.duration:
            return container.duration / av.time_base
        if self._kinds & {"flac", "ogg", "mov"} and stream.duration:
            return stream.duration * self._tick_s
        return None

    def _trimmed(self, placed: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        """Without a codec's padding after the end that an MP4 gives. What is longer than padding is sound."""
        end = self._promised if "mov" in self._kinds else None
        after: list[tuple[int, np.ndarray]] = []
        for at, planes in placed:
            num = planes.shape[1] if end is None else min(max(0, end - at), planes.shape[1])
            if num:
                yield at, planes[:, :num]
            if num < planes.shape[1]:
                after.append((at + num, planes[:, num:]))
                if at + planes.shape[1] - end > _MAX_PAD_SAMPLES:
                    yield from after
                    after, end = [], None

    def _placed(self, start: int) -> Iterator[tuple[int, np.ndarray]]:
        """Position and samples `[C, S]` of all there is from some place before `start` on, silence where it is lost."""
        frames, position, zero = self._decoded(self._packets()), 0, 0 if "flac" in self._kinds else None
        if start > _PREROLL_S * self.rate_hz and self._kinds & (_RAW | _SOUGHT):
            frames, position, zero = self._skipped_to(start, frames)
        for frame in frames:
            num_lost = frame.num_lost
            if self._kinds & _TIMED and frame.time is not None:
                zero = frame.time - num_lost if zero is None else zero
                num_lost, jump = self._gap(frame, position, zero)
                zero += jump
            if num_lost > 0:
                self._add_fault("damaged", position, position + num_lost)
            for num in _parts(num_lost, round(_SILENCE_S * self.rate_hz)):
                yield position, np.zeros((len(frame.planes), num), np.float32)
                position += num
            yield position, frame.planes
            position += frame.num_samples
        if position == 0 and self._error is not None:
            raise self._error

    def _gap(self, frame: _Frame, position: int, zero: int) -> tuple[int, int]:
        """Samples that are lost before a frame by its time, and how far that jumps where it is not to be followed."""
        ahead = frame.time - zero - position
        if ahead - frame.num_lost > _MAX_GAP_S * self.rate_hz:
            self._has_jumped = True
            return frame.num_lost, ahead - frame.num_lost
        is_exact = "flac" in self._kinds
        return (ahead if ahead - frame.num_lost > (0 if is_exact else SHORT_S * self.rate_hz) else frame.num_lost), 0

    def _skipped_to(self, start: int, frames: Iterator[_Frame]) -> tuple[Iterator[_Frame], int, int | None]:
        """Frames from a little before `start` on, the position of the first, and the time of position 0.

        Times are rounded, to a millisecond in Matroska: the second frame of all says how they and positions agree.
        """
        first = list(islice(frames, 2))
        if len(first) < 2 or first[1].time is None or any(frame.num_lost for frame in first):
            return chain(first, frames), 0, None
        zero, step = first[1].time - first[0].num_samples, first[1].num_samples
        to_s = self._first_s + start / self.rate_hz - _PREROLL_S
        if self._kinds & _SOUGHT and self._promised is not None:
            self._container.seek(int(to_s * av.time_base))
        near = self._decoded(self._packets(to_s))
        for frame in near:
            if frame.time is None:
                break
            position = frame.time - zero - first[0].num_samples
            if position % step > step - self.rate_hz // 500 or position % step < self.rate_hz // 500:
                position = round(position / step) * step
            position += first[0].num_samples + self._num_skipped
            return chain([_Frame(frame.time, frame.planes, 0)], near), position, zero
        return iter(()), start, zero

    def _decoded(self, packets: Iterator[tuple[av.Packet, int]]) -> Iterator[_Frame]:
        """Frames of packets; what cannot be decoded is counted as lost before the next frame."""
        num_lost = 0
        for packet, num_before in packets:
            num_lost += num_before
            try:
                found = [(frame, self._planes_of(frame)) for frame in packet.decode()]
            except (av.FFmpegError, ValueError) as error:  # ValueError: PyAV's, of a frame that is none
                self._error = self._error or AudioError(
                    f"not audio that can be read ({getattr(error, 'strerror', error)})"
                )
                num_lost += round((packet.duration or 0) * self._tick_s * self.rate_hz)
                continue
            for frame, planes in found:
                time = None if frame.pts is None else round(float(frame.pts * frame.time_base) * self.rate_hz)
                if planes.shape[1]:
                    yield _Frame(time, planes, num_lost)
                    num_lost = 0
        self._num_pending = num_lost

    def _planes_of(self, frame: av.AudioFrame) -> np.ndarray:
        """Its samples `[C, S]` at the rate of the first frame; a stream may change its form."""
        form, num_channels = (frame.format.name, frame.layout.name, frame.sample_rate), frame.layout.nb_channels
        if form not in self._planar:
            rate_hz = None if frame.sample_rate == self.rate_hz else self.rate_hz
            # PyAV reads beyond its memory where there are more than eight planes.
            packing = "fltp" if num_channels <= _MAX_PLANES else "flt"
            self._planar[form] = av.AudioResampler(format=packing, rate=rate_hz)
        found = [one.to_ndarray() for one in self._planar[form].resample(frame)]
        if num_channels > _MAX_PLANES:
            found = [one.reshape(-1, num_channels).T for one in found]
        return np.concatenate(found, axis=1) if found else np.zeros((num_channels, 0), np.float32)

    def _packets(self, from_s: float | None = None) -> Iterator[tuple[av.Packet, int]]:
        """Packets from `from_s` on, each with the samples that are lost before it.

        Where bytes are no frames, a raw stream's packet has them at its end, and its size tells what could be there.
        """
        num_bytes, num_ticks, num_lost, is_skipping = 0, 0, 0, from_s is not None
        for packet in self._demuxed():
            skipped_s = self._num_skipped / self.rate_hz
            if is_skipping and packet.pts is not None and packet.pts * self._tick_s + skipped_s < from_s:
                self._num_skipped += num_lost
            else:
                is_skipping = False
                yield packet, num_lost
            num_lost = 0
            if self._kinds & _RAW and packet.size > _MAX_FRAME_BYTES * self.channels and num_bytes:
                others = packet.size / num_bytes * num_ticks - (packet.duration or 0)
                num_lost = max(0, round(others * self._tick_s * self.rate_hz))
            else:
                num_bytes, num_ticks = num_bytes + packet.size, num_ticks + (packet.duration or 0)

    def _demuxed(self) -> Iterator[av.Packet]:
        """Packets as far as there are any; what lies between them and is none is stepped over."""
        num_errors = 0
        while num_errors < _MAX_ERRORS:
            try:
                yield from demuxed(self._container, self._stream)
                return
            except av.EOFError:
                return
            except av.FFmpegError as error:
                self._error = self._error or error
                num_errors += 1


def _parts(whole: int, most: int) -> Iterator[int]:
    for done in range(0, whole, most):
        yield min(most, whole - done)


def _seconds(clock: str) -> float | None:
    """Of "01:02:03.004"; None for what is no clock."""
    if not (found := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", clock)):
        return None
    return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
