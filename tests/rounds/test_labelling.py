"""Protects training from texts of machines that nobody confirmed, from a writer's habits, and dev from either."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from audit_documents import audited, gate_verdict

from shibolet.cli.tables import show
from shibolet.errors import DataError, RecipeError
from shibolet.label.agreement import Tried, choose_limit
from shibolet.label.authors import as_trained
from shibolet.label.config import clips_needed
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.stage import run_prepare
from shibolet.recipe import load_recipe, write_recipe
from shibolet.records.audited import Audited, write_audited
from shibolet.records.documents.labelled import Labelled
from shibolet.records.documents.prepared import Prepared
from shibolet.records.files import write_jsonl
from shibolet.records.ledger import read_ledger
from shibolet.records.machine_texts import MachineText, read_texts
from shibolet.records.runfolder import RunFolder
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds import hearers, labelling, stages
from shibolet.rounds.shared import open_round
from shibolet.speech.audio import SAMPLE_RATE_HZ, encode_flac

RATE = SAMPLE_RATE_HZ
WORDS = "אחת שתיים שלוש ארבע חמש שבע שמונה תשע עשר מאה אלף יום לילה בוקר ערב בית ספר שיר ילד אבא".split()
HABIT, SAID = "מחברת", "טלפון"  # what the writer writes, and what is said


def burst(seconds: float, pitch_hz: float) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return 0.2 * sum(np.sin(2 * np.pi * pitch_hz * k * t) / k for k in range(1, 9)) * np.hanning(len(t)) ** 0.2


def quiet(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1e-4, round(seconds * RATE))


def write_flac(path: Path, first: np.ndarray, second: np.ndarray) -> None:
    """Two words, and silence before, between and after them."""
    samples = np.concatenate([quiet(0.3), first, quiet(0.2), second, quiet(0.3)])
    path.write_bytes(encode_flac(samples.astype(np.float32)))


def sentence(number: int) -> str:
    return " ".join(np.random.default_rng(number).choice(WORDS, 6))


class Answers:
    """What writer and listener say of each utterance, by id; of clips with a known text they read the truth."""

    def __init__(self, truth: dict[str, str]) -> None:
        self.truth, self.said, self.asked = truth, {}, []
        self.surprise: Callable[[str], float] | None = None  # nats a token, of a text by its id
        self.identities, self.decoding = ["writer", "listener"], {}

    def __call__(self, current, writer: str, listener: str) -> "Answers":
        return self

    def hear(self, utterances, digest: str, title: str) -> list[Audited]:
        self.asked.append([u.id for u in utterances])
        rules = labelling.get_language("Hebrew")
        rows = []
        for u in utterances:
            is_silent = u.id.startswith("copy/") and int(Path(u.audio.path).stem) % 8 == 7  # the last kind of damage
            own = "" if is_silent else self.truth.get(u.id.removeprefix("copy/"), sentence(len(rows)))
            text, heard = self.said.get(u.id, (own, own))
            words = rules.to_words(text).tokens
            row = audited(
                u.id, source=u.source, recording=u.recording, speaker=u.speaker, text=text, words=words,
                hypothesis=heard, cer=labelling.letters_apart(words, heard, rules), duration_s=u.duration_s,
                failure=None if text else "no_words", domain=u.domain or "unknown",
                text_score=-self.surprise(u.id) if self.surprise else None,
            )  # fmt: skip
            rows.append(row)
        return rows

    def in_turn(self, utterances, rows, authors, title: str) -> list[Audited]:
        rules = labelling.get_language("Hebrew")
        found = [as_trained(row, authors.get(row.domain), rules) for row in rows]
        return [replace(row, text_score=-self.surprise(row.id) if self.surprise else None) for row in found]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Sounds of 100 utterances with a text and of 40 recordings without."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(100):
        write_flac(folder / f"k{i}.flac", burst(0.3 + 0.01 * (i % 20), 110 + i), burst(0.3 + i / 1e3, 150))
    for i in range(40):
        write_flac(folder / f"u{i}.flac", burst(0.4 + i / 100, 120), burst(0.4, 180))
    return folder


@pytest.fixture
def play(tmp_path, monkeypatch, data):
    """100 utterances with a text, of which some are flagged, and 40 recordings without; what the hearers say is given.

    Runs the stage, and prepare on it; gives the document, the texts, and the folder.
    """
    rows, truth = [], {}
    for i in range(100):
        truth[f"k{i}"] = sentence(i)
        rows.append({"id": f"k{i}", "audio": f"k{i}.flac", "text": truth[f"k{i}"], "speaker": f"s{i % 10}"})
    speakers = ["s0" if i == 0 else f"new{i % 8}" for i in range(40)]
    free = [{"id": f"u{i}", "audio": f"u{i}.flac", "speaker": speakers[i], "text": 5} for i in range(40)]
    answers = Answers(truth)
    monkeypatch.setattr(hearers, "Hearers", answers)

    def run(
        said: dict[str, tuple[str, str]],
        changes=(),
        flagged: dict[str, str] | None = None,
        decision: str = "PROCEED",
        ids: dict[str, str] | None = None,
        domain: Callable[[dict], str] = lambda row: "clean",
    ) -> tuple[Labelled, dict, Path]:
        answers.said = said
        for row in rows:
            row["text"] = (flagged or {}).get(row["id"], truth[row["id"]])
        for name, own in (("known", rows), ("free", free)):
            named = [{**row, "id": (ids or {}).get(row["id"], row["id"]), "domain": domain(row)} for row in own]
            write_jsonl(data / f"{name}.jsonl", named)
        recipe = load_recipe("demo", [
            f"data.train=[{{name: known, manifest: {data}/known.jsonl}}]",
            f"data.unlabelled=[{{name: free, manifest: {data}/free.jsonl}}]", "prepare.unheard=keep",
            "label.max_false_accept_pct=20", "label.calibration_clips=40", "prepare.dev_frac=0.2",
            "audit.num_workers=0", *changes,
        ])  # fmt: skip
        with open_round(recipe, tmp_path / "run", "label", lambda sentence: None) as current:
            gate_verdict(decision).write(current.folder.gate())
            table = [
                audited(
                    u.id, source=u.source, speaker=u.speaker, text=u.text, duration_s=u.duration_s,
                    words=labelling.get_language("Hebrew").to_words(u.text).tokens,
                    is_low_quality=u.id in (flagged or {}), suspect="wrong_text" if u.id in (flagged or {}) else None,
                    reasons=("0.1 under 0.5",),
                )
                for u in current.data.utterances
            ]  # fmt: skip
            write_audited(current.folder.audited_utterances(), table)
            current.folder.seal("audit", {"data": current.data.digest})
            current.folder.seal("gate")
            found = labelling.do_label(current)
            stages.do_prepare(current)
            folder = current.folder
        return found, {text.id: text for text in read_texts(folder.labelled / "texts.jsonl")}, folder

    run.answers = answers
    return run


def prepared_rows(folder, split: str) -> list[dict]:
    return [
        row for path in sorted(folder.prepared.glob(f"{split}-*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def beside_dev(folder) -> set[str]:
    return {line.id for line in read_ledger(folder.prepared / "ledger.jsonl") if line.rule == "beside_dev"}


def test_what_both_read_alike_trains_and_is_told_apart_and_nothing_of_it_is_dev(play, capsys):
    """Protects dev from a machine's text, and a reader from not seeing whose text it is."""
    apart = {f"free/u{i}-0000": (sentence(i), sentence(i + 50)) for i in range(1, 11)}
    found, texts, folder = play(
        {f"u{i.split('u')[1]}": text for i, text in apart.items()}, ["label.max_labelled_share=2"]
    )
    source = found.sources["free"]
    assert found.agreement.limit is not None and source.given.utterances == 40
    assert source.refused["hearers_differ"].utterances == 10 and source.admitted.utterances == 30
    assert set(texts) == {f"u{i}-0000" for i in range(40) if not 1 <= i <= 10}
    train, dev = prepared_rows(folder, "train"), prepared_rows(folder, "dev")
    assert dev and {row["text_by"] for row in dev} == {None} and {row["source"] for row in dev} == {"known"}
    by_machine = [row for row in train if row["text_by"] == "labelled"]
    assert {row["source"] for row in by_machine} == {"free"} and 0 < len(by_machine) <= 30
    ledger = {line.id: line.rule for line in read_ledger(folder.prepared / "ledger.jsonl")}
    assert sum(rule == "labelled" for rule in ledger.values()) == len(by_machine)
    of_dev = {row["speaker"] for row in dev}
    assert not of_dev & {row["speaker"] for row in by_machine}, "no voice of dev may be learned from a machine's text"
    assert ("s0" in of_dev) == (ledger.get("u0-0000") == "beside_dev")
    summary = Prepared.read(folder.prepared / "summary.json")
    assert any("a text that a machine wrote (labelled); none is in dev" in note for note in summary.notes)
    assert "hearers_differ" in {line.rule for line in read_ledger(folder.labelled / "ledger.jsonl")}
    show(found)
    shown = capsys.readouterr().out
    assert "hearers_differ" in shown and max(map(len, shown.splitlines())) <= 80


