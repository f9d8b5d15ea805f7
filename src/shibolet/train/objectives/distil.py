"""Learning a teacher's distributions on the references: what it expects at each label was computed and kept once."""

from functools import cached_property

from torch import nn

from shibolet.model.fast.losses import Mixed, TopTokens, plain_distillation, summed_distillation
from shibolet.model.protocols import Pack
from shibolet.train.objective import PackLoss, TrainStep
from shibolet.train.objectives.config import DistilConfig
from shibolet.train.objectives.given import Given, examples_in, utterance_of
from shibolet.train.objectives.of_targets import OfTargets
from shibolet.train.teacher_cache import TeacherCache


class Distil(OfTargets):
    """KL(teacher || student) over the teacher's top tokens, beside the likelihood, a mean over the targets of a step.

    Hinton et al. 2015, "Distilling the knowledge in a neural network". Of the tokens that were not kept only the mass
    is known, which is why the teacher's probabilities are kept at the temperature of the loss.
    """

    numbers: tuple[str, ...] = ("divergence",)  # times the squared temperature, the mean over the step's targets
    needs = staticmethod(utterance_of)

    def __init__(self, given: Given) -> None:
        super().__init__(given.family)
        self._teaching = given.teaching
        self._config = given.config.distil or DistilConfig()
        self._loss = summed_distillation if given.fast else plain_distillation

    @cached_property
    def _cache(self) -> TeacherCache:
        return self._teaching.cache(self._config.top_k, self._config.temperature)

    def begin(self) -> None:
        """Have the teacher listen to what is not kept yet, and go."""
        _ = self._cache
        self._teaching.let_go()

    def loss(self, model: nn.Module, pack: Pack, step: TrainStep) -> PackLoss:
        kept = self._cache.read(examples_in(pack))
        hidden, device = self._family.hidden(model, pack), pack.labels.device
        expected = TopTokens(kept.ids.to(device, non_blocking=True), kept.probs.to(device, non_blocking=True))
        how = Mixed(self._config.likelihood_weight, self._config.temperature)
        total, divergence = self._loss(hidden, self._family.head(model), pack.labels, expected, how)
        return PackLoss(total, {"divergence": divergence / self.count(step.examples)})
