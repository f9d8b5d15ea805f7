"""Who is decoded when: protects short recordings from long ones, and everybody from who asks for something else."""

import threading
from pathlib import Path

import numpy as np
import pytest

from shibolet.errors import ModelError, RecipeError
from shibolet.listen.engine import Engine, Written
from shibolet.listen.recordings import Clip
from shibolet.serve.desk import Desk, Told

HEBREW, ENGLISH = Told("Hebrew"), Told("English")


class Noted(Engine):
    """Writes a clip's length; the first batch waits until all have asked."""

    identity, clips_at_once = "noted", 4

    def __init__(self, told: Told, batches: list[tuple[str, list[str]]], may_begin: threading.Event) -> None:
        if told.context == "bad":
            raise RecipeError("no such context")
        self._told, self._batches, self._may_begin = told, batches, may_begin

    def write(self, clips: list[np.ndarray]) -> list[Written]:
        assert self._may_begin.wait(20)
        texts = [str(len(clip)) for clip in clips]
        self._batches.append((self._told.language + self._told.context, texts))
        return [Written(text, "end") for text in texts]


class Open:
    """A desk whose model has not begun, with the batches that it writes and the ways it was opened."""

    def __init__(self) -> None:
        self.batches, self.opened, self.may_begin = [], [], threading.Event()
        self.desk = Desk(self._open, HEBREW, max_waiting_s=3600)
        self.desk.start()
        self.first = self.ask(HEBREW, 1)
        while self.desk.waiting_s():  # the thread has it in hand
            pass

    def _open(self, told: Told) -> Noted:
        self.opened.append(told.language + told.context)
        return Noted(told, self.batches, self.may_begin)

    def ask(self, told: Told, *lengths: int):
        return self.desk.submit(told, [Clip(Path("a"), 0, np.zeros(length, np.float32)) for length in lengths])


def texts(asked) -> list[str]:
    return [piece.text for piece in asked.result(20)]


def test_a_long_recording_holds_up_no_short_one():
    one = Open()
    long = one.ask(HEBREW, *range(100, 110))
    short = one.ask(HEBREW, 200)
    one.may_begin.set()
    assert texts(short) == ["200"] and texts(long) == [str(i) for i in range(100, 110)]
    assert one.batches[1][1] == ["100", "200", "101", "102"], "one of each in turn"
    assert [len(batch) for _, batch in one.batches] == [1, 4, 4, 3]


def test_another_language_has_its_turn():
    """A long recording in one language must not keep all others waiting to its end."""
    one = Open()
    long, other = one.ask(HEBREW, *range(100, 112)), one.ask(ENGLISH, 5)
    one.may_begin.set()
    assert texts(other) == ["5"] and len(texts(long)) == 12
    assert [language for language, _ in one.batches] == ["Hebrew", "Hebrew", "English", "Hebrew", "Hebrew"]


def test_models_are_kept_for_the_usual_way_and_the_last_other():
    """Each way to ask keeps rows and graphs on the GPU."""
    one = Open()
    one.may_begin.set()
    for told in (ENGLISH, ENGLISH, Told("Hebrew", "x"), HEBREW, ENGLISH):
        texts(one.ask(told, 1))
    assert one.opened == ["Hebrew", "English", "Hebrewx", "English"]


def test_what_a_model_refuses_fails_those_alone_who_asked_for_it():
    one = Open()
    bad, good = one.ask(Told("Hebrew", "bad"), 1), one.ask(HEBREW, 2)
    one.may_begin.set()
    with pytest.raises(RecipeError, match="no such context"):
        bad.result(20)
    assert texts(good) == ["2"] and texts(one.first) == ["1"]


def test_who_has_gone_is_not_decoded():
    one = Open()
    gone, there = one.ask(HEBREW, 2, 3), one.ask(HEBREW, 4)
    assert gone.cancel()
    one.may_begin.set()
    assert texts(there) == ["4"] and one.batches[1] == ("Hebrew", ["4"])


def test_a_model_that_cannot_be_loaded_ends_the_start():
    """The command has to end with the sentence, and not serve errors."""

    def fail(told: Told) -> Engine:
        raise ModelError("no such model")

    with pytest.raises(ModelError, match="no such model"):
        Desk(fail, HEBREW, max_waiting_s=1).start()
