"""Punctuation as a result: protects from marks counted where none was compared, and from rates that nobody defined."""

import random
from collections import Counter
from functools import lru_cache

import pytest
from second_scoring import NORMALISERS

from shibolet.evaluate.describe import describe
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.metrics import shown
from shibolet.scoring.number_aware import number_writing
from shibolet.scoring.punctuation import punctuation
from shibolet.scoring.rows import score_row
from shibolet.scoring.slices import BUCKETS_S
from shibolet.speech.text import get_language
from shibolet.speech.text.marks import tokens, without_marks

ENGLISH, HEBREW = get_language("en"), get_language("he")


def rows_of(pairs, language=ENGLISH):
    return [
        score_row(
            Utterance(id=f"u{i}", audio=AudioRef(path=""), text=said, duration_s=1.0, source="s", speaker=f"s{i % 7}"),
            heard, set="held", normaliser=language.to_scoring,
        )
        for i, (said, heard) in enumerate(pairs)
    ]  # fmt: skip


def measured(*pairs, language=ENGLISH):
    return punctuation(rows_of(pairs, language), language)


def marks_of(text: str, language=ENGLISH) -> str:
    return "".join(token.text if token.is_mark else "w" for token in tokens(text, language.to_scoring))


def test_what_is_a_mark():
    assert marks_of("Well... it's 3.5, not 1,000: at 10:30! Really?! Yes; e.g. this") == "w.wwww,www:www!w?!w;ww.w"
    assert marks_of("צה\"ל, צ׳ק; בית־ספר: ר' כהן׃ ג׳׳", HEBREW) == "w,ww;ww:ww.w"
    assert marks_of("a — b (no. marks, here) c ,d <|0.00|>", ENGLISH) == "www,w"
    assert without_marks("Well... it's 3.5, e.g. (so.) now") == "Well it's 3.5 e.g (so ) now"


def test_errors_by_kind_and_mark():
    """ "a, b. c?" against "a b, c? d!": the comma is missing, a stop is a comma, "!" is added, "?" is right."""
    found = measured(("a, b. c?", "a b, c? d!"))
    assert (found.correct, found.substitutions, found.deletions, found.insertions) == (1, 1, 1, 1)
    assert found.rate == pytest.approx(3 / 4)
    by = {one.mark: one for one in found.by_mark}
    assert list(by) == [".", ",", "?", "!"]
    assert (by[","].reference, by[","].hypothesis, by[","].correct, by[","].f1) == (1, 1, 0, 0.0)
    assert (by["."].substitutions, by["."].precision, by["."].recall) == (1, None, 0.0)
    assert (by["?"].f1, by["!"].recall, by["!"].insertions) == (1.0, None, 1)


def test_marks_keep_their_place_where_words_are_wrong():
    """A mark after a deleted word is not an error when the mark is there; one elsewhere in the sentence is."""
    assert measured(("go home now.", "go home.")).rate == 0.0
    assert measured(("go, home now", "go home now,")).rate == 1.0
    assert measured(("go home", "go home.")) is None, "no reference has a mark"


def test_word_error_rates_with_marks_and_as_written():
    found = measured(("Yes, I do.", "yes I do."), ("No - now!", "No - now!"))
    assert (found.punctuated_wer.errors, found.punctuated_wer.words) == (1, 5)
    assert (found.verbatim_wer.errors, found.verbatim_wer.words) == (1, 6)
    assert measured(("Yes, sir", "yes, sir")).punctuated_wer.errors == 0, "case does not count"
    assert measured(("Yes, sir", "yes, sir")).verbatim_wer.errors == 1, "case counts"


def test_digits_against_words():
    pairs = [("call two six eight", "call 268"), ("room 5 please", "room five please"), ("at 7", "at 7"), ("3", "4")]
    found = number_writing(rows_of(pairs), ENGLISH)
    assert (found.reference_digits, found.heard_in_words) == (3, 1)
    assert (found.hypothesis_digits, found.said_in_words) == (3, 1)
    found = number_writing(rows_of([("בשעה חמש", "בשעה 5"), ("יש 3 ילדים", "יש חתול")], HEBREW), HEBREW)
    assert (found.reference_digits, found.heard_in_words, found.hypothesis_digits, found.said_in_words) == (1, 0, 1, 1)


# The same numbers again, without any code of the project: characters one by one, and a recursion over tuples.

ENGLISH_WORDS = ["so", "it's", "3.5", "1,000", "10:30", "e.g", "re-do", "no", "a", "b", "Mr"]
HEBREW_WORDS = ["שלום", 'צה"ל', "צ'ק", "בית־ספר", "3.5", "10:30", "לא", "כן", "ר׳", "שָׁלוֹם", "גם"]
ENDS = [".", ",", "?", "!", ":", ";", "...", "?!", " ,", "׃", "…", '."']


def random_text(draw: random.Random, words: list[str]) -> str:
    picked = [draw.choice(words) for _ in range(draw.randint(0, 5))]
    return " ".join(word + (draw.choice(ENDS) if draw.random() < 0.4 else "") for word in picked)


