"""Large buffers on a CPU are kept for the next batch, not given back to the system after each."""

import ctypes

# glibc's mallopt: parameter, value. No buffer has a mapping of its own, 2 GB at the heap's end stay, one heap for all.
KEPT = ((-4, 0), (-1, 2**31 - 1), (-8, 1))  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX


def keep_buffers() -> None:
    """For this process, where its C library is glibc.

    A Whisper-base needs 72 MB for the attention of one clip of 30 s in one layer; new pages for that each time are 40%
    of its encoder's CPU time under CTranslate2 and a tenth under torch (docs/decisions.md).
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in KEPT:
        mallopt(parameter, value)
