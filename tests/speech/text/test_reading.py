"""Protects the comparison from both mistakes: writing that counts as content, and content that passes as writing."""

import random

import pytest
from rapidfuzz.distance import Levenshtein

from shibolet.speech.text import Language, get_language
from shibolet.speech.text.reading import compare, number_aware, rewritten
from shibolet.speech.text.rules import letters_of

ENGLISH, HEBREW = get_language("en"), get_language("he")


def distance(text: object, heard: object) -> int:
    return Levenshtein.distance(letters_of("".join(text)), letters_of("".join(heard)))


def apart(text: str, hypothesis: str, language: Language) -> int:
    compared = compare(language.to_words(text).tokens, hypothesis, language)
    return distance(compared.text, compared.heard)


# Texts in capitals are transcripts of AN4; hypotheses are how Whisper writes such speech.
ENGLISH_SAME = [
    ("TWO SIX EIGHT FIVE NINE FIVE TWO", "268-5952"),
    ("TWO SIX EIGHT FIVE NINE FIVE TWO", "2685952."),
    ("FOUR ONE TWO FOUR TWO ONE EIGHT EIGHT NINE SIX", "412-421-8896."),
    ("FOUR ONE TWO FOUR TWO ONE EIGHT EIGHT NINE SIX", "(412) 421-8896"),
    ("TWO OH THREE SEVEN FIVE SEVEN EIGHT EIGHT NINE NINE", "203-757-8899"),
    ("OH SIX OH SEVEN SIX SIX", "060766"),
    ("ONE FIVE TWO ZERO SEVEN", "15207"),
    ("ONE OH SEVEN OH EIGHT", "10708"),
    ("ONE OH OH TWO EIGHT", "10028"),
    ("FIFTY ONE FIFTY SIX", "5156"),
    ("JUNE ELEVENTH NINETEEN SIXTY SEVEN", "June 11th, 1967."),
    ("JUNE TWENTY THIRD NINETEEN SIXTY NINE", "June 23, 1969"),
    ("FEBRUARY EIGHTH NINETEEN FIFTY TWO", "February 8th, 1952"),
    ("THIRTY ONE J A N U A R Y ONE NINE SEVEN ZERO", "31 January 1970"),
    ("SEVEN FOURTEEN SIXTY ONE", "7-14-61"),
    ("SEVEN FOURTEEN SIXTY ONE", "7/14/61"),
    ("SEVEN FOURTEEN SIXTY ONE", "7, 14, 61."),
    ("SEVEN FOURTEEN SIXTY ONE", "71461"),
    ("TWELVE TEN SIXTY NINE", "12/10/69"),
    ("NINE THIRTY SIXTY FIVE", "9:30 65"),
    ("SIXTY THREE SIXTY FOUR AND A HALF", "6364 1/2"),
    ("SIXTY THREE SIXTY FOUR AND A HALF", "63, 64½"),
    ("ERASE R THREE FOUR SEVEN", "Erase R347"),
    ("G M E F THIRTY NINE", "G-M-E-F 39"),
    ("M F G I K TWO SIXTY", "MFGIK260"),
    ("H Q F X FOUR THOUSAND THREE HUNDRED AND EIGHTY SIX", "HQFX 4,386"),
    ("ERASE Z Y G N P EIGHT HUNDRED AND TWENTY THREE", "Erase ZYGNP 823"),
    ("RUBOUT D Q T W X FIVE HUNDRED EIGHTY SEVEN", "Rub out DQTWX587."),
    ("ENTER SEVEN OH THREE EIGHT", "Enter 7038"),
    ("ENTER ONE THIRTY ONE", "Enter 131"),
    ("ONE ELEVEN", "111"),
    ("SEVEN TEN", "710"),
    ("ONE THOUSAND", "1000"),
    ("ONE THOUSAND", "1,000"),
    ("ONE HUNDRED", "100"),
    ("P I T T S B U R G H", "Pittsburgh"),
    ("repeat", "R-E-P-E-A-T"),
    ("five dollars", "$5.00"),
    ("$5", "five dollars"),
    ("two dollars and fifty cents", "$2.50"),
    ("two fifty", "$2.50"),
    ("one hundred five pounds", "£105"),
    ("fifty percent", "50%"),
    ("fifty percent", "50 %"),
    ("the nineties", "the 90s"),
    ("the nineteen sixties", "the 1960s"),
    ("nineteen hundred", "1900"),
    ("nineteen oh five", "1905"),
    ("twelve hundred and five", "1205"),
    ("two thousand and five", "2005"),
    ("twenty twenty four", "2024"),
    ("half past five", "5:30"),
    ("five thirty", "5:30"),
    ("five oh five", "5:05"),
    ("five o'clock", "5:00"),
    ("a quarter to six", "5:45"),
    ("the twelfth of may nineteen fifty", "12/5/1950"),
    ("may twelfth nineteen fifty", "5/12/1950"),
    ("may twelfth", "May 12"),
    ("three point one four", "3.14"),
    ("three quarters", "3/4"),
    ("two million three hundred thousand", "2,300,000"),
    ("ten thousand", "10 000"),
    ("double five three", "553"),
    ("five kilometers", "5km"),
    ("number five", "#5"),
    ("twenty degrees celsius", "20°C"),
    ("plus nine seven two", "+972"),
    ("johnson and johnson", "Johnson & Johnson"),
    ("r&d", "R and D"),
    ("it's doctor smith", "It is Dr. Smith"),
    ("we cannot", "we can't"),
    ("elm street", "Elm St."),
    ("café", "cafe"),
    ("five", "Five!"),
]
ENGLISH_APART = [
    ("268", "three four one"),
    ("15", "fifty"),
    ("fifteen", "50"),
    ("205", "twenty five"),
    ("1005", "one hundred five"),
    ("2005", "two hundred five"),
    ("20200", "twenty two hundred"),
    ("20.5", "twenty five"),
    ("$20.05", "two thousand five"),
    ("1100", "one hundred"),
    ("100200", "one thousand two hundred"),
    ("five dollars", "5"),
    ("five", "5%"),
    ("six", "5"),
    ("may twelfth", "6/12"),
    ("half past six", "5:30"),
    ("TWO SIX EIGHT FIVE NINE FIVE TWO", "268-5953"),
    ("mister", "Mrs."),
]
HEBREW_SAME = [
    ("שלוש", "3"),
    ("עשרים ושלוש", "23"),
    ("עשרים ושלושה אנשים", "23 אנשים"),
    ("שבעה עשר", "17"),
    ("אלף תשע מאות ארבעים ושמונה", "1948"),
    ("באלף תשע מאות ארבעים ושמונה", "ב-1948"),
    ("באלף תשע מאות ארבעים ושמונה", "ב1948"),
    ("אלפיים עשרים וארבע", "2024"),
    ("מאה ועשרים", "120"),
    ("מאה וחמש", "105"),
    ("עשרת אלפים", "10,000"),
    ("שלוש מאות ארבעים וחמישה אלף", "345,000"),
    ("שני מיליון ושלוש מאות אלף", "2,300,000"),
    ("אפס חמש שתיים שלוש ארבע חמש שש שבע שמונה תשע", "052-3456789"),
    ("חמישים אחוז", "50%"),
    ("חמישים אחוזים", "50 %"),
    ("אחוז אחד", "1%"),
    ("מאה שקלים", "100 ₪"),
    ('מאה ש"ח', "100 שקל"),
    ("חמישה דולר", "$5"),
    ("עשרה יורו", "10€"),
    ("העשרים ואחת", "ה-21"),
    ("הרביעי", "ה-4"),
    ("כיתה אלף", "כיתה א'"),
    ("יום ראשון", "יום א'"),
    ("חמישה במאי", "5 במאי"),
    ("חמישה בדצמבר אלף תשע מאות חמישים", "5.12.1950"),
    ("החמישי לשתים עשרה", "5/12"),
    ("עשר וחצי", "10:30"),
    ("עשר שלושים", "10:30"),
    ("רבע לשמונה", "7:45"),
    ("שלוש נקודה חמש", "3.5"),
    ("שלוש וחצי", "3.5"),
    ("שלוש וחצי", "3½"),
    ("דוקטור כהן", 'ד"ר כהן'),
    ("ופרופסור לוי", "ופרופ' לוי"),
    ("וכולי", "וכו'"),
    ("עמוד שלוש", "עמ' 3"),
    ("בארצות הברית", 'בארה"ב'),
    ("בית ספר", 'בי"ס'),
    ("חמישה קילומטרים", '5 ק"מ'),
    ("אף בי איי", "FBI"),
    ("פייסבוק", "Facebook"),
    ("גוגל", "Google"),
]
HEBREW_APART = [
    ("שש", "5"),
    ("חמש עשרה", "50"),
    ("שלוש עשרה", "310"),
    ("עשרים וחמש", "205"),
    ("מאה וחמש", "1005"),
    ("חמישים", "50%"),
    ("אלף תשע מאות ארבעים ושבע", "1948"),
    ("רבע לשש", "7:45"),
    ("דוקטור", 'ארה"ב'),
    ("ישראל", "Google"),
]


