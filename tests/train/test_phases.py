"""What trains is what the table says, in every phase; a table that cannot be meant is an error."""

import pytest
from tiny_run import PHASE_A, PHASE_B, tiny_config

from shibolet.errors import RecipeError
from shibolet.model.family import LoadedModel
from shibolet.model.parts import trainable_names
from shibolet.model.qwen3_asr.parts import part_of
from shibolet.train.config import OptimizerConfig, PhaseConfig
from shibolet.train.optimizer import MasterAdamW, assert_optimizer_covers
from shibolet.train.phases import add_adapters, enter_phase


@pytest.mark.parametrize("untie_head", [True, False])
def test_groups_equal_the_trainable_set_in_every_phase(loaded: LoadedModel, untie_head: bool):
    config = tiny_config(untie_head=untie_head)
    add_adapters(loaded.model, config, seed=0)
    trained = []
    for phase in [*config.phases, config.phases[0]]:  # and back again
        groups = enter_phase(loaded.model, phase)
        names = [name for group in groups.values() for name in group]
        assert set(names) == trainable_names(loaded.model) and len(names) == len(set(names))
        assert set(groups) == set(phase.lr_by_part) and all(groups.values())
        assert_optimizer_covers(loaded.model, MasterAdamW(groups, phase.lr_by_part, OptimizerConfig()))
        trained.append(set(names))
    encoder = {name for name in trained[1] - trained[0]}
    assert {part_of(name) for name in encoder} == {("encoder.layers", 4), ("encoder.layers", 5)}
    assert trained[2] == trained[0]


def test_the_head_when_tied_is_the_embedding_matrix(loaded: LoadedModel):
    add_adapters(loaded.model, tiny_config(untie_head=False), seed=0)
    groups = enter_phase(loaded.model, PhaseConfig(name="B", num_epochs=1, lr_by_part=PHASE_B))
    assert list(groups["head"]) == ["model.language_model.embed_tokens.weight"]
    assert groups["head"]["model.language_model.embed_tokens.weight"] is loaded.model.lm_head.weight


def test_the_head_when_untied_trains_alone(loaded: LoadedModel):
    before = loaded.model.lm_head.weight.detach().clone()
    add_adapters(loaded.model, tiny_config(), seed=0)
    groups = enter_phase(loaded.model, PhaseConfig(name="B", num_epochs=1, lr_by_part=PHASE_B))
    assert list(groups["head"]) == ["lm_head.weight"] and loaded.model.lm_head.weight.equal(before)
    assert not loaded.model.get_input_embeddings().weight.requires_grad


def test_thawing_a_layer_with_adapters_is_refused(loaded: LoadedModel):
    add_adapters(loaded.model, tiny_config(), seed=0)
    rates = {**PHASE_A, "decoder.layers[1:4]": 1e-4}
    del rates["decoder.layers[2:4]"]
    with pytest.raises(
        RecipeError, match=r"phase 'A' thaws 'decoder.layers\[1:4\]', but its layers \[1\] carry adapters"
    ):
        enter_phase(loaded.model, PhaseConfig(name="A", num_epochs=1, lr_by_part=rates))


def test_adapters_need_a_rate_in_every_phase(loaded: LoadedModel):
    add_adapters(loaded.model, tiny_config(), seed=0)
    with pytest.raises(RecipeError, match="no rate for 'lora'"):
        enter_phase(loaded.model, PhaseConfig(name="B", num_epochs=1, lr_by_part={"projector": 1e-4}))


def test_a_rate_for_adapters_that_are_not_there_is_refused(loaded: LoadedModel):
    with pytest.raises(RecipeError, match="part 'lora' names no parameter"):
        enter_phase(loaded.model, PhaseConfig(name="B", num_epochs=1, lr_by_part={"lora": 1e-4}))
