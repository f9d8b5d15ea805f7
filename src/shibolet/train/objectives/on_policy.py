"""On-policy distillation: the student writes, and learns what the teacher expects at each of the student's own tokens.

Agarwal et al. 2024, "On-policy distillation of language models: learning from self-generated mistakes". What the
student wrote is a constant: no gradient goes through the choice of tokens.

Shapes: L labels, A encoder states, V vocabulary.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shibolet.model.fast.losses import divergences, plain_cross_entropy, summed_cross_entropy
from shibolet.model.protocols import Pack
from shibolet.train.data import TrainExample
from shibolet.train.objective import PackLoss, TrainStep
from shibolet.train.objectives.config import DistilConfig
from shibolet.train.objectives.given import Given, examples_in, utterance_of
from shibolet.train.objectives.own_texts import Continued, Text, Writer, num_frames_in, recorded, with_states


class OnPolicy:
    """The divergence of student and teacher on the student's texts beside the likelihood, over the step's targets.

    Of an utterance it is the mean over the tokens that were written, times the number of targets of its reference: so
    the count follows from the tables, and a text that does not end weighs no more than another one.
    """

    numbers: tuple[str, ...] = ("divergence",)  # the mean over the step's targets
    needs = staticmethod(utterance_of)

    def __init__(self, given: Given) -> None:
        self._family, self._teaching = given.family, given.teaching
        self._config = given.config.distil or DistilConfig()
        temperature = self._config.sampling_temperature
        self._writer = Writer(given, num=1 if temperature else 0, temperature=temperature)
        self._continued = Continued(given)
        self._cross_entropy = summed_cross_entropy if given.fast else plain_cross_entropy

    def begin(self) -> None:
        """Have the teacher beside the student."""
        self._writer.begin()
        _ = self._teaching.loaded

    def count(self, examples: Sequence[TrainExample]) -> int:
        return sum(example.num_targets for example in examples)

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        return self._family.packed(model)

    def loss(self, model: nn.Module, pack: Pack, step: TrainStep) -> PackLoss:
        examples, weight = examples_in(pack), self._config.likelihood_weight
        clips = recorded(examples)
        drawn = [draws[-1] for draws in self._writer.write(examples, clips, step.number)]
        texts = [Text.of(place, draw) for place, draw in enumerate(drawn)]
        texts = [text for text in texts if self._writer.is_text(text) and text.num_labels]
        encoded = self._family.encode(model, pack) if pack.encoded is None else pack.encoded
        divergence = self._divergence(model, with_states(pack, encoded), clips, texts)
        total = (1 - weight) * divergence
        if weight or not divergence.requires_grad:  # every step has gradients, be they 0
            hidden = self._family.hidden(model, with_states(pack, encoded))
            total = total + weight * self._cross_entropy(hidden, self._family.head(model), pack.labels)
        return PackLoss(total, {"divergence": divergence.detach() / self.count(step.examples)})

    def _divergence(self, model: nn.Module, pack: Pack, clips: Sequence[np.ndarray], texts: Sequence[Text]) -> Tensor:
        """The sum over utterances; a pack's activations are computed again in the backward pass."""
        if not texts:
            return pack.encoded.new_zeros((), dtype=torch.float32)
        examples, continued, beta = examples_in(pack), self._continued, self._config.jsd_beta
        heads = self._family.head(model), self._family.head(self._teaching.loaded.model)
        num_frames = num_frames_in(pack)
        states, (heard, of_teacher) = continued.split(pack.encoded, num_frames), self._teacher_states(pack, clips)
        found = []
        for some in continued.groups(pack, texts):
            own = [texts[one] for one in some]
            scales = [examples[text.place].num_targets / text.num_labels for text in own]
            weights = [weight * scale for weight, scale in zip(continued.weights(pack, own), scales, strict=True)]
            laid = continued.lay_out(pack, own, num_frames, states)
            expected = self._expected(continued.lay_out(pack, own, heard, of_teacher))

            def divergence(encoded: Tensor, laid: Pack = laid, expected: Tensor = expected) -> Tensor:
                hidden = self._family.hidden(model, with_states(laid, encoded))
                return divergences(hidden, heads[0], expected, heads[1], beta)

            labels = checkpoint(divergence, laid.encoded, use_reentrant=False)
            found.append((labels * torch.cat(weights).to(labels.device)).sum())
        return torch.stack(found).sum()

    @torch.no_grad()
    def _teacher_states(self, pack: Pack, clips: Sequence[np.ndarray]) -> tuple[list[int], list[Tensor]]:
        """Frames of the recordings of a pack, and what the teacher's encoder makes of each."""
        teacher, device = self._teaching.loaded, pack.encoded.device
        examples = examples_in(pack)
        frames = [self._family.num_frames(len(clip)) for clip in clips]
        laid = self._family.lay_out(list(map(self._continued.frame, examples)), [[]] * len(clips), frames)
        features = self._family.features(teacher.extractor, device)
        with self._family.packed(teacher.model):
            encoded = self._family.encode(teacher.model, self._family.with_audio(laid, clips, features, device))
        return frames, self._continued.split(encoded, frames)

    @torch.no_grad()
    def _expected(self, laid: Pack) -> Tensor:
        """The teacher's last hidden states `[L, D]` of a pack of texts."""
        teacher = self._teaching.loaded.model
        with self._family.packed(teacher):
            return self._family.hidden(teacher, laid)
