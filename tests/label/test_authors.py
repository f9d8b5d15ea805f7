"""Protects training from texts of the worse of two hearers, and from a choice that chance made."""

import numpy as np

from shibolet.label.authors import Scored, as_listened, choose_authors
from shibolet.records.audited import Audited
from shibolet.speech.text import get_language

ENGLISH = get_language("English")
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
    assert (phone.writer_wer_pct, phone.listener_wer_pct) == (30.0, 5.0) and phone.interval_points[1] < -15
    assert (studio.domain, studio.by) == ("studio", "writer") and studio.interval_points[0] > 15


def test_of_too_few_speakers_nothing_is_shown():
    [author] = choose_authors([scored("phone", i % 2, 3, 0) for i in range(40)], ENGLISH)
    assert author.interval_points is None and author.by == "writer"


def test_of_two_that_hear_alike_the_listener_is_rarely_chosen():
    """In 200 worlds without a difference, 2.5% of each domain's; the choice must not be one of luck."""
    rng, chosen = np.random.default_rng(0), 0
    for _ in range(200):
        errors = rng.binomial(10, 0.2, (40, 2))
        authors = choose_authors([scored("phone", i % 10, *map(int, errors[i])) for i in range(40)], ENGLISH)
        chosen += authors[0].by == "listener"
    assert chosen <= 12


def test_a_row_the_other_way_round():
    turned = as_listened(row(), ENGLISH)
    assert (turned.text, turned.hypothesis, turned.words) == ("one two six", "one two", ("one", "two", "six"))
    assert turned.cer == 3 / 9
    assert as_listened(row(failure="undecodable"), ENGLISH).text == "one two"
    silent = as_listened(row(hypothesis="..."), ENGLISH)
    assert (silent.failure, silent.cer) == ("no_words", None), "a text of nothing is none"
