"""Protects targets and aligner words from joined words, lost words and rules that undo each other."""

import random
from pathlib import Path

import pytest

from shibolet.speech.text import get_language

TEXT_DIR = Path(__file__).resolve().parents[4] / "shared" / "data" / "text_he"
HEBREW = get_language("he")


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("שָׁלוֹם", "שלום"),
        ("בְּרֵאשִׁ֖ית בָּרָ֣א", "בראשית ברא"),
        ("בְנֵי־יִשְׂרָאֵל", "בני ישראל"),  # maqaf
        ("שלום׀עולם", "שלום עולם"),  # paseq
        ("אֶלֶף׃סוף", "אלף סוף"),  # sof pasuq, no space after it
        ("בית-ספר", "בית-ספר"),  # an ASCII hyphen is punctuation and stays
        ("צה״ל וג׳ירפה", "צה\"ל וג'ירפה"),
        ("צה''ל, צה”ל", 'צה"ל, צה"ל'),
        ("<|0.00|> שלום<|1.20|>עולם<|endoftext|>", "שלום עולם"),
        ("מה??  כן!!! אולי,, ...טוב…", "מה? כן! אולי, .טוב."),
        ("\ufb2a\ufb4bם", "שום"),  # presentation forms with their points
        ("\ufb4fהים", "אלהים"),  # the alef-lamed ligature
        ("\u202bשלום\u200f\ufeff\u00a0עולם\n", "שלום עולם"),
        ("מחר ב-10:30, 3.5% <b>[רעש]", "מחר ב-10:30, 3.5% <b>[רעש]"),
        ("וְְָ־׃ <|1|>", "ו"),
        ("ְָ׃", ""),
    ],
)
def test_target_golden(given: str, target: str) -> None:
    assert HEBREW.to_target(given) == target


def test_pointed_text_becomes_the_plain_edition() -> None:
    """2,000 pointed verses against the same verses as an independent source writes them without points."""
    if not TEXT_DIR.exists():
        pytest.skip("shared/data/text_he is not beside this repository")
    pointed = (TEXT_DIR / "niqqud_sample.txt").read_text(encoding="utf-8").splitlines()
    plain = (TEXT_DIR / "niqqud_sample_plain.txt").read_text(encoding="utf-8").splitlines()
    assert len(pointed) == len(plain) == 2000
    assert [HEBREW.to_target(line) for line in pointed] == plain


def test_rules_do_not_undo_each_other() -> None:
    rng = random.Random(7)
    pool = [
        *"\u05b0\u05bc\u05be\u05c0\u05c3\u05f3\u05f4\u034f\u200d\u200f\ufb2a\ufb29<|>.!?,'\" -/a1…”",
        "שלום",
        "<|1.5|>",
        " ",
        *"&$%₪25",
    ]
    for _ in range(2000):
        text = "".join(rng.choices(pool, k=rng.randint(0, 25)))
        target = HEBREW.to_target(text)
        assert HEBREW.to_target(target) == target, text
        words = HEBREW.to_words(text)
        assert HEBREW.to_words(" ".join(words.tokens)) == words, text
        assert HEBREW.to_words(target) == words, text


@pytest.mark.parametrize(
    ("text", "tokens", "unverifiable"),
    [
        ("בֵּית־סֵפֶר א/ב, בית-חולים.", ["בית", "ספר", "א", "ב", "בית", "חולים"], []),
        ('צה״ל "אמר" ג׳ירפה וכו׳', ['צה"ל', "אמר", "ג'ירפה", "וכו'"], []),
        ("קניתי 10,000 ב־3.5% ב-12:30", ["קניתי", "10,000", "ב", "3.5%", "ב", "12:30"], []),
        (
            "ה-Facebook והWhatsApp של Ёлка",
            ["ה", "facebook", "והwhatsapp", "של", "ёлка"],
            ["facebook", "והwhatsapp", "ёлка"],
        ),
        ("ב2024 היה covid19", ["ב2024", "היה", "covid19"], ["covid19"]),
        ("₪5, 5$ ו-20% % $ 5/12, א&ב & ג", ["₪5", "5$", "ו", "20%", "5/12", "א&ב", "ג"], []),
        ("סוף.התחלה_אמצע", ["סוף", "התחלה", "אמצע"], []),
        ("... ?! — <|2.0|>", [], []),
    ],
)
def test_words_golden(text: str, tokens: list[str], unverifiable: list[str]) -> None:
    words = HEBREW.to_words(text)
    assert list(words.tokens) == tokens
    assert [token for token, ok in zip(words.tokens, words.verifiable, strict=True) if not ok] == unverifiable
    assert words.num_verifiable == len(tokens) - len(unverifiable)


def test_unverifiable_tokens_leave_the_count_and_stay_in_the_length() -> None:
    words = HEBREW.to_words('צה"ל ב-2024 Web')
    assert (words.num_verifiable, words.num_letters) == (3, 3 + 1 + 4 + 3)
