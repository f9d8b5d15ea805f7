"""Protects training from texts of the worse of two hearers, and from a choice that chance made."""

import numpy as np

from shibolet.label.authors import EXACT, Scored, as_trained, chance_of, choose_authors, lacking
from shibolet.records.audited import Audited
from shibolet.records.documents.labelled import Author
from shibolet.speech.text import get_language

ENGLISH = get_language("English")
LISTENER = Author(domain="d", clips=9, writer_wer_pct=9.0, listener_wer_pct=1.0, chance=0.01, by="listener")
TRUTH = "one two three four five six seven eight nine ten"


def scored(domain: str, group: int, written: int, heard: int) -> Scored:
    """A clip of ten words, of which so many are missing in each text."""
    left = lambda errors: " ".join(TRUTH.split()[errors:])  # noqa: E731
    return Scored(domain=domain, group=f"g{group}", truth=TRUTH, written=left(written), heard=left(heard))


def row(**changes) -> Audited:
    given = {"text": "one two", "hypothesis": "one two six", "words": ("one", "two"), "cer": 0.6, "failure": None}
    return Audited(
        id="a", source="s", recording=None, speaker=None, domain="d", duration_s=1.0, is_low_quality=False,
        **{**given, **changes},
    )  # fmt: skip


def test_each_domain_has_the_one_who_is_shown_to_hear_better_there():
    clips = [scored("phone", i % 8, 3, i % 2) for i in range(40)]
    clips += [scored("studio", i % 8, i % 2, 3) for i in range(40)]
    phone, studio = choose_authors(clips, ENGLISH)
    assert (phone.domain, phone.by, phone.clips) == ("phone", "listener", 40)
    assert (phone.writer_wer_pct, phone.listener_wer_pct, phone.chance) == (30.0, 5.0, round(1 / 256, 6))
    assert (studio.domain, studio.by, studio.chance) == ("studio", "writer", 1.0)


def test_of_too_few_speakers_nothing_is_shown():
    [author] = choose_authors([scored("phone", i % 2, 3, 0) for i in range(40)], ENGLISH)
    assert author.chance == 0.25 and author.by == "writer"


def test_of_two_that_hear_alike_the_listener_is_rarely_chosen():
    """In 400 worlds without a difference: the choice must not be one of luck, whether all swaps are tried or some."""
    rng = np.random.default_rng(0)
    for groups in (10, EXACT + 6):
        chosen = 0
        for _ in range(200):
            errors = rng.binomial(10, 0.2, (40, 2))
            authors = choose_authors([scored("phone", i % groups, *map(int, errors[i])) for i in range(40)], ENGLISH)
            chosen += authors[0].by == "listener"
        assert 0 < chosen <= 20


def test_one_recording_that_the_writer_misses_shows_nothing():
    """All that the listener is better by is there, and the next such recording may be the listener's."""
    assert chance_of(np.array([100, -1, 1, 0, -2, 2, 0, 1])) > 0.2
    assert chance_of(np.array([0, 3, 22, 28, 9, 5, -4, 9, 5, 36])) < 0.01


def test_a_row_the_other_way_round():
    turned = as_trained(row(), LISTENER, ENGLISH)
    assert (turned.text, turned.hypothesis, turned.words) == ("one two six", "one two", ("one", "two", "six"))
    assert turned.cer == 3 / 9
    for author in (None, LISTENER.model_copy(update={"by": "writer"})):
        assert as_trained(row(), author, ENGLISH) == row()
    assert as_trained(row(failure="undecodable"), LISTENER, ENGLISH).text == "one two"
    silent = as_trained(row(hypothesis="..."), LISTENER, ENGLISH)
    assert (silent.failure, silent.cer) == ("no_words", None), "a text of nothing is none"


def test_the_listener_loses_what_no_text_of_the_data_has():
    """Most data without marks have a recogniser that sets them; its words are of use all the same."""
    assert lacking(["one two", "three"]) == ("marks", "capitals") and lacking(["One, two", "three"]) == ()
    assert lacking(["אחת שתיים"]) == ("marks",), "Hebrew says nothing of capitals"
    author = LISTENER.model_copy(update={"unwritten": ("marks", "capitals")})
    turned = as_trained(row(hypothesis="One, two six."), author, ENGLISH)
    assert (turned.text, turned.words, turned.cer) == ("one two six", ("one", "two", "six"), 3 / 9)
