"""The readings of an English word: numbers and signs, contractions, titles and other abbreviations."""

from functools import lru_cache

from shibolet.speech.text.english_numbers import ENGLISH_NUMBERS
from shibolet.speech.text.lattice import Lattice, Ways
from shibolet.speech.text.numerals import word_reader

# Beside those that Whisper's normaliser spells out. "no" for number is not here: it is a word of its own.
ABBREVIATIONS = {
    "st": ("street",), "ave": ("avenue",), "rd": ("road",), "blvd": ("boulevard",), "dr": ("drive",),
    "apt": ("apartment",),
    "vs": ("versus",), "etc": ("et cetera",), "ok": ("okay",), "okay": ("ok",), "dept": ("department",),
    "approx": ("approximately",), "ft": ("feet", "foot"), "kg": ("kilograms", "kilos"), "km": ("kilometers",),
    "cm": ("centimeters",), "mm": ("millimeters",), "lbs": ("pounds",), "oz": ("ounces",), "mph": ("miles per hour",),
    "hr": ("hour",), "hrs": ("hours",), "mins": ("minutes",), "jan": ("january",), "feb": ("february",),
    "mar": ("march",), "apr": ("april",), "jun": ("june",), "jul": ("july",), "aug": ("august",),
    "sep": ("september",), "sept": ("september",), "oct": ("october",), "nov": ("november",), "dec": ("december",),
}  # fmt: skip


def _read_word(word: str) -> Lattice | None:
    ways = Ways(word)
    ways.add(ways.start, ways.end, [ABBREVIATIONS.get(word, ()) + _normalised(word)])
    return ways.close()


read_english = word_reader(ENGLISH_NUMBERS, _read_word)


def _normalised(word: str) -> tuple[str, ...]:
    """The word as Whisper's English normaliser writes it, unless that says the same, nothing, or digits."""
    said = " ".join(_normaliser()(word).split())
    return (said,) if said and said != word and not any(map(str.isdigit, said)) else ()


@lru_cache(1)
def _normaliser():
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})  # British and American spellings want a mapping that the library does not ship