@pytest.mark.parametrize(("text", "hypothesis"), ENGLISH_SAME)
def test_english_writing_is_not_content(text: str, hypothesis: str) -> None:
    assert apart(text, hypothesis, ENGLISH) == 0
    assert apart(hypothesis, text.lower(), ENGLISH) == 0 or hypothesis in ("50 %", "Johnson & Johnson")
    assert rewritten(ENGLISH.to_words(text).tokens, hypothesis, ENGLISH) == hypothesis


@pytest.mark.parametrize(("text", "hypothesis"), HEBREW_SAME)
def test_hebrew_writing_is_not_content(text: str, hypothesis: str) -> None:
    assert apart(text, hypothesis, HEBREW) == 0
    # A sign that stands alone is no word of a text, and is heard with the number before it only in a hypothesis.
    assert apart(hypothesis, text, HEBREW) == 0 or hypothesis in ("50 %", "100 ₪")
    assert rewritten(HEBREW.to_words(text).tokens, hypothesis, HEBREW) == hypothesis


@pytest.mark.parametrize(("text", "hypothesis"), ENGLISH_APART)
def test_english_content_is_not_writing(text: str, hypothesis: str) -> None:
    assert apart(text, hypothesis, ENGLISH) > 0
    assert apart(hypothesis, text, ENGLISH) > 0


