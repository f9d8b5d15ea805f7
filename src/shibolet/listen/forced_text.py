"""How likely an encoder-decoder model finds a text: in which writings it is scored, and what the scores add up to.

A model writes "at 5" as surely as another writes "at five", so a text is judged in the better of two writings: lower
case, and the hypothesis's own wherever both read the same. The hypothesis is scored through the tokenizer like the
text: the tokens that a model wrote are often not those of its text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.errors import ModelError
from shibolet.speech.text import get_language
from shibolet.speech.text.reading import rewritten

# Of the whole tokens, how many may fall apart when their own text is tokenised again. Whisper's own tokenizers: 6 of
# 48,777 and 0 of 49,904; without the merge for " t": 1,175.
MAX_APART = 0.001
SPARE_APART = 10  # however small the vocabulary


def writings_of(words: Sequence[str], hypothesis: str, language: str) -> list[str]:
    """The writings in which a text of at least one word is scored; only the hypothesis's where both read the same."""
    written = rewritten(words, hypothesis, get_language(language))
    if written.strip() == hypothesis.strip():
        return [hypothesis]
    return list(dict.fromkeys([" ".join(words).lower(), written]))


def plans_of(asked: Sequence[tuple[str, Sequence[Sequence[str]]]], language: str) -> list[list[list[str]]]:
    """Of each hypothesis, `writings_of` each of the texts that stand with it."""
    return [[writings_of(words, hypothesis, language) for words in texts] for hypothesis, texts in asked]


@dataclass(frozen=True, slots=True)
class Judged:
    """The fields of a `Hearing` that log-probabilities give."""

    text_logp: float
    text_score: float
    worst_score: float


def judge(text: Sequence[np.ndarray], hypothesis: np.ndarray) -> Judged:
    """From the log-probabilities of the tokens, end of text included, of each writing of the text, and the hypothesis.

    The end may be the worst token: there the words show that a text lacks at its end.
    """
    best = max(text, key=np.mean)
    logp = float(best.mean())
    return Judged(logp, min(0.0, logp - float(hypothesis.mean())), float(best.min()))


def check_tokenizer(
    name: str,
    ids: Sequence[int],
    decode: Callable[[list[list[int]]], list[str]],
    encode: Callable[[list[str]], list[list[int]]],
) -> None:
    """ModelError where more of the tokens than in any sound tokenizer do not come back from their own text.

    Converted tokenizers have lost merges: the words that need them fall apart into tokens that the model would never
    write, and every text with such a word looks wrong. Tokens that are part of a character have no text of their own.
    """
    whole = [
        (i, text) for i, text in zip(ids, decode([[i] for i in ids]), strict=True) if text and "\ufffd" not in text
    ]
    back = encode([text for _, text in whole])
    apart = [(text, found) for (i, text), found in zip(whole, back, strict=True) if found != [i]]
    if len(apart) > max(SPARE_APART, MAX_APART * len(whole)):
        text, found = apart[0]
        raise ModelError(
            f"model '{name}': its tokenizer is broken: {len(apart)} of {len(whole)} tokens do not come back from their "
            f"own text, such as {text!r}, which becomes {len(found)} tokens; take tokenizer.json from the model that "
            "this one was converted from"
        )
