"""Names and rare terms that training tells the model before an utterance: right ones, distractors, or none.

Drawn from (seed, epoch, utterance id) and nothing else, as the augmentation is. A model that is only ever told right
words learns to copy them, and one that is never told any forgets how to use them; hence the three cases. A list of
right words always has distractors in it, where the recipe draws some, so that a list alone tells nothing of the audio.
Rare words as terms and lists with distractors follow Le et al. 2021 ("Contextualized streaming end-to-end speech
recognition with trie-based deep biasing and shallow fusion", Interspeech), who bias decoding with them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from shibolet.errors import RecipeError
from shibolet.model.outline import Outline
from shibolet.model.protocols import Frame, Prompt
from shibolet.records.files import hash_json
from shibolet.speech.text import get_language
from shibolet.speech.text.terms import as_context, read_terms
from shibolet.train.config import ContextConfig
from shibolet.train.data import TrainExample
from shibolet.train.draws import Stream, generator

_EDGES = ".,;:!?()[]{}\"'“”„«»…-–—׳״"

FrameOf = Callable[[str, str], Frame]  # context and style to the tokens around an utterance
Count = Callable[[str], int]  # tokens of a context


@dataclass(frozen=True, slots=True)
class Contexts:
    """The terms of a training, and what is drawn of them; shared by all utterances."""

    config: ContextConfig
    seed: int
    pool: tuple[str, ...]  # terms as they are written, sorted
    frame_of: FrameOf
    count: Count
    digest: str = field(default="", compare=False)

    def draw(self, id: str, right: Sequence[str], epoch: int) -> tuple[str, ...]:
        """What an epoch tells of an utterance in which the terms `right` are said; empty: nothing."""
        rng = generator(self.seed, epoch, id, Stream.CONTEXT)
        case, config = rng.random(), self.config
        if case >= config.right_share + config.distractor_share:
            return ()
        told: list[str] = []
        if case < config.right_share:
            if not right:  # told distractors alone, it would be in the other case's share
                return ()
            num = int(rng.integers(1, min(len(right), config.max_right) + 1))
            told = [right[i] for i in rng.choice(len(right), size=num, replace=False)]
        num = int(rng.integers(config.num_distractors[0], config.num_distractors[1] + 1))
        num = num if told else max(1, num)
        drawn = rng.choice(len(self.pool), size=min(len(self.pool), num + len(right)), replace=False)
        told += [term for term in (self.pool[i] for i in drawn) if term not in right][:num]
        return self._cut([told[i] for i in rng.permutation(len(told))])

    def _cut(self, told: list[str]) -> tuple[str, ...]:
        """As many of the terms, from the first, as the recipe has tokens for."""
        while told and self.count(as_context(told)) > self.config.max_tokens:
            told = told[:-1]
        return tuple(told)

    def longest(self) -> str:
        """A context that no drawn one is longer than, in tokens: the pool's longest terms up to the recipe's limit."""
        told: list[str] = []
        most = self.config.max_right + self.config.num_distractors[1]
        for term in sorted(self.pool, key=lambda term: (-self.count(as_context(["", term])), term))[:most]:
            told.append(term)
            if self.count(as_context(told)) >= self.config.max_tokens:
                break
        return as_context(told)


@dataclass(frozen=True, slots=True)
class ContextForms:
    """The ways in which an epoch may have one utterance."""

    contexts: Contexts
    right: tuple[str, ...]  # terms that are said in it
    plain: TrainExample  # without a context

    @property
    def identity(self) -> list:
        """What of it decides a weight, as plain data."""
        return [list(self.right), self.contexts.digest]

    def in_epoch(self, example: TrainExample, epoch: int) -> TrainExample:
        """The utterance as the epoch has it."""
        told = self.contexts.draw(example.id, self.right, epoch)
        return self.told(as_context(told)) if told else self.plain

    def told(self, context: str) -> TrainExample:
        """The utterance with a context."""
        frame, plain = self.contexts.frame_of(context, self.plain.style), self.plain
        num_audio_tokens = plain.family.num_audio_tokens(plain.num_frames)
        return replace(plain, frame=frame, num_tokens=frame.num_tokens(num_audio_tokens, len(plain.text_ids)))


def with_contexts(
    examples: Sequence[TrainExample], config: ContextConfig | None, *, family: Outline, tokenizer: Any, language: str,
    seed: int, max_tokens: int,
) -> list[TrainExample]:  # fmt: skip
    """The utterances with what epochs may tell of them; as they are where the recipe tells nothing.

    Each stands there in its longest form, so that plans of memory hold for every epoch. One that the model has no
    positions for with a context is never given one, and neither is one that has other forms. RecipeError where the
    texts have no term, where no utterance can be told one, and where the model does not take a list of such a length.
    """
    if config is None:
        return list(examples)
    said, pool = _terms(examples, config, language)
    if not pool:
        raise RecipeError(
            f"train.context: no word of the training texts stands in {config.max_utterances} utterances or fewer "
            "and is rare by that; raise train.context.max_utterances, or name a file of terms"
            if config.file is None
            else f"train.context: no term of {config.file} is said in a training text; leave the file out, and rare "
            "words of the texts are taken"
        )
    encode = family.targets(tokenizer, Prompt(language)).encode
    short = {term for term, ids in zip(pool, encode(list(pool)), strict=True) if len(ids) <= config.max_tokens}
    pool = tuple(term for term in pool if term in short)  # the others would never be told
    said = [tuple(term for term in own if term in short) for own in said]
    contexts = Contexts(
        config, seed, pool, digest=hash_json(pool), count=lru_cache(4096)(lambda told: len(encode([told])[0])),
        frame_of=lru_cache(4096)(lambda told, style: family.targets(tokenizer, Prompt(language, told, style)).frame),
    )  # fmt: skip
    longest = contexts.longest()
    found = [_with_forms(one, contexts, right, longest, max_tokens) for one, right in zip(examples, said, strict=True)]
    if not num_told(found):
        raise RecipeError(
            f"train.context: none of the {len(examples):,} utterances can be told terms: "
            f"{sum(one.forms is not None for one in examples):,} have a previous text or timestamps instead, and the "
            "others have no term or no room for a list of train.context.max_tokens; leave context out, or set "
            "train.previous_text_frac and train.timestamps_frac to 0, or give max_tokens that terms and model allow"
        )
    return found


def num_told(examples: Sequence[TrainExample]) -> int:
    """How many utterances some epoch may tell terms."""
    return sum(isinstance(example.forms, ContextForms) for example in examples)


def _with_forms(
    example: TrainExample, contexts: Contexts, right: tuple[str, ...], longest: str, max_tokens: int
) -> TrainExample:
    """The utterance with its forms, in the longest; as it is where it can be told nothing."""
    if example.forms is not None or not longest or not (right or contexts.config.distractor_share):
        return example
    forms = ContextForms(contexts, right, example)
    try:
        told = forms.told(longest)
    except RecipeError as error:  # the model's own limit of a context
        limit = contexts.config.max_tokens
        raise RecipeError(
            f"train.context.max_tokens is {limit}, and lists are planned up to a term longer: {error}, by lowering it"
        ) from error
    return replace(told, forms=forms) if told.num_tokens <= max_tokens else example


def _terms(
    examples: Sequence[TrainExample], config: ContextConfig, language: str
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Terms that are said in each utterance, and all of them that can be told, sorted."""
    normalise = get_language(language).to_scoring
    if config.file is not None:
        terms = {tuple(normalise(term).split()): term for term in read_terms(config.file)}
        lengths = sorted({len(words) for words in terms} - {0})
        said = []
        for example in examples:
            words = normalise(example.text).split()
            runs = (tuple(words[i : i + n]) for n in lengths for i in range(len(words) - n + 1))
            said.append(tuple(dict.fromkeys(terms[run] for run in runs if run in terms)))
        is_said = any(said)
        return said, tuple(sorted(terms.values())) if is_said else ()
    written: dict[str, str] = {}
    words_of = []
    for example in examples:
        own: dict[str, None] = {}
        for word in example.text.split():
            if (key := normalise(word)) and key.isalpha():
                written.setdefault(key, word.strip(_EDGES))
                own[key] = None
        words_of.append(list(own))
    times = Counter(key for own in words_of for key in own)
    rare = {key for key, num in times.items() if num <= config.max_utterances and len(key) >= config.min_letters}
    said = [tuple(written[key] for key in own if key in rare) for own in words_of]
    return said, tuple(sorted({written[key] for key in rare}))
