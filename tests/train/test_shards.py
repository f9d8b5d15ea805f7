"""Ranks that each update a share do what one rank does with the sum of their gradients."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import FORK, free_port
from torch import Tensor, nn

from shibolet.errors import ShiboletError
from shibolet.train import exchange, shards
from shibolet.train.config import OptimizerConfig
from shibolet.train.optimizer import MasterAdamW
from shibolet.train.shards import divide_among_ranks, give_homes
from shibolet.train.update import Ran, update

RANKS, DTYPES = 3, [torch.float32, torch.bfloat16]
SHAPES = {"scale": (7,), "narrow": (40, 5), "wide": (33, 50), "bias": (1,), "last": (70, 9)}
HALF, FULL = ("wide", "bias", "last"), tuple(SHAPES)  # what two phases train


def new_weights(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for name, shape in SHAPES.items()}


def loss_of(weights: dict[str, nn.Parameter], names: tuple[str, ...], step: int, rank: int) -> Tensor:
    """Each weight times numbers of that step and rank, halves so that bf16 sums of three are exact."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    return sum(
        (weights[name] * torch.randint(-4, 5, SHAPES[name], generator=generator).div(2).to(weights[name].dtype)).sum()
        for name in names
    )


def steps(weights: dict[str, nn.Parameter], ranks: list[int], failing: int | None) -> MasterAdamW:
    """Three steps with some of the weights, then three with all; before one of them a rank runs out of memory."""
    carried = None
    for phase, names in enumerate((HALF, FULL)):
        chosen = {name: weight.requires_grad_(name in names) for name, weight in weights.items() if name in names}
        optimizer = MasterAdamW({"all": chosen}, {"all": 1e-2}, OptimizerConfig(max_grad_norm=0.5), carried)
        if carried is not None:
            carried.clear()
        optimizer.set_lr(1.0)
        for step in range(3 * phase, 3 * phase + 3):
            for fails in (True, False) if step in (1, 4) and failing is not None else (False,):
                failed = fails and failing in ranks
                for number, rank in enumerate(ranks, start=1):
                    with optimizer.shards.early(is_last=number == len(ranks)):
                        if not (step == 2 and rank == 1):  # that rank has nothing to train on
                            chosen = names[len(names) // 2 :] if failed else names  # and here it gets no further
                            loss_of(weights, chosen, step, rank).backward()
                told = update(optimizer, Ran([torch.ones(()) for _ in ranks], failed_tokens=9 * failed))
                assert told.done is not fails and told.failed_tokens == 9 * fails
        carried = optimizer
    return optimizer


def noted(collective: Callable, calls: list[tuple[str, int]]) -> Callable:
    """The collective, which also says what it was asked for."""

    def call(*args, **kwargs):
        calls.append((collective.__name__, args[-1].numel()))
        return collective(*args, **kwargs)

    return call


def as_rank(rank: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    shards.BLOCK_NUMEL = 600  # so that weights share blocks and blocks share weights
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    calls: list[tuple[str, int]] = []
    for owner, name in (
        (dist, "all_gather"),
        (dist, "all_reduce"),
        (exchange, "_all_gather"),
        (exchange, "_reduce_scatter"),
    ):
        setattr(owner, name, noted(getattr(owner, name), calls))
    for dtype in DTYPES:
        weights = new_weights(dtype)
        optimizer = steps(weights, [rank], failing=2)
        held = sum(piece.stop - piece.start for piece in optimizer.shards.pieces)
        states = {name: dict(optimizer.state(name)) for name in FULL}
        del optimizer
        hooks = sum(len(weight._post_accumulate_grad_hooks) for weight in weights.values())
        found = {"weights": weights, "states": states, "held": held, "calls": calls, "hooks": hooks}
        torch.save(found, out / f"{dtype}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which each rank left its weights, states and number of pieces after the steps."""
    out, port = tmp_path_factory.mktemp("ranks"), free_port()
    processes = [FORK.Process(target=as_rank, args=(rank, port, out)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * RANKS
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_shares_add_up_to_the_training_of_one_rank(of_ranks: Path, dtype: torch.dtype):
    """With a weight in several blocks, one of a single number, a rank that fails and one that has nothing to do."""
    weights = new_weights(dtype)
    alone = steps(weights, list(range(RANKS)), failing=None)
    found_by = [torch.load(of_ranks / f"{dtype}-{rank}.pt", weights_only=False) for rank in range(RANKS)]
    total = sum(weight.numel() for weight in weights.values())
    assert sum(found["held"] for found in found_by) == total and max(f["held"] for f in found_by) < total / 2
    assert len(found_by[0]["calls"]) > 50
    assert [found["hooks"] for found in found_by] == [0] * RANKS  # weights keep nothing of who exchanged them
    for found in found_by:
        assert found["calls"] == found_by[0]["calls"]  # or ranks would wait for each other for good
        for name in FULL:
            assert found["weights"][name].equal(found_by[0]["weights"][name])
            torch.testing.assert_close(found["weights"][name], weights[name], rtol=1e-5, atol=1e-6)
            for key, tensor in alone.state(name):
                torch.testing.assert_close(found["states"][name][key], tensor, rtol=1e-5, atol=1e-6)


@pytest.fixture
def _only_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_only_rank")
def test_one_rank_moves_no_weight():
    weights = new_weights(torch.bfloat16)
    before = {name: weight.data_ptr() for name, weight in weights.items()}
    divide_among_ranks(weights)
    assert {name: weight.data_ptr() for name, weight in weights.items()} == before


def test_frozen_weights_that_fill_one_memory_stay_together():
    """Protects from layers that lose their joint products when a phase begins."""
    together = torch.arange(12.0).view(6, 2)
    model = nn.ParameterList([nn.Parameter(own) for own in together.split((4, 2))]).requires_grad_(False)
    before = [weight.data_ptr() for weight in model]
    give_homes(model)
    assert [weight.data_ptr() for weight in model] == before
    model[1].requires_grad_()
    give_homes(model)
    assert model[0].data_ptr() != before[0] and model[1].data_ptr() == before[1]


@pytest.mark.usefixtures("_only_rank")
def test_weights_share_memory_while_they_train_and_no_longer():
    model = nn.ParameterDict(new_weights(torch.float32))
    shards.Shards(dict(model.items()))
    values = {name: weight.detach().clone() for name, weight in model.items()}
    model["wide"].requires_grad_(False)
    give_homes(model)
    alone = {name for name, weight in model.items() if weight.untyped_storage().nbytes() == weight.nbytes}
    assert alone == {"wide"}
    assert all(weight.equal(values[name]) for name, weight in model.items())
    mixed = {**model, "wide": nn.Parameter(torch.ones(2, dtype=torch.bfloat16))}
    with pytest.raises(ShiboletError, match=r"of one precision; these are \['torch.bfloat16', 'torch.float32'\]"):
        shards.Shards(mixed)
