"""`compare.json`, `systems.json` and `waterfall.json`: candidates on the same utterances, the second less the first."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.non_speech import NonSpeechKind
from shibolet.records.documents.scores import CharErrors, Ends, Overlap, WordErrors

Shown = Literal["better", "worse", "no difference shown"]
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"


class Named(Part):
    """Who is compared."""

    label: str  # its folder under evaluate/
    title: str  # what people read
    parent: str | None = None  # label of the candidate that it was trained from, where that is known


class Difference(Part):
    """Of an error rate, in points; negative: the candidate is better."""

    delta_points: float | None  # None: the references are empty
    delta_relative_pct: float | None
    interval_points: Ends | None  # at 95%; None: too few groups
    shown: Shown
    probability_of_improvement: float | None
    p: float | None  # of no difference, two-sided
    detectable_points: float | None  # true difference that would be shown in 80% of such sets


class Mapsswe(Part):
    """The matched-pairs sentence-segment word error test."""

    segments: int
    z: float  # negative: the candidate has fewer errors
    p: float  # two-sided, of the normal distribution


class WordDifference(Difference):
    """Of WER."""

    baseline: WordErrors
    candidate: WordErrors
    mapsswe: Mapsswe
    holm_p: float | None = None  # of a set: its p, adjusted for their number

    @property
    def sides(self) -> tuple[WordErrors, WordErrors]:
        return self.baseline, self.candidate


class CharDifference(Difference):
    """Of CER."""

    baseline: CharErrors
    candidate: CharErrors


class Block(Part):
    """Both on some utterances."""

    utterances: int
    groups: int  # of recordings and speakers
    counted: str  # the same in words
    duration_s: float
    wer: WordDifference
    cer: CharDifference


class OtherLanguage(Block):
    """Both on a set in another language than the recipe's, and what the set may lose."""

    language: str | None  # None: not known
    limit_points: float | None  # of WER, in `compare.limits`; None: any loss is allowed


class LossTally(Part):
    """Utterances in which one kind of loss is seen."""

    baseline: int
    candidate: int
    baseline_alone: int
    candidate_alone: int
    p_more: float  # probability of so many more in the candidate by chance


class Losses(Part):
    """Loops, utterances in which nothing was recognised, and what loops may cost that were not seen."""

    utterances: int
    with_words: int
    loops: LossTally
    failures: LossTally
    upper_pct: float  # of pieces in which the candidate alone may loop: upper 97.5% limit
    loop_cost: float  # of one, in mean words of a piece; 0: no allowance is made
    unseen_points: float
    sentences: tuple[str, ...]


class Without(Part):
    """The difference in WER of all other groups."""

    delta_points: float | None
    interval_points: Ends | None


class LargestGroup(Part):
    """The group that contributes most to the difference in WER, and the difference without it."""

    name: str
    points: float
    without: Without
    sentence: str


class Method(Part):
    """How the numbers were found, in words."""

    interval: str
    caveat: str | None
    bootstrap_samples: int
    seed: int
    p: str
    mapsswe: str
    holm: str
    detectable: str


class PairComparison(Part):
    """A candidate against a baseline; a breakdown of which nothing is known is empty."""

    baseline: Named
    candidate: Named
    sentence: str
    beside: tuple[str, ...]  # sentences to read beside it
    overall: Block  # all utterances: a set weighs as many words as it has
    sets: dict[str, Block]
    domains: dict[str, Block]
    buckets: dict[str, Block]
    lengths: dict[str, Block]
    noise: dict[str, Block]
    speakers: dict[str, Block]
    losses: Losses
    largest_group: LargestGroup | None
    method: Method

    def breakdown(self, name: str) -> Mapping[str, Block]:
        """Blocks of one of the breakdowns of `scoring.slices`, by slice."""
        return getattr(self, name)

    @property
    def titles(self) -> tuple[str, str]:
        return self.baseline.title, self.candidate.title


class DoubtfulSet(Part):
    """What the audit of a set doubts, and the two without it."""

    listed: int  # references in doubt
    judged: int  # utterances that the audit could say something of
    without: Block | None  # None: nothing is in doubt, or everything


class WithoutDoubtful(Part):
    """The difference without the references in doubt; the verdict is that of all utterances."""

    sets: dict[str, DoubtfulSet]  # those that were audited
    overall: Block | None
    sentences: tuple[str, ...]


class NearestReading(Part):
    """The difference with numbers as they are said and spelled words as their letters; it decides nothing."""

    overall: Block | None  # sets in the recipe's language; None: none of them
    sets: dict[str, Block]  # those in other languages too
    sentences: tuple[str, ...]


class SeedsSide(Part):
    """The trainings of one side that differ in their seed alone; or one system, as it is."""

    title: str
    wer_pct: tuple[float, ...]  # of each, the one that is compared first
    spread_points: float | None  # standard deviation between them; None: one


