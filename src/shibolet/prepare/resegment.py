"""Where an utterance may be cut and trimmed, from an aligner's raw times and the energy of its audio.

Energy says where silence is, the aligner which words lie before and after it: a cut needs both to agree. Where they do
not there is no cut, and what cannot be a piece is left out. The recogniser says whether the words are those that were
said: what it did not hear, or heard much more of, trains nothing. W words are the aligner's tokens; a token of the
text, as white space cuts it, holds none, one or several of them ("10-12").
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from shibolet.listen.word_times import WordTimes, repair_times
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.heard import LaidHypothesis, lay_along
from shibolet.scoring.counts import count_chars
from shibolet.speech.activity import HANGOVER_S, speech_spans
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.text.language import Words
from shibolet.speech.text.rules import letters_of, split_words

Spans = Sequence[tuple[float, float]]  # start and end in seconds, in order

NEAR_S = 0.3  # a word may end or start this far from the pause that energy finds
OWN_SIDE_S = 0.08  # of a word has to lie on its own side of a cut: one class
MIN_GAP_FRAC = 0.4  # of a pause that the aligner leaves between the two words
CLEAR_PAUSE_S = 0.3  # an aligner that follows the audio puts no word over a pause of this length, and
MIN_AGREEMENT = 0.4  # one that agrees with a smaller share of them has drifted
MIN_UNHEARD_WORDS = 3  # one or two words between pauses may be misheard
# Letters that may be heard beyond a piece's text: for each letter of it, and more. Five are a third of a second: as
# exactly as is known when each was heard.
EXTRA_OF_PIECE = (0.3, 5)
MAX_TEXT_CER = 0.35  # of a text and what was heard where it is found; nearly as low elsewhere, it is found nowhere
MIN_CER_APART = 0.1
FOREIGN_LETTERS = 0.5  # of what the speech to be cut off would hold must have been heard beyond the text
MIN_TRIM_S = 0.25  # less at an edge is not worth a change
LOST_COST = 1000.0  # of a second left out; a cut costs 1 / its pause in seconds, so 4 at most


@dataclass(frozen=True, slots=True)
class Segment:
    """Words `first` to `end` (exclusive) of W and the audio they own; `rule` and `detail` say why it is left out."""

    first: int
    end: int
    start_s: float
    end_s: float
    rule: str | None = None  # None: a piece
    detail: str = ""

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Cut:
    """A pause between two words."""

    word: int  # the first word after it
    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


def resegment(
    samples: np.ndarray,
    text: str,
    said: Words,
    starts_s: Sequence[float],
    ends_s: Sequence[float],
    hypothesis: str | None,
    config: PrepareConfig,
    *,
    is_flagged: bool = False,
) -> list[Segment]:
    """Segments that hold every word of an utterance once, in order; one where it need not be cut.

    Samples are float32 [S] at 16 kHz, text is the target, times are raw and from the start of the samples. What lies
    outside of all segments is silence, or speech at an edge that the recogniser heard and the text does not have. Of
    a short utterance that the audit flagged only that is kept in which the whole text was heard. Without a hypothesis
    the text is believed.
    """
    duration_s, owner = len(samples) / SAMPLE_RATE_HZ, owners(text.split())
    times, speech = repair_times(starts_s, ends_s, duration_s), speech_spans(samples)
    spoken_s = (speech[0][0], speech[-1][1]) if speech else (0.0, duration_s)
    heard = None if hypothesis is None else lay_along(said.tokens, said.verifiable, times, hypothesis, spoken_s)
    surplus = len(heard.letter_times_s) / max(1, heard.num_letters.sum()) - 1 if heard else 0.0
    edges = trim_edges(times, speech, duration_s, surplus, config.edge_margin_s)
    whole = Segment(0, len(owner), *edges)
    if duration_s <= config.max_duration_s and is_flagged:
        text_s = find_text(said.tokens, hypothesis, speech, duration_s, config.edge_margin_s)
        return [replace(whole, rule="text_missing") if text_s is None else Segment(0, len(owner), *text_s)]
    if whole.length_s <= config.max_duration_s and not is_flagged:
        return [whole]
    cuts = find_cuts(times, owner, speech, config.min_pause_s)
    clear = [pause for pause in _pauses(speech) if pause[1] - pause[0] >= CLEAR_PAUSE_S]
    num_agreed = sum(cut.length_s >= CLEAR_PAUSE_S for cut in cuts)
    if num_agreed < MIN_AGREEMENT * len(clear):
        detail = f"the aligner's words leave room for {num_agreed} of {len(clear)} pauses: its times have drifted"
        return [replace(whole, rule="times_disagree", detail=detail)]
    uncut = [_judge_text(one, heard, config) for one in between_cuts(cuts, len(owner), edges, config.edge_margin_s)]
    on_speech = np.zeros(len(owner), bool)
    for start_s, end_s in speech:
        on_speech |= (times.middles_s >= start_s) & (times.middles_s <= end_s)
    placed = times.sound & on_speech
    return [
        segment if segment.rule else _judge(segment, placed[segment.first : segment.end], config)
        for segment in choose_pieces(uncut, cuts, config)
    ]


def owners(tokens: Sequence[str]) -> list[int]:
    """For each of W words the token of the text that it stands in."""
    return [index for index, token in enumerate(tokens) for _ in split_words(token)]


def text_of(tokens: Sequence[str], owner: Sequence[int], segment: Segment) -> str:
    """A segment's tokens; one without a word belongs to the word before it, at the start of the text to the first."""
    begin = owner[segment.first] if segment.first else 0
    return " ".join(tokens[begin : owner[segment.end] if segment.end < len(owner) else None])


