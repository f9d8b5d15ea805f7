"""Which decoder has which file: libsndfile what it reads to the end, FFmpeg the rest."""

from shibolet.errors import AudioError
from shibolet.speech.encoded import Encoded
from shibolet.speech.extents import OGG, extent_of, joined_files, mended, num_ogg_links, ogg_pages
from shibolet.speech.ffmpeg import FFmpegSound
from shibolet.speech.sndfile import SndSound, try_sndfile

_MAX_LINKS = 10_000


def links_of(encoded: Encoded, *, for_length: bool = False) -> list[Encoded]:
    """The streams that follow each other in an Ogg file, or files that were joined, each by itself; else the file.

    With `for_length` the pages of an Ogg file are looked at only where there are several streams.
    """
    if encoded.head[:4] != OGG:
        links = joined_files(encoded)
        return [encoded] if not 1 < len(links) <= _MAX_LINKS else list(encoded.parts(links))
    if for_length and num_ogg_links(encoded) < 2:
        return [encoded]
    links = ogg_pages(encoded).links
    if len(links) > _MAX_LINKS:
        raise AudioError(f"{len(links):,} streams follow each other in it, {_MAX_LINKS:,} may")
    return [encoded] if len(links) < 2 else list(encoded.parts(links))


def open_sound(encoded: Encoded, *, for_length: bool = False, after_damage: bool = False) -> SndSound | FFmpegSound:
    """The audio, opened; `for_length`: no samples will be asked for; `after_damage`: libsndfile did not go on."""
    extent = extent_of(encoded)
    if extent is not None and extent.is_understated:
        encoded = mended(encoded, extent)
    sound = None if after_damage else try_sndfile(encoded, extent, for_length=for_length)
    return FFmpegSound(encoded, extent) if sound is None else sound