def changed(draw: random.Random, text: str, words: list[str]) -> str:
    """Some words lost, added or replaced, some marks too."""
    out = []
    for word in text.split():
        at = draw.random()
        if at < 0.1:
            continue
        if at < 0.2:
            word = draw.choice(words)
        if at < 0.4:
            word = word.rstrip(".,?!:;") + (draw.choice(ENDS) if draw.random() < 0.5 else "")
        out += [word, *([draw.choice(words)] if at > 0.95 else [])]
    return " ".join(out)


def second_tokens(text: str, normalise) -> list[str]:
    text = text.replace("׃", ".").replace("…", ".")
    found, word = [], ""
    for i, char in enumerate(text):
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        inside = (char in ",.:" and before.isdigit() and after.isdigit()) or (
            char == "." and before.isalpha() and after.isalpha()
        )
        if char in ".,?!:;" and not inside:
            found += [*normalise(word).split(), *([char] if normalise(word).split() or found[-1:] != [char] else [])]
            word = ""
        else:
            word += char
    return found + normalise(word).split()


def second_counts(said: list[str], heard: list[str]) -> Counter:
    is_mark = lambda token: token in ".,?!:;"  # noqa: E731

    @lru_cache(None)
    def best(i: int, j: int) -> tuple[tuple[int, int, int], tuple]:
        """(word edits, mark edits, -correct marks) of the first i and j tokens, and the pairs of marks."""
        if i == j == 0:
            return (0, 0, 0), ()
        ways = []
        if i and j and is_mark(said[i - 1]) == is_mark(heard[j - 1]):
            same, mark = said[i - 1] == heard[j - 1], is_mark(said[i - 1])
            ways.append((i - 1, j - 1, (not same and not mark, not same and mark, -(same and mark)), mark))
        if j:
            ways.append((i, j - 1, (not is_mark(heard[j - 1]), is_mark(heard[j - 1]), 0), is_mark(heard[j - 1])))
        if i:
            ways.append((i - 1, j, (not is_mark(said[i - 1]), is_mark(said[i - 1]), 0), is_mark(said[i - 1])))
        found = []
        for i2, j2, cost, kept in ways:
            before, pairs = best(i2, j2)
            pair = (said[i - 1] if i2 < i else None, heard[j - 1] if j2 < j else None)
            found.append((tuple(map(sum, zip(before, cost))), (*pairs, pair) if kept else pairs))
        return min(found, key=lambda way: way[0])  # the first of equals: pair, insertion, deletion

    return Counter(best(len(said), len(heard))[1])


@pytest.mark.parametrize(("language", "words"), [(ENGLISH, ENGLISH_WORDS), (HEBREW, HEBREW_WORDS)])
def test_a_second_implementation_finds_the_same_on_a_thousand_pairs(language, words):
    draw = random.Random(language.code)
    pairs = [(text := random_text(draw, words), changed(draw, text, words)) for _ in range(1000)]
    normalise = NORMALISERS[language.scoring_version]
    total = sum((second_counts(*(second_tokens(text, normalise) for text in pair)) for pair in pairs), Counter())
    correct = sum(times for (one, two), times in total.items() if one == two)
    wrong = sum(times for (one, two), times in total.items() if one != two)
    assert correct > 500 and wrong > 500
    found = punctuation(rows_of(pairs, language), language)
    assert (found.correct, found.errors) == (correct, wrong)
    assert found.rate == wrong / (wrong + correct)
    assert found.insertions == sum(times for (one, two), times in total.items() if one is None)
    assert found.deletions == sum(times for (one, two), times in total.items() if two is None)
    for one in found.by_mark:
        said = sum(times for pair, times in total.items() if pair[0] == one.mark)
        heard = sum(times for pair, times in total.items() if pair[1] == one.mark)
        right = total[one.mark, one.mark]
        precision, recall = right / heard, right / said
        assert (one.reference, one.hypothesis, one.correct) == (said, heard, right)
        assert (one.precision, one.recall) == (precision, recall)
        assert one.f1 == pytest.approx(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize(("language", "words"), [(ENGLISH, ENGLISH_WORDS), (HEBREW, HEBREW_WORDS)])
def test_words_between_marks_are_those_that_are_scored(language, words):
    """Protects from PER on other words than WER has."""
    draw = random.Random(0)
    for _ in range(300):
        text = random_text(draw, words)
        own = [token.text for token in tokens(text, language.to_scoring) if not token.is_mark]
        assert own == language.to_scoring(text).split()


def test_columns_stand_where_there_is_something_to_show():
    """Protects from a PER of references without marks, and from one that is computed and not shown."""
    with_marks = describe(rows_of([("Yes, at 5.", "yes at five.")]), ENGLISH, BUCKETS_S)
    titles = {column.title: column.cell(with_marks) for column in shown([with_marks])[0][:-2]}
    assert (titles["PER"], titles["F1 ,"], titles["F1 ."], titles["digits heard in words"]) == (
        "50.0%", "0.0", "100.0", "1 of 1",
    )  # fmt: skip
    assert "F1 ?" not in titles
    without = describe(rows_of([("yes at", "yes, at.")]), ENGLISH, BUCKETS_S)
    assert not {"PER", "verbatim", "digits heard in words"} & {column.title for column in shown([without])[0]}
