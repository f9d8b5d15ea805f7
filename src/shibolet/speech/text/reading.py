"""A text and a hypothesis, each in the reading that is nearest to the other: writing is not content.

"TWO SIX EIGHT" and "268", "R E P E A T" and "repeat", "Dr." and "doctor" are the same words. What a word may be read as
is the language's knowledge; here is how one reading of each is chosen. A language without a reader has only the words
as they are written. Shapes: W words of the text, H words of the hypothesis.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from shibolet.speech.text.language import Language
from shibolet.speech.text.lattice import Lattice, nearest
from shibolet.speech.text.rules import letters_of, without_brackets

ANCHOR_WORDS = 3  # as many equal words in a row are taken to be the same stretch of speech
MAX_CELLS = 10_000_000  # letters of readings times letters of the other side; above it a stretch stays as written
_ALONE = frozenset("%&+=°€$£₪")  # signs between spaces, said as words
_SPACED = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Compared:
    """A text and a hypothesis, each in the reading that is nearest to the other."""

    text: tuple[str, ...]  # [W] reading of each word of the text, lower case, spaces allowed inside ("twenty six")
    heard: tuple[str, ...]  # [H] reading of each word of the hypothesis


def compare(words: Sequence[str], hypothesis: str, language: Language) -> Compared:
    """Words of `Language.to_words` against a recogniser's raw text.

    The hypothesis's words are those that `to_words` makes of it. What is nearest is decided by edits of letters and
    digits, without spaces: there are never more of them than between both as they are written.
    """
    text, heard = nearest_readings(words, _hypothesis_words(hypothesis, language)[1], language)
    return Compared(tuple(text), tuple(heard))


def rewritten(words: Sequence[str], hypothesis: str, language: Language) -> str:
    """The text in the hypothesis's own writing (case, punctuation, digits), as far as both read the same.

    That is wherever a stretch of whole hypothesis words reads the same as a stretch of whole text words; elsewhere
    stand the text's words as given.
    """
    spans, tokens, owner = _hypothesis_words(hypothesis, language)
    text, heard = nearest_readings(words, tokens, language)
    return _rewrite(words, text, hypothesis, heard, spans, owner)


def number_aware(reference: str, hypothesis: str, language: Language) -> tuple[str, str]:
    """Both as scoring text with their numbers in the nearest reading, for a word error rate that does not mind digits.

    Without a digit in either, exactly `to_scoring`.
    """
    if language.reader is not None and any(map(str.isdigit, reference + hypothesis)):
        raw = [without_brackets(text) for text in (reference, hypothesis)]
        cut = [_hypothesis_words(text, language) for text in raw]
        readings = nearest_readings(cut[0][1], cut[1][1], language)
        reference, hypothesis = (
            _spelled(text, *parts, said, language) for text, parts, said in zip(raw, cut, readings, strict=True)
        )
    return language.to_scoring(reference), language.to_scoring(hypothesis)


def numbers_apart(reference: str, hypothesis: str, language: Language) -> tuple[list[bool], list[bool]]:
    """Of each number in digits, of the reference and of the hypothesis, whether the other side says it in words."""
    words = [_hypothesis_words(without_brackets(text), language)[1] for text in (reference, hypothesis)]
    readings = nearest_readings(*words, language)
    others = [letters_of("".join(own)) for own in reversed(words)]
    return tuple(
        [
            reading != token and letters_of(reading) in other
            for token, reading in zip(own, said, strict=True)
            if any(map(str.isnumeric, token))
        ]
        for own, said, other in zip(words, readings, others, strict=True)
    )


def nearest_readings(text: Sequence[str], heard: Sequence[str], language: Language) -> tuple[list[str], list[str]]:
    """One reading for each word of the text, and one for each word of the hypothesis."""
    text, heard = list(text), list(heard)
    if language.reader is None or letters_of("".join(text)) == letters_of("".join(heard)):
        return text, heard
    said, understood = text.copy(), heard.copy()
    for words, others, is_equal in _stretches(text, heard):
        if is_equal or (words.start == words.stop and others.start == others.stop):
            continue
        said[words], understood[others] = _choose(text[words], heard[others], language.reader)
    if _distance(said, understood) > _distance(text, heard):
        return text, heard
    return said, understood


def _stretches(text: list[str], heard: list[str]) -> list[tuple[slice, slice, bool]]:
    """Both sides cut at equal words: at either end, and where at least `ANCHOR_WORDS` stand in a row."""
    from rapidfuzz.distance import Levenshtein

    found, begin = [], (0, 0)
    for block in Levenshtein.opcodes(text, heard):
        is_first = block.src_start == block.dest_start == 0
        is_last = block.src_end == len(text) and block.dest_end == len(heard)
        if block.tag == "equal" and (is_first or is_last or block.src_end - block.src_start >= ANCHOR_WORDS):
            found.append((slice(begin[0], block.src_start), slice(begin[1], block.dest_start), False))
            found.append((slice(block.src_start, block.src_end), slice(block.dest_start, block.dest_end), True))
            begin = block.src_end, block.dest_end
    return [*found, (slice(begin[0], len(text)), slice(begin[1], len(heard)), False)]


def _choose(text: list[str], heard: list[str], reader: Callable[[str], Lattice | None]) -> tuple[list[str], list[str]]:
    """Readings of one stretch: one side's against the other as written, then the other's against those; in both orders.

    A word that stands in the same place on both sides is read as it is written.
    """
    ways = [[reader(word) or word for word in side] for side in (text, heard)]
    for shared_text, shared_heard in _shared(text, heard):
        ways[0][shared_text], ways[1][shared_heard] = text[shared_text], heard[shared_heard]
    is_open = [any(isinstance(way, Lattice) for way in side) for side in ways]
    if not any(is_open):
        return text, heard
    sizes = [sum(way.num_letters if isinstance(way, Lattice) else len(way) for way in side) for side in ways]
    if sizes[0] * sizes[1] > MAX_CELLS:
        return text, heard
    best, least = (text, heard), _distance(text, heard)
    for order in ((0, 1), (1, 0)) if all(is_open) else ((is_open.index(True),),):
        sides = [text, heard]
        for side in order:
            sides[side] = nearest(ways[side], "".join(sides[1 - side]))
        distance = _distance(*sides)
        if distance < least:
            best, least = (sides[0], sides[1]), distance
        if not least:
            break
    return best


def _shared(text: list[str], heard: list[str]) -> list[tuple[int, int]]:
    from rapidfuzz.distance import Levenshtein

    equal = [block for block in Levenshtein.opcodes(text, heard) if block.tag == "equal"]
    return [
        (block.src_start + place, block.dest_start + place)
        for block in equal
        for place in range(block.src_end - block.src_start)
    ]


def _distance(text: Sequence[str], heard: Sequence[str]) -> int:
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(letters_of("".join(text)), letters_of("".join(heard)))


def _hypothesis_words(hypothesis: str, language: Language) -> tuple[list[tuple[int, int]], list[str], list[int]]:
    """Where its words between spaces stand, their tokens, and for each token the word that it stands in.

    A sign that stands alone ("5 %") goes to the token before it; without one it says nothing.
    """
    spans = [found.span() for found in _SPACED.finditer(hypothesis)]
    tokens, owner = [], []
    for place, (start, end) in enumerate(spans):
        word = hypothesis[start:end]
        own = [word.lower()] if word.isascii() and word.isalnum() else language.tokens_of(word)
        tokens += own
        owner += [place] * len(own)
        if tokens and word in _ALONE and language.reader is not None:
            tokens[-1] += word
    return spans, tokens, owner


def _spelled(
    text: str, spans: list[tuple[int, int]], tokens: list[str], owner: list[int], said: list[str], language: Language
) -> str:
    """The text, with a word between spaces replaced by its reading where one of its numbers is read as words."""
    words: list[list[str]] = [[] for _ in spans]
    is_read = [False] * len(spans)
    for place, token, reading in zip(owner, tokens, said, strict=True):
        is_prefix = bool(words[place]) and words[place][-1] in language.prefixes
        is_number = any(map(str.isnumeric, token))
        is_read[place] |= is_number and reading != token
        if is_prefix and is_number and reading != token:
            words[place][-1] += reading  # said as one word
        else:
            words[place].append(reading)
    return " ".join(
        " ".join(word) if read else text[start:end] for word, read, (start, end) in zip(words, is_read, spans)
    )


def _rewrite(
    words: Sequence[str], text: Sequence[str], hypothesis: str, heard: Sequence[str], spans: list[tuple[int, int]],
    owner: list[int],
) -> str:  # fmt: skip
    """The text in the hypothesis's own writing, as far as stretches of whole words of both have the same letters."""
    from rapidfuzz.distance import Levenshtein

    spelled = [""] * len(spans)
    for place, reading in zip(owner, heard, strict=True):
        spelled[place] += letters_of(reading)
    ours, theirs = [letters_of(reading) for reading in text], spelled
    our_ends, their_ends = list(accumulate(map(len, ours))), list(accumulate(map(len, theirs)))
    our_letters, their_letters = "".join(ours), "".join(theirs)
    if our_letters == their_letters:
        return hypothesis.strip()
    shared, boundaries = [(0, 0)], {0, *their_ends}
    for block in Levenshtein.opcodes(our_letters, their_letters):
        if block.tag == "equal":
            first, last = bisect_left(our_ends, block.src_start), bisect_right(our_ends, block.src_end)
            moved = [(end, end - block.src_start + block.dest_start) for end in our_ends[first:last]]
            shared += [pair for pair in moved if pair[1] in boundaries]
    pieces, our_first, their_first = [], 0, 0
    for (begin, their_begin), (end, their_end) in pairwise([*shared, (len(our_letters), len(their_letters))]):
        our_last, their_last = bisect_right(our_ends, end), bisect_right(their_ends, their_end)
        if begin < end and our_letters[begin:end] == their_letters[their_begin:their_end]:
            pieces.append(hypothesis[spans[their_first][0] : spans[their_last - 1][1]])
        else:
            pieces += words[our_first:our_last]
        our_first, their_first = our_last, their_last
    return " ".join(pieces)
