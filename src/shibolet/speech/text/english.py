"""English: the shared rules are enough for its letters; numbers and abbreviations have a reader."""

from shibolet.speech.text.english_numbers import DIGITS_OF
from shibolet.speech.text.english_reader import read_english
from shibolet.speech.text.language import Language

ENGLISH = Language(
    name="English",
    code="en",
    other_codes=("eng",),
    letters="a-zà-öø-ÿ",
    target_version="en-target-2",
    scoring_version="basic-1",
    reader=read_english,
    digits_of=DIGITS_OF,
)