def test_a_word_that_the_writer_always_writes_for_another_is_not_learned(play):
    """One word in seven is a small disagreement: without the habit every such piece would pass and the error grow."""
    said = {}
    for i in range(1, 21):
        rest = f"{sentence(i)} {sentence(i + 100)}"
        said[f"u{i}-0000"] = (f"{rest} {HABIT}", f"{rest} {SAID}")
    found, texts, _ = play(said)
    assert all(labelling.letters_apart(a.split(), b, labelling.get_language("Hebrew")) <= found.agreement.limit
               for a, b in said.values()), "by the limit alone they would pass"  # fmt: skip
    [habit] = found.habits
    assert (habit.confusion.text, habit.confusion.heard, habit.by, habit.refused) == (HABIT, SAID, "listener", 20)
    assert not [text for text in texts.values() if HABIT in text.text]
    assert len(texts) == 20, "pieces without that word pass"


def test_a_habit_that_both_hearers_have_is_found_on_known_texts(play):
    """Two models of the same data agree on its errors; what is known of some texts still tells."""
    said = {}
    for i in range(40):
        said[f"k{i}"] = (f"{sentence(i)} {HABIT}",) * 2
        play.answers.truth[f"k{i}"] = f"{sentence(i)} {SAID}"
    said |= {f"u{i}-0000": (f"{sentence(i)} {HABIT}",) * 2 for i in range(5, 15)}
    found, texts, _ = play(said)
    assert [(one.confusion.text, one.by, one.refused) for one in found.habits] == [(HABIT, "truth", 10)]
    assert not [text for text in texts.values() if HABIT in text.text]


