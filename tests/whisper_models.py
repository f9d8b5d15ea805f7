"""Tiny Whispers with random weights, and a tokenizer with the special tokens of the real ones."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from shibolet.model.family import LoadedModel

SENTENCES = ["שלום עולם", "הילד הלך אל הים ביום חם מאוד", "בית", "ספר גדול על השולחן", "the sea is blue"]
LANGUAGES = ("en", "he", "ar", "yi")
_NUM_TIMES = 1501  # of 20 ms


def tiny_tokenizer(texts: Iterable[str] = SENTENCES, vocab_size: int = 384) -> WhisperTokenizer:
    """A byte-level BPE in the class of a multilingual Whisper's and with its special tokens, a few languages."""
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator([f" {text}" for text in texts], trainer)
    model = json.loads(bpe.to_str())["model"]
    tokenizer = WhisperTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
    special = [
        "<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES), "<|translate|>",
        "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
    ]  # fmt: skip
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    times = [f"<|{number / 50:.2f}|>" for number in range(_NUM_TIMES)]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in times])
    return tokenizer


def new_whisper(tokenizer: WhisperTokenizer, seed: int = 0, **changes) -> WhisperForConditionalGeneration:
    """An untrained Whisper of 0.2 M weights, in evaluation mode."""
    torch.manual_seed(seed)
    ids = tokenizer.convert_tokens_to_ids
    start, end = ids(["<|startoftranscript|>", "<|endoftext|>"])
    settings = {
        "vocab_size": len(tokenizer), "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
        "num_mel_bins": 80, "max_source_positions": 1500, "max_target_positions": 448, "init_std": 0.1,
        "decoder_start_token_id": start, "bos_token_id": end, "eos_token_id": end, "pad_token_id": end,
    }  # fmt: skip
    model = WhisperForConditionalGeneration(WhisperConfig(**{**settings, **changes})).eval()
    with torch.no_grad():  # a bias of 0 and a norm of 1 would hide one that is left out
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.1 * torch.randn(weight.shape)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start, bos_token_id=end, eos_token_id=end, pad_token_id=end, is_multilingual=True,
        lang_to_id={f"<|{code}|>": ids(f"<|{code}|>") for code in LANGUAGES}, max_length=448,
        task_to_id={"transcribe": ids("<|transcribe|>"), "translate": ids("<|translate|>")},
        no_timestamps_token_id=ids("<|notimestamps|>"), return_timestamps=False,
    )  # fmt: skip
    return model


def loaded_whisper(seed: int = 0, **changes) -> LoadedModel:
    """The same with what feeds it; it lies in no folder."""
    tokenizer = tiny_tokenizer()
    model = new_whisper(tokenizer, seed, **changes)
    return LoadedModel(model, tokenizer, WhisperFeatureExtractor(feature_size=80), Path(), "")


def save_whisper(path: Path, seed: int = 0, **changes) -> Path:
    """The same on disk as transformers writes it, float32."""
    loaded = loaded_whisper(seed, **changes)
    loaded.model.save_pretrained(path)
    WhisperProcessor(loaded.extractor, loaded.tokenizer).save_pretrained(path)
    return path