class BetweenSeeds(Part):
    """The difference of mean WER over seeds, in points; its interval has the variance over groups and between seeds."""

    baseline: SeedsSide
    candidate: SeedsSide
    delta_points: float
    interval_points: Ends | None  # at 95%; None: too few groups
    shown: Shown
    p: float | None
    groups_error_points: float | None  # standard error over groups alone
    seeds_error_points: float  # standard error of the means over seeds alone
    sentence: str


class NonSpeechPair(Part):
    """Both in clips of one kind."""

    baseline: NonSpeechKind
    candidate: NonSpeechKind


class NonSpeechChange(Part):
    """Words that the two write where nobody speaks, and what they repeat of their context."""

    clips: int  # without speech
    duration_s: float
    words_per_minute: tuple[float, float]
    more_per_minute: float  # words of the candidate less those of the baseline
    interval: Ends | None  # of that, at 95%, over clips; None: too few
    limit: float | None  # `compare.max_extra_words_per_minute`; None: refused where shown to write more
    kinds: dict[str, NonSpeechPair]  # those in which another language is spoken too
    is_speech: tuple[str, ...]  # these
    context: tuple[str, ...]  # what both were told in a second pass
    echoes: LossTally | None  # clips of all kinds in which words of the context are repeated; None: there was none
    sentence: str


class RateDifference(Difference):
    """Of an error rate over some of the words."""

    baseline: WordErrors
    candidate: WordErrors


class TermsChange(Part):
    """Words of a list and all others apart, as `scores.json` has them of each system (B-WER and U-WER)."""

    words: int  # of the list
    listed: RateDifference
    others: RateDifference
    false_words: tuple[int, int]  # words of the list that are written where the reference has another, or none
    sentence: str


class Target(Part):
    """What the round is meant to gain, where, and what it gained there; all in points of WER."""

    domain: str | None  # None: on all utterances
    points: float
    expected_points: Ends | None  # what the plan of the round expects
    gained_points: float | None  # None: no utterance, or no words
    interval_points: Ends | None  # of the gain, at 95%
    reached: bool
    sentence: str


class Refusal(Part):
    """A condition of `compare/limits.py` that does not hold, and why."""

    limit: str
    sentence: str


class Comparison(PairComparison, Document):
    """`compare.json`: the verdict on a candidate. It is kept where there is no refusal."""

    FORMAT: ClassVar[int] = 11
    REMEDY: ClassVar[str] = "'shibolet compare RECIPE -o RUN' makes it anew from the scores"

    verdict: Literal["keep", "reject"]
    refusals: tuple[Refusal, ...]
    rule: str  # the recipe's, in words
    target: Target
    lead_with: Literal["sets", "domains"]  # the breakdown to read first
    next_steps: tuple[str, ...]
    forgetting: dict[str, OtherLanguage]  # sets in other languages, which are no part of the rest
    overlaps: dict[str, Overlap]  # what sets share with the candidate's training data, where that is known
    doubtful: WithoutDoubtful | None  # None: no set was audited
    nearest: NearestReading | None  # None: it changes no count
    seeds: BetweenSeeds | None  # None: no other seeds are known
    non_speech: NonSpeechChange | None  # None: the two were not asked
    terms: TermsChange | None  # None: evaluate.context names no list

    @property
    def is_kept(self) -> bool:
        return self.verdict == "keep"

    @property
    def notes(self) -> list[str]:
        """On sets that share names with the training data."""
        return [overlap.note for overlap in self.overlaps.values() if overlap.note]


class SystemPair(PairComparison):
    """Two of several systems."""

    holm_p: float | None  # p on all utterances, adjusted for the number of pairs


class SystemRates(Part):
    """One system on all sets together."""

    title: str
    wer: WordErrors
    cer: CharErrors


class SystemsComparison(Document):
    """`systems.json`: any systems that were scored in a run folder, each with each."""

    FORMAT: ClassVar[int] = 2
    REMEDY: ClassVar[str] = "'shibolet compare RECIPE --system A --system B' makes it anew from the scores"

    systems: dict[str, SystemRates]  # by label
    overlaps: dict[str, dict[str, Overlap]]  # by label and set, where training data are known
    pairs: tuple[SystemPair, ...]


class Waterfall(Document):
    """`waterfall.json`: systems in an order in which each has one part more, and what every step changes."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet compare RECIPE --chain A --chain B' makes it anew from the scores"

    systems: dict[str, SystemRates]  # by label, in the order of the chain
    overlaps: dict[str, dict[str, Overlap]]  # by label and set, where training data are known
    steps: tuple[SystemPair, ...]  # each system against the one before it; their differences add up to the whole
    whole: SystemPair  # the last against the first
    sentences: tuple[str, ...]