def other_last_word(text: str, number: int) -> str:
    *rest, last = text.split()
    return " ".join([*rest, next(word for word in WORDS[number % 17 :] + WORDS if word != last)])


def test_where_the_listener_hears_better_its_texts_train(play, capsys):
    """The writer agrees with what it knows already: its own texts would teach it its errors again."""
    said = {f"k{i}": (other_last_word(sentence(i), i), sentence(i)) for i in range(100)}
    said |= {f"u{i}-0000": (other_last_word(sentence(i), i), sentence(i)) for i in range(40)}
    found, texts, folder = play(said, ["label.max_labelled_share=2"])
    [author] = found.authors
    assert (author.by, author.listener_wer_pct, author.refusal) == ("listener", 0.0, None)
    assert author.writer_wer_pct == pytest.approx(100 / 6, abs=0.01) and author.chance < 0.01
    assert len(texts) == 40
    for i in range(40):
        one = texts[f"u{i}-0000"]
        assert (one.text, one.by, one.written, one.heard) == (said[one.id][1], "listener", *said[one.id])
    rows = [row for row in prepared_rows(folder, "train") if row["text_by"] == "labelled"]
    assert rows and all(row["text"] == said[row["origin_id"]][1] for row in rows)
    show(found)
    shown = capsys.readouterr().out
    assert "listener" in shown and max(map(len, shown.splitlines())) <= 80
    assert "the listener's texts train" in found.sentence
    found, texts, _ = play(said, ["label.max_labelled_share=2", "label.texts_of=writer"])
    assert not found.authors and all(one.text == one.written == said[one.id][0] for one in texts.values())


