"""Lengths of audio as Qwen3-ASR counts them: samples, mel frames, encoder tokens, windows."""

HOP_SAMPLES = 160
MIN_SAMPLES = 8000  # shorter audio is padded with zeros, as the official package does
CHUNK_FRAMES = 100  # the convolutions see one second at a time
TOKENS_PER_CHUNK = 13
WINDOW_TOKENS = 8 * TOKENS_PER_CHUNK  # the encoder attends within windows of 8 s


def num_mel_frames(num_samples: int) -> int:
    """Mel frames of an utterance of that many samples at 16 kHz."""
    return max(num_samples, MIN_SAMPLES) // HOP_SAMPLES


def num_audio_tokens(num_frames: int) -> int:
    """Encoder tokens of that many mel frames: 13 a full second, three halvings (rounded up) of the rest."""
    rest = num_frames % CHUNK_FRAMES
    for _ in range(3):
        rest = (rest + 1) // 2
    return num_frames // CHUNK_FRAMES * TOKENS_PER_CHUNK + rest
