"""`ngram/ngram.json`: what an n-gram language model was made from, and which texts of test sets are in it."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part


class HeldTexts(Part):
    """Texts of the evaluation sets and of dev that the n-gram's texts hold, by their words as they are scored."""

    of: int  # texts that were looked for
    long: int  # of six words or more: the training transcripts hold them too
    short: int  # of fewer words, that are a line of their own
    passages: int  # all runs of six words of texts of six words or more
    new_passages: int  # of these: the n-gram's texts hold them, and the training transcripts do not
    most_new_pct: float  # of the passages of one text


class NgramMade(Document):
    """An n-gram of one round."""

    FORMAT: ClassVar[int] = 2
    REMEDY: ClassVar[str] = "'shibolet ngram RECIPE' makes it anew"

    file: str  # beside this one
    model: str  # whose tokens it has
    source: str  # "the training transcripts", or a text file
    order: int
    texts: int
    tokens: int  # with the ends of texts
    ngrams: tuple[int, ...]  # by order
    discounts: tuple[tuple[float, float, float], ...]  # by order, of counts of 1, 2, and 3 or more
    held: HeldTexts
    sentences: tuple[str, ...]