def test_a_better_listener_writes_as_the_data_do_or_not_at_all(play):
    """Its words are right, and the model would learn from it to set marks that the data do not have."""
    marked = {i: sentence(i).replace(" ", ", ") + "." for i in range(100)}
    said = {f"k{i}": (other_last_word(sentence(i), i), marked[i]) for i in range(100)}
    said |= {f"u{i}-0000": (other_last_word(sentence(i), i), marked[i]) for i in range(40)}
    found, texts, _ = play(said, ["label.max_labelled_share=2"])
    assert (found.authors[0].by, found.authors[0].unwritten) == ("listener", ("marks",))
    assert texts and {one.text for one in texts.values()} <= {sentence(i) for i in range(40)}
    for i in range(100):
        play.answers.truth[f"k{i}"] = f"{sentence(i)}."  # one mark a text, where the listener sets six
    found, texts, _ = play(said, ["label.max_labelled_share=2"])
    [author] = found.authors
    assert (author.by, author.unwritten) == ("writer", ()) and author.chance < 0.01
    assert "write differently: punctuation marks a word" in author.refusal
    assert texts and all(one.text == said[one.id][0] and one.by == "writer" for one in texts.values())


def test_a_text_that_the_other_finds_likely_passes_however_much_it_writes_otherwise(play, capsys):
    """What only the better one hears right is what teaches: by its letters all of it would be refused."""
    apart = lambda i: sentence(i + 300)  # noqa: E731
    said = {f"k{i}": (apart(i), sentence(i)) for i in range(100)}
    said |= {f"u{i}-0000": (apart(i), sentence(i)) for i in range(40)}
    play.answers.surprise = lambda id: 0.7 if id[0] in "ku" and id not in ("u3-0000", "u4-0000") else 2.5
    found, texts, folder = play(said, ["label.max_labelled_share=2"])
    assert (found.agreement.by, found.agreement.limit) == ("surprise", 2.0) and found.authors[0].by == "listener"
    assert set(texts) == {f"u{i}-0000" for i in range(40)} - {"u3-0000", "u4-0000"}
    assert all(one.text == said[one.id][1] and one.disagreement > 0.3 for one in texts.values())
    lines = {line.id: line for line in read_ledger(folder.labelled / "ledger.jsonl")}
    assert "the other one finds it 2.50 nats a token less likely, at most 2 may be" in lines["u3-0000"].detail
    show(found)
    assert "2 nats" in (shown := capsys.readouterr().out) and max(map(len, shown.splitlines())) <= 80
    assert "at most 2 nats a token less likely than what it heard itself" in found.sentence


