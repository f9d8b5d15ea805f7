"""Protects the registry: a language by name or code, a clear error for another, versions that a score can name."""

from dataclasses import replace

import pytest

from shibolet.errors import RecipeError
from shibolet.speech.text import LANGUAGES, find_language, get_language, normalise, strip_official_prefix
from shibolet.speech.text.rules import has_words, tidy


def test_by_name_or_code_in_any_case() -> None:
    assert get_language("he") is get_language("Hebrew") is get_language(" HEBREW ")
    assert get_language("en").name == "English"
    assert all(find_language(code) is get_language("he") for code in ("he-IL", "HE_il", "heb", "iw", "hebrew"))
    assert find_language("henna") is find_language("hello") is find_language("") is None


def test_an_unknown_language_says_what_exists_and_where_to_add_one() -> None:
    with pytest.raises(RecipeError, match=r"'xx' is not known, only Hebrew \(he\), English \(en\).*speech/text"):
        get_language("xx")


def test_versions_name_the_rules() -> None:
    assert {language.code: (language.target_version, language.scoring_version) for language in LANGUAGES} == {
        "he": ("he-target-2", "leaderboard-1"),
        "en": ("en-target-2", "basic-1"),
    }


def test_normalise_by_form() -> None:
    assert normalise("בְנֵי־יִשְׂרָאֵל!!", "target", "he") == "בני ישראל!"
    assert normalise("בית-ספר!!", "leaderboard", "Hebrew").split() == ["בית", "ספר"]
    with pytest.raises(RecipeError, match="'lower', only target and leaderboard"):
        normalise("א", "lower", "he")  # type: ignore[arg-type]


def test_english_words() -> None:
    english = get_language("en")
    assert english.to_target("It’s  a   “test”!!") == 'It\'s a "test"!'
    words = english.to_words("Don't re-read cafe\u0301 no. 7, שלום")
    assert words.tokens == ("don't", "re", "read", "café", "no", "7", "שלום")
    assert words.verifiable == (True, True, True, True, True, True, False)
    words = english.to_words("R&D: $5.00, 50%, 1/2 of C++ & (#5) ٣ 7שלום")
    assert words.tokens == ("r&d", "$5.00", "50%", "1/2", "of", "c", "#5", "٣", "7שלום")
    assert words.verifiable == (True, True, True, True, True, True, True, False, False)


@pytest.mark.parametrize(
    ("text", "language", "rest"),
    [
        ("language Hebrew<asr_text>שלום", "Hebrew", "שלום"),
        ("language None<asr_text>", None, ""),
        ("language English <asr_text> hi", "English", " hi"),
        ("the language Hebrew is old", None, "the language Hebrew is old"),
        ("language Hebrew", None, "language Hebrew"),
        ("", None, ""),
    ],
)
def test_official_prefix(text: str, language: str | None, rest: str) -> None:
    assert strip_official_prefix(text) == (language, rest)


@pytest.mark.parametrize("text", [
    "[laughter]", "(applause)", "<unk>", "[BLANK_AUDIO]", "[מוזיקה] (צחוק)", "♪", "♪ ♪", "😀", "...", "—", "",
    "\u200b\u00ad\u200f",
])  # fmt: skip
def test_what_is_no_target(text: str) -> None:
    """A model that learns to write these writes them where somebody speaks."""
    assert not has_words(text)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("שלום [צחוק]", "שלום [צחוק]"), ("(כן) לא", "(כן) לא"), ("7", "7"), ("♪ לה לה ♪", "♪ לה לה ♪"),
        ("כן 😀", "כן 😀"), ("שלום\u200bעולם", "שלום עולם"), ("שלום \u200b עולם", "שלום עולם"), ("של\u00adום", "שלום"),
        ("[לא נסגר", "[לא נסגר"),
    ],
)  # fmt: skip
def test_what_is_a_target(text: str, target: str) -> None:
    """Words make a target, whatever stands beside them; a zero width space is a space, a soft hyphen nothing."""
    assert has_words(text) and tidy(text) == target


def test_words_that_are_remembered_are_remembered_of_their_language() -> None:
    """A word has other tokens in another language, and another language reads its letters."""
    words = ["שָׁלוֹם", "hello", "בית־ספר", "ה-21", "don't", "5%", "٣", "ב'", "...", "קפה-café"]
    for _ in range(2):
        for language in LANGUAGES:
            assert [language.tokens_of(word) for word in words] == [language.to_words(word).tokens for word in words]
        verifiable = {language.code: language.to_words("שלום hello 5 ٣").verifiable for language in LANGUAGES}
        assert verifiable == {"he": (True, False, True, False), "en": (False, True, True, False)}
    plain = replace(get_language("he"), reader=None, letters="a-z", unmark=str.upper)
    assert plain.to_words("שלום hello 5").verifiable == (False, True, False)
    assert plain.tokens_of("hello") == ("hello",)
