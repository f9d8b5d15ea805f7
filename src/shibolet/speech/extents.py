"""What the bytes of a file say about its length: cheaper than to decode it, and truer than its header.

Chunks of WAV, RF64, W64, AIFF, CAF and AU give the number of bytes of samples: the file may hold fewer or more of them.
Pages of Ogg show links that follow each other, and damage.
"""

import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from shibolet.speech.encoded import Encoded

OGG = b"OggS"
_UNKNOWN_BYTES = 0x7FFF0000  # or more, in 32 bits: what writers to a pipe leave, 2^31 or 2^32 less a little
_MAX_CHUNKS = 1000  # that are stepped over before the samples, or after them


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of samples that a file of chunks promises and that it has."""

    start: int  # in the file
    promised: int | None  # None: the writer did not know
    present: int  # to the end of the file, less chunks that follow
    size_at: int  # in the file: where the number of bytes stands
    size_format: str  # of `struct`

    @property
    def is_understated(self) -> bool:
        return self.promised is not None and self.promised < self.present and bool(self.size_format)

    @property
    def times_present(self) -> float:
        """Length that was promised in units of the length that is there; at least 1."""
        if not self.promised or not self.present:
            return 1.0
        return max(1.0, self.promised / self.present)


@dataclass(frozen=True, slots=True)
class _Chunks:
    """How a family of formats writes its chunks."""

    first: int  # place of the first chunk
    id_bytes: int
    size_format: str
    samples: bytes  # id of the chunk of samples
    align: int = 2
    counts_header: bool = False


_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_FAMILIES = {
    b"RIFF": _Chunks(12, 4, "<I", b"data"),
    b"RF64": _Chunks(12, 4, "<I", b"data"),
    b"RIFX": _Chunks(12, 4, ">I", b"data"),
    b"FORM": _Chunks(12, 4, ">I", b"SSND"),
    b"caff": _Chunks(8, 4, ">q", b"data", align=1),
    b"riff": _Chunks(40, 16, "<Q", _W64_DATA, align=8, counts_header=True),
}
_TAG = re.compile(rb"[A-Za-z0-9_ ]{4}|ID3|TAG")  # begins what is a chunk or a tag, and no sample


def extent_of(encoded: Encoded) -> Extent | None:
    """Of samples in chunks; None for another format, or where no chunk of samples is found."""
    head = encoded.head
    if head[:4] == b".snd" and len(head) >= 12:
        start, promised = struct.unpack(">II", head[4:12])
        return Extent(start, _known(promised), max(0, encoded.size - start), 8, ">I")
    if head[:7] == b"NIST_1A":
        return _of_sphere(head, encoded.size)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":  # the file as a whole, and its sound in proportion
        return Extent(8, int.from_bytes(head[4:8], "little"), encoded.size - 8, 4, "")
    family = _FAMILIES.get(head[:4])
    return None if family is None else _samples_chunk(encoded, family)


def _of_sphere(head: bytes, size: int) -> Extent | None:
    """Of NIST SPHERE, whose header is text."""
    fields = dict(re.findall(rb"(sample_count|sample_n_bytes|channel_count) -i (\d+)", head))
    if len(fields) < 3 or not head[8:16].strip().isdigit():
        return None
    start, promised = int(head[8:16]), 1
    for number in fields.values():
        promised *= int(number)
    return Extent(start, promised, max(0, size - start), 0, "")


def _samples_chunk(encoded: Encoded, family: _Chunks) -> Extent | None:
    at, long_size = family.first, None
    for kind, size_at, length in _chunks(encoded, family, at):
        if kind == b"ds64" and length >= 16:  # RF64: the sizes that 32 bits do not hold
            long_size = int.from_bytes(encoded.bytes_at(size_at + 12, 8), "little")
        if kind == family.samples:
            break
    else:
        return None
    start = size_at + struct.calcsize(family.size_format)
    is_long = long_size is not None and length == 0xFFFFFFFF
    promised = long_size if is_long else length
    if is_long:
        promised = None if promised in (0, 2**64 - 1) else promised
    elif family.size_format in ("<I", ">I"):
        promised = _known(promised)
    elif promised < 0:
        promised = None
    present = encoded.size - start
    if promised is not None and promised < present and _is_tail(encoded, family, start + promised):
        present = promised
    return Extent(start, promised, present, size_at, family.size_format)


def _known(promised: int) -> int | None:
    return None if promised >= _UNKNOWN_BYTES else promised


def _chunks(encoded: Encoded, family: _Chunks, at: int) -> Iterator[tuple[bytes, int, int]]:
    """Id, place of the size and length in bytes of each chunk from `at` on, as far as their headers are in the file."""
    header_bytes = family.id_bytes + struct.calcsize(family.size_format)
    for _ in range(_MAX_CHUNKS):
        if at + header_bytes > encoded.size:
            return
        header = encoded.bytes_at(at, header_bytes)
        if len(header) < header_bytes:
            return
        [length] = struct.unpack(family.size_format, header[family.id_bytes :])
        length -= header_bytes * family.counts_header
        yield header[: family.id_bytes], at + family.id_bytes, length
        if length < 0:
            return
        at += header_bytes + length
        at += -at % family.align


def _is_tail(encoded: Encoded, family: _Chunks, end: int) -> bool:
    """Whether what follows the samples is further chunks or a tag, or too little to matter, and not more samples."""
    if encoded.size - end < 16:
        return True
    end += -end % family.align
    if not _TAG.match(encoded.bytes_at(end, 4)):
        return False
    last = end
    for _, size_at, length in _chunks(encoded, family, end):
        last = size_at + length
    return last <= encoded.size + 16 or encoded.bytes_at(end, 3) in (b"ID3", b"TAG")


def mended(encoded: Encoded, extent: Extent) -> Encoded:
    """The file as if its header said how many bytes of samples it has."""
    return encoded.patched(extent.size_at, struct.pack(extent.size_format, extent.present))


def num_ogg_links(encoded: Encoded) -> int:
    """Streams that begin in an Ogg file, found by reading over it without looking at its pages."""
    begin, num, before = b"OggS\x00\x02", 0, b""
    with encoded.opened() as file:
        while content := file.read(1 << 20):
            num += (before + content).count(begin)
            before = content[1 - len(begin) :]
    return num


@dataclass(frozen=True, slots=True)
class OggPages:
    """What the pages of an Ogg file are."""

    links: tuple[tuple[int, int], ...]  # begin and end in the file of streams that follow each other
    is_plain: bool  # one stream at a time, no page damaged or lost: what libsndfile reads as it is
    is_cut: bool  # the last page is not there in full


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_pages(encoded: Encoded) -> OggPages:
    """The pages of an Ogg file, each checked. Reads all of it, once while it stays the same."""
    if isinstance(encoded.source, str):
        found = os.stat(encoded.source)
        return _ogg_pages_of(encoded.source, found.st_mtime_ns, found.st_size)
    with encoded.opened() as file:
        return _ogg_pages(file.read())


@lru_cache(maxsize=256)
def _ogg_pages_of(path: str, mtime_ns: int, size: int) -> OggPages:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _ogg_pages(content)


def _ogg_pages(content: bytes | mmap.mmap) -> OggPages:
    links, is_plain, is_first, is_cut, at = [], True, False, False, 0
    numbers: dict[bytes, int] = {}  # of each stream's last page
    budget = 4 * len(content) + (1 << 20)  # bytes to check; what only looks like pages could cost their square
    while at + 27 <= len(content) and budget > 0:
        num_segments = content[at + 26]
        size = 27 + num_segments + sum(content[at + 27 : at + 27 + num_segments])
        page = content[at : at + size]
        budget -= size
        if page[:4] != b"OggS" or (len(page) == size and not _is_sound_page(page)):
            at = content.find(b"OggS", at + 1)
            if at < 0:
                break
            is_plain = False
            continue
        if is_cut := len(page) < size:
            break
        is_begin, serial, number = page[5] & 2, page[14:18], int.from_bytes(page[18:22], "little")
        if is_begin and is_first:
            is_plain = False  # two streams side by side
        elif is_begin:
            links.append(at)
            numbers.clear()
        elif number != numbers.get(serial, number - 1) + 1 and number > numbers.get(serial, 0):
            is_plain = False
        is_first = bool(is_begin)
        numbers[serial] = number
        at += size
    is_cut = is_cut or content[at : at + 4] == OGG
    edges = [0, *links[1:], len(content)]
    is_plain = is_plain and not is_cut and bool(links) and budget > 0
    return OggPages(tuple(pairwise(edges)), is_plain, is_cut and budget > 0)


def _is_sound_page(page: bytes) -> bool:
    """Whether a page's checksum holds: CRC-32 with the bits in the other order than zlib's, begun and ended with 0."""
    reversed_bits = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
    crc = zlib.crc32(reversed_bits, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return page[22:26].translate(_REVERSED) == crc.to_bytes(4, "big")


_ID3 = re.compile(rb"ID3[\x02-\x04][\x00-\xfe][\x00\x10\x20\x40\x80\xc0\xe0][\x00-\x7f]{4}")
_BEGINS = (_ID3, re.compile(rb"#!AMR(?:-WB)?\n"))


def joined_files(encoded: Encoded) -> tuple[tuple[int, int], ...]:
    """Begin and end of whole files of one format that somebody wrote one after the other: WAV, MP3 with tags, AMR."""
    head = encoded.head
    if head[:4] == b"RIFF":
        return _joined(_wav_begins(encoded), encoded.size)
    is_mp3 = head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] and head[1] & 0xE6 == 0xE2)
    if not is_mp3 and head[:5] != b"#!AMR":
        return ((0, encoded.size),)
    begin = _BEGINS[0 if is_mp3 else 1]
    if isinstance(encoded.source, str):
        found = os.stat(encoded.source)
        return _joined(_begins_of(encoded.source, found.st_mtime_ns, found.st_size, begin), encoded.size)
    with encoded.opened() as file:
        return _joined(_begins(file.read(), begin), encoded.size)


def _joined(begins: tuple[int, ...], size: int) -> tuple[tuple[int, int], ...]:
    return tuple(pairwise([0, *(at for at in begins if at), size]))


def _wav_begins(encoded: Encoded) -> tuple[int, ...]:
    """Where a WAV begins, and those right after it."""
    at, begins = 0, []
    while (head := encoded.bytes_at(at, 12))[:4] == b"RIFF" and head[8:] == b"WAVE" and len(begins) < _MAX_CHUNKS:
        begins.append(at)
        size = int.from_bytes(head[4:8], "little")
        at += 8 + size + size % 2
        if not 36 <= size or at >= encoded.size:
            break
    return tuple(begins)


@lru_cache(maxsize=256)
def _begins_of(path: str, mtime_ns: int, size: int, begin: re.Pattern[bytes]) -> tuple[int, ...]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _begins(content, begin)


def _begins(content: bytes | mmap.mmap, begin: re.Pattern[bytes]) -> tuple[int, ...]:
    found, at = [], 0
    while match := begin.search(content, at):
        at = match.end()
        if begin is _ID3:
            at += sum(byte << 7 * (3 - i) for i, byte in enumerate(match[0][6:10]))
            frame = content[at : at + 2]
            if len(frame) < 2 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:
                at = match.end() if match.start() else at
                continue
        found.append(match.start())
    return tuple(found)


def mp3_promised_frames(encoded: Encoded) -> int | None:
    """Frames that an MP3's first frame promises (a Xing, Info or VBRI header); None where it promises none."""
    head, start = encoded.head, 0
    if head[:3] == b"ID3":
        start = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
    first = encoded.bytes_at(start, 200)
    for name, flags_at, frames_at in ((b"Xing", 4, 8), (b"Info", 4, 8), (b"VBRI", None, 14)):
        at = first.find(name)
        if at >= 0 and len(first) >= at + frames_at + 4 and (flags_at is None or first[at + 7] & 1):
            return int.from_bytes(first[at + frames_at : at + frames_at + 4], "big") or None
    return None
