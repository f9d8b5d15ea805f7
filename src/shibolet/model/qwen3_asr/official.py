"""Carried out by a Python of another environment, which has qwen-asr: its logits and hypotheses of some clips.

    python -P official.py FOLDER     FOLDER has request.json and clips.npz, and gets answers.npz

The encoder attends within windows of 8 s. qwen-asr hands them to flash attention and leaves them out without it, so an
attention that keeps them is put in here.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from qwen_asr import Qwen3ASRModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

MESSAGES = [{"role": "system", "content": ""}, {"role": "user", "content": [{"type": "audio", "audio": ""}]}]


def windowed(module, query, key, value, attention_mask, scaling, cu_seq_lens_q, **kwargs):
    """Attention within the segments of `cu_seq_lens_q`; query, key and value are [1, N, T, H]."""
    sizes = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    parts = zip(*(x.split(sizes, dim=2) for x in (query, key, value)), strict=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    return torch.cat([attend(*part, scale=scaling) for part in parts], dim=2).transpose(1, 2), None


@torch.inference_mode()
def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    clips = list(np.load(folder / "clips.npz").values())
    ALL_ATTENTION_FUNCTIONS.register("windowed", windowed)
    loaded = Qwen3ASRModel.from_pretrained(
        request["model"], dtype=torch.float32, attn_implementation="eager", device_map=request["device"],
        trust_remote_code=False,
    )  # fmt: skip
    thinker, processor, answers = loaded.model.eval().thinker, loaded.processor, {"title": version("qwen-asr")}
    thinker.audio_tower.config._attn_implementation = "windowed"
    prompt = processor.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False) + request["prefix"]
    for i, (clip, text, limit) in enumerate(zip(clips, request["texts"], request["limits"], strict=True)):
        whole = processor(text=[prompt + text + request["end"]], audio=[clip], return_tensors="pt", padding=True)
        asked = processor(text=[prompt], audio=[clip], return_tensors="pt", padding=True)
        num = request["num_labels"][i]
        answers[f"labels{i}"] = whole["input_ids"][0, -num:].numpy()
        answers[f"logits{i}"] = thinker(**whole.to(thinker.device)).logits[0, -num - 1 : -1].float().cpu().numpy()
        written = thinker.generate(
            **asked.to(thinker.device), do_sample=False, num_beams=1, max_new_tokens=limit,
            eos_token_id=request["end_ids"], pad_token_id=request["pad_id"],
        )  # fmt: skip
        answers[f"written{i}"] = written[0, asked["input_ids"].shape[1] :].cpu().numpy()
    np.savez(folder / "answers.npz", **answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
