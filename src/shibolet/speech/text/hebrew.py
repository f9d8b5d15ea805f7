"""Hebrew: targets by the specification's rules, scoring by those of the ivrit.ai leaderboard."""

import re
import unicodedata

from shibolet.speech.text.hebrew_numbers import DIGITS_OF
from shibolet.speech.text.hebrew_reader import PREFIXES, read_hebrew
from shibolet.speech.text.language import Language, punctuated

# Niqqud, cantillation and joiners, all inside words. U+05BE, 05C0, 05C3 and 05C6 have codes among them, but separate.
_MARKS = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\ufb1e\u034f\u200c\u200d]")
_SEPARATORS = re.compile("[\u05be\u05c0\u05c3\u05c6]")  # maqaf, paseq, sof pasuq, nun hafukha
_PRESENTATION_FORMS = re.compile("[\ufb1d-\ufb4f]")
_GERESH = str.maketrans({"\u05f3": "'", "\u05f4": '"'})

# The points that package `hebrew` 0.8 calls niqqud: without meteg U+05BD and rafe U+05BF, which then become spaces.
_LEADERBOARD_NIQQUD = "\u05b0-\u05bc\u05c1\u05c2\u05c4\u05c5\u05c7"
_LEADERBOARD_INVISIBLE = "\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff"
_LEADERBOARD_DELETED = re.compile(f"[{_LEADERBOARD_INVISIBLE}{_LEADERBOARD_NIQQUD}\"']")


def unmark(text: str) -> str:
    """Letters without points and accents, maqaf and its like as spaces, `'` and `"` for geresh and gershayim.

    The specification deletes U+0591-U+05C7 whole. Maqaf, paseq, sof pasuq and nun hafukha lie in that range and
    separate words, so here they give a space. Presentation forms (U+FB1D-U+FB4F), which it does not name, become plain
    letters.
    """
    text = _PRESENTATION_FORMS.sub(lambda form: unicodedata.normalize("NFKC", form[0]), text)
    text = _SEPARATORS.sub(" ", _MARKS.sub("", text))
    return text.translate(_GERESH)


def pointed(text: str) -> str:
    """A vowel point and an accent under every letter."""
    return re.sub("([א-ת])", "\\1\u05b8\u0596", text)


def joined(text: str) -> str:
    """Every second pair of words joined by a maqaf."""
    words = text.split()
    pairs = [
        "\u05be".join(words[i : i + 2]) if i % 4 == 0 else " ".join(words[i : i + 2]) for i in range(0, len(words), 2)
    ]
    return " ".join(pairs)


def defective(text: str) -> str:
    """Without the first vav or yod inside each word of four letters or more: a shorter spelling of the same word."""
    return " ".join(
        re.sub("(?<=^[א-ת])([א-ת]?)[וי](?=[א-ת]{2})", "\\1", word) if len(word) > 3 else word for word in text.split()
    )


def full(text: str) -> str:
    """With a yod after the first letter of each third word: a longer spelling."""
    return " ".join(
        word[0] + "י" + word[1:] if i % 3 == 0 and len(word) > 2 else word for i, word in enumerate(text.split())
    )


def leaderboard_deletions(text: str) -> str:
    """The leaderboard's steps before Whisper's normaliser (ivrit-ai/asr-training, evaluate_model.py)."""
    return _LEADERBOARD_DELETED.sub("", text)


HEBREW = Language(
    name="Hebrew",
    code="he",
    other_codes=("heb", "iw"),
    letters="א-תװ-ײ",
    target_version="he-target-2",
    scoring_version="leaderboard-1",
    unmark=unmark,
    prescore=leaderboard_deletions,
    reader=read_hebrew,
    prefixes=PREFIXES,
    digits_of=DIGITS_OF,
    respellings={
        "punctuation": punctuated, "niqqud": pointed, "maqaf": joined, "defective": defective, "full": full,
    },
)  # fmt: skip
