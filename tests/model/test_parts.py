"""The parts partition the parameters, at the real size and at ours; a name that means nothing is an error."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ASRConfig, Qwen3ASRForConditionalGeneration

from shibolet.demo import tiny
from shibolet.errors import RecipeError
from shibolet.model.parts import freeze_all_but, partition, select, trainable_names
from shibolet.model.qwen3_asr.layouts import native_config
from shibolet.model.qwen3_asr.parts import part_of, untie_head

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "qwen3-asr"
WHOLE = ["encoder.conv", "encoder.layers", "projector", "embeddings", "decoder.layers", "decoder.norm"]


@pytest.fixture(scope="module")
def real():
    with torch.device("meta"):
        return Qwen3ASRForConditionalGeneration(Qwen3ASRConfig(audio_config={"output_dim": 2048}))


def size(model, part: str) -> int:
    return sum(weight.numel() for weight in select(model, part).values())


def test_parts_of_the_real_model_have_its_sizes(real):
    assert {part: size(real, part) for part in WHOLE} == {
        "encoder.conv": 12_017_280,
        "encoder.layers": 302_309_376,
        "projector": 3_150_848,
        "embeddings": 311_164_928,
        "decoder.layers": 1_409_408_000,
        "decoder.norm": 2_048,
    }
    assert round(size(real, "encoder.layers[16:24]") / 1e6, 1) == 100.8
    assert round(size(real, "decoder.layers[16:28]") / 1e6) == 604
    assert sum(weight.numel() for weight in real.parameters()) == 2_038_052_480


def test_trainable_totals_of_the_two_strategies(real):
    b = ["projector", "decoder.layers[16:28]"]
    a = [*b, "encoder.layers[16:24]"]
    totals = [sum(size(real, part) for part in parts) for parts in (b, [*b, "head"], a, [*a, "head"])]
    assert [round(total / 1e6) for total in totals] == [607, 918, 708, 1019]


def test_our_shapes_are_those_of_the_published_configuration(real):
    if not REAL.is_dir():
        pytest.skip("no folder 'shared' beside the repository")
    config = json.loads((REAL / "config.json").read_text())
    with torch.device("meta"):
        legacy = Qwen3ASRForConditionalGeneration(native_config(config, AutoTokenizer.from_pretrained(REAL)))
    shapes = [{name: weight.shape for name, weight in model.named_parameters()} for model in (real, legacy)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("kind", ["recogniser", "untied", "aligner"])
def test_every_parameter_is_in_exactly_one_part(kind: str, tokenizer):
    model = tiny.new_aligner(tokenizer, 0) if kind == "aligner" else tiny.new_recogniser(tokenizer, 0)
    if kind == "untied":
        untie_head(model)
    parts = [*WHOLE, "head"] if kind != "recogniser" else WHOLE
    names = Counter(name for group in partition(model, parts).values() for name in group)
    assert names == Counter(name for name, _ in model.named_parameters())


def test_spans_of_layers(recogniser):
    layers = lambda part: sorted({part_of(name)[1] for name in select(recogniser, part)})  # noqa: E731
    assert layers("decoder.layers[1:3]") == [1, 2]
    assert layers("decoder.layers[2:]") == [2, 3]
    assert layers("encoder.layers[:2]") == [0, 1]
    assert layers("encoder.layers") == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "part",
    ["decoder.layers[2:5]", "decoder.layers[3:3]", "encoder.layers[6:]", "lm_head", "lora", "decoder.layers[-2:]", ""],
)
def test_a_part_that_names_nothing_is_an_error(part: str, recogniser):
    with pytest.raises(RecipeError, match="part '"):
        select(recogniser, part)


def test_two_parts_that_share_a_parameter_are_an_error(recogniser):
    with pytest.raises(RecipeError, match=r"'decoder.layers\[0:2\]' and 'decoder.layers\[1:3\]' both hold"):
        partition(recogniser, ["decoder.layers[0:2]", "decoder.layers[1:3]"])
    with pytest.raises(RecipeError, match="'embeddings' and 'head' both hold"):
        partition(recogniser, ["embeddings", "head"])  # tied: one matrix


def test_untying_gives_the_head_its_own_equal_weights(recogniser):
    embeddings = recogniser.get_input_embeddings().weight
    untie_head(recogniser)
    assert recogniser.lm_head.weight is not embeddings and recogniser.lm_head.weight.equal(embeddings)
    assert list(select(recogniser, "head")) == ["lm_head.weight"]
    head = recogniser.lm_head.weight
    untie_head(recogniser)
    assert recogniser.lm_head.weight is head


def test_freezing_leaves_exactly_the_groups(recogniser):
    groups = partition(recogniser, ["projector", "decoder.norm"])
    freeze_all_but(recogniser, groups)
    assert trainable_names(recogniser) == {name for group in groups.values() for name in group}
    assert len(trainable_names(recogniser)) == 7
