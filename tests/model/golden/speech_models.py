"""The shipped recogniser in the legacy layout, the code of its card, and speech for it: input of `card_code.py`."""

import shutil
import sys
from pathlib import Path

import soundfile as sf

from shibolet.model.family import convert
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.rounds.reproduce import code_of

sys.path.insert(0, str(Path(__file__).parents[2]))
from made_speech import sentences

NUM_CLIPS, SEED = 20, 21


def export(folder: Path) -> None:
    """Fill the folder with `org/name`, `code.py` and `speech/NN.wav`, mono float at 16 kHz."""
    (folder / "org").mkdir(parents=True)
    convert("builtin:round1", folder / "org" / "name", "legacy", ["Hebrew"])
    usage = FAMILY.usage("org/name", "legacy", model=folder / "org" / "name", language="Hebrew")
    (folder / "code.py").write_text(code_of(usage), encoding="utf-8")
    (folder / "speech").mkdir()
    for i, speech in enumerate(sentences(NUM_CLIPS, SEED)):
        sf.write(folder / "speech" / f"{i:02}.wav", speech.samples, 16000, subtype="FLOAT")


if __name__ == "__main__":
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    export(Path(sys.argv[1]))