@pytest.mark.parametrize(("text", "hypothesis"), HEBREW_APART)
def test_hebrew_content_is_not_writing(text: str, hypothesis: str) -> None:
    assert apart(text, hypothesis, HEBREW) > 0
    assert apart(hypothesis, text, HEBREW) > 0


def test_a_wrong_number_is_far() -> None:
    assert apart("268", "three four one", ENGLISH) > 8
    assert apart("four one two four two one", "268-5952", ENGLISH) > 12


def test_compared_holds_one_reading_for_each_word() -> None:
    words = ENGLISH.to_words("R&D spent $5 on line 26").tokens
    compared = compare(words, "R and D spent five dollars on line twenty-six.", ENGLISH)
    assert compared.text == ("r and d", "spent", "five dollars", "on", "line", "twenty six")
    assert compared.heard == ("r", "and", "d", "spent", "five", "dollars", "on", "line", "twenty", "six")


@pytest.mark.parametrize(
    ("text", "hypothesis", "expected"),
    [
        ("call two six eight now john", "Call 268 now, Joan!", "Call 268 now, john"),
        ("rubout t j", "Rub out, T.J.", "Rub out, T.J."),
        ("one two three", "", "one two three"),
        ("one two three", "Something else", "one two three"),
        ("", "Hello.", ""),
        ("go", "— Go —", "— Go —"),
        ("go home now", "Go — home, then", "Go — home, now"),
        ("two six eight ten", "268-5952", "two six eight ten"),  # 5952 is not ten, and half a word is none
    ],
)
def test_rewritten_takes_over_whole_words_only(text: str, hypothesis: str, expected: str) -> None:
    assert rewritten(ENGLISH.to_words(text).tokens, hypothesis, ENGLISH) == expected


PIECES = {
    "en": "one two three twenty five hundred and a of dollars percent point 5 26 1948 268-5952 $5 50% % & 3.5 1/2 5:30 "
    "5/12/1950 12th 90s 1,000 ½ it's don't Dr. Mr. R2D2 at&t + #5 . , - (x) [5] $5.00 007 oh o'clock 5$ ٣ שלום",
    "he": "אחת שתיים שלוש עשרים וחמש מאה אלף ו של אחוז 5 26 1948 268-5952 ₪5 50% % & 3.5 1/2 5:30 5/12/1950 ב-1948 "
    'ה-21 בן־5 ד"ר בארה"ב FBI Google והWhatsApp א\' 1,000 ½ . , - (x) [5] שָׁלוֹם 5$ ״',
}


