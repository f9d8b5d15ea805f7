"""Whether a model hears: what it makes of right and of wrong texts; and where it does not, what would mend it.

A fault is named by an experiment, not by a rule: the model with another rope_theta, with two tokens exchanged, or with
a layer brought to the size of its neighbours finds the right texts clearly likelier.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Prompt
from shibolet.rounds.verify.subject import Clip, Outcome, Told, mean_loss, outcome, tell
from shibolet.rounds.verify.weights import OddLayer, rescaled

HEARD_FRAC = 0.9  # of the clips find their own text likelier than another's
LEAST_GAP = 0.3  # nats a token between own and other texts
MENDED_NATS, MENDED_FRAC = 0.02, 0.1  # a change mends where the loss falls by both ...
MENDED_CLIPS = 0.75  # ... and in that share of the clips that it changes
CONFUSED_FRAC, FEWEST_TOKENS, MOST_PAIRS = 0.75, 3, 8  # a token that another one is written for


@dataclass(frozen=True, slots=True)
class Heard:
    """A model, clips, and the tokens of their texts."""

    loaded: LoadedModel
    language: str
    clips: Sequence[np.ndarray]
    ids: list[list[int]]

    def tell(self, ids: Sequence[Sequence[int]] | None = None) -> list[Told]:
        return tell(self.loaded, self.language, self.clips, self.ids if ids is None else ids)


def check_behaviour(
    loaded: LoadedModel, language: str, clips: Sequence[Clip], odd: Sequence[OddLayer]
) -> tuple[Outcome, float]:
    """Right texts against those of other clips, and every change that might mend the model; the right ones' loss."""
    ids = loaded.family.targets(loaded.tokenizer, Prompt(language)).encode([clip.text for clip in clips])
    heard = Heard(loaded, language, [clip.samples for clip in clips], ids)
    own, other = heard.tell(), heard.tell(others(ids))
    right, wrong = mean_loss(own), mean_loss(other)
    num_heard = sum(a.mean < b.mean for a, b in zip(own, other, strict=True))
    chance = math.log(loaded.family.head(loaded.model).out_features)
    numbers = {"loss": right, "loss_of_other_texts": wrong, "clips_heard": num_heard, "clips": len(clips),
               "loss_of_chance": chance}  # fmt: skip
    faults = list(_mended(heard, own, odd))
    is_deaf = num_heard < HEARD_FRAC * len(clips) or wrong - right < LEAST_GAP
    if right > chance + 1:
        faults.append(
            f"the texts have a loss of {right:.1f} a token, and tokens drawn at random {chance:.1f}: the model was "
            "trained with other tokens than this tokenizer gives; take the tokenizer that belongs to these weights"
        )
    elif is_deaf:
        faults.append(
            f"the model finds {num_heard} of {len(clips)} texts likelier than another clip's, by {wrong - right:.2f} "
            f"nats a token (at least {LEAST_GAP:g} are expected): it does not hear these recordings; are weights, "
            "configuration and tokenizer of one model, and is --language right?"
        )
    good = f"{num_heard} of {len(clips)} texts are likelier than another clip's; loss {right:.2f} against {wrong:.2f}"
    return outcome(faults, [], good, numbers), right


def others(ids: Sequence[list[int]]) -> list[list[int]]:
    """For each text another one, of the most similar length."""
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), ids[i]))
    given: list[list[int]] = [[] for _ in ids]
    for place, i in enumerate(order):
        later = (order[(place + step) % len(order)] for step in range(1, len(order)))
        given[i] = next((ids[j] for j in later if ids[j] != ids[i]), ids[i])
    return given


def _mended(heard: Heard, own: Sequence[Told], odd: Sequence[OddLayer]) -> Iterator[str]:
    """Sentences of changes that mend the model; of several settings the best."""
    before, model = mean_loss(own), heard.loaded.model
    settings = [(what, _under(heard, context)) for what, context in heard.loaded.family.variants(model)]
    better = [(mean_loss(told), what) for what, told in settings if _is_better(own, told)]
    if better:
        after, what = min(better)
        yield (
            f"with {what} the loss of the texts falls from {before:.2f} to {after:.2f} a token: config.json has "
            "another value than the model was trained with; put it right there"
        )
    for layer in odd:
        told = _under(heard, rescaled(model, layer))
        if _is_better(own, told):
            yield (
                f"{layer}; brought to their size, the loss of the texts falls from {before:.2f} to "
                f"{mean_loss(told):.2f} a token: the weights were changed or badly merged; take them anew"
            )
    for first, second, told in _exchanged(heard, own):
        text = [heard.loaded.tokenizer.decode([token]) for token in (first, second)]
        yield (
            f"the tokenizer has '{text[0]}' ({first}) and '{text[1]}' ({second}) exchanged: with their ids changed "
            f"round the loss of the texts falls from {before:.2f} to {mean_loss(told):.2f} a token; take the tokenizer "
            "that belongs to these weights"
        )


def _under(heard: Heard, context: AbstractContextManager[None]) -> list[Told]:
    with context:
        return heard.tell()


def _is_better(before: Sequence[Told], after: Sequence[Told]) -> bool:
    """Whether texts have become clearly likelier, in most of the clips that changed."""
    gain = mean_loss(before) - mean_loss(after)
    changes = [a.mean - b.mean for a, b in zip(before, after, strict=True)]
    changed = [change for change in changes if abs(change) > 1e-4]
    is_clear = gain > MENDED_NATS and gain > MENDED_FRAC * mean_loss(before)
    return is_clear and sum(change > 0 for change in changed) >= MENDED_CLIPS * len(changed)


def _exchanged(heard: Heard, own: Sequence[Told]) -> Iterator[tuple[int, int, list[Told]]]:
    """Pairs of tokens of which one is written wherever the text has the other, and texts that are likelier for it."""
    for first, second in _confused(heard.ids, own):
        swap = {first: second, second: first}
        told = heard.tell([[swap.get(token, token) for token in text] for text in heard.ids])
        if _is_better(own, told):
            yield first, second, told


def _confused(ids: Sequence[list[int]], own: Sequence[Told]) -> list[tuple[int, int]]:
    """The pairs, those that cost most first."""
    places, written, cost = Counter(), Counter(), Counter()
    for text, told in zip(ids, own, strict=True):
        for token, likeliest, loss in zip(text, told.likeliest, told.losses):
            places[token] += 1
            written[token, int(likeliest)] += 1
            cost[token] += float(loss)
    pairs = {
        (min(token, other), max(token, other)): cost[token]
        for (token, other), count in written.items()
        if token != other and count >= max(FEWEST_TOKENS, CONFUSED_FRAC * places[token])
    }
    return sorted(pairs, key=lambda pair: -pairs[pair])[:MOST_PAIRS]