def trim_edges(
    times: WordTimes, speech: Spans, duration_s: float, surplus: float, margin_s: float
) -> tuple[float, float]:
    """Start and end of what is kept around the words; 0 and the duration where aligner and energy do not agree.

    Speech that no word covers goes only where the recogniser heard more letters than the text has, by `surplus` for
    each of the text: else it is more likely a word that the aligner missed.
    """

    sound = times.sound
    mirrored = [(duration_s - end_s, duration_s - start_s) for start_s, end_s in reversed(speech)]
    words_s = float(times.starts_s[0]), duration_s - float(times.ends_s[-1])  # from either end

    def edges(drop_speech: bool) -> tuple[float, float]:
        head_s = _uncovered_s(words_s[0], speech, margin_s, drop_speech) if sound[0] else 0.0
        tail_s = _uncovered_s(words_s[1], mirrored, margin_s, drop_speech) if sound[-1] else 0.0
        return head_s, duration_s - tail_s

    start_s, end_s = edges(drop_speech=True)
    own_s = sum(max(0.0, min(b, end_s) - max(a, start_s)) for a, b in speech)
    foreign_s = sum(b - a for a, b in speech) - own_s
    if foreign_s > 0 and surplus * own_s <= FOREIGN_LETTERS * foreign_s:
        return edges(drop_speech=False)
    return start_s, end_s


def _uncovered_s(word_s: float, speech: Spans, margin_s: float, drop_speech: bool) -> float:
    """How much can go before a first word at `word_s`; never a part of a span of speech, and 0 if it is little."""
    own = next((i for i, (_, end_s) in enumerate(speech) if end_s - HANGOVER_S > word_s - NEAR_S), None)
    if own is None:
        return 0.0
    own = own if drop_speech else 0
    earliest_s = sum((speech[own - 1][1], speech[own][0])) / 2 if own else 0.0
    cut_s = max(earliest_s, min(word_s, speech[own][0] + HANGOVER_S) - margin_s)
    return cut_s if cut_s >= MIN_TRIM_S else 0.0


def find_text(
    words: Sequence[str], hypothesis: str, speech: Spans, duration_s: float, margin_s: float
) -> tuple[float, float] | None:
    """Start and end of the spans of speech in which a text was heard, when there are others before or after it.

    A forced aligner draws the text's first or last words into such speech, so its times say nothing here. Letters are
    taken to be spread evenly over speech.
    """
    text, letters = "".join(map(letters_of, words)), letters_of(hypothesis)
    passed_s = np.concatenate(([0.0], np.cumsum([end_s - start_s for start_s, end_s in speech])))
    at = np.round(len(letters) * passed_s / max(passed_s[-1], 1e-9)).astype(int)
    ranked = sorted(
        (count_chars(text, letters[at[i] : at[j]]).errors / max(1, len(text)), i, j)
        for i in range(len(speech))
        for j in range(i + 1, len(speech) + 1)
    )
    if len(ranked) < 2 or ranked[0][0] > MAX_TEXT_CER or ranked[1][0] - ranked[0][0] < MIN_CER_APART:
        return None
    _, i, j = ranked[0]
    if (i, j) == (0, len(speech)):
        return None
    start_s = max((speech[i - 1][1] + speech[i][0]) / 2, speech[i][0] - margin_s) if i else 0.0
    is_last = j == len(speech)
    end_s = duration_s if is_last else min((speech[j - 1][1] + speech[j][0]) / 2, speech[j - 1][1] + margin_s)
    return start_s, end_s


