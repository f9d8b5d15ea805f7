"""A run folder as a whole round leaves it, small, from a seed; what stages can write without a model, they write."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from audit_documents import prepared as prepared_summary
from made_non_speech import heard
from made_scores import overlap_of
from training_documents import phase_plan, step_row, train_result, training_plan

from shibolet.audit.review import review
from shibolet.audit.summary import summarise
from shibolet.audit.table import unreadable_row
from shibolet.compare import CompareConfig, compare, compare_systems
from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.describe import describe
from shibolet.evaluate.stage import read_rows
from shibolet.gate.config import GateConfig
from shibolet.gate.stage import run_gate
from shibolet.recipe import load_recipe, write_recipe
from shibolet.records.audited import Audited, write_audited
from shibolet.records.candidate import named
from shibolet.records.documents.alignment import SelfTest, StratumSize
from shibolet.records.documents.calibration import Calibration
from shibolet.records.documents.comparison import Named
from shibolet.records.documents.scores import Failure, Optimism, Scores, WordErrors
from shibolet.records.documents.training import DevScore, Earlier, TrainResult, write_lines
from shibolet.records.documents.truth import AfterPrepare, Found, Truth
from shibolet.records.hypotheses import HypothesisLine, write_hypothesis_lines
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
    "clean": overlap_of(3, "clean", of=120),
    "whatsapp": overlap_of(note="Set 'whatsapp' shares names with the training data: 2 of 5 speakers.", of=120),
}


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory) -> Path:
    """A finished round with a repaired STOP; treat as read-only."""
    path = tmp_path_factory.mktemp("run")
    write_run(path)
    return path


@pytest.fixture(scope="module")
def browser():
    """A Chromium; skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs 'pip install axe-playwright-python'")
    with sync_api.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def run_with_titles(tmp_path: Path):
    """A function that writes such a run with these titles of baseline and result."""

    def write(*titles: str) -> Path:
        write_run(tmp_path / "run", titles)
        return tmp_path / "run"

    return write


def write_run(path: Path, titles: tuple[str, str] = ("Round 1", "Round 2"), recipe: str = "demo") -> None:
    """The run of a round of this recipe with these titles of baseline and result."""
    run, rng = RunFolder(path), np.random.default_rng(5)
    sets = [f"evaluate.sets.{n}.name={name}" for n, name in enumerate(DOMAINS)]
    called = [f"title={titles[1]}", f"models.baseline_title={titles[0]}"]
    write_recipe(load_recipe(recipe, [*sets, *called, "evaluate.sets.0.baseline_wer_pct=9.2"]), run.recipe)
    run.write_provenance(recipe, 2)
    write_audit(run, rng, bad_frac=0.2)
    run_gate(run.audit(), run.gate(), GateConfig(on_stop="repair"))
    write_audit(run, rng, bad_frac=0.02, prepared=True)
    run_gate(run.audit(prepared=True), run.gate(prepared=True), GateConfig())
    write_prepared(run)
    write_training(run, rng)
    names = named(titles[0]), named(titles[1], parent=named(titles[0]).label)
    rows = tuple(write_evaluation(run, name, rng, is_candidate=i == 1) for i, name in enumerate(names))
    silent = [heard([2] * 8, foreign=[4] * 4), heard([1] * 8, foreign=[5] * 4, echoes=1)]
    silent = tuple(
        one.model_copy(update={"title": name.title, "label": name.label}) for one, name in zip(silent, names)
    )  # fmt: skip
    compared = compare(rows, names, CompareConfig(), overlaps=OVERLAPS, non_speech=silent)
    compared.write(run.compare)
    others = dict(zip(map(named, ("whisper", "wav2vec")), rows))
    compare_systems(others, CompareConfig()).write(run.systems)
    kinds = ("swapped", "text_halved", "audio_cut", "silent", "clean")
    cells = [
        Found(kind=kind, domain=domain, utterances=16 if i < 4 else 264, flagged=(16, 15, 14, 16, 9)[i])
        for i, kind in enumerate(kinds) for domain in DOMAINS
    ]  # fmt: skip
    after = AfterPrepare(
        kept_utterances=540, kept_damaged=9, kept_damaged_pct=1.7, damaged_by_kind={}, good_hours=0.4,
        good_hours_lost_pct=4.1,
    )  # fmt: skip
    Truth(rows=cells, after_prepare=after, without_prepare=compared.sets).write(path / "truth.json")


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
    rows, dev, step = [], [dev_score(0, "B")], 0
    for phase, num_steps in (("B", 96), ("A", 190)):
        for i in range(num_steps):
            step += 1
            base = 0.9 * np.exp(-step / 60) + 0.22 + (0.12 * np.exp(-i / 10) if phase == "A" else 0)
            warm = min(1.0, (i + 1) / 10)
            peak = {"projector": 1e-3, "head": 5e-4, "lora": 1e-3}
            lr = {part: warm * peak.get(part, 5e-4) for part in PHASES[phase]}
            rows.append(step_row(step, phase=phase, loss=float(base * rng.lognormal(0, 0.1)), lr=lr))
            if step % 24 == 0 or step % 32 == 0:
                dev.append(dev_score(step, phase))
    run.train.mkdir()
    write_lines(run.metrics, rows)
    write_lines(run.dev_scores, dev)
    said = "chosen as the best of 11 on dev: its WER there is too good by about 0.4 points"
    optimism = Optimism(candidates=11, points=0.41, sentence=said)
    train_result(chosen_step=240, steps=286, optimism=optimism).write(run.train_result)
    phases = [
        phase_plan(name, epochs=epochs, steps=steps, lr_by_part=dict.fromkeys(PHASES[name], 5e-4))
        for name, epochs, steps in (("B", 3, 96), ("A", 6, 190))
    ]
    training_plan(*phases).write(run.plan)


