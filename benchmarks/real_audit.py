"""Whether audit and gate are right on real speech heard by real recognisers.

    python benchmarks/real_audit.py --data DIR/manifest.jsonl --recogniser MODEL --out DIR [--language English]

Makes data sets of the manifest's clips: as they are; with the texts of a fifth, or a third, swapped; with half of a
fifth's texts, or of a fifth's audio, cut off; in babble of six other speakers at 10 dB; played backwards in part. Each
is audited as `shibolet audit` does it, by itself; and with --files by a calibration file made of the clean clips of the
other half of the speakers, both directions pooled. With --hypotheses each is audited twice more, from a file of the
recogniser's hypotheses: alone, and with those of the copies. Prints JSON: verdicts, shares flagged, AUROC.
"""

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile as sf

from shibolet.audit import selftest
from shibolet.audit.calibrate import run_calibrate
from shibolet.audit.calibration import CANDIDATES, EVIDENCE, HYPOTHESIS, confidence
from shibolet.audit.config import AuditConfig, CalibrateConfig, SelfTestConfig
from shibolet.audit.hearing import Listener
from shibolet.audit.material import material_of
from shibolet.audit.sampling import SampleConfig
from shibolet.audit.selftest import UNTOUCHED
from shibolet.audit.stage import fit_on, run_audit, signals_of
from shibolet.gate.config import GateConfig
from shibolet.gate.stage import gate, records_of
from shibolet.listen.hypotheses import RecordedHypotheses
from shibolet.listen.open import open_recogniser
from shibolet.records.audited import Audited, read_audited
from shibolet.records.documents.alignment import AlignmentReport
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.files import write_jsonl
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.roc import Scores, auroc
from shibolet.speech.audio import load
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource

SEED = 17
BABBLE_DB, VOICES = 10.0, 6


Made = tuple[list[Utterance], set[str]]


