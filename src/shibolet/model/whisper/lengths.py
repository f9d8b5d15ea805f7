"""Lengths of audio as Whisper counts them: whatever is said, it hears 30 s."""

HOP_SAMPLES = 160
WINDOW_SAMPLES = 480_000  # 30 s; shorter audio is padded with zeros
WINDOW_FRAMES = WINDOW_SAMPLES // HOP_SAMPLES
WINDOW_STATES = WINDOW_FRAMES // 2  # the second convolution has a stride of 2


def num_frames(num_samples: int) -> int:
    """Mel frames of an utterance of that many samples at 16 kHz: those of the window."""
    return WINDOW_FRAMES


def num_heard_frames(num_samples: int) -> int:
    """Those of them that hold its audio, the last one in part."""
    return min(-(-num_samples // HOP_SAMPLES), WINDOW_FRAMES)


def num_states(num_frames: int) -> int:
    """Encoder states of that many mel frames."""
    return num_frames // 2
