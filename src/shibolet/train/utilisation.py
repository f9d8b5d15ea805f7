"""How much of its GPUs a training uses: the share of their datasheet rate that the model's operations take up.

MFU as in PaLM (Chowdhery et al. 2022, appendix B): what a step has to compute, not what it computes twice. Weights that
are frozen need fewer operations, and an encoder whose output is kept needs none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shibolet.model.blueprint import Parameters
from shibolet.records.documents.training import StepRow
from shibolet.train.config import TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.memory import GPUS, known_gpu
from shibolet.train.objectives.cost import writes_texts
from shibolet.train.plan import operations_per_token

if TYPE_CHECKING:
    import torch

_MOST_EXAMPLES = 2000  # whose operations are counted; a step is taken for as many of their mean


@dataclass(frozen=True, slots=True)
class Utilisation:
    """What the MFU of a step follows from."""

    operations: Mapping[str, float]  # of a token, forward and backward, by phase; without those that write texts
    rate: float  # operations a second of all GPUs, by datasheet

    def mfu(self, row: StepRow) -> float | None:
        """A share from 0 to 1; 0 for a step without utterances. None where the model writes: tokens are not counted."""
        if (operations := self.operations.get(row.phase)) is None:
            return None
        return operations * row.tokens / (row.timing.step_s * self.rate)


def utilisation_of(
    config: TrainConfig, model: Parameters, examples: Sequence[TrainExample], device: "torch.device", num_ranks: int
) -> Utilisation | None:
    """None where the device's rate is not known: a CPU, a GPU that `GPUS` lacks, or another precision than bf16."""
    name = known_gpu(device)
    if name is None or config.precision != "bf16":
        return None
    found = operations_per_token(config, model, examples[:_MOST_EXAMPLES])
    operations = {phase.name: found[phase.name] for phase in config.phases if not writes_texts(config, phase)}
    return Utilisation(operations, num_ranks * GPUS[name].bf16_tflops * 1e12)
