"""The self-test's copies as audio, for a system that is not heard here: it transcribes them and its file is read."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf

from shibolet.audit.clip import Evidence
from shibolet.audit.config import AuditConfig
from shibolet.audit.material import material_of
from shibolet.audit.workers import decode
from shibolet.errors import DataError
from shibolet.records.files import write_jsonl
from shibolet.records.utterance import Utterance
from shibolet.speech.audio import SAMPLE_RATE_HZ, load

MANIFEST = "manifest.jsonl"
Progress = Callable[[int, int], None]


def export_copies(
    utterances: Sequence[Utterance],
    out_dir: Path,
    *,
    config: AuditConfig,
    language: str,
    on_progress: Progress | None = None,
) -> tuple[int, float]:
    """Write every copy with changed audio as FLAC beside a manifest (`id`, `audio`, `duration`); number and hours.

    The ids are those that the audit looks for in its file of hypotheses. What cannot be decoded is left out: the audit
    itself says why.
    """
    changed = [
        clip for own in material_of(utterances, config, language).copies.values() for clip in own if clip.change_audio
    ]
    if (manifest := out_dir / MANIFEST).exists():
        raise DataError(f"--export-copies: {manifest} is there already; name an empty folder")
    (out_dir / "audio").mkdir(parents=True, exist_ok=True)
    rows, seconds = [], 0.0
    for number, clip in enumerate(changed):
        path = out_dir / "audio" / f"{number:06d}.flac"
        decoded = decode([clip], load)[0]
        if isinstance(decoded, Evidence):
            continue
        samples = decoded[0]
        sf.write(path, samples / max(1.0, float(np.abs(samples).max(initial=0.0))), SAMPLE_RATE_HZ)
        duration_s = len(samples) / SAMPLE_RATE_HZ
        rows.append({"id": clip.key, "audio": str(path.relative_to(out_dir)), "duration": round(duration_s, 3)})
        seconds += duration_s
        if on_progress:
            on_progress(number + 1, len(changed))
    write_jsonl(manifest, rows)
    return len(rows), seconds / 3600