def test_each_domain_has_its_author_and_its_habits(play):
    """What one does in one domain is no fault of the other's texts elsewhere."""
    said = {}
    for i in range(100):
        right, wrong = sentence(i), other_last_word(sentence(i), i)
        said[f"k{i}"] = (wrong, right) if i < 50 else (right, wrong)
    for i in range(50, 60):  # both have learned it, and the known texts tell
        said[f"k{i}"] = (f"{sentence(i)} {HABIT}",) * 2
        play.answers.truth[f"k{i}"] = f"{sentence(i)} {SAID}"
    for i in range(40):
        right, wrong = sentence(i), other_last_word(sentence(i), i)
        said[f"u{i}-0000"] = (wrong, right) if i < 20 else (right, wrong)
    said |= {f"u{i}-0000": (f"{sentence(i)} {HABIT}",) * 2 for i in (*range(10), *range(20, 30))}
    found, texts, _ = play(
        said, ["label.max_labelled_share=2", "label.calibration_clips=100"],
        domain=lambda row: "phone" if int(row["id"][1:]) < (50 if row["id"][0] == "k" else 20) else "studio",
    )  # fmt: skip
    assert [(one.domain, one.by) for one in found.authors] == [("phone", "listener"), ("studio", "writer")]
    assert found.listeners_domains == ("phone",) and found.author("phone") == found.listener
    assert found.author("studio") == found.author(None) == found.writer
    [habit] = found.habits
    assert (habit.confusion.text, habit.by, habit.author, habit.refused) == (HABIT, "truth", "writer", 10)
    for i in range(40):
        if 20 <= i < 30:
            assert f"u{i}-0000" not in texts
        else:
            one = texts[f"u{i}-0000"]
            assert (one.text, one.by) == (said[one.id][i < 20], "listener" if i < 20 else "writer")


def test_what_the_audit_flagged_counts_where_whose_text_trains_is_chosen(play):
    """The listener flagged them as it misheard: without them two that are alike seem to be a better one and a worse."""
    near = lambda i: other_last_word(sentence(i), i)  # noqa: E731
    said = {f"k{i}": (near(i), sentence(i)) if i % 2 else (sentence(i), near(i)) for i in range(100)}
    flagged = {f"k{i}": sentence(i) for i in range(0, 100, 2)}
    [author] = play(said, ["label.calibration_clips=100"], flagged)[0].authors
    assert author.writer_wer_pct == pytest.approx(author.listener_wer_pct, abs=1.0)
    assert author.by == "writer" and 95 <= author.clips <= 100
    known = play.answers.asked[-2]
    assert {f"copy/k{i}" for i in range(1, 100, 2)} <= set(known) and "copy/k2" not in known, "no limit is from these"


def test_where_the_writer_is_silent_the_listener_is_not_blamed(play):
    """It was not asked about these: they are no evidence of either."""
    said = {f"k{i}": ("", "") if i % 2 else (other_last_word(sentence(i), i), sentence(i)) for i in range(100)}
    [author] = play(said)[0].authors
    assert (author.by, author.listener_wer_pct) == ("listener", 0.0) and author.clips < 30


def test_what_was_flagged_is_taken_back_by_the_writer_alone(play):
    """The listener of most recipes is the recogniser whose hearing flagged it: it cannot take that back."""
    flagged = {f"k{i}": sentence(i) for i in range(90, 95)}  # the text is right, and the listener is not
    said = {f"k{i}": (other_last_word(sentence(i), i), sentence(i)) for i in range(90)}
    said |= {f"k{i}": (sentence(i), sentence(i + 300)) for i in range(90, 95)}
    found, texts, _ = play(said, ["label.flagged=true"], flagged)
    assert found.authors[0].by == "listener" and found.flagged.taken_back == 5
    assert {id: texts[id].by for id in flagged} == dict.fromkeys(flagged), "the text is the data's own"


def test_wrong_texts_of_known_clips_close_the_way(play):
    """Hearers that agree on what is not said: no limit is good, and nothing of theirs may train."""
    said = {f"k{i}": (sentence(i + 500),) * 2 for i in range(60)}
    found, texts, folder = play(said)
    assert found.agreement.limit is None and not texts
    assert found.sources["free"].refused["no_limit"].utterances == 40
    assert found.sentence.startswith("No text by a machine passes")
    assert {row["text_by"] for row in prepared_rows(folder, "train")} == {None}


