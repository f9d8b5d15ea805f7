"""How reliable the audit's probability is on speakers that fitted neither the map nor its recalibration.

    python benchmarks/reliability.py --data DIR/manifest.jsonl --recogniser MODEL --out DIR [--language English]

The speakers of clean clips are halved. One half makes a calibration file as `shibolet calibrate` does; copies of the
other half, damaged in every way of the matrix, are judged by it; then the other way round, both pooled. The same again
with the calibration that `shibolet audit` makes of the half by itself, on the kinds of its self-test. Prints JSON: by
tenth of the probability the mean and the share of clips that are undamaged, in the stated mixture; the expected
calibration error; and which bars are missed.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shibolet.audit import selftest
from shibolet.audit.calibrate import read_calibration, run_calibrate
from shibolet.audit.calibration import logits
from shibolet.audit.clip import clip_of
from shibolet.audit.config import AuditConfig, CalibrateConfig, SelfTestConfig
from shibolet.audit.damage import Original, Pool, copies, matrix
from shibolet.audit.detection import GROSS, MILD
from shibolet.audit.hearing import Listener
from shibolet.audit.material import material_of
from shibolet.audit.probability import MIXTURE, Example, expected_error, probability_at, reliability, weights_of
from shibolet.audit.sampling import SampleConfig
from shibolet.audit.stage import run_audit, signals_of
from shibolet.listen.open import open_recogniser
from shibolet.records.documents.calibration import Calibration
from shibolet.records.utterance import Utterance
from shibolet.speech.audio import load
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language

SEED = 17
MAX_ERROR, MAX_OF_TENTH, MIN_IN_TENTH = 0.03, 0.05, 400


class Bench:
    """One recogniser; what was heard once is not heard again."""

    def __init__(self, recogniser, args: argparse.Namespace) -> None:
        self.recogniser, self.language, self.out, self.num_copies = recogniser, args.language, args.out, args.copies
        self.config = AuditConfig(
            aligner=None, recogniser=args.recogniser, window_s=args.window, num_workers=args.workers,
            sample=SampleConfig(sample_frac=1.0, shares={}, min_utterances=1), selftest=SelfTestConfig(num_clips=240),
        )  # fmt: skip

    def listener(self) -> Listener:
        return Listener(None, self.recogniser, self.out / "heard", load, self.config, self.language)

    def by_file(self, fitted: list[Utterance], judged: list[Utterance], name: str) -> tuple[Calibration, list[Example]]:
        """The calibration file of one half, and the copies of the other in every way of the matrix."""
        listener, path = self.listener(), self.out / f"calibration-{name}.json"
        run_calibrate(
            fitted, out_path=path, name=name, listener=listener, audit=self.config, language=self.language,
            config=CalibrateConfig(copies_per_row=self.num_copies),
        )  # fmt: skip
        calibration = read_calibration(path, listener.identities, self.language).calibration
        part_of = {row.name: "good" for row in matrix(self.language) if row.harmless}
        part_of |= {**dict.fromkeys(GROSS, "gross"), **dict.fromkeys(MILD, "mild")}
        rows = [row for row in matrix(self.language) if row.name in part_of]
        clips = [(u, clip) for u in judged if (clip := clip_of(u, get_language(self.language)))]
        originals = [Original(clip=clip, recording=u.cluster, speaker=u.speaker) for u, clip in clips]
        pool, seed = Pool(originals, self.language), CalibrateConfig().seed
        made = copies(rows, originals, pool, seed, frac=min(1.0, self.num_copies / len(originals)))
        untouched = [original.clip for original in originals]
        heard = listener.hear([*untouched, *(clip for own in made.values() for clip in own)])
        signals = {name: {clip.key: heard[clip.key].signals for clip in own} for name, own in made.items()}
        signals[selftest.UNTOUCHED] = {clip.key: heard[clip.key].signals for clip in untouched}
        return calibration, examples(signals, part_of, calibration)

    def by_itself(self, fitted: list[Utterance], judged: list[Utterance], name: str) -> tuple[Calibration, list]:
        """The calibration that one half makes of itself, and the self-test's copies of the other."""
        folder = self.out / f"audit-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        run_audit(fitted, [], out_dir=folder, listener=self.listener(), config=self.config, language=self.language)
        calibration = Calibration.read(folder / "calibration.json")
        material = material_of(judged, self.config, self.language)
        signals = signals_of(material, self.listener().hear(material.everything))
        part_of = {**dict.fromkeys(selftest.DAMAGES, "gross"), **dict.fromkeys(selftest.MILD, "mild")}
        return calibration, examples(signals, part_of, calibration)


