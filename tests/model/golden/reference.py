"""Logits of qwen-asr's own classes on our legacy export: `make golden` runs this in an environment of its own.

Usage: python reference.py FOLDER OUT.json, after `tiny_models.py FOLDER`.

The encoder attends within windows of 8 s. qwen-asr hands them to flash attention as `cu_seq_lens` and leaves them out
without it: its eager and SDPA encoders attend over the whole clip (a method builds the mask, nobody calls it). The
windows are what the configuration asks for and flash attention computes: an attention that keeps them is put in here.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from qwen_asr import Qwen3ASRModel, Qwen3ForcedAligner
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

TEXT = "שלום עולם"
NUM_POSITIONS, COLUMN_STEP = 12, 19  # the last positions of each clip, and of their logits every 19th


def windowed(module, query, key, value, attention_mask, scaling, cu_seq_lens_q, **kwargs):
    """Attention within the segments of `cu_seq_lens_q`; query, key and value are [1, N, T, H]."""
    sizes = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    parts = zip(*(x.split(sizes, dim=2) for x in (query, key, value)), strict=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    return torch.cat([attend(*part, scale=scaling) for part in parts], dim=2).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register("windowed", windowed)


def recogniser(path: Path):
    """Model, processor and the text of a whole training example, as the package's `transcribe` builds it."""
    loaded = Qwen3ASRModel.from_pretrained(str(path), dtype=torch.float32, attn_implementation="eager")
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": [{"type": "audio", "audio": ""}]},
    ]
    prompt = loaded.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert loaded.model.get_support_languages()[-1] == "Hebrew"
    return loaded.model, loaded.processor, f"{prompt}language Hebrew<asr_text>{TEXT}<|im_end|>"


def aligner(path: Path):
    """The same of a forced aligner."""
    loaded = Qwen3ForcedAligner.from_pretrained(str(path), dtype=torch.float32, attn_implementation="eager")
    assert loaded.timestamp_segment_time == 80
    return loaded.model, loaded.processor, loaded.aligner_processor.encode_timestamp(TEXT, "English")[1]


def main(folder: Path, out: Path) -> None:
    clips = list(np.load(folder / "clips.npz").values())
    values = {"qwen-asr": version("qwen-asr"), "transformers": version("transformers"), "column_step": COLUMN_STEP}
    for path in (folder / kind for kind in ("aligner", "tied", "untied")):
        model, processor, text = (aligner if path.name == "aligner" else recogniser)(path)
        model.thinker.audio_tower.config._attn_implementation = "windowed"
        values[path.name] = []
        for clip in clips:
            inputs = processor(text=[text], audio=[clip], return_tensors="pt", padding=True)
            with torch.no_grad():
                logits = model.eval().thinker(**inputs).logits[0]
            values[path.name].append(
                {
                    "input_ids": inputs["input_ids"][0, -NUM_POSITIONS:].tolist(),
                    "num_tokens": inputs["input_ids"].shape[1],
                    "logits": [[round(x, 7) for x in row] for row in logits[-NUM_POSITIONS:, ::COLUMN_STEP].tolist()],
                }
            )
    out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