def find_cuts(times: WordTimes, owner: Sequence[int], speech: Spans, min_pause_s: float) -> list[Cut]:
    """Every pause that by the aligner's times too lies between two words, of different tokens."""
    cuts: dict[int, Cut] = {}
    for start_s, end_s in _pauses(speech):
        k = int(np.searchsorted(times.middles_s, (start_s + end_s) / 2))
        if end_s - start_s < min_pause_s or not 0 < k < len(owner) or owner[k - 1] == owner[k]:
            continue
        agree = (
            times.end_kept[k - 1]
            and times.start_kept[k]
            and start_s - NEAR_S <= times.ends_s[k - 1]
            and times.starts_s[k] <= end_s + NEAR_S
            and times.starts_s[k - 1] <= start_s - OWN_SIDE_S
            and times.ends_s[k] >= end_s + OWN_SIDE_S
            and times.starts_s[k] - times.ends_s[k - 1] >= MIN_GAP_FRAC * (end_s - start_s)
        )
        if agree and (k not in cuts or end_s - start_s > cuts[k].length_s):
            cuts[k] = Cut(k, start_s, end_s)
    return [cuts[k] for k in sorted(cuts)]


def between_cuts(cuts: Sequence[Cut], num_words: int, edges: tuple[float, float], margin_s: float) -> list[Segment]:
    """The shortest segments that there could be; each keeps `margin_s` of the pauses beside it, at most half of one."""
    middles_s = [(cut.start_s + cut.end_s) / 2 for cut in cuts]
    starts = [edges[0], *(max(middle_s, cut.end_s - margin_s) for middle_s, cut in zip(middles_s, cuts))]
    ends = [*(min(middle_s, cut.start_s + margin_s) for middle_s, cut in zip(middles_s, cuts)), edges[1]]
    words = [0, *(cut.word for cut in cuts), num_words]
    return [Segment(*own) for own in zip(words[:-1], words[1:], starts, ends, strict=True)]


def choose_pieces(uncut: Sequence[Segment], cuts: Sequence[Cut], config: PrepareConfig) -> list[Segment]:
    """Segments put together: the least time left out, then few cuts at long pauses (a shortest path).

    One that is left out already stays by itself, so that it takes nothing else with it.
    """
    price = [*(1 / cut.length_s for cut in cuts), 0.0]
    best = [(0.0, 0)]  # at each node, 0 to len(cuts) + 1, the cost to get there and the node before it
    for j in range(1, len(uncut) + 1):
        options = []
        for i in range(j - 1, -1, -1):
            length_s = uncut[j - 1].end_s - uncut[i].start_s
            is_out = uncut[i].rule is not None
            if not is_out and config.min_duration_s <= length_s <= config.max_duration_s:
                options.append((best[i][0] + price[j - 1], i))
            elif i == j - 1:
                options.append((best[i][0] + LOST_COST * max(length_s, config.min_duration_s), i))
            if is_out or length_s > config.max_duration_s:
                break
        best.append(min(options))
    segments, j = [], len(uncut)
    while j > 0:
        i = best[j][1]
        segments.append(replace(uncut[i], end=uncut[j - 1].end, end_s=uncut[j - 1].end_s))
        j = i
    return segments[::-1]


def _judge_text(segment: Segment, heard: LaidHypothesis | None, config: PrepareConfig) -> Segment:
    """The segment, with a reason where the recogniser did not hear its words, or much more than them."""
    if heard is None:
        return segment
    own = slice(segment.first, segment.end)
    num_words, num_heard = segment.end - segment.first, int(heard.is_heard[own].sum())
    num_written = int(heard.num_letters[own].sum())
    num_letters = heard.num_between(segment.start_s, segment.end_s)
    if num_words - num_heard >= MIN_UNHEARD_WORDS and num_heard < config.min_heard * num_words:
        return replace(segment, rule="not_heard", detail=f"{num_heard} of {num_words} words were heard")
    if num_letters > (1 + EXTRA_OF_PIECE[0]) * num_written + EXTRA_OF_PIECE[1]:
        detail = f"{num_letters} letters were heard, its text has {num_written}"
        return replace(segment, rule="text_missing", detail=detail)
    return segment


def _judge(segment: Segment, placed: np.ndarray, config: PrepareConfig) -> Segment:
    """The segment as a piece, or with the reason why it is none."""
    rule = detail = ""
    if segment.length_s > config.max_duration_s:
        rule, detail = "no_pause", f"no pause between words in {segment.length_s:.1f} s"
    elif segment.length_s < config.min_duration_s:
        rule, detail = "too_short", f"{segment.length_s:.2f} s between two pauses"
    elif placed.mean() < config.min_evidence:
        rule, detail = "no_evidence", f"{placed.sum()} of {len(placed)} words lie on speech and in order"
    return Segment(segment.first, segment.end, segment.start_s, segment.end_s, rule or None, detail)


def _pauses(speech: Spans) -> list[tuple[float, float]]:
    """What lies between spans of speech, without the hangover that the spans carry."""
    return [(before[1] - HANGOVER_S, after[0] + HANGOVER_S) for before, after in pairwise(speech)]
