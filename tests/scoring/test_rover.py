"""ROVER: protects from votes on words that do not stand opposite each other, and from a text that nobody wrote."""

import itertools
import random

import pytest

from shibolet.scoring.rover import network, transcript, vote
from shibolet.scoring.sclite import GAP, SUBSTITUTION
from shibolet.speech.text import get_language

ENGLISH, HEBREW = get_language("en"), get_language("he")


def rover(*texts: str, language=ENGLISH, confidences=None, **settings):
    given = confidences or [None] * len(texts)
    return vote([transcript(text, language, own) for text, own in zip(texts, given, strict=True)], **settings)


def test_the_worked_example_of_three_systems():
    """Fiscus's example in kind: each system has an error of its own, and no error is in two of them."""
    assert rover("a b c d", "b z d e", "b c d e f").text == "b c d e"
    found = rover("call me on friday", "tell me on friday night", "call me friday")
    assert found.text == "call me on friday"
    assert (found.num_slots, found.num_unanimous) == (5, 2)  # call me on friday night: "me" and "friday"
    assert found.agreement == pytest.approx((2 + 3 + 2 + 3 + 2) / 15)


def test_ties_go_to_the_system_that_is_named_first():
    assert rover("one two", "one three").text == "one two"
    assert rover("one three", "one two").text == "one three"
    assert rover("one", "one two").text == "one" and rover("one two", "one").text == "one two"


def test_confidences_decide_with_alpha_and_none_has_its_own():
    texts, sure = ("b", "c", "c"), [[0.9], [0.2], [0.4]]
    assert rover(*texts).text == "c"
    assert rover(*texts, confidences=sure, alpha=0.5).text == "b"  # .5/3 + .45 = .617 against 1/3 + .15 = .483
    assert rover(*texts, confidences=sure, alpha=0.7).text == "c"  # .233 + .27 = .503 against .467 + .09 = .557
    absent, sure = ("a b", "a", "a"), [[0.5, 0.8], [0.5], [0.5]]
    assert rover(*absent, confidences=sure, alpha=0.5).text == "a b"  # .167 + .4 against .333 + 0
    assert rover(*absent, confidences=sure, alpha=0.5, null_confidence=0.7).text == "a"  # against .333 + .35


def test_words_come_back_as_the_first_of_those_that_have_them_wrote_them():
    assert rover("set up the Lab", "Set-up, the lab.", "The set-up the lab").text == "set up the Lab"
    assert rover("get the lab", "Set-up, the lab.", "set up the Lab!").text == "Set-up, the lab"
    assert rover("re-do it", "do it — now", "do it — now").text == "do it now"  # "re" lost
    assert rover("do it — now", "re-do it", "do it now").text == "do it — now"
    assert rover("אמר־לי מה", 'אמר לי, מ"ה', "אמר לי מה", language=HEBREW).text == "אמר־לי מה"
    assert rover("[loud noise] yes", "yes sir", "yes sir").text == "yes sir"


def test_one_system_comes_back_as_it_is_and_silence_is_no_word():
    assert rover("Hello, World - again!").text == "Hello, World - again!"
    nothing = rover("", "...", "")
    assert (nothing.text, nothing.num_slots, nothing.agreement) == ("", 0, None)
    assert rover("", "", "word").text == ""


def cost_of(slots, own) -> int:
    """Weight of a network's last column, cell by cell, by the weights that the module states."""
    total = 0
    for slot in slots:
        before, at = slot[:-1], slot[-1]
        if all(word is None for word in before):
            total += GAP
        elif at is None:
            total += GAP - 1 if None in before else GAP
        else:
            total += 0 if at in before else SUBSTITUTION
    return total


def least(slots, own) -> int:
    """The least weight over every way to put words into slots in order, by trying all of them."""
    best = None
    for size in range(min(len(slots), len(own)) + 1):
        for where in itertools.combinations(range(len(slots)), size):
            for which in itertools.combinations(range(len(own)), size):
                at = dict(zip(where, which))
                cost = GAP * (len(own) - size)
                for place, slot in enumerate(slots):
                    if place in at:
                        cost += 0 if own[at[place]] in slot else SUBSTITUTION
                    else:
                        cost += GAP - 1 if None in slot else GAP
                best = cost if best is None else min(best, cost)
    return best


def test_every_system_is_aligned_at_the_least_weight():
    """Against all alignments of 300 small cases of three systems."""
    draw = random.Random(0)
    for _ in range(300):
        systems = [[draw.choice("abc") for _ in range(draw.randint(0, 4))] for _ in range(3)]
        slots = network(systems)
        words = [[None if at is None else systems[i][at] for i, at in enumerate(slot)] for slot in slots]
        for i, own in enumerate(systems):
            assert [slot[i] for slot in words if slot[i] is not None] == own
        for num in (2, 3):
            before = network(systems[: num - 1])
            named = [[None if at is None else systems[i][at] for i, at in enumerate(slot)] for slot in before]
            now = network(systems[:num])
            after = [[None if at is None else systems[i][at] for i, at in enumerate(slot)] for slot in now]
            assert cost_of(after, systems[num - 1]) == least(named, systems[num - 1])


def test_the_vote_equals_a_count_by_hand():
    """The winner of each slot is the most frequent one, the first named at a tie, over 300 random utterances."""
    draw, num_words = random.Random(1), 0
    for _ in range(300):
        texts = [" ".join(draw.choice("abcd") for _ in range(draw.randint(0, 6))) for _ in range(draw.randint(1, 5))]
        split = [text.split() for text in texts]
        expected = []
        for slot in network(split):
            has = [None if at is None else split[i][at] for i, at in enumerate(slot)]
            winner = sorted(has, key=lambda word: (-has.count(word), has.index(word)))[0]
            expected += [winner] if winner else []
        assert rover(*texts).text.split() == expected
        num_words += len(expected)
    assert num_words > 300
