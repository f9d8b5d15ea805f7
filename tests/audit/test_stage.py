"""The audit with listeners that are known to be good, deaf or gullible; resumption; nothing skipped in silence."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from shibolet.audit.config import AuditConfig, SelfTestConfig
from shibolet.audit.sampling import SampleConfig
from shibolet.audit.stage import UNREADABLE, hear_rest, read_verdicts, run_audit
from shibolet.errors import DataError
from shibolet.gate import GateConfig, run_gate
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import AudioRef, Utterance

VOCABULARY = [
    a + b + c for a, b, c in zip("אבגדהוזחטיכלמנסעפצקרשת", "נסעפצקרשתאבגדהוזחטיכלמ", "זחטיכלמנסעפצקרשתאבגדהו")
]
TONE_HZ = {word: 300 * 1.13**i for i, word in enumerate(VOCABULARY)}  # a copy 5% faster is still the same word
WORD_S = 0.4


def samples_of(words: list[str]) -> np.ndarray:
    t = np.arange(int(16000 * WORD_S)) / 16000
    tones = [0.3 * np.sin(2 * np.pi * TONE_HZ[word] * t) for word in words]
    quiet = np.zeros(4000)
    noise = 0.003 * np.random.default_rng(len(words)).standard_normal(8000 + len(t) * len(words))
    return (np.concatenate([quiet, *tones, quiet]) + noise).astype(np.float32)


class Ears:
    """Hears each 0.4 s of tone as the word of its frequency: a recogniser and an aligner that make no mistakes."""

    identity = "ears"

    def __init__(self) -> None:
        self.num_heard = 0

    def _words(self, clip: np.ndarray) -> list[tuple[str, float]]:
        found, num_words = [], max(1, round((len(clip) - 8000) / (16000 * WORD_S)))
        edges = np.linspace(4000, len(clip) - 4000, num_words + 1).astype(int)  # a copy 5% slower has as many words
        for first, last in pairwise(edges):
            part = clip[first:last]
            if len(part) > 1600 and np.sqrt(np.mean(part**2)) > 0.02:
                peak = np.abs(np.fft.rfft(part)).argmax() * 16000 / len(part)
                found.append((min(TONE_HZ, key=lambda w: abs(np.log(TONE_HZ[w] / peak))), first / 16000))
        return found

    def hear(self, clips, words):
        self.num_heard += len(clips)
        out = []
        for clip, said in zip(clips, words):
            heard = self._words(clip)
            wrong = sum(w not in [h for h, _ in heard] for w in said) + abs(len(heard) - len(said))
            times = [at + i * WORD_S / len(w) for w, at in heard for i in range(len(w))]
            out.append(
                Hearing(
                    hypothesis=" ".join(w for w, _ in heard), text_score=-4.0 * wrong / len(said) - 0.05,
                    letter_times_s=np.array(times),
                )
            )  # fmt: skip
        return out

    def align(self, clips, words):
        return [
            Alignment(
                starts_s=0.25 + WORD_S * np.arange(len(said)), ends_s=0.25 + WORD_S * np.arange(1, len(said) + 1),
                mass=np.full(2 * len(said), 0.9),
            )
            for said in words
        ]  # fmt: skip


class Deaf(Ears):
    """Says that every text fits."""

    def hear(self, clips, words):
        return [
            Hearing(
                hypothesis=" ".join(said), text_score=-0.05,
                letter_times_s=np.linspace(0.25, 0.25 + WORD_S * len(said), sum(map(len, said))),
            )
            for said in words
        ]  # fmt: skip


class Shouting(Ears):
    """Says that no text fits."""

    def hear(self, clips, words):
        return [replace(h, hypothesis="קר", text_score=-9.0) for h in super().hear(clips, words)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """160 utterances of six to eight words, 10 of them with another text."""
    folder, rng, utterances = tmp_path_factory.mktemp("corpus"), np.random.default_rng(3), []
    for i in range(160):
        words = [VOCABULARY[j] for j in rng.integers(0, len(VOCABULARY), rng.integers(6, 9))]
        samples = samples_of(words)
        path = folder / f"{i:03d}.wav"
        sf.write(path, samples, 16000)
        text = " ".join(VOCABULARY[j] for j in rng.integers(0, len(VOCABULARY), 7)) if i < 10 else " ".join(words)
        utterances.append(
            Utterance(
                id=f"u{i:03d}", audio=AudioRef(path=str(path)), text=text, duration_s=len(samples) / 16000, source="s",
                recording=f"r{i // 4}", domain="kan_clean" if i % 2 else "whatsapp_noisy",
            )
        )  # fmt: skip
    return utterances


def config(sample_frac: float = 1.0, num_clips: int = 60) -> AuditConfig:
    return AuditConfig(
        aligner="ears", recogniser="ears", sample=SampleConfig(sample_frac=sample_frac, shares={}, min_utterances=60),
        selftest=SelfTestConfig(num_clips=num_clips), chunk_utterances=16, num_workers=0,
    )  # fmt: skip


def audit(tmp_path: Path, utterances, ears, settings=None, ledger=()) -> dict:
    return run_audit(
        utterances, list(ledger), out_dir=tmp_path / "audit", cache_dir=tmp_path / "heard", config=settings or config(),
        language="Hebrew", aligner=Ears(), recogniser=ears,
    )  # fmt: skip


def decision(tmp_path: Path) -> str:
    return run_gate(tmp_path / "audit", tmp_path / "gate.json", GateConfig())["decision"]


def test_wrong_texts_are_found_and_good_ones_left_alone(tmp_path: Path, corpus: list[Utterance]) -> None:
    report = audit(tmp_path, corpus, Ears())
    rows = read_verdicts([tmp_path / "audit" / "utterances.parquet"])
    flagged = {id for id, row in rows.items() if row["is_low_quality"]}
    assert {f"u{i:03d}" for i in range(10)} <= flagged
    assert len(flagged) <= 10 + 7  # 5% of 150
    assert report["total_samples"] == 160 == sum(d["count"] for d in report["domain_statistics"].values())
    assert report["self_test"]["damaged"]["swapped"] == {"hits": 60, "total": 60}
    assert decision(tmp_path) in ("PROCEED", "CAUTION")


def test_a_recogniser_that_believes_everything_is_invalid(tmp_path: Path, corpus: list[Utterance]) -> None:
    audit(tmp_path, corpus, Deaf())
    assert decision(tmp_path) == "INVALID"


def test_a_recogniser_that_believes_nothing_is_invalid(tmp_path: Path, corpus: list[Utterance]) -> None:
    audit(tmp_path, corpus, Shouting())
    assert decision(tmp_path) == "INVALID"


def test_unreadable_rows_count_as_low_quality_and_are_in_the_denominator(tmp_path: Path, corpus) -> None:
    lines = [LedgerLine(id=f"row {i}", source="s", stage="read", rule="missing_file") for i in range(40)]
    report = audit(tmp_path, corpus, Ears(), ledger=lines)
    assert report["total_samples"] == 200 and report["failures"] == {"missing_file": 40}
    assert report["strata"][UNREADABLE]["num_utterances"] == 40
    assert decision(tmp_path) == "STOP"


def test_audio_that_breaks_while_listening_is_a_failure_with_its_reason(tmp_path: Path, corpus) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    bad = [replace(corpus[20], audio=AudioRef(path=str(broken))), replace(corpus[21], text="hello 123")]
    report = audit(tmp_path, [*corpus[:20], *bad, *corpus[22:]], Ears())
    rows = read_verdicts([tmp_path / "audit" / "utterances.parquet"])
    assert rows["u020"]["failure"] == "undecodable" and rows["u020"]["is_low_quality"]
    assert rows["u021"]["failure"] == "no_words"
    assert report["num_scored"] == 158


def test_a_second_run_hears_nothing_again_and_writes_the_same_bytes(tmp_path: Path, corpus) -> None:
    first, second = Ears(), Ears()
    audit(tmp_path, corpus, first)
    files = ("utterances.parquet", "alignment_report.json", "calibration.json")
    before = [(tmp_path / "audit" / name).read_bytes() for name in files]
    sorted((tmp_path / "heard").rglob("*.jsonl"))[3].unlink()  # what a crash had not written
    audit(tmp_path, corpus, second)
    assert [(tmp_path / "audit" / name).read_bytes() for name in files] == before
    assert 0 < second.num_heard <= 16 < first.num_heard


def test_the_rest_is_judged_by_the_same_calibration(tmp_path: Path, corpus) -> None:
    settings = config(sample_frac=0.5)
    audit(tmp_path, corpus, Ears(), settings)
    num_rest = hear_rest(
        corpus, audit_dir=tmp_path / "audit", out_path=tmp_path / "rest.parquet", cache_dir=tmp_path / "heard",
        config=settings, language="Hebrew", aligner=Ears(), recogniser=Ears(),
    )  # fmt: skip
    assert num_rest == 80
    both = read_verdicts([tmp_path / "audit" / "utterances.parquet", tmp_path / "rest.parquet"])
    assert both.keys() == {u.id for u in corpus}
    assert pq.read_schema(tmp_path / "rest.parquet") == pq.read_schema(tmp_path / "audit" / "utterances.parquet")


def test_too_few_clips_to_calibrate_is_an_error(tmp_path: Path, corpus) -> None:
    with pytest.raises(DataError, match="calibration needs 10"):
        audit(tmp_path, corpus[:6], Ears(), config())
