"""Code for the cards of published Whispers and adapters; a published model is checked by running it as printed.

Precision is that of our own listening: on a CPU bfloat16 gives other texts here and there.
"""

from pathlib import Path

from shibolet.errors import ModelError
from shibolet.model.folders import read_mapping, resolve
from shibolet.model.tokens import tokenizer_in
from shibolet.model.whisper.prompt import is_multilingual
from shibolet.speech.text import get_language

_LOAD = """\
import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor
from transformers.audio_utils import load_audio

dtype = "bfloat16" if torch.cuda.is_available() else "float32"
processor = AutoProcessor.from_pretrained("ORG/NAME")
model = AutoModelForSpeechSeq2Seq.from_pretrained("ORG/NAME", dtype=dtype, device_map="auto")
"""
_LOAD_ADAPTER = """\
import torch
from peft import AutoPeftModel
from transformers import AutoProcessor
from transformers.audio_utils import load_audio

dtype = "bfloat16" if torch.cuda.is_available() else "float32"
processor = AutoProcessor.from_pretrained("BASE")
model = AutoPeftModel.from_pretrained("ADAPTER", dtype=dtype, device_map="auto")
"""
_TRANSCRIBE = """\
for file in ["speech.wav"]:
    speech = load_audio(file, sampling_rate=16000)
    inputs = processor(speech, sampling_rate=16000, return_tensors="pt").to(model.device, model.dtype)
    written = model.generate(**inputs, ASKEDmax_new_tokens=440, num_beams=BEAMS)
    print(processor.decode(written[0], skip_special_tokens=True).strip())
"""
_FASTER_WHISPER = """\
import numpy as np
from faster_whisper import WhisperModel, decode_audio

model = WhisperModel("ORG/NAME")
for file in ["speech.wav"]:
    speech = decode_audio(file)
    speech = np.pad(speech, (0, -len(speech) % (30 * 16000)))
    segments, _ = model.transcribe(
        speech, language="CODE", beam_size=BEAMS, temperature=0, condition_on_previous_text=False,
        without_timestamps=True, no_speech_threshold=None, log_prob_threshold=None,
        compression_ratio_threshold=None,OTHERS
    )
    print("".join(segment.text for segment in segments).strip())
"""
_CUT = """\
It was fine-tuned without times and hears 30 s at once: cut longer recordings at pauses, as `shibolet transcribe` does.
"""
_NATIVE_NOTE = f"""\
With transformers >= 5: `pip install torch transformers accelerate soundfile soxr`. {_CUT}`pipeline` opens it too; give
it `generate_kwargs={{ASKED"num_beams": BEAMS}}`, since its own default is 5 beams.
"""
_CTRANSLATE2_NOTE = f"""\
In CTranslate2's format, weights in float16: `pip install faster-whisper`. {_CUT}The code fills a recording up with
silence to 30 s, as in training. faster-whisper by itself fills up its features with zeros, which are no silence, and
then writes other texts of short recordings.
"""


def usage(
    name: str, layout: str, *, model: Path, language: str, beam_size: int = 1, length_penalty: float = 1.0
) -> str:
    """`Family.usage`; `model` is a folder in that layout."""
    code = get_language(language).code
    beams = f"{beam_size}, length_penalty={length_penalty:g}" if beam_size > 1 else "1"
    if layout == "ctranslate2":
        note, block = _CTRANSLATE2_NOTE, _FASTER_WHISPER
        if beam_size > 1:
            note += "Its beams are not searched as those of the evaluation were, and texts may differ.\n"
        # faster-whisper does not take what a model suppresses from its configuration.
        suppressed = read_mapping(str(model), model / "config.json").get("suppress_ids")
        block = block.replace("OTHERS", "" if suppressed else " suppress_tokens=[],")
    else:
        asked = {"language": code, "task": "transcribe"} if _takes_language(model) else {}
        note = _NATIVE_NOTE.replace("ASKED", "".join(f'"{key}": "{value}", ' for key, value in asked.items()))
        note = note.replace("BEAMS", str(beam_size))
        block = _LOAD + _transcribe(asked)
    block = block.replace("BEAMS", beams).replace("CODE", code)
    return f"{note}\n```python\n{block}```\n".replace("ORG/NAME", name)


def adapter_usage(adapter: str, base: str, layout: str, *, language: str) -> str:
    """`Family.adapter_usage`; the base is on this machine."""
    code = get_language(language).code
    asked = {"language": code, "task": "transcribe"} if _takes_language(resolve(base)) else {}
    block = _LOAD_ADAPTER + _transcribe(asked).replace("BEAMS", "1")
    note = f"With transformers >= 5 and peft. {_CUT}"
    return f"{note}\n```python\n{block}```\n".replace("ADAPTER", adapter).replace("BASE", base)


def _transcribe(asked: dict[str, str]) -> str:
    return _TRANSCRIBE.replace("ASKED", "".join(f'{key}="{value}", ' for key, value in asked.items()))


def _takes_language(model: Path) -> bool:
    """Whether `generate` has to be told the language; it refuses one for an English-only model."""
    if (tokenizer := tokenizer_in(model)) is None:
        raise ModelError(f"the model in {model} has no tokenizer; save it again with its processor")
    return is_multilingual(tokenizer)
