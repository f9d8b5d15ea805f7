"""English sentences as espeak-ng reads them, for benchmarks that need a second synthetic language."""

from collections.abc import Sequence

import numpy as np
import soxr

from shibolet.demo.synth import CHARS_UTF8, Speaker
from shibolet.speech.audio import SAMPLE_RATE_HZ


def said(sentences: Sequence[tuple[str, str]], rms: float | None = None) -> list[np.ndarray]:
    """Mono samples at 16 kHz of (sentence, voice), in this order by one process; `rms` None: as loud as they come."""
    speaker, made = Speaker(), []
    library = speaker._library
    for sentence, voice in sentences:
        speaker._chunks.clear()
        if library.espeak_SetVoiceByName(f"en-us+{voice}".encode()):
            raise SystemExit(f"espeak-ng has no voice en-us+{voice}")
        text = sentence.encode() + b"\0"
        library.espeak_Synth(text, len(text), 0, 0, 0, CHARS_UTF8, None, None)
        samples = np.concatenate(speaker._chunks).astype(np.float32) / 32768
        samples = soxr.resample(samples, speaker._rate_hz, SAMPLE_RATE_HZ)
        made.append(samples if rms is None else samples * (rms / max(1e-6, float(np.sqrt(np.mean(samples**2))))))
    return made
