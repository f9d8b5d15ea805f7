"""Configurations, tokenizer and processors of the tiny checkpoints: the real classes, a thousandth of the weights."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    Qwen2Tokenizer,
    Qwen3ASRConfig,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
)

from shibolet.model.qwen3_asr.prompt import ASR_TEXT, AUDIO_END, AUDIO_START, AUDIO_TOKEN, END_OF_TURN, TIMESTAMP

VOCAB_SIZE = 384  # 256 bytes, the Hebrew letters and common pairs, and the special tokens
NUM_TIME_CLASSES = 500  # of 80 ms: 40 s
LETTERS = "אבגדהוזחטיךכלםמןנסעףפץצקרשת"  # the CTC recogniser's alphabet, beside the space


def train_tokenizer(texts: Iterable[str]) -> Qwen2Tokenizer:
    """A byte-level BPE of `VOCAB_SIZE` tokens in the class and with the special tokens of the real one.

    `<asr_text>` is not marked special, as in the real one: decoders that skip special tokens split the text off there.
    """
    special = ["<|endoftext|>", "<|im_start|>", END_OF_TURN, AUDIO_START, AUDIO_END, AUDIO_TOKEN, ASR_TEXT, TIMESTAMP]
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]],
        eos_token=END_OF_TURN,
        pad_token="<|endoftext|>",
        extra_special_tokens={"audio_token": AUDIO_TOKEN, "audio_bos_token": AUDIO_START, "audio_eos_token": AUDIO_END},
    )
    tokenizer.add_tokens([AddedToken(token, special=token != ASR_TEXT, normalized=False) for token in special])
    return tokenizer


def _config(tokenizer: Qwen2Tokenizer, **kwargs) -> Qwen3ASRConfig:
    ids = tokenizer.convert_tokens_to_ids
    return Qwen3ASRConfig(
        audio_config={
            "model_type": "qwen3_asr_encoder",
            "d_model": 144,
            "encoder_layers": 6,
            "encoder_attention_heads": 3,
            "encoder_ffn_dim": 576,
            "downsample_hidden_size": 24,
            "output_dim": 128,
        },
        text_config={
            "model_type": "qwen3",
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
        },
        audio_token_id=ids(AUDIO_TOKEN),
        timestamp_token_id=ids(TIMESTAMP),
        pad_token_id=ids("<|endoftext|>"),
        eos_token_id=[ids(END_OF_TURN)],
        **kwargs,
    )


def new_recogniser(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen3ASRForConditionalGeneration:
    """An untrained Qwen3-ASR of about 2.3 M weights."""
    torch.manual_seed(seed)
    return Qwen3ASRForConditionalGeneration(_config(tokenizer))


def new_aligner(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen3ASRForTokenClassification:
    """An untrained Qwen3 forced aligner of about 2.3 M weights, 500 time classes of 80 ms."""
    torch.manual_seed(seed)
    return Qwen3ASRForTokenClassification(_config(tokenizer, num_labels=NUM_TIME_CLASSES))


def new_ctc(seed: int) -> Wav2Vec2BertForCTC:
    """An untrained letter CTC recogniser (w2v-BERT architecture, 50 frames a second) of about 2 M weights."""
    torch.manual_seed(seed)
    return Wav2Vec2BertForCTC(
        Wav2Vec2BertConfig(
            vocab_size=len(LETTERS) + 2,
            hidden_size=144,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=576,
            position_embeddings_type="relative_key",
            conv_depthwise_kernel_size=15,
            hidden_dropout=0.05,
            attention_dropout=0.05,
            activation_dropout=0.05,
            feat_proj_dropout=0.0,
            final_dropout=0.0,
            layerdrop=0.0,
            apply_spec_augment=False,
            ctc_loss_reduction="mean",
            ctc_zero_infinity=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def ctc_processor(work_dir: Path) -> Wav2Vec2BertProcessor:
    """Feature extractor and letter tokenizer; `|` stands for the space, id 0 for the blank."""
    vocab = {"<pad>": 0, "|": 1} | {letter: i + 2 for i, letter in enumerate(LETTERS)}
    work_dir.mkdir(parents=True, exist_ok=True)
    (work_dir / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(
        str(work_dir / "vocab.json"), unk_token="<pad>", pad_token="<pad>", word_delimiter_token="|", bos_token=None,
        eos_token=None,
    )  # fmt: skip
    return Wav2Vec2BertProcessor(feature_extractor=SeamlessM4TFeatureExtractor(), tokenizer=tokenizer)
