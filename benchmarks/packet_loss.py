"""What lost packets of Opus do to real speech, and what a clip costs: prints a JSON line for each rate and burst.

    python benchmarks/packet_loss.py MANIFEST.jsonl [--clips 40]

Of each setting: the share of packets that were lost, the share of 20 ms frames that differ from the undamaged decode by
more than a hundredth of its level, with and without concealment, the error's level against that of the speech, and the
processor time of a second of audio. Length is compared to the sample.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from shibolet.records.files import read_jsonl
from shibolet.records.utterance import AudioRef
from shibolet.speech import audio
from shibolet.speech.augment import encode
from shibolet.speech.packets import PACKET_S, decode_with_losses, draw_losses, opus_packets

FRAME = round(PACKET_S * audio.SAMPLE_RATE_HZ)
SETTINGS = [(rate, burst) for rate in (0.02, 0.05, 0.1, 0.2, 0.4) for burst in (1.0, 4.0)]


def changed(whole: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """[P] whether each frame differs; silence is compared with a level of -60 dB."""
    num = len(whole) // FRAME * FRAME
    level = lambda samples: np.sqrt(np.mean(samples[:num].reshape(-1, FRAME) ** 2, axis=1))  # noqa: E731
    return level(heard - whole) > 0.01 * np.maximum(level(whole), 1e-3)


def measure(clips: list[np.ndarray], bitrate_bps: int, loss_frac: float, mean_burst: float) -> dict:
    rng, lost = np.random.default_rng(0), []
    differ, error, power = {True: [], False: []}, {True: 0.0, False: 0.0}, 0.0
    started = time.process_time()
    for clip in clips:
        encoded = encode(clip, "opus", bitrate_bps)
        is_lost = draw_losses(len(opus_packets(encoded)[0]), loss_frac, mean_burst, rng)
        lost.append(is_lost)
        for conceal in (True, False):
            whole, heard = (
                decode_with_losses(encoded, losses, len(clip), conceal=conceal)
                for losses in (np.zeros_like(is_lost), is_lost)
            )
            assert len(whole) == len(heard) == len(clip)
            differ[conceal].append(changed(whole, heard))
            error[conceal] += float(np.sum((heard - whole) ** 2))
        power += float(np.sum(whole**2))
    seconds = sum(map(len, clips)) / audio.SAMPLE_RATE_HZ
    decibels = lambda value: round(10 * np.log10(value / power), 1)  # noqa: E731
    return {
        "loss": loss_frac, "mean_burst": mean_burst, "lost": round(float(np.concatenate(lost).mean()), 4),
        "frames_differ_concealed": round(float(np.concatenate(differ[True]).mean()), 4),
        "frames_differ_silent": round(float(np.concatenate(differ[False]).mean()), 4),
        "error_db_concealed": decibels(error[True]), "error_db_silent": decibels(error[False]),
        "cpu_ms_per_audio_s": round(1000 * (time.process_time() - started) / seconds, 2), "decodes": 4,
    }  # fmt: skip


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("manifest", type=Path)
    given.add_argument("--clips", type=int, default=40)
    given.add_argument("--kbps", type=float, default=16.0)
    options = given.parse_args()
    rows = list(read_jsonl(options.manifest))[: options.clips]
    clips = [audio.load(AudioRef(path=str(options.manifest.parent / row["audio"]))) for row in rows]
    for loss_frac, mean_burst in SETTINGS:
        print(json.dumps({"kbps": options.kbps} | measure(clips, round(1000 * options.kbps), loss_frac, mean_burst)))


if __name__ == "__main__":
    main()
