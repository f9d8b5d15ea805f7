"""What the bytes of a FLAC file say about its length: its header, and its last frame, which has its place."""

from shibolet.speech.encoded import Encoded

_RATES_HZ = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
_BEGIN = b"fLaC\0\0\0\x22"  # and the first block, which is never the last: libraries write a comment
_END_OF_BEGIN = 42
_PADDING, _SEEKTABLE, _COMMENT = 1, 3, 4  # kinds of blocks
_BITS = (8, 16, 24)  # of a sample, as libsndfile reads them
_MAX_BLOCKS = 1000  # before the first frame
_TAILS_BYTES = (1 << 13, 1 << 16)


def flac_lengths(encoded: Encoded) -> tuple[int, int | None] | None:
    """Samples of a FLAC file as its header says, and as its last frame does (None: none is found); None: no FLAC."""
    head = encoded.head
    if head[:4] != b"fLaC" or len(head) < 42:
        return None
    block_samples = int.from_bytes(head[8:10], "big")
    rate_hz = int.from_bytes(head[18:21], "big") >> 4
    total = int.from_bytes(head[21:26], "big") & (1 << 36) - 1
    with encoded.opened() as file:
        for num_bytes in _TAILS_BYTES:
            file.seek(max(42, encoded.size - num_bytes))
            tail = file.read(num_bytes)
            at = len(tail)
            while (at := tail.rfind(b"\xff", 0, at)) >= 0:
                if (end := _frame_end(tail[at : at + 16], block_samples, rate_hz)) is not None:
                    return total, end
    return total, None


def plain_flac(encoded: Encoded) -> tuple[int, int, int] | None:
    """Samples, rate and channels of a FLAC file whose blocks and frames, as far as looked at, are as its header says.

    None: not sure of it, for a decoder to say.
    """
    head = encoded.head
    if head[:8] != _BEGIN or len(head) < 42:
        return None
    rate_hz, channels = int.from_bytes(head[18:21], "big") >> 4, (head[20] >> 1 & 7) + 1
    bits = ((head[20] & 1) << 4 | head[21] >> 4) + 1
    at, block_samples = _first_frame(encoded), int.from_bytes(head[8:10], "big")
    if at is None or _frame_end(encoded.bytes_at(at, 16), block_samples, rate_hz) is None:
        return None
    total, end = flac_lengths(encoded)
    return (total, rate_hz, channels) if 0 < total == end and bits in _BITS else None


def _first_frame(encoded: Encoded) -> int | None:
    """Where blocks end that every decoder takes: padding, places to seek, a comment; None where there are others."""
    at, is_last = _END_OF_BEGIN, False
    for _ in range(_MAX_BLOCKS):
        if is_last:
            return at
        kind, *size = encoded.bytes_at(at, 4).ljust(4, b"\xff")
        is_last, kind, length = kind > 127, kind & 127, int.from_bytes(size, "big")
        if kind not in (_PADDING, _SEEKTABLE, _COMMENT) or (kind == _SEEKTABLE and length % 18):
            return None
        if kind == _COMMENT and not _is_comment(encoded.bytes_at(at + 4, length)):
            return None
        at += 4 + length
    return None


def _is_comment(block: bytes) -> bool:
    """Whether it is a vendor, a number, and so many texts, each after its length, and no byte more."""
    at = 4 + _number(block, 0)
    at, num = at + 4, _number(block, at)
    for _ in range(min(num, len(block) // 4)):
        at += 4 + _number(block, at)
    return at == len(block)


def _number(block: bytes, at: int) -> int:
    return int.from_bytes(block[at : at + 4], "little")


def _frame_end(header: bytes, block_samples: int, rate_hz: int) -> int | None:
    """The sample after a frame that begins with these bytes; None where they are no header of a frame."""
    if len(header) < 7 or header[1] not in (0xF8, 0xF9) or header[3] & 1:
        return None
    size_code, rate_code = header[2] >> 4, header[2] & 15
    if not size_code or rate_code == 15 or header[3] >> 4 > 10:
        return None
    if 0 < rate_code < len(_RATES_HZ) and _RATES_HZ[rate_code] != rate_hz:
        return None
    num_more = 8 - (header[4] ^ 0xFF).bit_length()  # ones that the number's first byte begins with
    num_more = num_more - 1 if num_more > 1 else num_more
    if num_more == 1 and header[4] >= 0x80 and header[4] < 0xC0:
        return None
    number = header[4] & (0x7F >> num_more if num_more else 0x7F)
    at = 5
    for byte in header[5 : 5 + num_more]:
        if byte >> 6 != 2:
            return None
        number, at = number << 6 | byte & 0x3F, at + 1
    wide = {6: 1, 7: 2}.get(size_code, 0)
    given = int.from_bytes(header[at : at + wide], "big") + 1
    at += wide + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if at >= len(header) or _crc8(header[:at]) != header[at]:
        return None
    if wide:
        length = given
    else:
        length = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    return (number if header[1] == 0xF9 else number * block_samples) + length


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc8_of(byte: int) -> int:
    for _ in range(8):
        byte = byte << 1 ^ (0x107 if byte & 0x80 else 0)
    return byte


_CRC8 = [_crc8_of(byte) for byte in range(256)]
