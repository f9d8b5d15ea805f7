"""The n-gram of a round: from the training transcripts or a file, and never from the texts that it is tested on."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from shibolet.cli.tables import show
from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.stage import NOT_OF_A_SET
from shibolet.listen.engine import Engine, Written
from shibolet.prepare.pieces import Piece
from shibolet.prepare.shards import ShardWriter
from shibolet.recipe import load_recipe
from shibolet.records.documents.ngram import NgramMade
from shibolet.records.manifest import write_manifest
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds import tuning
from shibolet.rounds.ngram import check, do_ngram
from shibolet.rounds.shared import Round, open_round
from shibolet.speech.audio import encode_flac
from shibolet.speech.text import get_language

ENGLISH = get_language("English")
TRAIN = ["אחת שתיים שלוש ארבע חמש שש שבע", "שלום עולם", "שלום", "הילד הלך אל הים ביום חם"]
DEV = ["הילדה הלכה אל ההר"] * 12
TEST = "הנה משפט ארוך שאיש לא אמר מעולם כאן"


def prepare(current: Round) -> None:
    """What prepare would leave of `TRAIN` and `DEV`."""
    stage = current.folder.stage("prepare", {"made": "here"})
    current.folder.prepared.mkdir(parents=True)
    made, flac = [], encode_flac(np.full(8000, 0.1, np.float32))
    for split, texts in (("train", TRAIN), ("dev", DEV)):
        writer = ShardWriter(current.folder.prepared, split, 1000)
        for i, text in enumerate(texts):
            utterance = Utterance(
                id=f"{split}{i}", audio=AudioRef(path=""), text=text, duration_s=0.5, source="here",
                recording=f"{split}{i}",
            )  # fmt: skip
            made.append(writer.add(Piece.whole(utterance, flac), flac))
        writer.close()
    write_manifest(current.folder.prepared / "manifest.jsonl", made)
    stage.finish()


@pytest.fixture
def make(tmp_path):
    """Makes the n-gram of a run folder whose test set has these texts."""
    place = tmp_path / "set"
    place.mkdir()
    sf.write(place / "a.wav", np.full(8000, 0.1, np.float32), 16000)

    def run(tests: Sequence[str], text: str | None = None, tell=lambda sentence: None) -> NgramMade:
        rows = [{"id": f"t{i}", "audio": "a.wav", "text": said} for i, said in enumerate(tests)]
        (place / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = None
        if text is not None:
            given = tmp_path / "text.txt"
            given.write_text(text, encoding="utf-8")
        changes = [f"evaluate.sets=[{{name: street, manifest: {place / 'manifest.jsonl'}}}]"]
        with open_round(load_recipe("demo", changes), tmp_path / "run", "ngram", tell) as current:
            if not current.folder.finished("prepare"):
                prepare(current)
            return do_ngram(current, given, 3)

    run.arpa = tmp_path / "run" / "ngram" / "ngram.arpa"
    return run


def test_the_training_transcripts_are_the_source_unless_a_file_is_given(make, capsys):
    """Protects from the dev split in the model that is tuned on it, and from a stage that is made at every start."""
    made = make([TEST])
    assert (made.texts, made.source, len(made.ngrams)) == (len(TRAIN), "the training transcripts", 3)
    written, told = make.arpa.read_bytes(), []
    assert make([TEST], tell=told.append) == made and told == ["ngram: done before, nothing changed"]
    assert make([TEST], "שורה אחת\n\nשורה שתיים\n").texts == 2
    assert make.arpa.read_bytes() != written
    show(made)
    assert "None of 13 texts of evaluation sets and dev" in " ".join(capsys.readouterr().out.split())


def test_a_file_with_a_test_text_is_refused_by_its_place(make):
    """What is gained on a test set whose texts are in the language model is no gain."""
    with pytest.raises(DataError, match=r"text.txt, line 2, holds the text of utterance 't1' of set 'street'"):
        make(["שלום", TEST], f"שורה אחת\nוכך {TEST}, ועוד\n")
    with pytest.raises(DataError, match="line 1, holds the text of utterance 't0'"):
        make([TEST], TEST.replace(" לא ", " לא\n") + "\n")  # over two lines
    assert not make.arpa.exists()


def test_long_texts_that_the_training_transcripts_hold_are_counted_and_short_ones_too(make):
    """Commands repeat by nature: they are no leak, and the reader is told."""
    made = make([TRAIN[0], "שלום", "אין כזה"], f"{TRAIN[0]}\nשלום\nמשהו אחר\n")
    assert (made.held.of, made.held.long, made.held.short) == (2 + 1 + 12, 1, 1)
    assert "hold 1 of 6 words or more" in made.sentences[0] and "1 shorter ones" in made.sentences[0]


def test_words_are_compared_as_they_are_scored():
    """A comma or a capital must not hide a test text."""
    lines = [("line 1,", "He said: One, two. THREE four five six!")]
    tests = {"utterance 'a'": "one two three four five six"}
    with pytest.raises(DataError, match="line 1, holds the text of utterance 'a'"):
        check(lines, [("x", "one two three four five")], tests, ENGLISH, reads_on=True)
    held = check(lines, [("x", "One two three four five six seven")], tests, ENGLISH, reads_on=True)
    assert (held.long, held.short) == (1, 0)


def numbered(first: int, last: int) -> str:
    return " ".join(f"w{number}" for number in range(first, last + 1))


def test_most_of_a_test_text_is_refused_as_the_whole_is():
    """A file with all words of a test text but one once passed as a file without it."""
    tests, lines = {"utterance 'a'": numbered(1, 200)}, [("line 1,", "so"), ("line 2,", numbered(2, 200))]
    sentence = (
        "line 2, holds 99% of the text of utterance 'a', which the training transcripts do not: .w2 w3 w4 w5 w6 w7"
    )
    with pytest.raises(DataError, match=sentence):
        check(lines, [("x", "other")], tests, ENGLISH, reads_on=True)
    scattered = [("line 1,", numbered(1, 60)), ("line 2,", "so"), ("line 3,", numbered(100, 160))]
    with pytest.raises(DataError, match="line 1, holds 57% of the text"):
        check(scattered, [], tests, ENGLISH, reads_on=True)
    held = check(lines, [("x", numbered(2, 200))], tests, ENGLISH, reads_on=True)
    assert (held.long, held.passages, held.new_passages) == (0, 195, 0), "the training transcripts hold as much"


def test_a_whole_text_is_refused_also_where_the_training_transcripts_have_most_of_its_passages():
    """The rule of whole texts must not be lost in that of their parts."""
    tests, train = {"a": numbered(1, 20)}, [("x", numbered(1, 19)), ("y", numbered(2, 20))]
    with pytest.raises(DataError, match="line 1, holds the text of a"):
        check([("line 1,", numbered(1, 20))], train, tests, ENGLISH, reads_on=True)


def test_passages_of_test_texts_in_a_file_are_counted_and_told(make):
    """Protects from a file with a third of the tests, of which nobody reads anything."""
    words = TEST.split()
    made = make([TEST + " היום ומחר"], " ".join(words[:7]) + "\n")
    assert (made.held.passages, made.held.new_passages, made.held.most_new_pct) == (5, 2, 40.0)
    assert made.sentences[-1] == (
        "Of 5 passages of 6 words in these texts, the n-gram's texts hold 2 (40%) that the training transcripts lack, "
        "of one text at most 40%. Over 50% of one text are refused."
    )


def test_transcripts_are_not_read_on_from_one_to_the_next():
    """Else two neighbours in the training data would excuse a test text that nobody said there."""
    tests, train = {"a": "one two three four five six"}, [("x", "one two three"), ("y", "four five six")]
    with pytest.raises(DataError, match="holds the text of a"):
        check([("line 1,", "one two three four five six")], train, tests, ENGLISH, reads_on=True)
    assert check(train, train, tests, ENGLISH, reads_on=False).long == 0


def test_results_are_those_of_the_file_and_the_weight(tmp_path):
    """Protects from scores that stay after the language model has changed, and from new ones where there is none."""
    file, other = tmp_path / "x.arpa", tmp_path / "y.arpa"
    for path, content in ((file, "a"), (other, "a")):
        path.write_text(content)

    def identity(*changes: str) -> dict:
        return load_recipe("demo", ["evaluate.beam_size=2", *changes]).evaluate.identity(NOT_OF_A_SET)

    given = [f"evaluate.ngram={{file: {path}, weight: 0.2}}" for path in (file, other)]
    first = identity(given[0])
    assert "ngram" not in identity() and identity(given[1]) == first, "the same content elsewhere is the same"
    assert identity(given[0].replace("0.2", "0.3")) != first
    file.write_text("b")
    assert identity(given[0]) != first
    file.unlink()
    with pytest.raises(DataError, match="there is no file"):
        identity(given[0])
    with pytest.raises(RecipeError, match=r"evaluate.ngram has no effect if evaluate.beam_size is 1"):
        load_recipe("demo", ["evaluate.beam_size=1", given[0]])


class Pulled(Engine):
    """Writes the dev text when it has an n-gram of weight 0.4, else another."""

    identity, clips_at_once = "pulled", 100
    asked: list[tuple] = []  # noqa: RUF012

    def __init__(self, loaded, language, *, beam_size, length_penalty=1.0, ngram, ngram_weight, **_) -> None:
        self.asked.append((beam_size, length_penalty, ngram and ngram.name, ngram_weight))
        self.text = DEV[0] if ngram_weight == 0.4 else "הילדה הלכה אל הים"

    def write(self, clips):
        return [Written(self.text, "end") for _ in clips]


def test_tuning_has_rows_with_the_ngram_of_the_run(make, tmp_path, monkeypatch, capsys):
    """Protects from weights that are never tried, and from a row that decodes with another setting than it says."""
    monkeypatch.setattr("shibolet.listen.transcribe.Transcriber", Pulled)
    make([TEST])
    Pulled.asked = []
    changes = [f"evaluate.sets=[{{name: street, manifest: {Path(tmp_path) / 'set' / 'manifest.jsonl'}}}]"]
    with open_round(load_recipe("demo", changes), tmp_path / "run", "tune-decoding", lambda sentence: None) as current:
        table = tuning.do_tune_decoding(
            current, "builtin:round1", tuning.Grid(beam_sizes=[1, 2], length_penalties=[0.5, 1.0], mbr_samples=[0])
        )
    weights = [(2, 1.0, "ngram.arpa", weight) for weight in tuning.Grid().ngram_weights]
    joined = (2, 0.5, "ngram.arpa", 0.4)  # what may add to the best: the other length penalty
    assert Pulled.asked == [(1, 1.0, None, 0), (2, 0.5, None, 0), (2, 1.0, None, 0), *weights, joined]
    assert (table.recommended.beam_size, table.recommended.ngram_weight) == (2, 0.4)
    assert table.sentence.startswith("Beam size 2 with length penalty 1 and n-gram weight 0.4 changes WER by -25.00")
    show(table)
    assert f"ngram: {{file: {table.ngram}" in capsys.readouterr().out.replace("\n", "")
