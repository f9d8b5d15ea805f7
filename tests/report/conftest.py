"""A run folder as a whole round leaves it, small, from a seed; what stages can write without a model, they write."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import yaml
from audit_documents import prepared as prepared_summary

from shibolet.audit.review import review
from shibolet.audit.summary import summarise
from shibolet.audit.table import unreadable_row
from shibolet.compare import CompareConfig, compare, compare_systems
from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.stage import describe, read_rows
from shibolet.gate.config import GateConfig
from shibolet.gate.stage import run_gate
from shibolet.records.audited import Audited, write_audited
from shibolet.records.documents.alignment import SelfTest, StratumSize
from shibolet.records.documents.calibration import Calibration
from shibolet.records.files import read_json, write_json, write_jsonl
from shibolet.records.ledger import LedgerLine, write_ledger
from shibolet.records.runfolder import RunFolder
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.rows import score_row
from shibolet.speech.text import get_language

WORDS = "הילדה קוראת ספר חדש בבית הגדול ואבא שלה מכין ארוחת ערב טעימה ליד החלון הפתוח אל הים הכחול".split()
HOSTILE = "<script>alert('x')</script> שלום & \"ברכה\""
DOMAINS = ("clean", "whatsapp")
PHASES = {"B": ["projector", "decoder.layers[2:4]", "head", "lora"],
          "A": ["projector", "encoder.layers[2:6]", "decoder.layers[2:4]", "head", "lora"]}  # fmt: skip

OVERLAPS = {
    "clean": {"utterances": 3, "of": 120, "ids": ["test-0000", "test-0001", "test-0002"], "recordings": [1, 15],
              "speakers": [1, 5], "note": None,
              "sentence": "3 of 120 utterances of set 'clean' are in the training data."},
    "whatsapp": {"utterances": 0, "of": 120, "ids": [], "recordings": [0, 15], "speakers": [2, 5], "sentence": None,
                 "note": "Set 'whatsapp' shares names with the training data: 2 of 5 speakers."},
}  # fmt: skip


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory) -> Path:
    """A finished round with a repaired STOP; treat as read-only."""
    path = tmp_path_factory.mktemp("run")
    write_run(path)
    return path


def write_run(path: Path) -> None:
    run, rng = RunFolder(path), np.random.default_rng(5)
    recipe = {
        "name": "demo", "language": "Hebrew", "seed": 0, "audit": {"min_coverage": 0.6, "min_confidence": 0.5},
        "models": {"base": "m1", "baseline": "m1"}, "train": {"step_utterances": 16},
        "evaluate": {
            "sets": [{"name": "clean", "baseline_wer_pct": 9.2}, {"name": "whatsapp", "baseline_wer_pct": None}],
        },
    }  # fmt: skip
    run.recipe.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    run.write_provenance(["shibolet", "demo"], 2)
    write_audit(run, rng, bad_frac=0.2)
    run_gate(run.audit(), run.gate(), GateConfig(on_stop="repair"))
    write_audit(run, rng, bad_frac=0.02, prepared=True)
    run_gate(run.audit(prepared=True), run.gate(prepared=True), GateConfig())
    write_prepared(run)
    write_training(run, rng)
    rows = [write_evaluation(run, label, rng) for label in ("round1", "round2")]
    write_json(run.compare, compare(*rows, CompareConfig(noisy_domain="whatsapp"), overlaps=OVERLAPS))
    write_json(run.systems, compare_systems({"whisper": rows[0], "wav2vec": rows[1]}, CompareConfig()))
    kinds = ("swapped", "text_halved", "audio_cut", "silent", "clean")
    cells = [{"kind": kind, "domain": domain, "utterances": 16 if i < 4 else 264, "flagged": (16, 15, 14, 16, 9)[i]}
             for i, kind in enumerate(kinds) for domain in DOMAINS]  # fmt: skip
    after = {"kept_utterances": 540, "kept_damaged": 9, "kept_damaged_pct": 1.7, "good_hours_lost_pct": 4.1}
    without = read_json(run.compare)["sets"]
    write_json(path / "truth.json", {"rows": cells, "after_prepare": after, "without_prepare": without})


def sentence(rng: np.random.Generator, num_words: int) -> str:
    return " ".join(rng.choice(WORDS, num_words))


def write_audit(run: RunFolder, rng: np.random.Generator, *, bad_frac: float, prepared: bool = False) -> None:
    """`alignment_report.json` and `utterances.parquet`, some clips with audio, one that cannot be read."""
    suspects = ("wrong_text", "text_missing", "audio_cut", "no_speech")
    rows = []
    for i in range(560):
        domain = DOMAINS[i % 2]
        bad = bool(rng.random() < bad_frac * (1.3 if i % 2 else 0.7))
        coverage = float(np.clip(rng.beta(1.2, 3), 0, 1) if bad else 1 - rng.beta(1, 12 - 5 * (i % 2)))
        confidence = float(np.clip(rng.beta(1, 6), 0, 1) if bad else 1 - rng.beta(1, 9 - 4 * (i % 2)))
        confidence = 0.0 if i == 3 else confidence
        text = HOSTILE if i == 3 else sentence(rng, int(rng.integers(3, 9)))
        words = tuple(text.split())
        rows.append(
            Audited(
                id=f"train-{i:04d}", source="synthetic", recording=f"r{i // 8:03d}", domain=domain,
                duration_s=round(float(rng.uniform(1.2, 6.0)), 3), text=text,
                hypothesis="" if bad and i % 4 == 3 else sentence(rng, 4) if bad else text,
                is_low_quality=bad or i == 3, coverage=None if i == 7 else coverage,
                confidence=None if i == 7 else confidence,
                suspect=suspects[i % 4] if bad or i == 3 else None, length_mismatch=bad,
                reasons=(f"evidence for {coverage:.0%} of 6 words, under 60%",) if bad or i == 3 else (),
                words=words, starts_s=tuple(0.1 * w for w in range(len(words))),
                ends_s=tuple(0.1 * w + 0.08 for w in range(len(words))), snr_db=20.0,
                flags=(("noisy",), (), None)[i % 3], audio=AudioRef(path=str(clip(run, i))),
            )
        )  # fmt: skip
    rows.append(unreadable_row(LedgerLine(
        id="train-0560", source="synthetic", stage="read", rule="undecodable", detail="audio/0560.ogg: no samples in it"
    )))  # fmt: skip
    kinds = {"swapped": 180, "text_halved": 168, "audio_halved": 171, "silent": 180}
    damaged = {kind: {"hits": hits, "total": 181} for kind, hits in kinds.items()}
    tallies = {
        "damaged": damaged | {"shuffled_letters": {"hits": 0, "total": 0}}, "mild": {},
        "harmless": {"hits": 9, "total": 540}, "untouched": {"hits": 4, "total": 181},
    }  # fmt: skip
    halves = {kind: {"hits": tally["hits"] // 2, "total": 90} for kind, tally in damaged.items()}
    own = {"damaged": halves, "mild": {}, "harmless": {"hits": 4, "total": 270}, "untouched": {"hits": 2, "total": 90}}
    tallies |= {"domains": dict.fromkeys(DOMAINS, own), "untested": {"phone": 7}}
    calibration = Calibration(
        kind="self", identities=("a", "b"), maps=(), letters_per_s=(5.0, 20.0), num_clean=181, num_left_out=43
    )
    strata = {domain: StratumSize(num_utterances=330, hours=0.3) for domain in DOMAINS}
    strata["unreadable"] = StratumSize(num_utterances=1, hours=0.0)
    write_audited(run.audited_utterances(prepared=prepared), rows)
    report = summarise(
        run.audited_utterances(prepared=prepared), strata=strata, self_test=SelfTest.model_validate(tallies),
        calibration=calibration, notes=[], population=661,
    )  # fmt: skip
    if not prepared:
        report = report.model_copy(update={"review": review(rows, strata, {}, 0, 0.95)})
    report.write(run.alignment_report(prepared=prepared))


def clip(run: RunFolder, i: int) -> Path:
    """A second of sound; every seventh one is missing."""
    path = run.path / "clips" / f"{i % 8}.wav"
    if i % 8 != 7 and not path.exists():
        path.parent.mkdir(exist_ok=True)
        sf.write(path, 0.1 * np.sin(np.arange(16000) * (0.02 + 0.01 * (i % 8))), 16000)
    return path


def write_prepared(run: RunFolder) -> None:
    run.prepared.mkdir()
    prepared_summary().write(run.prepared / "summary.json")
    lines = [
        LedgerLine(id=f"train-{i:04d}", source="synthetic", stage="prepare", duration_s=3.2,
                   rule=("low_quality:wrong_text", "low_quality:no_speech", "too_short")[min(i // 30, 2)],
                   detail="the text belongs to this audio with probability 0.01, under 0.5")
        for i in range(65)
    ]  # fmt: skip
    write_ledger(run.prepared / "ledger.jsonl", lines)


def write_training(run: RunFolder, rng: np.random.Generator) -> None:
    rows, dev, step = [], [], 0
    for phase, num_steps in (("B", 96), ("A", 190)):
        for i in range(num_steps):
            step += 1
            base = 0.9 * np.exp(-step / 60) + 0.22 + (0.12 * np.exp(-i / 10) if phase == "A" else 0)
            warm = min(1.0, (i + 1) / 10)
            peak = {"projector": 1e-3, "head": 5e-4, "lora": 1e-3}
            rows.append(
                {"step": step, "phase": phase, "loss": float(base * rng.lognormal(0, 0.1)),
                 "lr": {part: warm * peak.get(part, 5e-4) for part in PHASES[phase]}, "timing": {"step_s": 0.4}}
            )  # fmt: skip
            if step % 24 == 0:
                dev.append({"step": step, "phase": phase, "wer": float(0.12 + 0.35 * np.exp(-step / 70)), "cer": 0.05})
    run.train.mkdir()
    write_jsonl(run.metrics, rows)
    write_jsonl(run.train / "dev.jsonl", dev)
    said = "chosen as the best of 11 on dev: its WER there is too good by about 0.4 points"
    optimism = {"candidates": 11, "points": 0.41, "sentence": said}
    chosen = {"chosen_step": 240, "steps": 286, "chosen_by": "dev WER", "optimism": optimism}
    write_json(run.train / "result.json", chosen)
    phases = [
        {"name": name, "epochs": epochs, "steps": steps, "trainable": 612_000, "trainable_pct": 26.4,
         "parts": [{"part": part, "peak_lr": 5e-4} for part in PHASES[name]]}
        for name, epochs, steps in (("B", 3, 96), ("A", 6, 190))
    ]  # fmt: skip
    step = {"arithmetic": "512 utterances = 32 x 16 + 0 -> 32 steps an epoch"}
    write_json(run.plan, {"phases": phases, "step": step, "notes": []})


def write_evaluation(run: RunFolder, label: str, rng: np.random.Generator) -> list:
    """Both sets of one round, with errors of every kind, an empty hypothesis and a failure."""
    texts, pooled = np.random.default_rng(9), []
    for name in DOMAINS:
        wrong = {("round1", "clean"): 0.08, ("round1", "whatsapp"): 0.42, ("round2", "clean"): 0.075}.get(
            (label, name), 0.2
        )
        rows, lines = [], []
        for i in range(120):
            said = HOSTILE if i == 5 else sentence(texts, int(texts.integers(3, 9)))
            heard = [word for said_word in said.split() for word in misheard(said_word, wrong, rng)]
            utterance = Utterance(
                id=f"test-{i:04d}", audio=AudioRef(path=""), text=said, duration_s=2.0 + i % 7, source=name,
                recording=f"r{i // 8}", domain=name, speaker=f"s{i // 24}",
            )  # fmt: skip
            hypothesis = "" if i == 11 else " ".join(heard)
            snr_db = None if i == 11 else 4.0 + i % 32
            rows.append(
                score_row(utterance, hypothesis, set=name, normaliser=get_language("he").to_scoring, snr_db=snr_db)
            )
            kept = ("id", "duration_s", "domain", "recording", "speaker", "source")
            line = {name: getattr(utterance, name) for name in kept}
            lines.append({**line, "reference": said, "hypothesis": hypothesis, "snr_db": snr_db})
        scores = {
            "model": label, "identity": "0", "set": name, "unreadable_rows": [], "inputs": {},
            "overlap": OVERLAPS[name] if label == "round2" else None,
            **describe(rows, get_language("he"), EvaluateConfig().buckets_s),
            "failures": [{"id": "test-0011", "reason": "undecodable", "detail": "test-0011.ogg: no samples in it"}],
        }  # fmt: skip
        run.evaluation(label, name).mkdir(parents=True)
        write_jsonl(run.hypotheses(label, name), lines)
        write_json(run.scores(label, name), scores)
        assert read_rows(run.evaluation(label, name)) == rows
        pooled += rows
    return pooled


def misheard(word: str, wrong: float, rng: np.random.Generator) -> list[str]:
    """The word, or with probability `wrong` nothing, another word, or a word too many."""
    if rng.random() > wrong:
        return [word]
    other = str(rng.choice(WORDS))
    return [[], [other], [other], [word, other]][rng.integers(4)]
