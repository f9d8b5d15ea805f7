"""Files as FFmpeg opens them: which may be opened, their tracks of sound, and which of these is heard."""

from collections.abc import Iterator
from contextlib import suppress

import av
import numpy as np
from av.stream import Disposition

from shibolet.errors import AudioError
from shibolet.speech.encoded import Encoded

# What may be opened. Not playlists and descriptions (concat, dash, hls, imf, sdp ...), of which FFmpeg would open the
# files and hosts that they name, nor devices, pictures, and raw samples, which anything could be taken for.
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,ogg,mp3,aac,amr,amrnb,amrwb,flac,wav,w64,aiff,au,caf,asf,avi,flv,mpegts,mpeg,"
    "ac3,eac3,dts,dtshd,ape,wv,tta,tak,mpc,mpc8,rm,voc,nistsphere,loas,latm,sox,gsm,qcp,nut,mxf,oma,shn,ircam,ivr,dsf,"
    "mlp,truehd,ilbc,lc3,xwma,wtv"
)
_WAIT_S = 60.0  # for the bytes of a file; a disk that takes longer does not answer
_MAX_FOREIGN = 10_000_000  # packets of streams that begin in the middle
_AUDIBLE = 1e-3  # -60 dB: a track that stays below it is silent


def open_container(encoded: Encoded) -> av.container.InputContainer:
    options = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}
    source = encoded.source
    if isinstance(source, str):
        source = f"file:{source}"  # or FFmpeg takes "a:b.mp3" for a protocol
    else:
        source.seek(0)
    try:
        return av.open(source, metadata_errors="replace", options=options, timeout=_WAIT_S)
    except av.ArgumentError:  # the whitelist's
        raise AudioError("a playlist, or of another format that is not opened as audio") from None


def tracks_of(container: av.container.InputContainer) -> list[av.AudioStream]:
    tracks = [stream for stream in container.streams.audio if stream.codec_context is not None]
    if not tracks:
        raise AudioError("no audio stream in it that could be decoded")
    return tracks


def demuxed(container: av.container.InputContainer, *tracks: av.AudioStream) -> Iterator[av.Packet]:
    """Packets of tracks. PyAV has an IndexError for each packet of a stream that begins in the middle: not these."""
    for _ in range(_MAX_FOREIGN):
        with suppress(IndexError):
            yield from container.demux(tracks)
            return


def first_frame(container: av.container.InputContainer, track: av.AudioStream) -> av.AudioFrame | None:
    """The first that can be decoded of a track; None where there is none."""
    with suppress(av.FFmpegError):
        for packet in demuxed(container, track):
            with suppress(av.FFmpegError, ValueError):
                for frame in packet.decode():
                    return frame
    return None


def audible_track(container: av.container.InputContainer) -> int:
    """Which of several tracks to take: the one that the file marks as its default, or the first of them that sounds."""
    tracks = tracks_of(container)
    order = sorted(range(len(tracks)), key=lambda i: not tracks[i].disposition & Disposition.default)
    heard: set[int] = set()
    with suppress(av.FFmpegError):
        for packet in demuxed(container, *tracks):
            track = next(i for i, one in enumerate(tracks) if one.index == packet.stream_index)
            with suppress(av.FFmpegError, ValueError):
                if track not in heard and any(_peak(frame) > _AUDIBLE for frame in packet.decode()):
                    heard.add(track)
            if order[0] in heard:
                break
    return next((i for i in order if i in heard), order[0])


def _peak(frame: av.AudioFrame) -> float:
    packed = av.AudioResampler(format="flt").resample(frame)
    return max((float(np.abs(one.to_ndarray()).max(initial=0.0)) for one in packed), default=0.0)
