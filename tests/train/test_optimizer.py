"""float32 masters and moments by name, rates from the recipe, groups equal to what trains."""

import pytest
import torch
from torch import nn

from shibolet.errors import ShiboletError
from shibolet.train.config import OptimizerConfig
from shibolet.train.optimizer import MasterAdamW, assert_optimizer_covers
from shibolet.train.update import Ran, update


class Small(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8, dtype=dtype)
        self.second = nn.Linear(8, 4, dtype=dtype)


def make(dtype: torch.dtype, lr: float = 1e-2, carried=None, model=None, **config) -> tuple[Small, MasterAdamW]:
    torch.manual_seed(0)
    model = model or Small(dtype)
    groups = {"a": {f"first.{n}": p for n, p in model.first.named_parameters()},
              "b": {f"second.{n}": p for n, p in model.second.named_parameters()}}  # fmt: skip
    return model, MasterAdamW(groups, {"a": lr, "b": 2 * lr}, OptimizerConfig(**config), carried)


def states(optimizer: MasterAdamW) -> dict[str, dict[str, torch.Tensor]]:
    return {name: dict(optimizer.state(name)) for name in optimizer.weights}


def take_steps(model: Small, optimizer: MasterAdamW, first: int, last: int) -> None:
    for step in range(first, last):
        data = torch.randn(16, 8, generator=torch.Generator().manual_seed(step)).to(model.first.weight.dtype)
        model.second(model.first(data)).square().mean().backward()
        norms = optimizer.collect_gradients()
        optimizer.set_lr(1.0)
        optimizer.step(torch.linalg.vector_norm(torch.stack(list(norms.values()))))


def test_float32_steps_are_those_of_torch_adamw():
    model, optimizer = make(torch.float32, weight_decay=0.1, max_grad_norm=0.1)
    reference, _ = make(torch.float32)
    plain = torch.optim.AdamW(
        [
            {"params": [reference.first.weight], "lr": 1e-2, "weight_decay": 0.1},
            {"params": [reference.first.bias], "lr": 1e-2, "weight_decay": 0.0},
            {"params": [reference.second.weight], "lr": 2e-2, "weight_decay": 0.1},
            {"params": [reference.second.bias], "lr": 2e-2, "weight_decay": 0.0},
        ]
    )
    take_steps(model, optimizer, 0, 5)
    for step in range(5):
        data = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        reference.second(reference.first(data)).square().mean().backward()
        assert nn.utils.clip_grad_norm_(reference.parameters(), 0.1) > 0.1  # clipping is exercised
        plain.step()
        plain.zero_grad()
    for ours, theirs in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_bfloat16_weights_have_float32_masters_and_moments():
    model, optimizer = make(torch.bfloat16, lr=1e-6)
    before = model.first.weight.detach().clone()
    take_steps(model, optimizer, 0, 3)
    state = states(optimizer)["first.weight"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert model.first.weight.dtype == torch.bfloat16 and model.first.weight.equal(state["master"].bfloat16())
    assert not state["master"].equal(before.float())  # a step too small for bfloat16 is kept in the master


def test_norms_are_float32_and_gradients_are_cleared():
    model, optimizer = make(torch.bfloat16)
    model.second(model.first(torch.ones(1, 8, dtype=torch.bfloat16))).sum().backward()
    norms = optimizer.collect_gradients()
    assert set(norms) == {"a", "b"} and all(norm.dtype == torch.float32 and norm > 0 for norm in norms.values())
    exact = torch.stack([p.grad.double().norm() for p in model.first.parameters()]).norm()
    assert norms["a"].item() == pytest.approx(exact.item(), rel=1e-5)  # not rounded to bfloat16
    optimizer.step(torch.ones(()))
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_carried_by_name_continues_bit_for_bit_at_the_new_rates(dtype: torch.dtype):
    whole, optimizer = make(dtype)
    take_steps(whole, optimizer, 0, 4)
    model, first = make(dtype)
    take_steps(model, first, 0, 2)
    state = {name: {k: t.clone() for k, t in saved.items()} for name, saved in states(first).items()}
    _, second = make(dtype, carried=state, model=model)
    take_steps(model, second, 2, 4)
    for ours, theirs in zip(model.parameters(), whole.parameters()):
        assert ours.equal(theirs)
    _, third = make(dtype, lr=5e-5, carried=states(second), model=model)
    assert third.lr_by_part() == {"a": 5e-5, "b": 1e-4}  # never the saved ones


def test_names_that_were_not_carried_start_empty():
    model, optimizer = make(torch.float32)
    take_steps(model, optimizer, 0, 2)
    state = states(optimizer)
    del state["second.weight"]
    _, again = make(torch.float32, carried=state, model=model)
    taken = {name: int(tensors["step"]) for name, tensors in states(again).items()}
    assert taken == {"first.weight": 2, "first.bias": 2, "second.weight": 0, "second.bias": 2}
    assert not states(again)["second.weight"]["exp_avg"].any()


def test_a_parameter_without_a_gradient_is_named():
    model, optimizer = make(torch.float32)
    model.first(torch.ones(1, 8)).sum().backward()
    with pytest.raises(ShiboletError, match=r"'second\.weight' is to be trained but got no gradient"):
        optimizer.assert_gradients()


def test_groups_must_be_the_trainable_set():
    model, optimizer = make(torch.float32)
    assert_optimizer_covers(model, optimizer)
    model.second.bias.requires_grad_(False)
    with pytest.raises(ShiboletError, match=r"second\.bias"):
        assert_optimizer_covers(model, optimizer)
    model.second.bias.requires_grad_(True)
    model.second.bias = nn.Parameter(model.second.bias.detach().clone())  # same name, another tensor
    with pytest.raises(ShiboletError, match=r"replaced since: \['second.bias'\]"):
        assert_optimizer_covers(model, optimizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_refused_step_changes_nothing(dtype: torch.dtype):
    plain, reference = make(dtype)
    take_steps(plain, reference, 0, 3)
    model, optimizer = make(dtype)
    take_steps(model, optimizer, 0, 2)
    called = []  # the host does not know yet that the step is refused
    for losses, gradient in (([torch.tensor(torch.inf)], 1.0), ([torch.tensor(1.0)], torch.nan)):
        for weight in model.parameters():
            weight.grad = torch.full_like(weight, gradient)
        told = update(optimizer, Ran(losses), flags=(False, True), meanwhile=lambda: called.append(len(called)))
        assert not told.done and told.flags == (False, True) and not told.failed_tokens
        assert all(weight.grad is None for weight in model.parameters())
    take_steps(model, optimizer, 2, 3)
    for ours, theirs in zip(states(optimizer).values(), states(reference).values()):
        assert all(ours[key].equal(theirs[key]) for key in ours)
    assert called == [0, 1]


def test_a_step_without_gradients_waits_for_no_update():
    model, optimizer = make(torch.float32)
    before = model.first.weight.detach().clone()
    # What comes next is not made ready: memory is full, and the step is taken again.
    told = update(optimizer, Ran([], {"seen": []}, failed_tokens=77), flags=(True,), meanwhile=pytest.fail)
    assert not told.done and told.failed_tokens == 77 and not any(told.grad_norm_by_part.values())
    assert told.numbers == {"seen": 0.0} and told.flags == (True,)
    take_steps(model, optimizer, 0, 1)
    assert states(optimizer)["first.weight"]["step"] == 1 and not model.first.weight.equal(before)
