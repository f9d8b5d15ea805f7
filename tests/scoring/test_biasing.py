"""U-WER and B-WER: protects from words counted on the wrong side, and from rates that hang on how ties are broken."""

import random
from functools import lru_cache

import pytest
from made_scores import scored_rows

from shibolet.errors import DataError
from shibolet.evaluate.describe import describe
from shibolet.scoring.biasing import biasing, count_apart
from shibolet.scoring.counts import count_words
from shibolet.scoring.metrics import shown
from shibolet.scoring.slices import BUCKETS_S
from shibolet.speech.text import get_language
from shibolet.speech.text.terms import as_context, read_terms, words_of

ENGLISH = get_language("en")


def second(said: tuple[str, ...], heard: tuple[str, ...], terms: set[str]) -> tuple[int, int, int]:
    """Errors, errors in listed words and false listed words, by plain recursion over all alignments."""

    @lru_cache(None)
    def best(i: int, j: int) -> tuple[int, int, int]:
        ways = []
        if i < len(said):
            ways.append(plus(best(i + 1, j), 1, said[i] in terms, 0))
        if j < len(heard):
            ways.append(plus(best(i, j + 1), 1, heard[j] in terms, heard[j] in terms))
        if i < len(said) and j < len(heard):
            wrong = said[i] != heard[j]
            ways.append(plus(best(i + 1, j + 1), wrong, wrong and said[i] in terms, wrong and heard[j] in terms))
        return min(ways, default=(0, 0, 0))

    def plus(rest: tuple[int, int, int], *own: int) -> tuple[int, int, int]:
        return tuple(one + two for one, two in zip(rest, own, strict=True))

    return best(0, 0)


def test_each_edit_counts_on_the_side_of_its_word():
    """ "dana met noa today" heard as "dana met anna noa yesterday": anna is inserted, today is substituted."""
    found = count_apart("dana met noa today".split(), "dana met anna noa yesterday".split(), {"dana", "noa", "anna"})
    assert (found.listed.hits, found.listed.insertions, found.listed.errors) == (2, 1, 1)
    assert (found.others.hits, found.others.substitutions, found.others.errors) == (1, 1, 1)
    assert found.false_words == 1
    swapped = count_apart(["dana"], ["noa"], {"dana", "noa"})
    assert (swapped.listed.substitutions, swapped.others.errors, swapped.false_words) == (1, 0, 1)
    assert count_apart(["the"], ["noa"], {"noa"}).others.substitutions == 1, "by the word of the reference"
    assert count_apart([], ["noa", "the"], {"noa"})[:2] == (count_apart([], ["noa"], {"noa"}).listed,
                                                             count_apart([], ["the"], set()).others)  # fmt: skip
    assert count_apart(["noa"], [], {"noa"}).listed.deletions == 1


def test_the_counts_equal_a_second_implementation():
    rng = random.Random(0)
    for _ in range(300):
        words = "abcdef"[: rng.randint(2, 6)]
        terms = set(rng.sample(words, rng.randint(1, len(words))))
        said, heard = (tuple(rng.choices(words, k=rng.randint(0, 7))) for _ in range(2))
        found = count_apart(said, heard, terms)
        total = found.listed.errors + found.others.errors
        assert (total, found.listed.errors, found.false_words) == second(said, heard, terms)
        assert total == count_words(" ".join(said), " ".join(heard)).errors
        assert found.listed.reference_length == sum(word in terms for word in said)
        assert (found.listed + found.others).reference_length == len(said)


def test_ties_fall_to_the_fewest_errors_in_listed_words():
    """ "noa the" heard as "the noa" has two errors with either word right: it is the listed one."""
    assert count_apart(["a", "noa"], ["noa"], {"noa"}).listed.errors == 0
    for terms, errors in (({"noa"}, (0, 2)), ({"the"}, (0, 2)), ({"noa", "the"}, (2, 0))):
        found = count_apart(["noa", "the"], ["the", "noa"], terms)
        assert (found.listed.errors, found.others.errors) == errors


def test_a_set_has_both_rates_with_intervals_and_columns_only_where_there_is_a_list():
    rows = scored_rows(["call to six eight", "nobody heard this at all", "room six", "it is late"] * 3)
    terms = words_of(["six", "Room five"], ENGLISH.to_scoring)
    found = biasing(rows, terms)
    assert terms == {"six", "room", "five"} and found.words == 3
    assert (found.listed.words, found.listed.errors, found.false_words) == (9, 3, 3)
    assert found.listed.rate == pytest.approx(1 / 3) and found.listed.interval[0] <= 1 / 3 <= found.listed.interval[1]
    assert found.others.words + found.listed.words == sum(row.words.reference_length for row in rows)
    assert biasing(rows, frozenset()) is None
    measured = describe(rows, ENGLISH, BUCKETS_S, terms)
    assert measured.biasing == found
    titles = [column.title for column in shown([measured])[0]]
    assert {"U-WER", "B-WER", "false"} <= set(titles)
    assert "B-WER" not in [column.title for column in shown([describe(rows, ENGLISH, BUCKETS_S)])[0]]


def test_terms_are_read_a_line_each(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("# people\nDana  Cohen\n\nתל אביב\nDana Cohen\n", encoding="utf-8")
    assert read_terms(path) == ("Dana Cohen", "תל אביב") and as_context(read_terms(path)) == "Dana Cohen, תל אביב"
    for content, sentence in ((b"# none\n", "has no term"), (b"\xff\xfe\x00", "not UTF-8 at byte 0")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=sentence):
            read_terms(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_terms(tmp_path / "missing.txt")
