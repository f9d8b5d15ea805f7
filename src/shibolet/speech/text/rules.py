"""Rules on text that every language shares; what belongs to one script stands in that language's module.

A rule deletes inside a word or puts a space between words: deleting what stands between two words joins them.
"""

import re
import unicodedata

# Controls, soft hyphen, direction marks, half surrogates. The joiners U+200C/D spell words in some scripts and
# stay; the zero width space U+200B separates words.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)
_WHISPER_TOKEN = re.compile(r"<\|[^<>|\s]*\|>")
_REPEATED = re.compile(r"([.!?,])\1+")
_QUOTES = str.maketrans(dict.fromkeys("“”„‟″", '"') | dict.fromkeys("‘’‛′", "'") | {"…": "."})
_OFFICIAL_PREFIX = re.compile(r"\s*language\s+([^<>]*?)\s*<asr_text>")
_BRACKETED = re.compile(r"[<\[][^>\]]*[>\]]")
_PARENTHESISED = re.compile(r"\([^)]+\)")
_LETTER = r"[^\W\d_]"
_SIGNS = "$€£₪¥¢%+#@=°"  # said as words beside a number
_IN_WORDS = frozenset("\"'.,:/&" + _SIGNS)
_NOT_IN_WORD = re.compile(
    rf"(?<!\d)[.,:/]|[.,:/](?!\d)|(?<!{_LETTER})[\"']|\"(?!{_LETTER})"
    rf"|(?<!\d)[{_SIGNS}](?!\d)|(?<![^\W_])&|&(?![^\W_])"
)


def strip_official_prefix(text: str) -> tuple[str | None, str]:
    """Language and text of Qwen3-ASR's `language X<asr_text>TEXT`; None for "None" or where there is no prefix."""
    match = _OFFICIAL_PREFIX.match(text)
    if match is None:
        return None, text
    return (match[1] if match[1] not in ("", "None") else None), text[match.end() :]


def tidy(text: str) -> str:
    """Text without Whisper tokens, repeated `.!?,` and runs of space.

    The specification deletes tokens that are times; here every `<|...|>` goes and gives a space, since it may be all
    that stands between two words. Ours too: NFC, nothing invisible, plain quotation marks, and `"` for two apostrophes,
    as gershayim are often typed.
    """
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text.replace("\u200b", " ")))
    text = text.translate(_QUOTES).replace("''", '"')
    text = _WHISPER_TOKEN.sub(" ", text)
    text = _REPEATED.sub(r"\1", text)
    return " ".join(text.split())


class _MayBeInWords(dict[int, str]):
    """For `str.translate`: a character that may stand in a word as it is, any other as a space; filled by use."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = char if unicodedata.category(char)[0] in "LMN" or char in _IN_WORDS else " "
        return self[code]


_MAY_BE_IN_WORDS = _MayBeInWords()


def split_words(text: str) -> list[str]:
    """Lower-case tokens of letters, marks and digits; everything between them separates.

    Kept inside a token: `"` between letters, `'` after a letter (a closing single quotation mark looks the same),
    `.,:/` between digits, `&` between letters or digits, and `$`, `%` and their like beside a digit.
    """
    return _NOT_IN_WORD.sub(" ", text.translate(_MAY_BE_IN_WORDS)).lower().split()


def without_brackets(text: str) -> str:
    """Text without what stands in brackets or parentheses, which scoring leaves out."""
    return _PARENTHESISED.sub("", _BRACKETED.sub("", text))


def has_words(text: str) -> bool:
    """Whether a text is a target: a letter or digit stands outside the brackets that scoring leaves out.

    `[laughter]`, `(applause)`, `<unk>`, an emoji, `♪` and `...` are none. Brackets beside words stay in the target.
    """
    return any(map(str.isalnum, without_brackets(tidy(text))))


def basic(text: str) -> str:
    """Scoring text by the rules of Whisper's BasicTextNormalizer (openai/whisper, whisper/normalizers/basic.py).

    Like the original it leaves one space at an end where something was removed; word and character counts ignore it.
    """
    text = without_brackets(text.lower())
    text = unicodedata.normalize("NFKC", text)
    text = "".join(" " if unicodedata.category(char)[0] in "MSP" else char for char in text)
    return re.sub(r"\s+", " ", text.lower())


def letters_of(text: str) -> str:
    """Letters and digits, lower case; gershayim inside a word, spaces and punctuation are not compared."""
    lower = text.lower()
    return lower if lower.isalnum() else "".join(filter(str.isalnum, lower))
