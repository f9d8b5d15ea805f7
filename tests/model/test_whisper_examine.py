"""`shibolet verify` of a Whisper: what its files say that cannot be right is named, and a whole one has nothing."""

from pathlib import Path

import pytest
from real_models import real_model
from whisper_models import save_whisper, tiny_tokenizer

from shibolet.model.family import family_named
from shibolet.records.files import read_json, write_json

HEBREW = tiny_tokenizer().convert_tokens_to_ids("<|he|>")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Nothing is wrong with it; published models have such a `forced_decoder_ids`, and suppress tokens."""
    path = save_whisper(tmp_path_factory.mktemp("whole") / "model")
    settings = read_json(path / "generation_config.json")
    forced = [[1, None], [2, settings["task_to_id"]["transcribe"]]]
    set_in(path / "generation_config.json", suppress_tokens=[3, 4], forced_decoder_ids=forced)
    assert settings["lang_to_id"]["<|he|>"] == HEBREW
    return path


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for file in whole.iterdir():
        (path / file.name).symlink_to(file)
    return path


def set_in(path: Path, **changes) -> None:
    """Settings of a JSON file changed; None takes one out. A link is replaced by a file."""
    said = {key: value for key, value in {**read_json(path), **changes}.items() if value is not None}
    path.unlink()
    write_json(path, said)


def said(path: Path) -> list[tuple[str, bool]]:
    return [(one.sentence, one.is_fault) for one in family_named(str(path)).oddities(path)]


def test_a_whole_model_has_nothing(model):
    assert said(model) == []


@pytest.mark.parametrize(("changes", "sentence", "is_fault"), [
    ({"is_multilingual": False}, "is_multilingual is False, the tokenizer is one for several languages", True),
    ({"lang_to_id": None}, "has no lang_to_id: generate cannot be told a language", True),
    ({"lang_to_id": {"<|he|>": 5}}, "says lang_to_id of <|he|> 5, the tokenizer gives '<|he|>' the id", True),
    ({"task_to_id": {"transcribe": 7}}, "task_to_id of transcribe 7, the tokenizer gives '<|transcribe|>'", True),
    ({"no_timestamps_token_id": 9}, "says no_timestamps_token_id 9, the tokenizer gives '<|notimestamps|>'", True),
    ({"eos_token_id": 9}, "says eos_token_id 9, the tokenizer gives '<|endoftext|>' the id", True),
    ({"forced_decoder_ids": [[1, HEBREW]]}, "forced_decoder_ids, a setting of transformers 4, names <|he|>", False),
    ({"suppress_tokens": []}, "suppresses no tokens, published models do", False),
    ({"max_length": 225}, "max_length is 225, so other programs cut texts off there; the model has 448", False),
])  # fmt: skip
def test_generation_settings_that_cannot_be_right_are_named(changes, sentence, is_fault, model):
    set_in(model / "generation_config.json", **changes)
    ((found, fault),) = said(model)
    assert sentence in found and fault == is_fault


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"eos_token_id": 9}, "config.json says eos_token_id 9, the tokenizer gives '<|endoftext|>' the id"),
    ({"dropout": 0.1}, "config.json sets dropout 0.1, which training here does not apply; set it to 0 there"),
    ({"decoder_start_token_id": 9}, "config.json says decoder_start_token_id 9, the tokenizer gives '<|startof"),
])  # fmt: skip
def test_ids_that_configuration_and_tokenizer_disagree_on_are_named(changes, sentence, model):
    set_in(model / "config.json", **changes)
    assert any(sentence in found and fault for found, fault in said(model))


def test_missing_files_are_named(model):
    (model / "generation_config.json").unlink()
    (model / "processor_config.json").unlink()
    assert [(found.split(";")[0], fault) for found, fault in said(model)] == [
        ("there is no preprocessor_config.json", False),
        ("there is no generation_config.json, so transformers' generate cannot be told a language", True),
    ]


@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base"])
def test_a_published_model_has_nothing_and_heads_of_another_size_are_named(name, tmp_path):
    """No shape of a weight shows into how many heads a projection is cut."""
    source = real_model(name)
    assert said(source) == []
    for file in source.iterdir():
        (tmp_path / file.name).symlink_to(file)
    set_in(tmp_path / "config.json", decoder_attention_heads=4, scale_embedding=True)
    heads, scale = said(tmp_path)
    usual = read_json(source / "config.json")["decoder_attention_heads"]
    assert f"decoder_attention_heads is 4, and {usual} in published models of this size" in heads[0] and heads[1]
    assert "scale_embedding is True, and False in published" in scale[0]
