"""Minimum word error rate: the expected word errors of texts that the model itself writes (MWER).

Prabhavalkar et al. 2018, "Minimum word error rate training for attention-based sequence-to-sequence models": the
probabilities of an utterance's texts are made to add up to 1, and its errors are expected under them. The texts are the
greedy one and samples; equal ones count once.

Shapes: L labels, H texts of a pack.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shibolet.model.fast.losses import label_logps, plain_cross_entropy, summed_cross_entropy
from shibolet.model.protocols import Draw, Pack
from shibolet.speech.text import get_language
from shibolet.train.data import TrainExample
from shibolet.train.objective import PackLoss, TrainStep
from shibolet.train.objectives.config import MinWerConfig
from shibolet.train.objectives.given import Given, examples_in, utterance_of
from shibolet.train.objectives.own_texts import Continued, Text, Writer, num_frames_in, recorded, with_states


class MinWer:
    """Expected word errors by the scoring normaliser, and a share of the likelihood, divided by the step's targets."""

    # Of the step's reference words the expected errors, and of the drawn texts those that did not end by themselves.
    numbers: tuple[str, ...] = ("expected_wer", "endless")
    needs = staticmethod(utterance_of)

    def __init__(self, given: Given) -> None:
        self._family, self._config = given.family, given.config.min_wer or MinWerConfig()
        self._writer = Writer(given, num=self._config.num_samples, temperature=self._config.temperature)
        self._continued, self._language_of = Continued(given), given.language_of
        self._cross_entropy = summed_cross_entropy if given.fast else plain_cross_entropy

    def begin(self) -> None:
        self._writer.begin()

    def count(self, examples: Sequence[TrainExample]) -> int:
        return sum(example.num_targets for example in examples)

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        return self._family.packed(model)

    def loss(self, model: nn.Module, pack: Pack, step: TrainStep) -> PackLoss:
        examples, config = examples_in(pack), self._config
        drawn = self._writer.write(examples, recorded(examples), step.number)
        texts, errors = self._distinct(examples, drawn)
        pack = pack if pack.encoded is not None else with_states(pack, self._family.encode(model, pack))
        risk = self._risk(model, pack, texts, errors)
        total = risk
        if config.likelihood_weight or not risk.requires_grad:  # every step has gradients, be they 0
            hidden = self._family.hidden(model, pack)
            likelihood = self._cross_entropy(hidden, self._family.head(model), pack.labels)
            total = total + config.likelihood_weight * likelihood
        num_words = sum(max(1, len(self._words(example, example.text))) for example in step.examples)
        endless = sum(draw.ending != "end" for draws in drawn for draw in draws)
        share = endless / (len(step.examples) * (1 + config.num_samples))
        return PackLoss(total, {"expected_wer": risk.detach() / num_words, "endless": risk.new_tensor(share)})

    def _words(self, example: TrainExample, text: str) -> tuple[str, ...]:
        """What is scored of a text of an utterance, by the normaliser of its language."""
        return tuple(get_language(self._language_of(example)).to_scoring(text).split())

    def _distinct(
        self, examples: Sequence[TrainExample], drawn: Sequence[Sequence[Draw]]
    ) -> tuple[list[Text], list[float]]:
        """The different texts of all utterances, and of each its errors, at most `max_risk` a word of the reference."""
        from rapidfuzz.distance import Levenshtein

        texts: dict[Text, float] = {}
        for place, (example, draws) in enumerate(zip(examples, drawn, strict=True)):
            reference = self._words(example, example.text)
            most = self._config.max_risk * max(1, len(reference))
            for draw in draws:
                text = Text.of(place, draw)
                if text not in texts and self._writer.is_text(text):
                    words = self._words(example, self._writer.text(example, draw))
                    texts[text] = min(most, Levenshtein.distance(reference, words))
        return list(texts), list(texts.values())

    def _risk(self, model: nn.Module, pack: Pack, texts: Sequence[Text], errors: Sequence[float]) -> Tensor:
        """The expected errors of all utterances; texts of an utterance that all have as many errors cost no pass."""
        by_place: dict[int, list[int]] = {}
        for number, text in enumerate(texts):
            by_place.setdefault(text.place, []).append(number)
        risk = pack.encoded.new_zeros((), dtype=torch.float32)
        asked = []
        for numbers in by_place.values():
            if len({errors[number] for number in numbers}) > 1:
                asked += numbers
            else:
                risk = risk + errors[numbers[0]]
        logps = self._logps(model, pack, [texts[number] for number in asked])
        place_of = {number: place for place, number in enumerate(asked)}
        for numbers in by_place.values():
            if numbers[0] in place_of:
                own = logps[[place_of[number] for number in numbers]]
                risk = risk + (own.softmax(0) * own.new_tensor([errors[number] for number in numbers])).sum()
        return risk

    def _logps(self, model: nn.Module, pack: Pack, texts: Sequence[Text]) -> Tensor:
        """Log-probabilities `[H]` of texts; activations are computed again in the backward pass, a pack's at a time."""
        if not texts:
            return pack.encoded.new_zeros(0, dtype=torch.float32)
        found: list[Tensor] = [torch.empty(0)] * len(texts)
        num_frames = num_frames_in(pack)
        states = self._continued.split(pack.encoded, num_frames)
        for some in self._continued.groups(pack, texts):
            own = [texts[one] for one in some]
            laid = self._continued.lay_out(pack, own, num_frames, states)
            weights = [weight.to(laid.labels.device) for weight in self._continued.weights(pack, own)]

            def logps(encoded: Tensor, laid: Pack = laid) -> Tensor:
                hidden = self._family.hidden(model, with_states(laid, encoded))
                return label_logps(hidden, self._family.head(model), laid.labels)

            labels = checkpoint(logps, laid.encoded, use_reentrant=False)
            for one, piece, weight in zip(
                some, labels.split([len(weight) for weight in weights]), weights, strict=True
            ):
                found[one] = (piece * weight).sum()
        return torch.stack(found)
