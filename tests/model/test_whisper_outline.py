"""What is said of a Whisper without torch is what the module has: protects from plans of a model that nobody trains."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from real_models import real_model
from transformers import AutoTokenizer, WhisperConfig, WhisperForConditionalGeneration
from whisper_models import tiny_tokenizer

from shibolet.errors import ModelError, RecipeError
from shibolet.model.outline import offline_config, outline_of
from shibolet.model.parts import check_lora_frozen, partition, select
from shibolet.model.protocols import Prompt
from shibolet.model.whisper.outline import OUTLINE
from shibolet.model.whisper.parts import untie_head
from shibolet.model.whisper.prompt import TranscriptionPrompt, is_multilingual
from shibolet.model.whisper.sizes import USUAL, ModelSizes, known_sizes, sizes_in
from shibolet.train.config import LoraSettings, PhaseConfig, TrainConfig
from shibolet.train.phases import add_adapters, blueprint_of, phase_groups
from shibolet.train.plan import make_plan

ODD = dict(
    d_model=32, encoder_layers=1, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=4,
    encoder_ffn_dim=48, decoder_ffn_dim=40, num_mel_bins=100, vocab_size=500, max_target_positions=60,
)  # fmt: skip
PHASE = PhaseConfig(name="B", num_epochs=1, lr_by_part={"decoder.norm": 1e-4, "head": 1e-4, "lora": 1e-4})
LORA = TrainConfig(phases=(PHASE,), lora=LoraSettings(part="decoder.layers[0:2]", rank=4), encoder_cache=True)
PLAIN = TrainConfig(phases=(PHASE,), lora=None, untie_head=False)


def module_of(sizes: ModelSizes) -> WhisperForConditionalGeneration:
    with torch.device("meta"):
        module = WhisperForConditionalGeneration(
            WhisperConfig(**sizes.model_dump(exclude={"model_type"}), pad_token_id=1)
        )
    module.tie_weights()
    return module


def shapes(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


@pytest.mark.parametrize("config", [PLAIN, LORA], ids=["plain", "untied with adapters"])
@pytest.mark.parametrize("said", [{}, ODD, ODD | {"tie_word_embeddings": False}], ids=["tiny", "odd", "untied"])
def test_names_and_shapes_are_the_modules(said: dict, config: TrainConfig):
    """And so is every number of the plan that is made of them."""
    sizes = ModelSizes(**said)
    module = module_of(sizes)
    add_adapters(module, config, seed=0)
    drawn = blueprint_of(sizes, config)
    assert shapes(drawn) == shapes(module) and len(shapes(drawn)) > 70
    if config is PLAIN:
        assert list(shapes(drawn)) == list(shapes(module))
    else:
        plans = [make_plan(config, model, None, num_utterances=5000) for model in (drawn, module)]
        assert plans[0] == plans[1] and plans[0].encoder_cache_gib == round(5000 * 1500 * sizes.d_model * 2 / 2**30, 2)


def test_the_real_sizes_are_those_of_turbo():
    sizes, _ = known_sizes("ivrit-ai/whisper-large-v3-turbo")
    module, drawn = module_of(sizes), OUTLINE.blueprint(sizes)
    assert shapes(drawn) == shapes(module)
    assert sum(weight.numel() for _, weight in drawn.named_parameters()) == 808_878_080
    wanted = {"encoder.conv": 5_409_280, "cross_attention": 26_240_000, "embeddings": 66_388_480}
    assert {part: sum(w.numel() for w in select(drawn, part).values()) for part in wanted} == wanted


@pytest.mark.parametrize("is_untied", [False, True], ids=["tied", "untied"])
def test_every_parameter_is_in_exactly_one_part(is_untied: bool):
    module = module_of(ModelSizes(**ODD))
    if is_untied:
        untie_head(module)
    assert OUTLINE.is_tied(module) is not is_untied
    parts = [part for part in OUTLINE.parts if part != "lora" and (is_untied or part != "head")]
    names = Counter(name for group in partition(module, parts).values() for name in group)
    assert names == Counter(name for name, _ in module.named_parameters())
    head = select(module, "head")
    assert list(head) == (["proj_out.weight"] if is_untied else ["model.decoder.embed_tokens.weight"])


def test_a_layer_has_either_adapters_or_weights_that_train():
    """Cross-attention of a layer carries adapters as its self-attention does."""
    drawn = blueprint_of(ModelSizes(**ODD), LORA)
    adapted = {name.rpartition(".lora_")[0] for name in select(drawn, "lora")}
    assert len(adapted) == 2 * 2 * 4 and "model.decoder.layers.1.encoder_attn.out_proj" in adapted
    assert check_lora_frozen(drawn, "cross_attention") == [0, 1] and check_lora_frozen(drawn, "decoder.norm") == []
    phase = PhaseConfig(name="B", num_epochs=1, lr_by_part={"cross_attention": 1e-4, "lora": 1e-4})
    with pytest.raises(RecipeError, match=r"thaws 'cross_attention', but its layers \[0, 1\] carry adapters"):
        phase_groups(drawn, phase)
    above = {"encoder.layers[0:1]": 1e-4, "decoder.layers[2:3]": 1e-4, "lora": 1e-4}
    assert list(phase_groups(drawn, PhaseConfig(name="A", num_epochs=1, lr_by_part=above))) == [
        "lora", "encoder.layers[0:1]", "decoder.layers[2:3]"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "usual"),
    [
        ("ivrit-ai/whisper-large-v3-turbo", "large-v3-turbo"),
        ("openai/whisper-large-v3", "large-v3"),
        ("someone/whisper-large-he", "large"),
        ("someone/Whisper_Small-he", "small"),
        ("openai/whisper-tiny.en", "tiny.en"),
        ("someone/whisper-he", "large-v3-turbo"),
        ("someone/whisper-basement", "large-v3-turbo"),
    ],
)
def test_a_name_tells_the_sizes_of_a_model_that_is_not_here(name: str, usual: str, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    config, said = offline_config(name)
    assert said == f"{name} is not on this machine: sizes are those of whisper-{usual}"
    wanted = USUAL[usual.removesuffix(".en")]
    assert config == (wanted.model_copy(update={"vocab_size": 51_864}) if usual.endswith(".en") else wanted)
    assert outline_of(config) is OUTLINE
    assert known_sizes("Qwen/Qwen3-ASR-1.7B") is None


@pytest.mark.parametrize("said", [{"d_model": "384"}, {"decoder_layers": -1}, {"vocab_size": True}])
def test_what_can_be_no_size_is_one_sentence(said: dict):
    with pytest.raises(ModelError, match=r"the model in m cannot be opened: config\.json: ") as caught:
        sizes_in(Path("m"), said)
    assert "\n" not in str(caught.value)


def test_the_prompt_has_a_language_and_context_before_it():
    tokenizer = tiny_tokenizer()
    frame = TranscriptionPrompt(tokenizer, "Hebrew").frame
    asked = ["<|startoftranscript|>", "<|he|>", "<|transcribe|>", "<|notimestamps|>"]
    assert (frame.prompt, frame.end_id) == (tokenizer.convert_tokens_to_ids(asked), tokenizer.eos_token_id)
    assert frame.num_tokens(1500, 7) == 1500 + 4 + 7 and frame.num_targets(7) == 8
    told = TranscriptionPrompt(tokenizer, Prompt("Hebrew", context=" דנה<|he|> ")).frame
    context = tokenizer.get_prompt_ids("דנה").tolist()
    assert told.prompt[: len(context)] == context and told.prompt[-4:] == frame.prompt
    assert told.prompt.count(frame.prompt[1]) == 1, "markup in a context stays text"


def test_texts_are_written_behind_a_space_and_stay_text():
    tokenizer = tiny_tokenizer()
    markup = "<|endoftext|> <|0.00|> שלום <|he|>"
    plain, empty, marked = TranscriptionPrompt(tokenizer, "Hebrew").encode([" שלום", " ", markup])
    assert tokenizer.decode(plain) == " שלום" and empty == []
    said = tokenizer.decode(marked, decode_with_timestamps=True)  # without, it strikes out what looks like a time
    assert said == f" {markup}" and not set(marked) & set(tokenizer.added_tokens_decoder)


def test_what_a_whisper_cannot_be_told_is_said():
    tokenizer = tiny_tokenizer()
    with pytest.raises(RecipeError, match="does not take a style"):
        TranscriptionPrompt(tokenizer, Prompt("Hebrew", style="בלי פיסוק"))
    with pytest.raises(RecipeError, match="the context has 300 tokens, and a Whisper takes 223"):
        TranscriptionPrompt(tokenizer, Prompt("Hebrew", context="3" * 299))
    with pytest.raises(ModelError, match=r"no token '<\|he\|>'"):
        TranscriptionPrompt(_Without(tokenizer, "<|he|>"), "Hebrew")
    english = _Without(tokenizer, "<|transcribe|>")
    assert len(TranscriptionPrompt(english, "English").frame.prompt) == 2
    with pytest.raises(RecipeError, match="supports English only and not Hebrew"):
        TranscriptionPrompt(english, "Hebrew")


class _Without:
    """A tokenizer that lacks a token; as in transformers, its unknown token is the end of a text."""

    def __init__(self, tokenizer, token: str) -> None:
        self._tokenizer, self._token, self.unk_token_id = tokenizer, token, tokenizer.eos_token_id
        self.added_tokens_decoder = tokenizer.added_tokens_decoder

    def __call__(self, *args, **settings):
        return self._tokenizer(*args, **settings)

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.unk_token_id if token == self._token else self._tokenizer.convert_tokens_to_ids(token)


@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base"])
def test_tokens_without_transformers_are_those_of_transformers(name: str):
    folder = real_model(name)
    plain, full = OUTLINE.tokenizer_in(folder), AutoTokenizer.from_pretrained(folder)
    assert is_multilingual(full) == (name == "whisper-base")
    prompts = [TranscriptionPrompt(one, Prompt("English", context="Dana")) for one in (plain, full)]
    texts = ["hello world", "", " שלום  עולם ", "<|endoftext|>a<|0.00|>b", "don't 12,5%"]
    assert prompts[0].frame == prompts[1].frame and prompts[0].encode(texts) == prompts[1].encode(texts)
    if is_multilingual(full):
        full.set_prefix_tokens(language="english", task="transcribe", predict_timestamps=False)
    frame = prompts[0].frame
    assert [*frame.prompt, frame.end_id] == [*full.get_prompt_ids("Dana").tolist(), *full("")["input_ids"]]
    config, layout = OUTLINE.config_in(folder)
    assert layout == "native" and config == known_sizes(name)[0]
