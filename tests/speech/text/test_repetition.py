"""Protects what is compared after a decoder's loop was cut: nothing else changes, and no loop is left."""

import random

from shibolet.speech.text.repetition import collapse_loops, repeats_beyond


def test_loops_are_cut_to_what_people_say() -> None:
    assert collapse_loops("Well, thank you. " + "Thank you. " * 20 + "Bye") == (
        "Well, thank you. Thank you. Thank you. Thank you. Bye"
    )
    assert collapse_loops("no no no") == "no no no"
    assert collapse_loops("x" + "ha" * 40) == "x" + "ha" * 9


def test_a_reference_that_repeats_allows_as_much() -> None:
    assert collapse_loops("go " * 9 + "on", "go " * 6) == "go go go go go go on"
    assert collapse_loops("a" * 12, "a" * 30) == "a" * 12


def test_nothing_is_left_that_repeats_and_nothing_else_is_touched() -> None:
    rng = random.Random(0)

    def text() -> str:
        words: list[str] = []
        for _ in range(rng.randint(0, 5)):
            words += rng.choices(["a", "b", "c", "a" * 14, "ba" * 12], k=rng.randint(1, 3)) * rng.randint(1, 6)
        return "  ".join(words)

    num_cut = 0
    for _ in range(3000):
        given, reference = text(), rng.choice(["", text()])
        left = collapse_loops(given, reference)
        assert not repeats_beyond(left, reference), (given, reference)
        if repeats_beyond(given, reference):
            num_cut += 1
            assert len(left) < len(given)
        else:
            assert left == given
    assert 500 < num_cut < 2900
