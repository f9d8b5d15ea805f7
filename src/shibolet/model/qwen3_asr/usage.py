"""Code for the cards of published Qwen3-ASR models and adapters; a published model is checked by running it as printed.

Precision is that of our own listening: on a CPU bfloat16 gives other texts here and there.
"""

from pathlib import Path

_LOAD = """\
import torch
from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration

dtype = "bfloat16" if torch.cuda.is_available() else "float32"
processor = AutoProcessor.from_pretrained("ORG/NAME")
model = Qwen3ASRForConditionalGeneration.from_pretrained("ORG/NAME", dtype=dtype, device_map="auto")
"""
_LOAD_ADAPTER = """\
import torch
from peft import AutoPeftModel
from transformers import AutoProcessor

dtype = "bfloat16" if torch.cuda.is_available() else "float32"
processor = AutoProcessor.from_pretrained("BASE")
model = AutoPeftModel.from_pretrained("ADAPTER", dtype=dtype, device_map="auto")
"""
_LOAD_ON_CONVERTED = """\
import torch
from peft import PeftModel
from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration

dtype = "bfloat16" if torch.cuda.is_available() else "float32"
processor = AutoProcessor.from_pretrained("./base")
base = Qwen3ASRForConditionalGeneration.from_pretrained("./base", dtype=dtype, device_map="auto")
model = PeftModel.from_pretrained(base, "ADAPTER")
"""
_TRANSCRIBE = """\
for file in ["speech.wav"]:
    inputs = processor.apply_transcription_request(file).to(model.device, model.dtype)
    written = model.generate(**inputs, max_new_tokens=512)
    print(processor.decode(written[0, inputs["input_ids"].shape[1] :], return_format="transcription_only"))
"""
_QWEN_ASR = """\
from importlib.util import find_spec

import torch
from qwen_asr import Qwen3ASRModel

attention = "flash_attention_2" if find_spec("flash_attn") else None
device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
model = Qwen3ASRModel.from_pretrained("ORG/NAME", dtype=dtype, device_map=device, attn_implementation=attention)
for file in ["speech.wav"]:
    print(model.transcribe(file)[0].text)
"""
_NATIVE_NOTE = """\
With transformers >= 5.15: `pip install torch 'transformers>=5.15' accelerate soundfile soxr`. The processor refuses
languages outside of its own list; without one the model names the language itself.
"""
_LEGACY_NOTE = """\
With qwen-asr 0.0.6 (`pip install qwen-asr==0.0.6`, transformers 4.57), or `vllm serve ORG/NAME`. For recordings over
8 s qwen-asr needs the package flash-attn and a GPU: without it the encoder attends over the whole recording and not
within the windows of 8 s that it was trained with, and texts may differ. qwen-asr's `transcribe` refuses languages
outside of its own list; without one the model names the language itself.
"""


def usage(
    name: str, layout: str, *, model: Path, language: str, beam_size: int = 1, length_penalty: float = 1.0
) -> str:
    """`Family.usage`; the model names the language itself."""
    if layout == "legacy":
        note, code = _LEGACY_NOTE, _QWEN_ASR
        if beam_size > 1:
            note += f"It was scored with {beam_size} beams; `transcribe` is greedy, and its texts may differ.\n"
    else:
        note, code = _NATIVE_NOTE, f"{_LOAD}{_TRANSCRIBE}"
        if beam_size > 1:
            beams = f"max_new_tokens=512, num_beams={beam_size}, length_penalty={length_penalty:g}"
            code = code.replace("max_new_tokens=512", beams)
    return f"{note}\n```python\n{code}```\n".replace("ORG/NAME", name)


def adapter_usage(adapter: str, base: str, layout: str, *, language: str) -> str:
    """`Family.adapter_usage`."""
    note, code = "With transformers >= 5.15 and peft.\n", f"{_LOAD_ADAPTER}{_TRANSCRIBE}"
    if layout == "legacy":
        note += (
            "\nThe base is in qwen-asr's layout, which transformers does not read, so peft's auto classes cannot open "
            "it. Convert it first:\n\n```\nshibolet convert BASE ./base --layout native\n```\n"
        )
        code = f"{_LOAD_ON_CONVERTED}{_TRANSCRIBE}"
    return f"{note}\n```python\n{code}```\n".replace("ADAPTER", adapter).replace("BASE", base)