def data_sets(clean: list[Utterance], folder: Path) -> dict[str, Callable[[], Made]]:
    """By name, what makes the utterances and the ids of those that are damaged; babble is harmless."""
    rng = random.Random(SEED)
    order = rng.sample(clean, len(clean))
    long = [u for u in order if len(u.text.split()) >= 2]
    fifth, backwards = len(clean) // 5, folder / "reversed"
    return {
        "clean": lambda: (clean, set()),
        "fifth swapped": lambda: swapped(clean, order[:fifth]),
        "third swapped": lambda: swapped(clean, order[: len(clean) // 3]),
        "fifth text halved": lambda: changed(clean, long[:fifth], half_text),
        "fifth audio halved": lambda: changed(clean, long[:fifth], half_audio),
        "babble": lambda: ([in_babble(u, clean, folder / "babble") for u in clean], set()),
        # Speech that no recogniser understands, with its right text: in one of two domains, and in 60% of one.
        "deaf in a domain": lambda: ([reversed_(u, backwards) if i % 2 else u for i, u in enumerate(clean)], set()),
        "deaf to 60%": lambda: (
            [replace(reversed_(u, backwards), domain="real") if i % 5 < 3 else u for i, u in enumerate(clean)],
            set(),
        ),
    }


def swapped(clean: list[Utterance], chosen: list[Utterance]) -> tuple[list[Utterance], set[str]]:
    """Each of the chosen gets the text of the next one that says something else."""
    texts = {}
    for i, u in enumerate(chosen):
        others = (chosen[(i + step) % len(chosen)].text for step in range(1, len(chosen)))
        texts[u.id] = next(text for text in others if text != u.text)
    return [replace(u, text=texts.get(u.id, u.text)) for u in clean], set(texts)


def changed(clean: list[Utterance], chosen: list[Utterance], change) -> tuple[list[Utterance], set[str]]:
    ids = {u.id for u in chosen}
    return [change(u, i % 2) if u.id in ids else u for i, u in enumerate(clean)], ids


def half_text(u: Utterance, tail: int) -> Utterance:
    words = u.text.split()
    return replace(u, text=" ".join(words[len(words) // 2 :] if tail else words[: len(words) - len(words) // 2]))


def half_audio(u: Utterance, tail: int) -> Utterance:
    middle = u.duration_s / 2
    return replace(u, audio=u.audio.cut(*((middle, u.duration_s) if tail else (0.0, middle))), duration_s=middle)


def in_babble(u: Utterance, clean: list[Utterance], folder: Path) -> Utterance:
    """The clip with six clips of six other speakers behind it, at 10 dB."""
    path = folder / f"{Path(u.id).name}.wav"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        rng, samples, speakers = random.Random(f"{SEED}/{u.id}"), load(u.audio), {}
        for other in rng.sample(clean, len(clean)):
            if other.speaker != u.speaker and len(speakers) < VOICES:
                speakers.setdefault(other.speaker, load(other.audio))
        noise = sum(np.resize(v, len(samples)) / np.sqrt(np.mean(v**2)) for v in speakers.values())
        noise *= np.sqrt(np.mean(samples**2) / np.mean(noise**2)) * 10 ** (-BABBLE_DB / 20)
        sf.write(path, samples + noise, 16000, subtype="FLOAT")
    return replace(u, audio=AudioRef(path=str(path)))


def reversed_(u: Utterance, folder: Path) -> Utterance:
    """The clip played backwards, in a domain of its own."""
    path = folder / f"{Path(u.id).name}.wav"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, load(u.audio)[::-1], 16000, subtype="FLOAT")
    return replace(u, audio=AudioRef(path=str(path)), domain="reversed")


class Bench:
    """One recogniser over the data sets; what was heard once is not heard again."""

    def __init__(self, recogniser, name: str, language: str, out: Path, args: argparse.Namespace) -> None:
        self.recogniser, self.name, self.language, self.out = recogniser, name, language, out
        self.window_s, self.copies, self.workers = args.window, args.copies, args.workers

    def config(self, calibration: Path | None = None) -> AuditConfig:
        return AuditConfig(
            aligner=None, recogniser=self.name, calibration=calibration, window_s=self.window_s,
            num_workers=self.workers,
            sample=SampleConfig(sample_frac=1.0, shares={}, min_utterances=1), selftest=SelfTestConfig(num_clips=240),
        )  # fmt: skip

    def listener(self, config: AuditConfig, recogniser=None) -> Listener:
        return Listener(None, recogniser or self.recogniser, self.out / "heard", load, config, self.language)

    def audit(
        self, utterances: list[Utterance], calibration: Path | None = None, recogniser=None
    ) -> tuple[list[Audited], GateVerdict, AlignmentReport]:
        config, folder = self.config(calibration), self.out / "run" / "audit"
        folder.mkdir(parents=True, exist_ok=True)
        report = run_audit(
            utterances, [], out_dir=folder, listener=self.listener(config, recogniser), config=config,
            language=self.language,
        )  # fmt: skip
        table = folder / "utterances.parquet"
        return list(read_audited(table)), gate(report, records_of(table), GateConfig()), report

    def calibrate(self, half: list[Utterance], name: str) -> Path:
        path = self.out / f"calibration-{name}.json"
        run_calibrate(
            half, out_path=path, name=name, listener=self.listener(self.config()),
            config=CalibrateConfig(copies_per_row=self.copies), audit=self.config(), language=self.language,
        )  # fmt: skip
        return path

    def from_file(
        self, utterances: list[Utterance], *, with_copies: bool
    ) -> tuple[list[Audited], GateVerdict, AlignmentReport]:
        """The audit of a file of this recogniser's hypotheses."""
        config = self.config()
        material = material_of(utterances, config, self.language)
        clips = material.everything if with_copies else material.clips
        heard = self.listener(config).hear(clips)
        path = self.out / "hypotheses.jsonl"
        known = [clip for clip in clips if clip.change_audio or clip.key == clip.utterance]
        write_jsonl(path, [{"id": clip.key, "hypothesis": heard[clip.key].hypothesis} for clip in known])
        return self.audit(utterances, recogniser=RecordedHypotheses(path))


def figures(rows: list[Audited], damaged: set[str], verdicts: list[GateVerdict]) -> dict:
    """What the verdicts come to: of the damaged found, of the others flagged, and the gate's."""
    flagged = {row.id: row.is_low_quality for row in rows}
    good, bad = ([f for id, f in flagged.items() if (id in damaged) == side] for side in (False, True))
    line: dict = {
        "gate": [v.decision for v in verdicts],
        "why": [v.reasons[0] for v in verdicts if v.decision == "INVALID"],
        "good_flagged_pct": round(100 * float(np.mean(good)), 1),
        "found_pct": round(100 * float(np.mean(bad)), 1) if bad else None,
    }
    if bad:
        score = lambda side: [r for r in rows if (r.id in damaged) == side and r.confidence is not None]  # noqa: E731
        one = lambda own: Scores(np.array([r.confidence for r in own]), [r.speaker for r in own])  # noqa: E731
        line["auroc"] = round(auroc(one(score(False)), one(score(True))).value, 4)
    return line


def tallies(report: AlignmentReport) -> dict:
    test = report.self_test
    named = {**test.damaged, "harmless": test.harmless, "untouched": test.untouched}
    return {kind: f"{tally.hits}/{tally.total}" for kind, tally in named.items()}


def ablation(bench: Bench, utterances: list[Utterance], damaged: set[str]) -> dict:
    """By signals of the map: good flagged and damaged found in the data, and in the self-test's held-out halves."""
    config = bench.config()
    material = material_of(utterances, config, bench.language)
    heard = bench.listener(config).hear(material.everything)
    signals = signals_of(material, heard)
    speakers = {o.clip.key: o.speaker or o.recording for o in material.tested}
    parts = selftest.folds(signals[UNTOUCHED], speakers, dict.fromkeys(signals[UNTOUCHED], "all"))

    def line(evidence: Sequence[str]) -> dict:
        found, tally = {True: [], False: []}, defaultdict(list)
        whole = fit_on(signals, signals[UNTOUCHED], (), evidence)
        for clip in material.clips:
            found[clip.key in damaged].append(confidence(whole, [heard[clip.key].signals])[0] < 0.5)
        for keys in parts:
            made = fit_on(signals, signals[UNTOUCHED].keys() - set(keys), (), evidence)
            for kind, own in signals.items():
                present = [own[key] for key in keys if key in own]
                tally[kind] += (confidence(made, present) < 0.5).tolist() if present else []
        pct = lambda flags: round(100 * float(np.mean(flags)), 1) if flags else None  # noqa: E731
        return {"good_flagged": pct(found[False]), "found": pct(found[True]), **{k: pct(v) for k, v in tally.items()}}

    sets = {"all": EVIDENCE, **{f"all but {n}": tuple(e for e in EVIDENCE if e != n) for n in EVIDENCE}}
    sets |= {f"all and {n}": (*EVIDENCE, n) for n in CANDIDATES if n != "coverage"}
    sets |= {"cer, edge_cer": HYPOTHESIS, "cer": ("cer",)}
    return {name: line(evidence) for name, evidence in sets.items()}


def measure(
    bench: Bench, clean: list[Utterance], names: list[str], with_files: bool, with_hypotheses: bool, with_ablation: bool
) -> dict:
    """A line for each data set, self-calibrated and with a calibration file of the other speakers."""
    sets = {k: make() for k, make in data_sets(clean, bench.out.parent).items() if not names or k in names}
    lines: dict[str, dict] = {}
    speakers = sorted({u.speaker for u in clean})
    random.Random(SEED).shuffle(speakers)
    first = set(speakers[::2])
    files = [bench.calibrate([u for u in clean if (u.speaker in first) == side], f"{side}") for side in (True, False)
             ] if with_files else []  # fmt: skip
    for name, (utterances, damaged) in sets.items():
        started = time.monotonic()
        rows, verdict, report = bench.audit(utterances)
        lines[name] = {"self": figures(rows, damaged, [verdict]), "seconds": round(time.monotonic() - started)}
        lines[name]["self_test"] = tallies(report)
        if with_ablation:
            lines[name]["ablation"] = ablation(bench, utterances, damaged)
        for mode in (False, True) if with_hypotheses else ():
            rows, verdict, report = bench.from_file(utterances, with_copies=mode)
            key = "hypotheses and copies" if mode else "hypotheses"
            lines[name][key] = figures(rows, damaged, [verdict]) | {"judged_by": report.judged_by}
        if files:
            pooled, verdicts = [], []
            for side, path in zip((False, True), files, strict=True):
                half = [u for u in utterances if (u.speaker in first) == side]
                rows, verdict, _ = bench.audit(half, path)
                pooled, verdicts = pooled + rows, [*verdicts, verdict]
            lines[name]["file"] = figures(pooled, damaged, verdicts)
        print(name, json.dumps(lines[name]), file=sys.stderr, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recogniser", required=True)
    parser.add_argument("--language", default="English")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--window", type=float, help="seconds; left out: measured on the clips")
    parser.add_argument("--sets", nargs="*", default=[])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--files", action="store_true", help="with calibration files of the other speakers too")
    parser.add_argument("--copies", type=int, default=40, help="of each row of the matrix, for a calibration file")
    parser.add_argument("--ablation", action="store_true", help="of the map's signals")
    parser.add_argument("--workers", type=int, help="processes that decode")
    parser.add_argument("--hypotheses", action="store_true", help="from a file of hypotheses too")
    args = parser.parse_args()
    clean, _ = read_source(DataSource(name="real", manifest=args.data), args.out)
    clean = [replace(u, domain="real") for u in clean][: args.limit]
    recogniser = open_recogniser(args.recogniser, args.language, device=args.device)
    bench = Bench(recogniser, args.recogniser, args.language, args.out / "bench", args)
    lines = measure(bench, clean, args.sets, args.files, args.hypotheses, args.ablation)
    print(json.dumps({"recogniser": args.recogniser, "clips": len(clean), "sets": lines}, indent=1))


if __name__ == "__main__":
    main()
