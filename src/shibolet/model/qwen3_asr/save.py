"""Writing Qwen3-ASR and its forced aligner in either layout, complete: every file that its readers ask for.

native   config, weights, generation settings, processor, chat template, tokenizer: for transformers >= 5.15
legacy   the same as qwen-asr 0.0.6 (transformers 4.57) and vLLM read them
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRProcessor,
)

from shibolet.errors import ModelError
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.layouts import (
    Layout,
    is_legacy,
    legacy_config,
    legacy_name,
    supported_languages,
    template_of,
)
from shibolet.model.qwen3_asr.load import open_folder
from shibolet.model.qwen3_asr.parts import is_tied
from shibolet.model.qwen3_asr.prompt import ASR_TEXT
from shibolet.model.weights import write_sharded
from shibolet.records.ahead import Ahead
from shibolet.records.files import make_folder, read_json, write_bytes, write_json

TIMESTAMP_MS = 80  # width of an aligner's time classes, in both layouts' processors


def save_model(
    loaded: LoadedModel,
    path: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model into a folder, in the native layout, as bfloat16 where nothing else is asked for."""
    dtype = dtype or torch.bfloat16  # as it is published
    state = {name: weight.to(dtype) for name, weight in loaded.model.state_dict().items()}
    if is_tied(loaded.model):
        state.pop("lm_head.weight")
    _write(path, "native", loaded.path, loaded.model.config, state, loaded.tokenizer, loaded.extractor,
           aligner=not hasattr(loaded.model, "lm_head"), languages=())  # fmt: skip


def convert(source: str, path: Path, layout: Layout, languages: Sequence[str] = ()) -> None:
    """Write the model `source` into the new folder `path`: the same weights bit for bit, whole or not at all.

    `languages` join the legacy layout's list of supported ones.
    """
    if path.exists():
        raise ModelError(f"'{path}' exists; name a new folder for the converted model")
    folder = open_folder(source)
    extractor = Qwen3ASRFeatureExtractor(feature_size=folder.native.audio_config.num_mel_bins)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write(partial, layout, folder.path, folder.native, folder.read_weights(), folder.tokenizer, extractor,
           aligner=folder.aligner, languages=languages)  # fmt: skip
    os.replace(partial, path)


def _write(
    path: Path,
    layout: Layout,
    source: Path,
    config: Qwen3ASRConfig,
    state: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    extractor: Qwen3ASRFeatureExtractor,
    *,
    aligner: bool,
    languages: Sequence[str],
) -> None:
    make_folder(path)
    named = state if layout == "native" else {legacy_name(name): weight for name, weight in state.items()}
    weights = Ahead(partial(write_sharded, path, named))  # small files wait as long for a disk that has much to do
    try:
        dtype = state["model.language_model.embed_tokens.weight"].dtype
        _write_settings(path, layout, source, config, dtype, tokenizer, extractor, aligner=aligner, languages=languages)
    finally:
        weights.wait()
    weights.get()


def _write_settings(
    path: Path,
    layout: Layout,
    source: Path,
    config: Qwen3ASRConfig,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerBase,
    extractor: Qwen3ASRFeatureExtractor,
    *,
    aligner: bool,
    languages: Sequence[str],
) -> None:
    """Everything but the weights."""
    origin = read_json(source / "config.json") if (source / "config.json").is_file() else {}
    same_layout = is_legacy(origin) == (layout == "legacy")
    config = type(config).from_dict(config.to_dict())  # of the model, not of the file
    for part in (config, config.audio_config, config.text_config):
        part.dtype = dtype
    config.architectures = ["Qwen3ASRForTokenClassification" if aligner else "Qwen3ASRForConditionalGeneration"]
    template = template_of(layout, aligner=aligner)
    if layout == "native":
        config.save_pretrained(path)
        if same_layout and (source / "chat_template.jinja").is_file():
            template = (source / "chat_template.jinja").read_text(encoding="utf-8")
        Qwen3ASRProcessor(extractor, tokenizer, template, TIMESTAMP_MS).save_pretrained(path)
        _settle_tokenizer(path)
    else:
        if same_layout and (source / "chat_template.json").is_file():
            template = read_json(source / "chat_template.json")["chat_template"]
        spoken = supported_languages({"architectures": config.architectures, **origin}, languages)
        legacy = legacy_config(config, tokenizer, aligner=aligner, languages=spoken, timestamp_ms=TIMESTAMP_MS)
        write_json(path / "config.json", legacy)
        write_json(path / "chat_template.json", {"chat_template": template})
        write_json(path / "preprocessor_config.json", _whisper_extractor(extractor))
        _write_tokenizer_4(path, tokenizer)
    if not aligner:
        _write_generation(path, source, config)