@pytest.mark.parametrize("language", [ENGLISH, HEBREW], ids=["en", "he"])
def test_whatever_is_written_the_comparison_keeps_its_promises(language: Language) -> None:
    rng, pieces = random.Random(3), PIECES[language.code].split()

    def text() -> str:
        return "".join(rng.choice(pieces) + rng.choice([" ", " ", " ", "", "-"]) for _ in range(rng.randint(0, 7)))

    num_nearer = num_without_number = 0
    for _ in range(800):
        given, hypothesis = text(), text()
        words, tokens = language.to_words(given).tokens, language.to_words(hypothesis).tokens
        compared = compare(words, hypothesis, language)
        assert (len(compared.text), len(compared.heard)) == (len(words), len(tokens)), (given, hypothesis)
        found, plain = distance(compared.text, compared.heard), distance(words, tokens)
        assert found <= plain, (given, hypothesis)
        assert found or rewritten(words, hypothesis, language) == hypothesis.strip(), (given, hypothesis)
        num_nearer += found < plain
        itself = compare(words, " ".join(words), language)
        assert distance(itself.text, itself.heard) == 0 and itself.text == words
        as_given = compare(words, given, language)
        assert distance(as_given.text, as_given.heard) == 0
        assert rewritten(words, given, language) == given.strip()
        aware = number_aware(given, hypothesis, language)
        if not any(map(str.isdigit, given + hypothesis)):
            num_without_number += 1
            assert aware == (language.to_scoring(given), language.to_scoring(hypothesis))
    assert num_nearer > 100 and num_without_number > 20


@pytest.mark.parametrize(
    ("reference", "hypothesis", "language", "expected"),
    [
        ("call two six eight", "Call 268.", ENGLISH, ("call two six eight", "call two six eight")),
        ("Call 268 (now) it's", "call 268 now", ENGLISH, ("call 268 it s", "call 268 now")),
        ("it costs five dollars", "It costs $5!", ENGLISH, ("it costs five dollars", "it costs five dollars")),
        ("it's ten", "It is 10", ENGLISH, ("it s ten", "it is ten")),
        ("six", "5 of [7]", ENGLISH, ("six", "5 of")),
        ("באלף תשע מאות", 'ב-1900, ד"ר', HEBREW, ("באלף תשע מאות", "באלף תשע מאות דר")),
    ],
)
def test_number_aware(reference: str, hypothesis: str, language: Language, expected: tuple[str, str]) -> None:
    aware = number_aware(reference, hypothesis, language)
    assert tuple(" ".join(text.split()) for text in aware) == expected


def test_a_language_without_a_reader_compares_as_written() -> None:
    plain = Language(name="Plain", code="xx", letters="a-z", target_version="t", scoring_version="s")
    compared = compare(("five", "10"), "5 ten", plain)
    assert (compared.text, compared.heard) == (("five", "10"), ("5", "ten"))
    assert plain.to_words("five 10").verifiable == (True, False)
    assert number_aware("five!", "5", plain) == (plain.to_scoring("five!"), plain.to_scoring("5"))


@pytest.mark.parametrize("language", [ENGLISH, HEBREW], ids=["en", "he"])
def test_digits_of_are_read_as_their_word(language: Language) -> None:
    assert len(language.digits_of) > 25
    for word, digits in language.digits_of.items():
        assert apart(word, digits, language) == 0 and apart(digits, word, language) == 0, word


def test_a_long_run_of_digits_is_read_digit_by_digit() -> None:
    digits = "1234567890" * 5
    said = "one two three four five six seven eight nine oh " * 5
    assert apart(said, digits, ENGLISH) == 0
    assert apart("twelve", digits, ENGLISH) >= len("twelve")


def test_a_long_pair_is_cut_at_equal_words_and_the_numbers_between_are_read() -> None:
    text = "please call me back on four one two two six eight tomorrow morning before nine thirty thank you " * 40
    hypothesis = "Please call me back on 412-268 tomorrow morning before 9:30, thank you! " * 40
    compared = compare(ENGLISH.to_words(text).tokens, hypothesis, ENGLISH)
    assert distance(compared.text, compared.heard) == 0
