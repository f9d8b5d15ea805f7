"""A hypothesis along a text, letter by letter."""

import pytest

from shibolet.listen.letters import lay_letters


def test_share_of_each_word_that_was_heard():
    assert lay_letters(["אב", "גדה"], "אבגד").share_found.tolist() == pytest.approx([1.0, 2 / 3])
    assert lay_letters(["אב"], "").share_found.tolist() == [0.0]
    assert lay_letters(["אב", "-"], "אב").share_found.tolist() == [1.0, 0.0]  # what has no letters was not heard


def test_where_heard_letters_belong():
    laid = lay_letters(["אב", "גד"], "אבש גק")
    assert laid.written_at.tolist() == [0, 1, -1, 2, 3]  # one that the text lacks, one in another's stead
    assert laid.is_found.tolist() == [True, True, True, False]
    assert laid.owner.tolist() == [0, 0, 1, 1]
    assert lay_letters([], "אב").written_at.tolist() == [-1, -1]


def test_letters_heard_where_a_word_stands():
    assert lay_letters(["אב", "10", "גד"], "אב עשרה גד").num_heard.tolist() == [4, 4, 2]  # beside "אב" too, if need be
    assert lay_letters(["10"], "עשרה").num_heard.tolist() == [4]
    assert lay_letters(["10"], "").num_heard.tolist() == [0]
    assert lay_letters(["אב"], "אבג").num_heard.tolist() == [3]
