"""Rows of the audit's table: protects each from what is judged beside it, and from another utterance's evidence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ears import Ears

from shibolet.audit import table
from shibolet.audit.calibration import Good, each_logit, fit, logits
from shibolet.audit.clip import Clip, Evidence, clip_of
from shibolet.audit.config import AuditConfig, SelfTestConfig
from shibolet.audit.hearing import Listener
from shibolet.audit.probability import Example, each_product, recalibrate
from shibolet.audit.sampling import SampleConfig
from shibolet.audit.signals import Signals
from shibolet.audit.stage import run_audit
from shibolet.records.audited import read_audited
from shibolet.records.documents.calibration import Calibration
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import load
from shibolet.speech.text import get_language

HEBREW = get_language("Hebrew")


def signals(rng: np.random.Generator, wrong: float, **known) -> Signals:
    away = float(np.clip(wrong + 0.2 * rng.standard_normal(), 0, 1))
    values = {
        "num_words": 8, "num_letters": 32, "speech_s": 3.0, "text_logp": -0.3 - 4 * away, "text_score": -0.1 - 3 * away,
        "worst_score": -1.5 - 6 * away, "cer": away, "edge_cer": away, "length_ratio": 1.0, "words_heard": 1 - away,
        "coverage": 1.0, "letters_per_s": float(rng.uniform(9, 13)), "snr_db": float(rng.uniform(5, 45)),
        "bandwidth_hz": 8000.0,
    }  # fmt: skip
    return Signals(**{**values, **known})


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Of two maps, the second for clips without a likelihood, and with a curve of probability."""
    rng = np.random.default_rng(0)
    right, bad = [signals(rng, 0.1) for _ in range(200)], [signals(rng, 0.8) for _ in range(400)]
    made = fit([Good(signals=s, clip=str(i)) for i, s in enumerate(right)], bad, ("ears",), trusted=True)
    judged = {"good": logits(made, right), "gross": logits(made, bad), "mild": logits(made, bad) + 1}
    examples = [
        Example(logit=float(logit), part=part, row=part, clip=str(i), fold=i % 5)
        for part, own in judged.items()
        for i, logit in enumerate(own)
    ]
    return made.model_copy(update={"recalibration": recalibrate(examples)})


def many(num: int) -> list[Signals]:
    """Of which every seventh has no likelihood."""
    rng = np.random.default_rng(1)
    none = dict.fromkeys(("text_logp", "text_score", "worst_score"))
    return [signals(rng, rng.random(), **(none if i % 7 == 0 else {})) for i in range(num)]


def test_a_logit_has_the_bits_that_it_has_alone(calibration: Calibration) -> None:
    """A product of matrices adds in an order that depends on their sizes: a table's row would depend on its batch."""
    own = many(400)
    alone = [logits(calibration, [one])[0] for one in own]
    assert len(calibration.maps) == 2
    assert each_logit(calibration, own).tolist() == alone and len(set(alone)) > 300
    assert each_logit(calibration, []).tolist() == [] == each_product(np.zeros((0, 3)), np.ones(3)).tolist()


def test_rows_are_the_same_in_batches_of_any_size(calibration: Calibration, monkeypatch) -> None:
    """With clips that could not be heard among them, whose places the scores of others must not take."""
    judged = []
    for i, one in enumerate(many(60)):
        u = Utterance(
            id=f"u{i}", audio=AudioRef(path=f"/a/{i}.wav"), text=f"שלום {'hello yes' if i % 5 else 'עולם'}",
            duration_s=2.0, source="s", domain="d",
        )  # fmt: skip
        heard = Evidence(key=u.id, hypothesis="שלום", signals=one)
        judged.append((u, clip_of(u, HEBREW), heard) if i % 9 else (u, None, Evidence(key=u.id, failure="hung")))

    def rows(batch_rows: int) -> list:
        monkeypatch.setattr(table, "BATCH_ROWS", batch_rows)
        return list(table.rows_of(judged, calibration, AuditConfig(), "Hebrew", Path("/a")))

    one_by_one = rows(1)
    assert rows(7) == rows(1024) == one_by_one
    assert [row.id for row in one_by_one] == [u.id for u, *_ in judged]
    assert {row.suspect for row in one_by_one} >= {None, "other_language", "wrong_text"}
    assert {row.failure for row in one_by_one} == {None, "hung"} and one_by_one[1].audio.path == "1.wav"
    assert all((row.probability is None) == (row.failure is not None) for row in one_by_one)


def test_evidence_stays_with_its_utterance_around_texts_without_words(tmp_path: Path, corpus: list) -> None:
    """Rows take evidence in the order of the clips, and a text without a word is no clip."""
    utterances = [replace(u, text="...") if i % 9 == 4 else u for i, u in enumerate(corpus)]
    config = AuditConfig(
        aligner="ears", recogniser="ears", sample=SampleConfig(sample_frac=1.0, shares={}, min_utterances=60),
        selftest=SelfTestConfig(num_clips=20), num_workers=0,
    )  # fmt: skip
    listener = Listener(Ears(), Ears(), tmp_path / "heard", load, config, "Hebrew")
    run_audit(utterances, [], out_dir=tmp_path / "audit", listener=listener, config=config, language="Hebrew")
    rows = list(read_audited(tmp_path / "audit" / "utterances.parquet"))
    assert [row.id for row in rows] == [u.id for u in utterances]
    assert [row.id for row in rows if row.failure] == [u.id for u in utterances if u.text == "..."] != []
    heard = [(u.text, row) for u, row in zip(utterances, rows, strict=True) if not row.failure]
    assert all(row.words == HEBREW.to_words(text).tokens for text, row in heard)
    assert all(row.hypothesis == text for text, row in heard[10:]), "the first ten have the text of another"


def test_a_clip_names_what_its_row_needs() -> None:
    """The words of a row are those of its clip, and not taken from its text again."""
    u = Utterance(id="u", audio=AudioRef(path="a"), text="שָׁלוֹם, 5 hello", duration_s=1.0, source="s")
    clip: Clip = clip_of(u, HEBREW)
    words = HEBREW.to_words(u.text)
    assert (clip.words, clip.verifiable) == (words.tokens, words.verifiable)