def test_limits_are_of_clips_that_no_hearer_was_trained_on(play, tmp_path, data, monkeypatch):
    """A model knows its training texts by heart: on them it errs less, and the bound would be too good."""
    writer, run = tmp_path / "before" / "train" / "final", RunFolder(tmp_path / "before")
    writer.mkdir(parents=True)
    write_recipe(load_recipe("demo"), run.recipe)

    def trained(numbers: range) -> None:
        utterances = [
            Utterance(
                id=f"k{i}", audio=AudioRef(path=str(data / f"k{i}.flac")), text=sentence(i), duration_s=1.5,
                source="known", speaker=f"s{i % 10}",
            )
            for i in numbers
        ]  # fmt: skip
        config = PrepareConfig(dev_frac=0.01, unheard="keep")
        run_prepare(utterances, {}, config=config, language="Hebrew", seed=0, out_dir=run.prepared)

    trained(range(40))
    learned = {row["origin_id"] for row in prepared_rows(run, "train")}
    found, _, _ = play({}, [f"label.writer={writer}", "label.calibration_clips=100"])
    assert len(learned) > 20 and found.agreement.clips == 100 - len(learned)
    calibrated = {id for asked in play.answers.asked for id in asked if id.startswith("copy/")}
    assert calibrated and not {f"copy/{id}" for id in learned} & calibrated
    assert f"{writer} trained on none of them." in found.notes
    assert any("learned is not known here" in note for note in found.notes), "the listener's data"
    monkeypatch.setattr("shibolet.rounds.known_texts.read_shard", lambda shard, *columns: [])
    play({}, [f"label.writer={writer}", "label.calibration_clips=99"])
    again = {id for asked in play.answers.asked for id in asked if id.startswith("copy/")}
    assert again == calibrated, "by the audio too, where ids are others"
    trained(range(100))
    asked = len(play.answers.asked)
    expected = r"max_false_accept_pct=20 takes 23 of them, and there are \d+ of 100, and .* learned the others\. Hold"
    with pytest.raises(DataError, match=expected):
        play({}, [f"label.writer={writer}", "label.calibration_clips=50"])
    assert len(play.answers.asked) == asked, "nothing is heard before it is refused"


def test_more_clips_than_are_asked_for_would_be_needed():
    """With 40 clips no limit shows 5% false accepts: the hearing would be paid for nothing."""
    with pytest.raises(RecipeError, match=r"calibration_clips is 40, and to show at most 5% .* takes 97 at least"):
        load_recipe("demo", ["label.calibration_clips=40"])
    for pct, num in ((5, 97), (20, 23), (10, 47)):
        assert clips_needed(pct) == num
        ok = [Tried(clip=f"{i}", group=f"{i}", disagreement=0.0, is_wrong=False) for i in range(num)]
        assert choose_limit(ok, pct).limit is not None and choose_limit(ok[1:], pct).limit is None


def test_no_more_trains_than_the_recipe_allows_and_what_agrees_best_comes_first(play):
    near = {f"u{i}-0000": (sentence(i), sentence(i)[:-1]) for i in range(20)}
    found, texts, _ = play(near, ["label.max_labelled_share=0.1"])
    assert found.sources["free"].refused["over_share"].utterances > 0
    assert found.sources["free"].admitted.hours <= 0.1 * 100 * 1.7 / 3600
    assert texts and all(text.disagreement == 0 for text in texts.values())