def dev_score(step: int, phase: str) -> DevScore:
    """A WER that falls from 47% towards 12%; the domains lie two fifths below and above it."""
    wer = float(0.12 + 0.35 * np.exp(-step / 70))
    errors = dict(zip(DOMAINS, (round(300 * wer), round(700 * wer)), strict=True))
    by_domain = {
        name: WordErrors(errors=num, words=500, rate=num / 500, substitutions=num, deletions=0, insertions=0)
        for name, num in errors.items()
    }
    return DevScore(step=step, phase=phase, wer=wer, cer=0.05, by_domain=by_domain)


def write_evaluation(run: RunFolder, name: Named, rng: np.random.Generator, *, is_candidate: bool) -> list:
    """Both sets of one candidate, with errors of every kind, an empty hypothesis and a failure."""
    texts, pooled = np.random.default_rng(9), []
    for set_name in DOMAINS:
        wrong = {"clean": (0.08, 0.075), "whatsapp": (0.42, 0.2)}[set_name][is_candidate]
        rows, lines = [], []
        for i in range(120):
            said = HOSTILE if i == 5 else sentence(texts, int(texts.integers(3, 9)))
            heard = [word for said_word in said.split() for word in misheard(said_word, wrong, rng)]
            utterance = Utterance(
                id=f"test-{i:04d}", audio=AudioRef(path=""), text=said, duration_s=2.0 + i % 7, source=set_name,
                recording=f"r{i // 8}", domain=set_name, speaker=f"s{i // 24}",
            )  # fmt: skip
            hypothesis = "" if i == 11 else " ".join(heard)
            snr_db = None if i == 11 else 4.0 + i % 32
            rows.append(
                score_row(utterance, hypothesis, set=set_name, normaliser=get_language("he").to_scoring, snr_db=snr_db)
            )
            lines.append(
                HypothesisLine(
                    id=utterance.id, reference=said, hypothesis=hypothesis, duration_s=utterance.duration_s,
                    domain=set_name, recording=utterance.recording, speaker=utterance.speaker, source=set_name,
                    snr_db=snr_db,
                )
            )  # fmt: skip
        detail = "test-0011.ogg: no samples in it"
        scores = Scores(
            label=name.label, title=name.title, identity="0", set=set_name, unreadable_rows=(), inputs={},
            overlap=OVERLAPS[set_name] if is_candidate else None,
            **dict(describe(rows, get_language("he"), EvaluateConfig().buckets_s)),
            failures=[Failure(id="test-0011", reason="undecodable", detail=detail)],
        )  # fmt: skip
        write_hypothesis_lines(run.hypotheses(name.label, set_name), lines)
        scores.write(run.scores(name.label, set_name))
        assert read_rows(run.evaluation(name.label, set_name)) == rows
        pooled += rows
    return pooled


def misheard(word: str, wrong: float, rng: np.random.Generator) -> list[str]:
    """The word, or with probability `wrong` nothing, another word, or a word too many."""
    if rng.random() > wrong:
        return [word]
    other = str(rng.choice(WORDS))
    return [[], [other], [other], [word, other]][rng.integers(4)]


def go_on_from_a_step(run: RunFolder) -> str:
    """Make the training one that went on from a step with another rate; what is said of that."""
    part = Earlier(first_step=97, last_step=200, settings={"train.phases.1.lr_by_part.head": "0.0003"})
    TrainResult.read(run.train_result).model_copy(update={"earlier": (part,)}).write(run.train_result)
    return "steps 97 to 200 were trained with other settings: train.phases.1.lr_by_part.head 0.0003"