def _write_generation(path: Path, source: Path, config: Qwen3ASRConfig) -> None:
    """Settings of `generate`: those that the source came with, else greedy with the configuration's token ids."""
    name = "generation_config.json"
    if (source / name).is_file():
        write_bytes(path / name, (source / name).read_bytes())
    else:
        eos, pad = config.eos_token_id, config.pad_token_id
        GenerationConfig(eos_token_id=eos, pad_token_id=pad, do_sample=False).save_pretrained(path)


def _whisper_extractor(extractor: Qwen3ASRFeatureExtractor) -> dict:
    """The same features by the name of the class that computes them in transformers 4."""
    keys = (
        "chunk_length", "dither", "feature_size", "hop_length", "n_fft", "n_samples", "nb_max_frames", "padding_side",
        "padding_value", "return_attention_mask",
    )  # fmt: skip
    settings = extractor.to_dict()
    names = {"feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "Qwen3ASRProcessor"}
    return {key: settings[key] for key in keys if key in settings} | names


_TOKENIZER_DEFAULTS = {"add_prefix_space": False, "clean_up_tokenization_spaces": False, "errors": "replace"}


def _keep_text_apart(path: Path) -> None:
    """Take the mark of a special token from `<asr_text>`, in a saved tokenizer that has it.

    The published tokenizer has none there. Libraries skip special tokens when they decode, and split the language
    that the model writes from the text at this one.
    """
    whole = read_json(path / "tokenizer.json")
    for token in whole["added_tokens"]:
        if token["content"] == ASR_TEXT and token["special"]:
            token["special"] = False
            write_json(path / "tokenizer.json", whole)


def _special_tokens(path: Path) -> list[str]:
    return [token["content"] for token in read_json(path / "tokenizer.json")["added_tokens"] if token["special"]]


def _settle_tokenizer(path: Path) -> None:
    """Make the tokenizer's files say the same whichever layout it came from."""
    _keep_text_apart(path)
    settings = read_json(path / "tokenizer_config.json")
    for key in ("is_local", "local_files_only", "model_specific_special_tokens"):  # how it was loaded; said twice
        settings.pop(key, None)
    settings |= {key: settings.get(key) or default for key, default in _TOKENIZER_DEFAULTS.items()}
    settings["extra_special_tokens"] = _special_tokens(path)
    write_json(path / "tokenizer_config.json", dict(sorted(settings.items())))


def _write_tokenizer_4(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """The tokenizer as transformers 4 saves it: version 5's configuration is an error there."""
    tokenizer.save_pretrained(path)
    _keep_text_apart(path)
    (path / "chat_template.jinja").unlink(missing_ok=True)  # the native one: it would win over chat_template.json
    whole = read_json(path / "tokenizer.json")
    write_json(path / "vocab.json", whole["model"]["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["model"]["merges"]]
    write_bytes(path / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]).encode())
    added = {token.pop("id"): token for token in whole["added_tokens"]}
    write_json(path / "added_tokens.json", {token["content"]: id for id, token in added.items()})
    special = _special_tokens(path)
    standard = {"bos_token", "eos_token", "pad_token", "unk_token"}
    named = tokenizer.special_tokens_map
    own = {name: token for name, token in named.items() if name not in standard}  # audio_token and the like
    write_json(path / "special_tokens_map.json", {"additional_special_tokens": special, **named})
    settings = {
        **{key: tokenizer.init_kwargs.get(key) or default for key, default in _TOKENIZER_DEFAULTS.items()},
        **{name: named.get(name) for name in sorted(standard)},
        **own,
        "added_tokens_decoder": {str(id): token for id, token in added.items()},
        "additional_special_tokens": special,
        "extra_special_tokens": own,
        "model_max_length": tokenizer.model_max_length,
        "processor_class": "Qwen3ASRProcessor",
        "tokenizer_class": "Qwen2Tokenizer",
    }
    write_json(path / "tokenizer_config.json", settings)
