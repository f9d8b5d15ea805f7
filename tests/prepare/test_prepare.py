"""Protects the training set from what the audit condemned and from lost or doubled words, and the books from gaps."""

import multiprocessing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from audit_documents import audited, gate_verdict
from spoken import raw_times, record

from shibolet.errors import DataError
from shibolet.listen.executor import Here
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.processes import MakePieces
from shibolet.prepare.stage import run_prepare
from shibolet.prepare.verdicts import Reviewed, ReviewedRows, reviewed
from shibolet.recipe import load_recipe
from shibolet.records.audited import write_audited
from shibolet.records.documents.prepared import Counts, Cut, Prepared
from shibolet.records.files import write_jsonl
from shibolet.records.ledger import LedgerLine, read_ledger
from shibolet.records.manifest import read_manifest
from shibolet.records.review import Answer
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds import stages
from shibolet.rounds.shared import open_round
from shibolet.speech.audio import SAMPLE_RATE_HZ, encode_flac, load
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language

HEBREW = get_language("he")


class Corpus:
    """Utterances on disk with the verdicts of an audit that knows the true times."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.utterances: list[Utterance] = []
        self.verdicts: dict[str, Reviewed] = {}

    def add(
        self, id: str, phrases: list[int], *, text: str | None = None, pause_s=(0.3, 0.9), verdict=(), **fields
    ) -> None:
        samples, words, times = record(phrases, self.rng, pause_s)
        path = self.folder / f"{id}.flac"
        path.write_bytes(encode_flac(samples))
        utterance = Utterance(
            id=id, audio=AudioRef(path=str(path)), text=" ".join(words) if text is None else text,
            duration_s=len(samples) / SAMPLE_RATE_HZ, **{"source": "crowd", "domain": "kan_clean", **fields},
        )  # fmt: skip
        self.utterances.append(utterance)
        tokens = HEBREW.to_words(utterance.text).tokens
        starts_s, ends_s = raw_times(times[: len(tokens)], self.rng, outlier_frac=0)
        row = {
            "source": utterance.source, "text": utterance.text, "coverage": 1.0, "hypothesis": " ".join(words),
            "words": tokens, "starts_s": tuple(starts_s), "ends_s": tuple(ends_s), **dict(verdict),
        }  # fmt: skip
        self.verdicts[id] = Reviewed(audited(id, **row))

    def say(self, id: str, **changes) -> None:
        """Let the audit say something else of an utterance."""
        self.verdicts[id] = Reviewed(replace(self.verdicts[id].row, **changes))

    def prepare(self, out_dir: Path, verdicts=None, unread=(), **settings) -> Prepared:
        config = PrepareConfig(**{"dev_frac": 0.1, **settings})
        verdicts = self.verdicts if verdicts is None else verdicts
        return run_prepare(
            self.utterances, verdicts, config=config, language="he", seed=1, out_dir=out_dir, unread=unread
        )


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    """Thirty good utterances of ten speakers, two long ones, and one of each kind that has to go."""
    folder = tmp_path / "data"
    folder.mkdir()
    corpus = Corpus(folder)
    for i in range(30):
        domain = "whatsapp_noisy" if i % 3 == 0 else "kan_clean"
        corpus.add(f"good-{i}", [4, 3], speaker=f"s{i % 10}", recording=f"r{i % 10}-{i % 2}", domain=domain)
    corpus.add("long-0", [6] * 12, speaker="s3")
    corpus.add("long-1", [5] * 9, speaker="s4", text=None)
    corpus.add("silent-edges", [6], pause_s=(2.0, 2.5))
    corpus.add("wrong", [5], verdict={"is_low_quality": True, "suspect": "wrong_text", "reasons": ("0.1 under 0.5",)})
    corpus.add("no-hebrew", [5], text="hello there", verdict={"failure": "no_words", "words": (), "starts_s": ()})
    corpus.add("empty", [2], text=" - ", verdict={"words": (), "starts_s": (), "ends_s": ()})
    corpus.add("brief", [1], pause_s=(0.03, 0.04))
    corpus.add("fast", [2], text=" ".join(["אוניברסיטאות"] * 6), verdict={"starts_s": (0.0,) * 6, "ends_s": (0.0,) * 6})
    corpus.add("broken", [4])
    (folder / "broken.flac").write_bytes(b"fLaC and then nothing")
    return corpus


def rows_of(out_dir: Path, split: str = "*") -> list[dict]:
    return [row for path in sorted(out_dir.glob(f"{split}-*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_text_without_words_is_no_target_whatever_the_audit_says(corpus, tmp_path):
    """Half of a corpus may not have been heard: what is no word may not be learnt from it either."""
    texts = ("[צחוק]", "(מוזיקה)", "...", "♪", "😀")
    for number, text in enumerate(texts):
        corpus.add(f"wordless-{number}", [5], text=text)
    corpus.prepare(tmp_path / "out", verdicts={}, unheard="keep")
    rules = {line.id: line.rule for line in read_ledger(tmp_path / "out" / "ledger.jsonl")}
    assert [rules.get(f"wordless-{number}") for number in range(len(texts))] == ["no_words"] * len(texts)


def test_kept_and_dropped_are_what_came_in_and_each_drop_has_its_rule(corpus, tmp_path):
    summary = corpus.prepare(tmp_path / "out")
    assert summary == Prepared.read(tmp_path / "out" / "summary.json")
    assert summary.utterances == Counts(given=39, kept=33, dropped=6)
    ledger = read_ledger(tmp_path / "out" / "ledger.jsonl")
    dropped = {line.id: line.rule for line in ledger if line.rule in summary.dropped_by_rule}
    assert dropped == {
        "wrong": "low_quality:wrong_text", "no-hebrew": "no_words", "empty": "no_words", "brief": "too_short",
        "fast": "too_much_text", "broken": "undecodable",
    }  # fmt: skip
    assert next(line.detail for line in ledger if line.id == "wrong") == "0.1 under 0.5"
    rows = rows_of(tmp_path / "out")
    assert {row["origin_id"] for row in rows} | set(dropped) == {u.id for u in corpus.utterances}
    assert {line.rule for line in ledger} - set(dropped.values()) == {"cut", "trimmed"}
    left_s = sum(line.duration_s for line in ledger)
    kept_s = sum(row["duration_s"] for row in rows)
    assert kept_s + left_s == pytest.approx(sum(u.duration_s for u in corpus.utterances), abs=0.05)
    hours = summary.hours
    assert hours.given == pytest.approx(hours.kept + hours.dropped + hours.left_out_of_kept, abs=1e-4)
    for name, split in (("train", summary.train), ("dev", summary.dev)):
        part = rows_of(tmp_path / "out", name)
        assert split.utterances == len(part) > 0
        for domain, amount in split.domains.items():
            assert amount.utterances == sum(row["domain"] == domain for row in part)
    assert summary.split_by == "speaker"
    assert not {r["speaker"] for r in rows_of(tmp_path / "out", "train")} & {
        r["speaker"] for r in rows_of(tmp_path / "out", "dev")
    } - {None}


def test_a_hole_and_a_missing_end_under_a_text_are_not_trained_on(tmp_path):
    """Each was decoded as far as it went: the words that are said in what is lost would be learned from nothing."""
    corpus = good_ones(tmp_path / "data", seed=3)
    for id in ("hole", "half"):
        corpus.add(id, [4, 4])
    hole, half = (tmp_path / "data" / f"{id}.flac" for id in ("hole", "half"))
    content = hole.read_bytes()
    hole.write_bytes(content[:20_000] + bytes(9) + content[20_009:])
    half.write_bytes(half.read_bytes()[:20_000])
    corpus.prepare(tmp_path / "out")
    rules = {line.id: (line.rule, line.detail) for line in read_ledger(tmp_path / "out" / "ledger.jsonl")}
    assert rules["hole"][0] == "damaged" and "could not be decoded" in rules["hole"][1]
    assert rules["half"][0] == "cut_short" and "the header says" in rules["half"][1]
    assert not {"hole", "half"} & {row["origin_id"] for row in rows_of(tmp_path / "out")}


def test_pieces_of_a_long_utterance_own_its_words_and_its_audio(corpus, tmp_path):
    corpus.prepare(tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    for utterance in [u for u in corpus.utterances if u.id.startswith("long")]:
        assert utterance.duration_s > 15
        pieces = sorted((row for row in rows if row["origin_id"] == utterance.id), key=lambda row: row["id"])
        assert [row["id"] for row in pieces] == [f"{utterance.id}-p{i:02d}" for i in range(len(pieces))]
        assert len(pieces) >= 2
        assert " ".join(row["text"] for row in pieces) == HEBREW.to_target(utterance.text)
        assert all(0.5 <= row["duration_s"] <= 15 for row in pieces)
        whole = load(utterance.audio)
        for row in pieces:
            first, end = (round(row[f"origin_{edge}_s"] * SAMPLE_RATE_HZ) for edge in ("start", "end"))
            (tmp_path / "piece.flac").write_bytes(row["audio"]["bytes"])
            samples = load(AudioRef(path=str(tmp_path / "piece.flac")))
            assert np.abs(samples - whole[first:end]).max() < 1e-4
        assert len({row["speaker"] for row in pieces}) == 1


def test_rows_that_were_never_read_are_in_the_books_and_apart(corpus, tmp_path):
    lines = [LedgerLine(id=f"line-{n}", source="mine", stage="read", rule=rule, detail=f"line {n}: not there")
             for n, rule in enumerate(["missing_file", "missing_file", "not_json"])]  # fmt: skip
    summary = corpus.prepare(tmp_path / "out", unread=lines)
    assert summary.unread == {"missing_file": 2, "not_json": 1}
    assert summary.utterances.given == len(corpus.utterances)
    assert read_ledger(tmp_path / "out" / "ledger.jsonl")[:3] == lines
    assert corpus.prepare(tmp_path / "again").unread == {}


def test_edges_are_trimmed_and_the_ledger_says_by_how_much(corpus, tmp_path):
    corpus.prepare(tmp_path / "out")
    (row,) = [row for row in rows_of(tmp_path / "out") if row["id"] == "silent-edges"]
    (line,) = [line for line in read_ledger(tmp_path / "out" / "ledger.jsonl") if line.id == "silent-edges"]
    (utterance,) = [u for u in corpus.utterances if u.id == "silent-edges"]
    assert line.rule == "trimmed"
    assert row["duration_s"] + line.duration_s == pytest.approx(utterance.duration_s, abs=0.002)
    assert row["origin_start_s"] > 1.5
    assert row["origin_end_s"] < utterance.duration_s - 1.5


def test_what_was_kept_can_be_read_again_as_a_manifest_as_a_source_and_as_a_data_set(corpus, tmp_path):
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    corpus.prepare(out, shard_utterances=20)
    rows = {row["id"]: row for row in rows_of(out)}
    kept = read_manifest(out / "manifest.jsonl")
    assert {u.id for u in kept} == set(rows)
    assert len({u.audio.path for u in kept}) == 3
    for utterance in kept:
        assert utterance.text == rows[utterance.id]["text"] == HEBREW.to_target(utterance.text)
        assert len(load(utterance.audio)) / SAMPLE_RATE_HZ == pytest.approx(utterance.duration_s)
    again, refused = read_source(DataSource(name="prepared", parquet=out / "*.parquet"), tmp_path)
    assert refused == []
    assert {u.id for u in again} == set(rows)
    files = [str(path) for path in sorted(out.glob("train-*.parquet"))]
    data = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert data.features["audio"] == datasets.Audio(SAMPLE_RATE_HZ)
    first = data.cast_column("audio", datasets.Audio(decode=False))[0]
    assert first["audio"]["bytes"] == rows[first["id"]]["audio"]["bytes"]
    assert first["language"] == "Hebrew"


def test_the_same_input_gives_the_same_bytes_and_shards_of_an_earlier_run_go(corpus, tmp_path):
    corpus.prepare(tmp_path / "a")
    corpus.prepare(tmp_path / "b", shard_utterances=5)
    assert len(list((tmp_path / "b").glob("*.parquet"))) > 5
    corpus.prepare(tmp_path / "b")
    bytes_of = [{path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in ("a", "b")]
    names = {"train-00000.parquet", "dev-00000.parquet", "manifest.jsonl", "ledger.jsonl", "summary.json"}
    assert bytes_of[0].keys() == names
    assert bytes_of[0] == bytes_of[1]


def test_verdicts_come_from_the_audits_tables_a_row_at_a_time(corpus, tmp_path):
    rows = list(corpus.verdicts.values())
    tables = [tmp_path / "utterances.parquet", tmp_path / "rest.parquet"]
    for table, some in zip(tables, (rows[:7], rows[7:]), strict=True):
        write_audited(table, [verdict.row for verdict in some])
    verdicts = ReviewedRows(tables, {})
    assert set(verdicts) == set(corpus.verdicts) and verdicts.get("nobody") is None
    corpus.prepare(tmp_path / "a"), corpus.prepare(tmp_path / "b", verdicts=verdicts)
    assert (tmp_path / "a" / "ledger.jsonl").read_bytes() == (tmp_path / "b" / "ledger.jsonl").read_bytes()
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_unheard_utterances_stop_the_stage_or_pass_the_cheap_checks(corpus, tmp_path):
    for id in ("good-0", "long-0", "fast", "silent-edges"):
        del corpus.verdicts[id]
    with pytest.raises(DataError, match=r"4 of 39 utterances were not heard .* 'good-0'.*unheard=keep"):
        corpus.prepare(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    summary = corpus.prepare(tmp_path / "out", unheard="keep")
    rules = {line.id: line.rule for line in read_ledger(tmp_path / "out" / "ledger.jsonl")}
    assert (rules["long-0"], rules["fast"]) == ("too_long", "too_much_text")
    ids = {row["id"] for row in rows_of(tmp_path / "out")}
    assert {"good-0", "silent-edges"} < ids
    assert "silent-edges" not in rules  # nobody knows where its words are
    assert "4 utterances were not heard" in summary.notes[0]


def test_how_many_keep_timestamps_and_previous_texts_is_said(corpus, tmp_path):
    """A cut or trimmed text loses its times: `train.timestamps_frac` may draw from nothing, and nobody would know."""
    timed = [f"<|0.00|> {one.text}<|{one.duration_s:.2f}|>" for one in corpus.utterances]
    corpus.utterances = [
        replace(one, timed_text=text, previous="לפני", source="long" if one.id.startswith("long") else one.source)
        for one, text in zip(corpus.utterances, timed, strict=True)
    ]
    for id, verdict in corpus.verdicts.items():
        corpus.verdicts[id] = replace(verdict, row=replace(verdict.row, source="long" if "long" in id else "crowd"))
    notes = corpus.prepare(tmp_path / "out").notes
    rows = rows_of(tmp_path / "out")
    num_timed, num_after = (sum(row[name] is not None for row in rows) for name in ("timed_text", "previous"))
    assert 0 < num_timed < num_after < len(rows)
    assert f"{num_timed} of {len(rows)} utterances have timestamps, as 39 of the given had" in notes
    assert f"{num_after} of {len(rows)} utterances have a previous text, as 39 of the given had" in notes
    (lost,) = [note for note in notes if "none of its utterances has" in note]
    assert lost.startswith("source 'long': none of its utterances has timestamps after cutting, trimming and dropping")


def test_an_audit_that_is_not_believed_drops_trims_and_cuts_nothing(corpus, tmp_path):
    summary = corpus.prepare(tmp_path / "out", drop_low_quality=False)
    rules = {line.id: line.rule for line in read_ledger(tmp_path / "out" / "ledger.jsonl")}
    assert rules == {
        "long-0": "too_long", "long-1": "too_long", "empty": "no_words", "brief": "too_short",
        "fast": "too_much_text", "broken": "undecodable",
    }  # fmt: skip
    assert {"wrong", "no-hebrew"} < {row["id"] for row in rows_of(tmp_path / "out")}
    assert "not believed" in summary.notes[0]


def test_an_audit_of_another_text_is_refused(corpus, tmp_path):
    corpus.utterances[3] = replace(corpus.utterances[3], text="משהו אחר לגמרי")
    with pytest.raises(DataError, match=r"'good-3' of crowd: the audit heard 7 words .* its text has 3"):
        corpus.prepare(tmp_path / "out")


def test_nothing_left_is_an_error_with_the_first_reasons(corpus, tmp_path):
    for id in corpus.verdicts:
        corpus.say(id, is_low_quality=True, suspect="no_speech", reasons=("nothing was heard",), hypothesis="")
    with pytest.raises(
        DataError, match=r"nothing is left to train on of 39 .*'good-0': low_quality:no_speech, nothing was"
    ):
        corpus.prepare(tmp_path / "out")
    assert len(read_ledger(tmp_path / "out" / "ledger.jsonl")) == 39
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_part_of_a_long_utterance_that_cannot_be_cut_is_lost_and_the_rest_stays(tmp_path):
    (tmp_path / "data").mkdir()
    corpus = Corpus(tmp_path / "data", seed=3)
    for i in range(4):
        corpus.add(f"good-{i}", [6])
    corpus.add("reader", [6, 6, 70, 6, 6])
    summary = corpus.prepare(tmp_path / "out", dev_frac=0.01)
    assert summary.utterances.kept == 5
    (lost,) = [line for line in read_ledger(tmp_path / "out" / "ledger.jsonl") if line.rule == "part:no_pause"]
    pieces = [row for row in rows_of(tmp_path / "out") if row["origin_id"] == "reader"]
    assert lost.id.startswith("reader-p")
    assert lost.id not in {row["id"] for row in pieces}
    assert lost.duration_s > 20
    words = corpus.utterances[-1].text.split()
    assert " ".join(row["text"] for row in pieces).split() == words[:12] + words[82:]
    assert summary.cut == Cut(utterances=1, pieces=len(pieces))


FLAGGED = {"is_low_quality": True, "suspect": "wrong_text", "reasons": ("0.1 under 0.5",)}


def good_ones(folder: Path, seed: int) -> Corpus:
    folder.mkdir()
    corpus = Corpus(folder, seed)
    for i in range(4):
        corpus.add(f"good-{i}", [6])
    return corpus


def test_of_a_flagged_long_recording_the_good_pieces_stay(tmp_path):
    """One wrong sentence of twelve condemned the other eleven, or came into training with them."""
    corpus = good_ones(tmp_path / "data", seed=4)
    corpus.add("half-right", [6] * 12, verdict=FLAGGED)
    corpus.add("all-wrong", [6] * 12, verdict={**FLAGGED, "hypothesis": "גגגגגג " * 60})
    corpus.add("short", [6], verdict=FLAGGED)
    heard = corpus.verdicts["half-right"].row.hypothesis.split()
    corpus.say("half-right", hypothesis=" ".join([*heard[:30], *["גגגג"] * 6, *heard[36:]]))
    summary = corpus.prepare(tmp_path / "out", dev_frac=0.01, max_duration_s=8)
    ledger = {line.id: line for line in read_ledger(tmp_path / "out" / "ledger.jsonl")}
    assert summary.dropped_by_rule["low_quality:wrong_text"].utterances == 2
    assert ledger["all-wrong"].detail == ledger["short"].detail == "0.1 under 0.5"
    (lost,) = [line for line in ledger.values() if line.rule == "part:not_heard"]
    assert lost.detail == "0 of 6 words were heard"
    pieces = [row for row in rows_of(tmp_path / "out") if row["origin_id"] == "half-right"]
    words = corpus.utterances[-3].text.split()
    assert " ".join(row["text"] for row in pieces).split() == words[:30] + words[36:]


@pytest.mark.parametrize("kept", [True, False])
def test_speech_at_an_edge_that_the_text_lacks_is_trimmed_and_the_rest_stays(tmp_path, kept):
    """The audit flags it as a whole; where the extra speech lies within the text, it goes as a whole."""
    corpus = good_ones(tmp_path / "data", seed=5)
    phrases = [5, 4] if kept else [3, 2, 4]
    corpus.add("two", phrases, pause_s=(0.5, 0.6), verdict={**FLAGGED, "suspect": "text_missing"})
    row, words = corpus.verdicts["two"].row, corpus.utterances[-1].text.split()
    said = [0, 1, 2, 3, 4] if kept else [0, 1, 2, 5, 6, 7, 8]
    corpus.utterances[-1] = replace(corpus.utterances[-1], text=" ".join(words[i] for i in said))
    kept_of = {name: tuple(getattr(row, name)[i] for i in said) for name in ("words", "starts_s", "ends_s")}
    corpus.say("two", **kept_of)
    corpus.prepare(tmp_path / "out", dev_frac=0.01)
    (line,) = [line for line in read_ledger(tmp_path / "out" / "ledger.jsonl") if line.id == "two"]
    rows = [row for row in rows_of(tmp_path / "out") if row["id"] == "two"]
    if not kept:
        assert (line.rule, rows) == ("low_quality:text_missing", [])
        return
    (row,) = rows
    assert line.rule == "trimmed"
    assert row["text"].split() == words[:5]
    assert kept_of["ends_s"][-1] - 0.08 <= row["origin_end_s"] <= kept_of["ends_s"][-1] + 0.5  # the next phrase's start


def test_a_persons_verdict_stands_over_the_audits(corpus, tmp_path):
    """'bad' keeps out what passed and 'good' brings back what was flagged, when they are about the text at hand."""
    text_of = {u.id: u.text for u in corpus.utterances}
    said = {"good-0": "bad", "good-1": "unsure", "wrong": "good", "broken": "good", "long-0": "bad"}
    answers = {id: Answer(id=id, verdict=verdict, text=text_of[id]) for id, verdict in said.items()}
    answers["good-2"] = Answer(id="good-2", verdict="bad", text="משהו אחר")
    answers["gone"] = Answer(id="gone", verdict="bad", text="משהו")
    corpus.say("no-hebrew", is_low_quality=True)
    answers["no-hebrew"] = Answer(id="no-hebrew", verdict="good", text=text_of["no-hebrew"])
    verdicts = {id: reviewed(verdict.row, answers.get(id)) for id, verdict in corpus.verdicts.items()}
    summary = corpus.prepare(tmp_path / "out", verdicts=verdicts)
    ledger = {line.id: line.rule for line in read_ledger(tmp_path / "out" / "ledger.jsonl")}
    assert summary.dropped_by_rule["review:bad"].utterances == 2
    assert ledger["good-0"] == ledger["long-0"] == "review:bad"
    assert ledger["no-hebrew"] == "no_words"
    ids = {row["id"] for row in rows_of(tmp_path / "out")}
    assert {"good-1", "good-2", "wrong"} < ids
    corpus.prepare(tmp_path / "b", verdicts=verdicts, drop_low_quality=False)
    assert {line.id for line in read_ledger(tmp_path / "b" / "ledger.jsonl") if line.rule == "review:bad"} == {
        "good-0", "long-0",
    }  # fmt: skip


@pytest.mark.parametrize("who", ["this process", "others", "a cluster"])
def test_a_review_that_comes_later_prepares_again(corpus, tmp_path, monkeypatch, who):
    """By this process and by others, which are closed in the end; a cluster is asked where there is one."""
    monkeypatch.setattr("shibolet.prepare.processes.is_worth_processes", lambda *_, **__: who != "this process")
    asked, prepares_there = [], MakePieces.open
    monkeypatch.setattr(MakePieces, "open", lambda self: asked.append(1) or prepares_there(self))
    rows = [{**asdict(u), "audio": u.audio.path} for u in corpus.utterances]
    write_jsonl(tmp_path / "data.jsonl", rows)
    changes = [f"data.train=[{{name: crowd, manifest: {tmp_path}/data.jsonl}}]", "prepare.unheard=keep"]
    changes.append(f"audit.num_workers={int(who == 'others')}")

    def prepared() -> set[str]:
        with open_round(load_recipe("demo", changes), tmp_path / "run", "run", lambda sentence: None) as current:
            if who == "a cluster":
                current.on, current._executor = "ray", Here()
            if not current.folder.finished("gate"):
                gate_verdict("PROCEED").write(current.folder.gate())
                write_audited(current.folder.audited_utterances(), [v.row for v in corpus.verdicts.values()])
                current.folder.seal("audit", {"data": current.data.digest})
                current.folder.seal("gate")
            stages.do_prepare(current)
            return {row["id"] for row in rows_of(current.folder.prepared)}

    children = set(multiprocessing.active_children())
    assert "good-0" in prepared()
    answer = Answer(id="good-0", verdict="bad", text=corpus.utterances[0].text)
    write_jsonl(tmp_path / "run" / "audit" / "review.jsonl", [answer.model_dump()])
    assert "good-0" not in prepared() and bool(asked) == (who == "a cluster")
    assert set(multiprocessing.active_children()) <= children


def test_who_decoded_for_the_audit_decodes_for_prepare(tmp_path):
    """Other processes would take seconds to start, and as much memory again."""
    recipe = load_recipe("demo", ["audit.num_workers=0"])
    with open_round(recipe, tmp_path / "run", "run", lambda sentence: None) as current:
        with current.decoding() as own:
            assert own is current.decoders
        hearing = current.executor.decoders(0)
        with current.decoding() as same:
            assert same is hearing


def test_with_a_cluster_its_nodes_prepare_and_little_audio_stays_here(corpus, tmp_path, monkeypatch):
    """An option that is taken and does nothing; and actors would start more slowly than little audio is prepared."""
    with open_round(load_recipe("demo"), tmp_path / "run", "run", lambda sentence: None) as current:
        current.on, current._executor = "ray", Here()
        with current.preparing(corpus.utterances) as alone:
            assert alone == (None, None)
        monkeypatch.setattr("shibolet.prepare.processes.ALONE_S", 1.0)
        monkeypatch.setattr("shibolet.prepare.processes.usable_cores", lambda: 1)
        with current.preparing(corpus.utterances) as (decoders, executor):
            assert executor is current._executor and decoders is not None
        current.on = None
        with current.preparing(corpus.utterances) as alone:
            assert alone == (None, None)