def examples(signals: dict[str, dict], part_of: dict[str, str], calibration: Calibration) -> list[Example]:
    """Copies by row and key, judged."""
    found = []
    for row, own in signals.items():
        heard = {key: one for key, one in own.items() if one is not None}
        for key, logit in zip(heard, logits(calibration, list(heard.values())), strict=True):
            part = part_of.get(row, "good")
            found.append(Example(logit=float(logit), part=part, row=row, clip=key.removeprefix(f"{row}/"), fold=0))
    return found


def measure(pairs: Sequence[tuple[Calibration, list[Example]]]) -> dict:
    """Reliability of several calibrations on examples that they have not seen, pooled, and what misses its bar."""
    pooled = [one for _, own in pairs for one in own]
    probability = np.concatenate([
        probability_at(calibration.recalibration, np.array([one.logit for one in own])) for calibration, own in pairs
    ])  # fmt: skip
    table = reliability(probability, np.array([one.part == "good" for one in pooled]), weights_of(pooled))
    error = expected_error(table)
    missed = [f"expected error {error}"] if error > MAX_ERROR else []
    for line in table:
        off = abs(line.probability - line.good)
        if line.num_clips >= MIN_IN_TENTH and off > MAX_OF_TENTH:
            missed.append(f"{line.lower} to {line.upper}: {off:.3f}")
    return {
        "expected_error": error,
        "missed": missed,
        "clips": {part: sum(one.part == part for one in pooled) for part in MIXTURE},
        "printed_errors": [calibration.recalibration.expected_error for calibration, _ in pairs],
        "table": [line.model_dump() for line in table],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="manifests of clean clips")
    parser.add_argument("--recogniser", required=True)
    parser.add_argument("--language", default="English")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--window", type=float, help="seconds; left out: measured on the clips")
    parser.add_argument("--copies", type=int, default=24, help="of each row of the matrix, in each half")
    parser.add_argument("--workers", type=int, help="processes that decode")
    parser.add_argument("--only", choices=["file", "self"], help="with a file of calibrate, or each half by itself")
    args = parser.parse_args()
    clean = []
    for number, manifest in enumerate(args.data):
        found, _ = read_source(DataSource(name=f"clean{number}", manifest=manifest), args.out)
        clean += [replace(u, domain=u.domain or "real") for u in found]
    speakers = sorted({u.speaker or u.cluster for u in clean})
    random.Random(SEED).shuffle(speakers)
    first = set(speakers[::2])
    halves = [[u for u in clean if ((u.speaker or u.cluster) in first) == side] for side in (True, False)]
    bench = Bench(open_recogniser(args.recogniser, args.language, device=args.device), args)
    ways = {"file": bench.by_file, "self": bench.by_itself}
    found = {
        name: measure([make(halves[i], halves[1 - i], f"half {i + 1}") for i in (0, 1)])
        for name, make in ways.items()
        if args.only in (None, name)
    }
    missed = [f"{name}: {what}" for name, one in found.items() for what in one["missed"]]
    print(json.dumps({"recogniser": args.recogniser, "clips": len(clean), "missed": missed, **found}, indent=1))


if __name__ == "__main__":
    main()
