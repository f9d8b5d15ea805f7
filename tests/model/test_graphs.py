"""What is launched of memory that every pass shares gives the gradients of plain calls; CUDA's part is in tests/gpu.

Recordings are played by functions (`played_graphs`).
"""

import pytest
import torch
from played_graphs import PlayedChain
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ROWS, DIM = 6, 8


def run(layers, x, inputs, shape) -> Tensor:
    for layer in layers:
        x = x + torch.tanh(layer(x)) * inputs[0]
    return x


@pytest.fixture
def layers(monkeypatch) -> nn.ModuleList:
    monkeypatch.setattr("shibolet.model.fast.graphs._LAYERS", 2)
    torch.manual_seed(0)
    made = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(5))
    made[1].requires_grad_(False)
    return made


def given(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, DIM, generator=generator), torch.rand(ROWS, 1, generator=generator)


def gradients(call, layers, seeds, *, at_once: bool = False) -> list[Tensor]:
    """Of inputs and weights, added up over packs."""
    layers.zero_grad()
    losses, xs = [], []
    for seed in seeds:
        x, scale = given(seed)
        xs.append(x.requires_grad_())
        losses.append(call(2 * xs[-1], (scale,)).square().sum())
        if not at_once:
            losses[-1].backward()
    if at_once:
        sum(losses).backward()
    return [*(x.grad for x in xs), *(w.grad.clone() for w in layers.parameters() if w.grad is not None)]


def plain(layers, seeds) -> list[Tensor]:
    return gradients(lambda x, inputs: run(layers, x, inputs, None), layers, seeds)


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other)


def test_packs_add_up_and_the_second_of_a_shape_is_launched(layers):
    chain = PlayedChain(run, layers)
    launched = lambda x, inputs: chain(x, inputs, None)  # noqa: E731
    for step in range(3):
        seeds = (3 * step, 3 * step + 1, 3 * step + 2)
        assert_equal(gradients(launched, layers, seeds), plain(layers, seeds))
        with torch.no_grad():
            for weight in layers.parameters():
                weight.add_(0.01)  # a step, in the same memory
    assert chain.num_played == 3 * (9 - 1)  # spans of all calls but the first


def test_a_pass_that_comes_before_the_last_went_back_is_not_launched(layers):
    """Minimum-WER training runs several texts of a clip before its one backward pass."""
    chain = PlayedChain(run, layers)
    launched = lambda x, inputs: chain(x, inputs, None)  # noqa: E731
    gradients(launched, layers, (0, 1))
    before = chain.num_played
    assert_equal(gradients(launched, layers, (2, 3, 4), at_once=True), plain(layers, (2, 3, 4)))
    assert chain.num_played == before + 3
    with torch.enable_grad():
        chain(given(5)[0].requires_grad_(), (given(5)[1],), None)  # nobody asks for its gradients
    assert_equal(gradients(launched, layers, (6,)), plain(layers, (6,)))
    assert chain.num_played == before + 3 * 3


def test_a_pass_that_is_made_again_for_its_gradients_is_not_launched(layers):
    chain = PlayedChain(run, layers)

    def kept_short(x, inputs) -> Tensor:
        return checkpoint(lambda rows: chain(rows, inputs, None), x, use_reentrant=False)

    for step in range(4):
        assert_equal(gradients(kept_short, layers, (step,)), plain(layers, (step,)))
    assert chain.num_played == 0


def test_other_weights_that_train_or_move_are_recorded_anew(layers):
    chain = PlayedChain(run, layers)
    launched = lambda x, inputs: chain(x, inputs, None)  # noqa: E731
    gradients(launched, layers, (0, 1))
    layers[1].requires_grad_(True)
    assert_equal(gradients(launched, layers, (2, 3)), plain(layers, (2, 3)))
    layers[0].weight.data = layers[0].weight.detach().clone() + 1
    assert_equal(gradients(launched, layers, (4, 5)), plain(layers, (4, 5)))
    assert len(chain._recordings) == 1 and chain.num_played == 3 * 3


def test_what_was_given_back_for_good_is_not_taken_again_before_the_next_phase(layers):
    chain = PlayedChain(run, layers)
    launched = lambda x, inputs: chain(x, inputs, None)  # noqa: E731
    gradients(launched, layers, (0, 1))
    assert chain.release(for_good=True) and not chain.release(for_good=True)
    assert_equal(gradients(launched, layers, (2, 3, 4)), plain(layers, (2, 3, 4)))
    assert chain.num_played == 3
    chain.release(for_good=False)
    assert_equal(gradients(launched, layers, (5, 6)), plain(layers, (5, 6)))
    assert chain.num_played == 6


def test_layers_behind_frozen_ones_need_no_gradient_of_their_input(layers):
    """An encoder's trained layers: what comes before them is frozen."""
    chain = PlayedChain(run, layers)

    def of_weights(call, seed: int) -> list[Tensor]:
        layers.zero_grad()
        x, scale = given(seed)
        call(x, (scale,)).square().sum().backward()
        return [weight.grad.clone() for weight in layers.parameters() if weight.grad is not None]

    for seed in range(3):
        found = of_weights(lambda x, inputs: chain(x, inputs, None), seed)
        assert_equal(found, of_weights(lambda x, inputs: run(layers, x, inputs, None), seed))
    assert chain.num_played == 6


def test_a_chain_of_no_layers_gives_what_it_gets(layers):
    """A student may keep one decoder layer, which is launched apart."""
    x, scale = given(0)
    assert PlayedChain(run, layers[:0])(x, (scale,), None) is x