def test_flagged_utterances_are_taken_back_corrected_or_dropped(play):
    """What one finds right stays; what both read alike and the text does not is corrected, within a share."""
    flagged = {f"k{i}": play.answers.truth[f"k{i}"] for i in range(90, 93)}  # the text is right, the audit was not
    flagged |= {f"k{i}": sentence(i + 900) for i in range(93, 97)}  # another text: both hear the truth
    flagged |= {f"k{i}": sentence(i + 900) for i in range(97, 100)}  # another text, and the hearers differ
    said = {f"k{i}": (sentence(i), sentence(i + 300)) for i in range(97, 99)}
    near = play.answers.truth["k99"]
    said["k99"] = (near, near[:-2])  # near enough for a piece without text, and not to replace one that is given
    changes = ["label.flagged=true", "label.max_corrected_share=0.05"]
    found, texts, folder = play(said, changes, flagged)
    assert found.given.limit is not None, "damaged texts are told from what the writer reads"
    assert (found.flagged.heard, found.flagged.taken_back, found.flagged.corrected) == (10, 3, 4)
    corrected = [text for text in texts.values() if text.kind == "corrected"]
    assert all(text.text == play.answers.truth[text.id] != text.given for text in corrected)
    dev = {row["origin_id"] for row in prepared_rows(folder, "dev")}
    train = {row["origin_id"]: row for row in prepared_rows(folder, "train")}
    taken_back, beside = {"k90", "k91", "k92"}, beside_dev(folder)
    assert {train[id].get("text_by") for id in taken_back if id in train} == {None}
    assert taken_back <= train.keys() | beside and not taken_back & dev, "dev is of what the audit let pass"
    for text in corrected:
        assert text.id not in dev
        assert text.id not in train or (train[text.id]["text_by"], train[text.id]["text"]) == ("corrected", text.text)
    assert not {"k97", "k98", "k99"} & (dev | train.keys())
    summary = Prepared.read(folder.prepared / "summary.json")
    assert summary.utterances.given == 140 and summary.utterances.kept + summary.utterances.dropped == 140
    found, texts, _ = play(said, [*changes[:1], "label.max_corrected_share=0.03"], flagged)
    assert found.flagged.corrected == sum(text.kind == "corrected" for text in texts.values()) == 3


def test_a_text_that_a_person_corrected_is_no_truth_and_not_heard_again(play, tmp_path):
    """The wrong text would count as the truth of the calibration, or a machine's would displace the person's."""
    texts = {**play.answers.truth, "k9": sentence(909)}
    rows = [
        {"id": id, "verdict": verdict, "text": texts[id], "corrected": "שלום עולם"}
        for id, verdict in (("k3", "good"), ("k4", "unsure"), ("k9", "unsure"))
    ]
    review = tmp_path / "run" / "audit" / "review.jsonl"
    review.parent.mkdir(parents=True)
    write_jsonl(review, rows)
    changes = ["label.flagged=true", "label.calibration_clips=200"]
    found, _, _ = play({}, changes, {"k9": texts["k9"]})
    clips, again = play.answers.asked
    assert {"k3", "k4", "k9"}.isdisjoint(clips) and "k5" in clips
    assert "k9" not in again and found.flagged.heard == 0


def test_the_same_again_hears_nothing_and_a_recipe_without_audio_puts_it_aside(play, tmp_path):
    play({})
    asked = len(play.answers.asked)
    play({})
    assert len(play.answers.asked) == asked
    play({}, ["label.max_wer=0.3"])
    assert len(play.answers.asked) > asked
    with pytest.raises(DataError, match="has nothing to label"):
        play({}, ["data.unlabelled=[]"])


def test_audio_of_dev_under_another_name_is_not_labelled_and_learned(play, data):
    """A recording that lies in two places, without its speaker in one of them, would train what dev is to judge."""
    _, _, folder = play({})
    held_out = sorted(row["origin_id"] for row in prepared_rows(folder, "dev"))
    copied = list(range(1, 1 + len(held_out)))
    before = {i: (data / f"u{i}.flac").read_bytes() for i in copied}
    try:
        for i, id in zip(copied, held_out, strict=True):
            (data / f"u{i}.flac").write_bytes((data / f"{id}.flac").read_bytes())
        _, texts, folder = play({}, ["label.max_labelled_share=2"])
        pieces = {f"u{i}-0000" for i in copied}
        assert held_out == sorted(row["origin_id"] for row in prepared_rows(folder, "dev"))
        assert pieces <= texts.keys() and pieces <= beside_dev(folder)
        assert not pieces & {row["origin_id"] for row in prepared_rows(folder, "train")}
    finally:
        for i, audio in before.items():
            (data / f"u{i}.flac").write_bytes(audio)


