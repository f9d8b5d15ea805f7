"""What a step draws follows from seed, step and rank: protects trainings that go on after they were cut off."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout

from shibolet.train.draws import seed_step


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("seed", "step", "rank"), [(0, 0, 0), (7, 12_345, 3), (2**31, 1, 1)])
def test_a_step_draws_what_the_seed_of_its_place_gives(device: str, seed: int, step: int, rank: int) -> None:
    """On the CPU and on the device, as torch.manual_seed has it: earlier trainings go on."""
    ones = torch.ones(64, device=device)

    def drawn() -> list[Tensor]:
        return [torch.rand(5), dropout(ones, 0.5)]

    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1)
    expected = drawn()
    torch.manual_seed(0)
    seed_step(seed, step, rank, torch.device(device))
    assert all(map(torch.equal, drawn(), expected))
