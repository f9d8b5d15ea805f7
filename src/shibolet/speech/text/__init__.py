"""Versioned normalisers: what a model is trained to write, what an aligner is given, what scores compare.

Another language is a `Language` in a module of its own here, listed in `LANGUAGES`.
"""

import re
from typing import Literal, get_args

from shibolet.errors import RecipeError
from shibolet.speech.text.english import ENGLISH
from shibolet.speech.text.hebrew import HEBREW
from shibolet.speech.text.language import Language, Words
from shibolet.speech.text.rules import strip_official_prefix

__all__ = [
    "LANGUAGES",
    "Language",
    "NormalForm",
    "Words",
    "find_language",
    "get_language",
    "normalise",
    "strip_official_prefix",
]

LANGUAGES = (HEBREW, ENGLISH)
NormalForm = Literal["target", "leaderboard"]


def find_language(code_or_name: str) -> Language | None:
    """The language with that name or ISO code, in any case, with or without a region ("he-IL"); None: not known."""
    wanted = code_or_name.strip().lower()
    code = re.split("[-_]", wanted)[0]
    return next((one for one in LANGUAGES if wanted == one.name.lower() or code in (one.code, *one.other_codes)), None)


def get_language(code_or_name: str) -> Language:
    """The same; RecipeError where it is not known."""
    if language := find_language(code_or_name):
        return language
    known = ", ".join(f"{language.name} ({language.code})" for language in LANGUAGES)
    raise RecipeError(
        f"language '{code_or_name}' is not known, only {known}; add a module like shibolet/speech/text/english.py "
        "and list it in LANGUAGES of shibolet/speech/text/__init__.py"
    )


def normalise(text: str, as_: NormalForm, language: str) -> str:
    """One line as the training target or as the scoring text ("leaderboard") of that language."""
    if as_ == "target":
        return get_language(language).to_target(text)
    if as_ == "leaderboard":
        return get_language(language).to_scoring(text)
    raise RecipeError(f"there is no normal form '{as_}', only {' and '.join(get_args(NormalForm))}")
