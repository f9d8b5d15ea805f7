"""The checkpoints and clips of the golden values: the same weights whatever the version of torch, from numpy alone."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, pre_tokenizers
from transformers import (
    PreTrainedModel,
    Qwen2Tokenizer,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
)

from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.parts import untie_head
from shibolet.model.qwen3_asr.prompt import ASR_TEXT, AUDIO_END, AUDIO_START, AUDIO_TOKEN, END_OF_TURN, TIMESTAMP
from shibolet.model.qwen3_asr.save import convert, save_model

KINDS = ("tied", "untied", "aligner")
TEXT = "שלום עולם"
CLIPS_S = (1.7, 9.3)  # within one window of the encoder's attention, and beyond it
_SPECIAL = ["<|endoftext|>", "<|im_start|>", END_OF_TURN, AUDIO_START, AUDIO_END, AUDIO_TOKEN, ASR_TEXT, TIMESTAMP]


def clips() -> list[np.ndarray]:
    """Noise of the lengths of `CLIPS_S`, mono float32 at 16 kHz."""
    rng = np.random.Generator(np.random.PCG64(7))
    return [(0.1 * rng.standard_normal(round(16000 * s))).astype(np.float32) for s in CLIPS_S]


def export_legacy(kind: str, path: Path) -> None:
    """Write the tiny checkpoint `kind` in the legacy layout, float32; beside it, in the native one."""
    tokenizer, model = _tokenizer(), _model(kind, _tokenizer())
    native = path.with_name(f"{path.name}-native")
    save_model(LoadedModel(model, tokenizer, Qwen3ASRFeatureExtractor(), native, ""), native, torch.float32)
    convert(str(native), path, "legacy", ["Hebrew"])


def _tokenizer() -> Qwen2Tokenizer:
    """Bytes, the Hebrew letters as one token each, and the special tokens."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters = [split.pre_tokenize_str(letter)[0][0] for letter in "אבגדהוזחטיכלםמןנסעפצקרשת"]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *letters]
    tokenizer = Qwen2Tokenizer(
        vocab={token: id for id, token in enumerate(tokens)},
        merges=[tuple(letter) for letter in letters],
        eos_token=END_OF_TURN,
        pad_token="<|endoftext|>",
        extra_special_tokens={"audio_token": AUDIO_TOKEN, "audio_bos_token": AUDIO_START, "audio_eos_token": AUDIO_END},
    )
    tokenizer.add_tokens([AddedToken(token, special=token != ASR_TEXT, normalized=False) for token in _SPECIAL])
    return tokenizer


def _model(kind: str, tokenizer: Qwen2Tokenizer) -> PreTrainedModel:
    id_of = tokenizer.convert_tokens_to_ids
    config = Qwen3ASRConfig(
        audio_config={
            "model_type": "qwen3_asr_encoder", "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64, "downsample_hidden_size": 8, "output_dim": 32,
        },
        text_config={
            "model_type": "qwen3", "vocab_size": 304, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 1024, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
        audio_token_id=id_of(AUDIO_TOKEN), timestamp_token_id=id_of(TIMESTAMP), pad_token_id=id_of("<|endoftext|>"),
        eos_token_id=[id_of(END_OF_TURN)], **({"num_labels": 60} if kind == "aligner" else {}),
    )  # fmt: skip
    model = (Qwen3ASRForTokenClassification if kind == "aligner" else Qwen3ASRForConditionalGeneration)(config)
    if kind == "untied":
        untie_head(model)
    rng = np.random.Generator(np.random.PCG64(KINDS.index(kind)))
    for _, weight in sorted(model.named_parameters()):
        noise = rng.standard_normal(tuple(weight.shape))
        if weight.dim() == 1:
            values = 1 + 0.1 * noise  # of norms, and of biases, which may as well
        else:
            values = noise / np.sqrt(np.prod(weight.shape[1:]))
        weight.data = torch.from_numpy(values.astype(np.float32))
    if kind == "tied":
        model.tie_weights()
    return model.eval()


if __name__ == "__main__":
    import sys

    for kind in KINDS:
        export_legacy(kind, Path(sys.argv[1]) / kind)
    np.savez(Path(sys.argv[1]) / "clips.npz", *clips())