def test_layers_that_no_gradient_passes_through_are_one_launch(layers):
    """The last phase of a recipe trains the upper third of the encoder alone."""
    layers[0].requires_grad_(False)
    chain = PlayedChain(run, layers)  # two frozen, two and one that train
    found = []
    for seed in range(3):
        for call in (lambda x, inputs: chain(x, inputs, None), lambda x, inputs: run(layers, x, inputs, None)):
            layers.zero_grad()
            x, scale = given(seed)
            call(x, (scale,)).square().sum().backward()
            found.append([weight.grad.clone() for weight in layers.parameters() if weight.grad is not None])
    for launched, expected in zip(found[::2], found[1::2], strict=True):
        assert len(expected) == 2 * 3
        assert_equal(launched, expected)
    assert chain.num_played == 2 * (1 + 2) and len(chain._frozen) == 2 and len(chain._parts) == 2


@pytest.mark.parametrize("grad", [False, True])
def test_what_frozen_layers_give_stays_as_it_is(layers, grad: bool):
    """The encoder's output is kept for later epochs; no backward pass says when the next one may overwrite it."""
    chain = PlayedChain(run, layers.requires_grad_(False))
    with torch.set_grad_enabled(grad):
        found = [chain(x, (scale,), None) for x, scale in map(given, range(4))]
        layers[0].weight.mul_(1.5)
        found.append(chain(given(4)[0], (given(4)[1],), None))
        expected = [run(layers, given(4)[0], (given(4)[1],), None)]
        layers[0].weight.div_(1.5)
        expected = [run(layers, x, (scale,), None) for x, scale in map(given, range(4))] + expected
    assert_equal(found, expected)
    assert chain.num_played == 4


def test_a_pass_without_gradients_through_layers_that_train_is_launched_one_by_one(layers):
    """Texts are written between two training passes, of which the recordings stay."""
    chain = PlayedChain(run, layers)
    launched = lambda x, inputs: chain(x, inputs, None)  # noqa: E731
    for seeds in ((0, 1), (2, 3)):
        assert_equal(gradients(launched, layers, seeds), plain(layers, seeds))
        with torch.no_grad():
            torch.testing.assert_close(
                launched(given(9)[0], (given(9)[1],)), run(layers, *given(9)[:1], given(9)[1:], None)
            )
    assert chain.num_played == 3 * 3


def test_the_gradients_of_one_pack_are_not_copied(layers):
    """Autograd would launch a copy for each weight. What a second pack is added to has memory of its own."""
    chain = PlayedChain(run, layers)
    launched = lambda x, inputs: chain(x, inputs, None)  # noqa: E731
    gradients(launched, layers, (0, 1))
    held = [gradient.data_ptr() for of_part in chain._gradients for gradient in of_part]
    gradients(launched, layers, (2,))
    assert [weight.grad.data_ptr() for weight in layers.parameters() if weight.requires_grad] == held
    expected = plain(layers, (3, 4, 5))
    assert_equal(gradients(launched, layers, (3, 4, 5)), expected)
    assert not {weight.grad.data_ptr() for weight in layers.parameters() if weight.requires_grad} & set(held)


def test_a_module_that_was_replaced_is_recorded_anew(layers):
    """Adapters may be attached to a model that has been launched."""
    wrapped = nn.ModuleList(nn.Sequential(layer) for layer in layers)
    chain = PlayedChain(run, wrapped)
    launched = lambda x, inputs: chain(x, inputs, None)  # noqa: E731
    gradients(launched, wrapped, (0, 1))
    wrapped[2][0] = nn.Linear(DIM, DIM)
    assert_equal(gradients(launched, wrapped, (2, 3)), plain(wrapped, (2, 3)))
    assert chain.num_played == 2 * 3


def test_a_shape_that_comes_twice_as_often_takes_the_place_of_another(layers, monkeypatch):
    """The shapes of a phase's first steps may be the rare ones."""
    monkeypatch.setattr("shibolet.model.fast.graphs._MOST_SHAPES", 1)
    chain = PlayedChain(run, layers)

    def call(shape: str) -> list[str]:
        def launched(x, inputs) -> Tensor:
            return chain(x, inputs, shape)

        assert_equal(gradients(launched, layers, (0,)), plain(layers, (0,)))
        return [key[-1] for key in chain._recordings]

    assert [call(shape) for shape in "aabbbbab"] == [[], *[["a"]] * 4, *[["b"]] * 3]
    assert chain.num_played == 3 * (1 + 2)


def test_a_shape_that_has_no_room_leaves_the_others_where_they_are(layers, monkeypatch):
    """In a full memory one more must not cost all that there are."""
    monkeypatch.setattr("shibolet.model.fast.graphs._MOST_SHAPES", 1)
    chain = PlayedChain(run, layers)

    def call(shape: str) -> list[str]:
        assert_equal(gradients(lambda x, inputs: chain(x, inputs, shape), layers, (0,)), plain(layers, (0,)))
        return [key[-1] for key in chain._recordings]

    assert [call(shape) for shape in "aa"] == [[], ["a"]]

    def is_full(self) -> None:
        raise torch.OutOfMemoryError("10% of the GPU's memory is free")

    with monkeypatch.context() as patch:
        patch.setattr(PlayedChain, "_get_ready", is_full)
        assert [call(shape) for shape in "bbbbba"] == [["a"]] * 6
    assert [call(shape) for shape in "bbbbbb"][-1] == ["b"]  # with room it comes often enough again
