"""Long utterances cut by a better model: protects from halves that stay lost, and dev from what a model hears well."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from audit_documents import audited, gate_verdict
from test_labelling import burst, quiet

from shibolet.audit.clip import Evidence
from shibolet.audit.signals import Signals
from shibolet.errors import RecipeError
from shibolet.recipe import load_recipe
from shibolet.records.audited import write_audited
from shibolet.records.documents.prepared import Prepared
from shibolet.records.files import write_jsonl
from shibolet.rounds import labelling, recutting, stages
from shibolet.rounds.loop import recipe_after
from shibolet.rounds.shared import open_round
from shibolet.speech.audio import encode_flac

WORDS = "אחת שתיים שלוש ארבע חמש שבע שמונה תשע".split()
WORD_S, PAUSE_S, IN_A_ROW = 0.9, 0.5, 4  # words without a pause between them
STARTS = tuple(PAUSE_S + i * WORD_S + i // IN_A_ROW * PAUSE_S for i in range(len(WORDS)))
ENDS = tuple(start + WORD_S for start in STARTS)


class Hears:
    """The audit's listeners with another recogniser: it hears all words where the audit heard half."""

    heard: list[str]
    starts, ends, words = STARTS, ENDS, WORDS
    num_clips = num_heard = num_lost = 0

    def __init__(self, aligner, recogniser, *_) -> None:
        self.identities = ("aligner", "writer")

    def hear(self, clips, on_progress) -> dict[str, Evidence]:
        Hears.heard += [clip.key for clip in clips]
        signals = Signals(**{name: 1.0 for name in Signals.__dataclass_fields__})
        return {
            clip.key: Evidence(
                key=clip.key, hypothesis=" ".join(Hears.words), starts_s=Hears.starts, ends_s=Hears.ends,
                signals=signals, failure=None,
            )
            for clip in clips
        }  # fmt: skip


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """12 utterances of 9 s of whose second half the audit heard nothing, and prepare's rows and summary."""
    samples = [quiet(PAUSE_S)]
    for pitch_hz in (110, 160):
        samples += [burst(IN_A_ROW * WORD_S, pitch_hz), quiet(PAUSE_S)]
    (tmp_path / "long.flac").write_bytes(encode_flac(np.concatenate(samples).astype(np.float32)))
    rows = []
    for i in range(12):
        (tmp_path / f"{i}.flac").write_bytes((tmp_path / "long.flac").read_bytes())
        rows.append({"id": f"k{i}", "audio": f"{i}.flac", "text": " ".join(WORDS), "speaker": f"s{i}"})
    rows.append({"id": "short", "audio": "short.flac", "text": "אחת שתיים", "speaker": "s99"})
    (tmp_path / "short.flac").write_bytes(encode_flac(np.concatenate(samples[:3]).astype(np.float32)))
    write_jsonl(tmp_path / "known.jsonl", rows)
    monkeypatch.setattr("shibolet.audit.hearing.Listener", Hears)
    Hears.heard = []

    def run(*changes: str) -> tuple[dict[str, list[str]], Prepared]:
        recipe = load_recipe("demo", [
            f"data.train=[{{name: known, manifest: {tmp_path}/known.jsonl}}]", "prepare.unheard=keep",
            "prepare.dev_frac=0.25", "prepare.max_duration_s=5.0", "audit.num_workers=0", *changes,
        ])  # fmt: skip
        with open_round(recipe, tmp_path / "run", "prepare", lambda sentence: None) as current:
            gate_verdict("PROCEED").write(current.folder.gate())
            tokens = [labelling.get_language("Hebrew").to_words(u.text).tokens for u in current.data.utterances]
            table = [
                audited(
                    u.id, source=u.source, speaker=u.speaker, text=u.text, duration_s=u.duration_s, words=words,
                    hypothesis=" ".join(words[:4]), starts_s=STARTS[: len(words)], ends_s=ENDS[: len(words)],
                )
                for u, words in zip(current.data.utterances, tokens, strict=True)
            ]  # fmt: skip
            write_audited(current.folder.audited_utterances(), table)
            current.folder.seal("audit", {"data": current.data.digest})
            current.folder.seal("gate")
            made = stages.do_prepare(current)
            shards = {name: sorted(current.folder.prepared.glob(f"{name}-*.parquet")) for name in ("train", "dev")}
        return {
            name: [row["text"] for path in paths for row in pq.read_table(path).to_pylist()]
            for name, paths in shards.items()
        }, made

    return run


def test_what_the_writer_hears_decides_the_cuts_of_what_trains_and_not_of_dev(prepare):
    before, summary = prepare()
    last = WORDS[-1]
    assert not any(last in text for texts in before.values() for text in texts) and not Hears.heard
    after, recut = prepare("label.recut=true")
    assert sorted(Hears.heard) == sorted(f"k{i}" for i in range(12)), "what is short is not heard again"
    assert sum(last in text for text in after["train"]) >= 8
    assert after["dev"] == before["dev"] and after["dev"], "dev is judged by what the audit heard, turn after turn"
    num = sum(last in text for text in after["train"])
    assert f"{num} long utterances are cut by what label.writer heard; dev is not" in recut.notes
    assert recut.train.hours > 1.5 * summary.train.hours
    again, _ = prepare("label.recut=true")
    assert len(Hears.heard) == 12 and again == after
    assert prepare()[0] == before, "and without the setting all is as it was"


def test_times_that_the_audit_knows_stay_whatever_the_aligner_makes_of_the_writers_words(prepare, monkeypatch):
    """An aligner alone drifts in long audio, and a writer may know no times: nine of ten were dropped for it."""
    right, _ = prepare("label.recut=true")
    again = tuple(start + 2.0 for start in STARTS)
    monkeypatch.setattr(Hears, "starts", again)
    monkeypatch.setattr(Hears, "ends", tuple(start + WORD_S for start in again))
    drifted, summary = prepare("label.recut=true", "prepare.max_duration_s=4.9")  # which has them heard again
    assert len(Hears.heard) == 24 and drifted == right and summary.train.hours > 0


@pytest.mark.parametrize("num_words", [0, 2, 4])
def test_a_writer_that_hears_no_more_than_the_audit_changes_nothing(prepare, monkeypatch, num_words: int):
    """A model of short clips hears the beginning of long ones: what the audit had heard of the rest was dropped."""
    before, _ = prepare()
    monkeypatch.setattr(Hears, "words", WORDS[:num_words])
    after, summary = prepare("label.recut=true")
    assert len(Hears.heard) == 12 and after == before
    assert not any("are cut by what label.writer heard" in note for note in summary.notes)


def test_a_loop_cuts_again_from_its_second_turn_on_and_needs_a_writer(tmp_path):
    recipe = load_recipe("demo")
    assert not recipe.label.recut
    with open_round(recipe, tmp_path / "turn1", "loop", lambda sentence: None) as current:
        assert recipe_after(recipe, current.folder, "Round 2", 2).label.recut
    alone = load_recipe("demo", ["models=null", "train=null", "label.recut=true"])
    with open_round(alone, tmp_path / "run", "prepare", lambda sentence: None) as current:
        with pytest.raises(RecipeError, match="no model writes the texts"):
            recutting.do_hear_long(current, None)