def test_audio_that_was_moved_is_found_where_the_recipe_names_it(play, data, tmp_path):
    """Content says which data are the same: nothing is heard again, and the old place is not asked for."""
    _, before, folder = play({})
    asked, rows = len(play.answers.asked), sorted(row["id"] for row in prepared_rows(folder, "train"))
    moved = tmp_path / "moved"
    moved.mkdir()
    for i in range(40):
        (moved / f"u{i}.flac").write_bytes((data / f"u{i}.flac").read_bytes())
    (moved / "free.jsonl").write_text((data / "free.jsonl").read_text("utf-8"), "utf-8")
    hidden = data.with_name("hidden")
    data.rename(hidden)
    data.mkdir()
    try:
        for path in [*hidden.glob("k*.flac"), hidden / "known.jsonl"]:
            (data / path.name).write_bytes(path.read_bytes())
        (folder.path / ".stages" / "prepare.json").unlink()
        _, after, folder = play({}, [f"data.unlabelled=[{{name: free, manifest: {moved}/free.jsonl}}]"])
    finally:
        shutil.rmtree(data)
        hidden.rename(data)
    assert len(play.answers.asked) == asked and after == before
    assert sorted(row["id"] for row in prepared_rows(folder, "train")) == rows


def test_pieces_and_utterances_of_one_id_are_refused(play):
    """One would be heard, corrected and trained in the place of the other."""
    with pytest.raises(DataError, match="both have the id 'k1-0000'; rename one"):
        play({}, ids={"k1": "k1-0000", "u1": "k1"})


def test_a_corrected_text_has_nothing_that_was_known_beside_the_old_one(play):
    """Timestamps are of the text between them, and training on them would teach the text that was found wrong."""
    old = Utterance(
        id="a", audio=AudioRef(path="a.flac"), text="שלום", duration_s=1.0, source="s", previous="קודם",
        timed_text="<|0.00|>שלום<|1.00|>",
    )  # fmt: skip
    text = MachineText(id="a", kind="corrected", text="בוקר", written="בוקר", heard="בוקר", disagreement=0.0)
    new = labelling._with(old, text)
    assert (new.text, new.timed_text, new.previous) == ("בוקר", None, None)
    assert labelling._with(old, replace(text, kind="taken_back")) == old


def test_what_cannot_be_calibrated_or_agrees_with_itself_is_refused(play):
    with pytest.raises(DataError, match="INVALID, so nothing shows which texts are right"):
        play({}, decision="INVALID")
    with pytest.raises(RecipeError, match="no model writes the texts"):
        play({}, ["models=null", "train=null"])
    with pytest.raises(RecipeError, match="has no hypotheses for new pieces"):
        play({}, ["label.listener=heard.jsonl"])
    play.answers.identities = ["one", "one"]
    with pytest.raises(DataError, match="a model always agrees with itself"):
        play({})


def test_names_of_both_kinds_of_sources_differ_and_texts_are_none_of_theirs():
    with pytest.raises(RecipeError, match=r"data\.unlabelled"):
        load_recipe("demo", ["data.unlabelled=[{name: synthetic, manifest: x.jsonl}]"])
    with pytest.raises(RecipeError, match="letter_case speaks of texts"):
        load_recipe("demo", ["data.unlabelled=[{name: a, manifest: x.jsonl, letter_case: lower}]"])
    with pytest.raises(RecipeError, match=r"audio without text goes under data\.unlabelled"):
        load_recipe("demo", ["data.train=[{name: a, manifest: x.jsonl, columns: {text: null}}]"])


def test_rows_keep_their_fields(play):
    """Whose speech a piece is decides what it is dealt with; a field lost on the way would put it anywhere."""
    _, _, folder = play({})
    manifest = labelling.read_manifest(folder.labelled / "manifest.jsonl")
    assert {u.speaker for u in manifest} >= {"new1", "new7"} and all(u.recording and u.text for u in manifest)
    assert all(0.9 < u.duration_s < 2.2 and u.audio.end_s - u.audio.start_s == pytest.approx(u.duration_s, abs=1e-3)
               for u in manifest), "less the silence at both ends"  # fmt: skip
    assert replace(manifest[0]) == manifest[0] and asdict(manifest[0])
