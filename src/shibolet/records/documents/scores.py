"""`scores.json`: what a candidate came to on one set; and the counts that comparisons are made of too."""

from typing import Any, ClassVar

from shibolet.records.documents.base import Document, Part

Ends = tuple[float, float]  # of an interval


class Errors(Part):
    """Edits added up, then one rate."""

    errors: int
    rate: float | None  # errors over the reference's length; None: the reference is empty
    substitutions: int
    deletions: int
    insertions: int


class WordErrors(Errors):
    words: int  # of the reference


class CharErrors(Errors):
    chars: int  # of the reference


class WordRate(WordErrors):
    """WER as an estimate."""

    interval: Ends | None  # of the rate, at 95%; None: too few groups
    groups: int  # of recordings and speakers


class CharRate(CharErrors):
    """CER as an estimate."""

    interval: Ends | None
    groups: int


class Slice(Part):
    """Scores of some utterances of a set."""

    utterances: int
    duration_s: float
    wer: WordErrors
    cer: CharErrors


class Summary(Part):
    """Scores of all utterances, and by slice (`scoring.slices`); a breakdown of which nothing is known is empty."""

    num_utterances: int
    num_empty_hypotheses: int
    duration_s: float
    wer: WordErrors
    cer: CharErrors
    by_domain: dict[str, Slice]
    by_bucket: dict[str, Slice]
    by_length: dict[str, Slice]
    by_noise: dict[str, Slice]
    by_speaker: dict[str, Slice]
    by_set: dict[str, Slice]


class Folds(Part):
    """Errors and reference words of each fold of dev, of which `scoring.selection` tells how good a choice is."""

    errors: tuple[int, ...]
    words: tuple[int, ...]


class Optimism(Part):
    """By how much the best of several looks is too good on the set that it was chosen on."""

    candidates: int
    points: float
    sentence: str  # what follows the name of the one that was chosen


class DevScores(Summary):
    """A model in training on the dev set."""

    folds: Folds


class AsTarget(Part):
    """Rates by the rules of training targets, where punctuation and quotation marks count."""

    normaliser: str
    wer: WordErrors
    cer: CharErrors


class NumberAware(Part):
    """WER with numbers compared as they are said."""

    wer: WordErrors
    by_domain: dict[str, WordErrors]


class MarkCounts(Part):
    """One punctuation mark."""

    mark: str
    reference: int  # times in the references
    hypothesis: int
    correct: int
    substitutions: int  # of this mark of the reference by another
    deletions: int
    insertions: int
    precision: float | None
    recall: float | None
    f1: float


class Punctuation(Part):
    """Marks where they belong: PER of LibriSpeech-PC, and word error rates in which they count."""

    rate: float | None  # errors / (errors + correct)
    interval: Ends | None  # of the rate, over groups, at 95%; None: too few of them
    errors: int
    correct: int
    substitutions: int
    deletions: int
    insertions: int
    by_mark: tuple[MarkCounts, ...]
    punctuated_wer: WordErrors  # words as they are scored with the marks after them: "yes," is not "yes"
    verbatim_wer: WordErrors  # words between spaces as they came: case, quotation marks and dashes count


class NumberWriting(Part):
    """Numbers that one side has in digits and the other in words, where both say the same."""

    reference_digits: int  # numbers in digits in the references
    heard_in_words: int  # of these, that the hypothesis has in words
    hypothesis_digits: int
    said_in_words: int  # of these, that the reference has in words


class Biasing(Part):
    """WER apart for words of the list that `evaluate.context` names and for all others, whoever was told the list."""

    words: int  # of the list, as scores count them
    listed: WordRate  # B-WER
    others: WordRate  # U-WER
    false_words: int  # words of the list that hypotheses have where the reference has another word, or none


class InsertionTail(Part):
    """How much of the insertions is in the worst 1% of the utterances."""

    insertions: int
    worst_utterances: int
    share_of_worst: float | None  # None: there are no insertions
    most_in_one: int
    runaway_utterances: int  # at least 5 words and half as many as the reference has
    runaway_ids: tuple[str, ...]  # the first ones


class Loops(Part):
    """Hypotheses that say the same stretch four times or more where the reference does not."""

    utterances: int
    rate: float | None
    ids: tuple[str, ...]  # the first ones
    written_again: int  # other hypotheses: the model looped at first, and `evaluate.loop_bias` wrote another text


class FrequentError(Part):
    """One kind of error and how often it occurs."""

    said: str | None
    heard: str | None
    times: int


class FrequentErrors(Part):
    """The most frequent ones of each kind."""

    substitutions: tuple[FrequentError, ...]
    deletions: tuple[FrequentError, ...]
    insertions: tuple[FrequentError, ...]


class Measured(Summary):
    """All that is known of the scored rows of one set: an entry of `scoring.metrics` for each field from `wer` on."""

    language: str
    normaliser: str  # of the texts that were compared
    counted: str  # what intervals count as independent
    caveat: str | None  # why an interval may be too narrow
    wer: WordRate
    cer: CharRate
    as_target: AsTarget
    number_aware: NumberAware | None  # None: the language knows no readings of numbers
    punctuation: Punctuation | None  # None: no reference has a mark
    number_writing: NumberWriting | None  # None: the language knows no readings of numbers
    biasing: Biasing | None  # None: there is no list
    insertion_tail: InsertionTail
    loops: Loops
    frequent_errors: FrequentErrors


class Failure(Part):
    """An utterance that could not be heard, or a row that could not be read."""

    id: str
    reason: str  # short and stable, as in the ledger
    detail: str


class Overlap(Part):
    """What a set shares with the training data of a model."""

    utterances: int  # that were trained on
    of: int
    ids: tuple[str, ...]  # the first ones
    recordings: tuple[int, int]  # shared, known
    speakers: tuple[int, int]
    sentence: str | None  # on the utterances, where there are any
    note: str | None  # on the names, where the sentence does not say it already

    @property
    def sentences(self) -> list[str]:
        return [said for said in (self.sentence, self.note) if said]


class Scores(Measured, Document):
    """`scores.json`."""

    FORMAT: ClassVar[int] = 7
    REMEDY: ClassVar[str] = "'shibolet evaluate RECIPE' makes it"

    label: str  # its folder under evaluate/
    title: str
    identity: str  # of the model, by content, or of the files of hypotheses
    set: str
    failures: tuple[Failure, ...]  # their words count as deleted
    unreadable_rows: tuple[Failure, ...]  # of which nothing can be counted
    overlap: Overlap | None  # None: the training data are not known
    inputs: dict[str, Any]  # what all of it was made from
