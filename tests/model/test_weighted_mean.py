"""Protects averages from rounding, from heads that some models have and others share, and from models that differ."""

import gc
import weakref
from functools import partial

import pytest
import torch

from shibolet.demo import tiny
from shibolet.errors import ModelError
from shibolet.model.averaging import weighted_mean
from shibolet.model.family import LoadedModel, load_recogniser

ROUND1 = "builtin:round1"


def moved(by: float, untied: bool = False, name: str = ROUND1) -> LoadedModel:
    """A model all of whose weights are `by` higher."""
    loaded = load_recogniser(name)
    if untied:
        loaded.family.untie_head(loaded.model)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight.add_(by)
    return loaded


def weights_of(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}


def test_a_mean_is_that_of_each_weight_in_float32() -> None:
    """In bfloat16 a small share of another model is lost whole."""
    loads = [partial(moved, by) for by in (0.0, 0.3, 0.9)]
    mean = weighted_mean(list(zip(loads, (0.5, 0.25, 0.25), strict=True)))
    before = weights_of(moved(0.0))
    assert before and all(
        torch.allclose(weight, before[name] + 0.3, atol=1e-6) for name, weight in weights_of(mean).items()
    )
    narrow = partial(load_recogniser, ROUND1, dtype=torch.bfloat16)
    near = weighted_mean([(narrow, 0.999), (partial(moved, 1.0), 0.001)])
    name, weight = next(near.model.named_parameters())
    assert weight.dtype == torch.float32 and not torch.equal(weight, narrow().model.get_parameter(name).float())


def test_one_model_alone_stays_as_it_is_and_the_others_are_not_even_loaded() -> None:
    def never() -> LoadedModel:
        raise AssertionError("a model of weight 0 was loaded")

    alone = weighted_mean([(never, 0.0), (partial(moved, 0.0), 1.0)])
    before = weights_of(moved(0.0))
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(alone).items())


@pytest.mark.parametrize("untied_first", [True, False])
def test_a_tied_head_is_untied_where_another_model_has_one_of_its_own(untied_first: bool) -> None:
    """A base shares its head with the embeddings, and what is trained from it mostly does not."""
    loads = [(partial(moved, 0.0), 0.5), (partial(moved, 1.0, untied=True), 0.5)]
    mean = weighted_mean(loads[::-1] if untied_first else loads)
    assert not mean.family.is_tied(mean.model)
    base = moved(0.0)
    head, embeddings = mean.family.head(mean.model).weight, mean.model.get_input_embeddings().weight
    for weight in (head, embeddings):
        assert torch.allclose(weight, base.model.get_input_embeddings().weight + 0.5, atol=1e-6)
    both = weighted_mean([(partial(moved, 0.0), 0.5), (partial(moved, 1.0), 0.5)])
    assert both.family.is_tied(both.model)


def test_two_models_are_in_memory_at_most() -> None:
    living: list[weakref.ref] = []
    most = []

    def load(by: float) -> LoadedModel:
        loaded = moved(by)
        living.append(weakref.ref(loaded.model))
        gc.collect()
        most.append(sum(one() is not None for one in living))
        return loaded

    weighted_mean([(partial(load, by), 0.25) for by in (0.0, 1.0, 2.0)])
    assert most == [1, 2, 2]


def test_models_that_are_not_alike_are_refused_in_a_sentence() -> None:
    def other(**changes) -> LoadedModel:
        loaded = moved(0.0)
        for name, value in changes.items():
            object.__setattr__(loaded, name, value)
        return loaded

    def refused(second) -> str:
        with pytest.raises(ModelError) as error:
            weighted_mean([(partial(moved, 0.0), 0.5), (second, 0.5)])
        return str(error.value)

    words = tiny.train_tokenizer(["שלום עולם"] * 10)
    assert "entries of their tokenizers differ" in refused(lambda: other(tokenizer=words))

    def with_more_words() -> LoadedModel:
        loaded = moved(0.0)
        loaded.model.resize_token_embeddings(loaded.model.config.text_config.vocab_size + 8)
        return loaded

    assert "take models of one size" in refused(with_more_words)

    def with_heads() -> LoadedModel:
        loaded = moved(0.0)
        loaded.model.config.text_config.num_attention_heads *= 2
        return loaded

    assert "differ in their configurations" in refused(with_heads)

    def of_another_family() -> LoadedModel:
        loaded = moved(0.0)
        loaded.model.config.model_type = "whisper"
        return loaded

    assert "the other a 'whisper'" in refused(of_another_family)
