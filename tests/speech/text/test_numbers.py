"""Protects how numbers are said: as another library says them, and so that no number is read as another one."""

import random
from itertools import product

import pytest
from rapidfuzz.distance import Levenshtein

from shibolet.speech.text import Language, english_numbers, get_language, hebrew_numbers
from shibolet.speech.text.lattice import Lattice
from shibolet.speech.text.numerals import MAX_DIGITS, read_number
from shibolet.speech.text.reading import compare
from shibolet.speech.text.rules import letters_of

ENGLISH, HEBREW = get_language("en"), get_language("he")
NOT_SAID = {(100, "מאת")}  # num2words 0.5.14 gives the biblical form before a noun; speakers say the other


def is_read_as(language: Language, written: str, said: str) -> bool:
    compared = compare(language.to_words(said).tokens, written, language)
    return Levenshtein.distance(*(letters_of("".join(side)) for side in (compared.text, compared.heard))) == 0


def numbers(step: int) -> list[int]:
    rng = random.Random(0)
    return [*range(0, 10_000, step), *(rng.randrange(10**k, 10 ** (k + 1)) for k in range(4, 11) for _ in range(5))]


ALL = pytest.param(1, marks=pytest.mark.slow("text", seconds=10))
EVERY_SEVENTH = pytest.param(7, marks=pytest.mark.slow("text", seconds=10))


@pytest.mark.parametrize("step", [67, ALL])
@pytest.mark.parametrize("kind", ["cardinal", "year", "ordinal"])
def test_english_numbers_as_num2words_says_them(kind: str, step: int) -> None:
    num2words = pytest.importorskip("num2words").num2words
    for number in numbers(step):
        said = num2words(number, to=kind)
        if kind != "ordinal":
            assert is_read_as(ENGLISH, str(number), said), said
            assert is_read_as(ENGLISH, f"{number:,}", said), said
        elif number < 10_000:
            assert is_read_as(ENGLISH, num2words(number, to="ordinal_num"), said), said


@pytest.mark.parametrize("step", [67, EVERY_SEVENTH])
@pytest.mark.parametrize("construct", [False, True])
@pytest.mark.parametrize("gender", ["m", "f"])
def test_hebrew_numbers_as_num2words_says_them(gender: str, construct: bool, step: int) -> None:
    """In both genders and both forms: alone, and before a noun."""
    num2words = pytest.importorskip("num2words").num2words
    for number in {100, *numbers(step)}:
        said = num2words(number, lang="he", gender=gender, construct=construct)
        if (number, said) in NOT_SAID:
            continue
        assert is_read_as(HEBREW, str(number), said), (number, said)
        assert is_read_as(HEBREW, f"{number:,}", said), (number, said)


def readings_of(lattice: Lattice) -> set[str]:
    said = [{""}, *(set() for _ in range(lattice.num_nodes - 1))]
    for start, end, text in lattice.edges:
        said[end] |= {before + letters_of(text) for before in said[start]}
    return said[-1]


@pytest.mark.parametrize(
    ("rules", "module"),
    [(english_numbers.ENGLISH_NUMBERS, english_numbers), (hebrew_numbers.HEBREW_NUMBERS, hebrew_numbers)],
    ids=["en", "he"],
)
def test_no_number_is_read_as_another_one(rules, module) -> None:
    """ "205" in chunks is "twenty", "five" too, and that is 25."""
    means: dict[str, set[int]] = {}
    for number in [*range(1000), *range(1000, 10_000, 41), 1005, 1100, 1200, 1310]:
        for way in module.cardinals(number):
            for said in product(*way):
                means.setdefault(letters_of("".join(said)), set()).add(number)
    assert len(means) > 2000 and all(len(numbers) == 1 for numbers in means.values())
    num_read = 0
    for number in [*range(0, 1000, 3), *range(1000, 10_000, 97), 1005, 2005, 20_005, 20_200, 100_100, 100_200, 100_310]:
        for reading in readings_of(read_number(str(number), rules)):
            num_read += reading in means
            assert number in means.get(reading, {number}), (number, reading)
    assert num_read > 500


@pytest.mark.parametrize("rules", [english_numbers.ENGLISH_NUMBERS, hebrew_numbers.HEBREW_NUMBERS], ids=["en", "he"])
def test_a_word_of_many_digits_stays_small(rules) -> None:
    """A lattice is searched for each utterance that has it."""
    for written in ["9" * MAX_DIGITS, "7" * 500, "1/2" * 100, "5:30" * 60, "$1,234,567.89"]:
        lattice = read_number(written, rules)
        assert lattice is None or len(lattice.edges) <= 3000, written
    assert len(read_number("4122685952", rules).edges) < 500
