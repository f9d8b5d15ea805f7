"""What the code of a model card of the legacy layout prints: `make golden` runs this in the environment of qwen-asr.

Usage: python card_code.py FOLDER OUT.json, after `speech_models.py FOLDER`.

The code runs as printed but for two things. Its list of files is that of `FOLDER/speech`. And qwen-asr's `generate`
stops at the ids 151645 and 151643 whatever the configuration says, which a tiny vocabulary does not have: here it is
given the end ids of `config.json`.
"""

import functools
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

from qwen_asr.core.transformers_backend import Qwen3ASRForConditionalGeneration

FILES = '["speech.wav"]'


def main(folder: Path, out: Path) -> None:
    code = (folder / "code.py").read_text(encoding="utf-8")
    files = sorted(str(path) for path in (folder / "speech").iterdir())
    os.chdir(folder)  # the code names the model as ORG/NAME
    config = json.loads((folder / "org" / "name" / "config.json").read_text(encoding="utf-8"))
    Qwen3ASRForConditionalGeneration.generate = functools.partialmethod(
        Qwen3ASRForConditionalGeneration.generate, eos_token_id=[*config["eos_token_id"], config["pad_token_id"]]
    )
    assert code.count(FILES) == 1
    texts = []
    exec(compile(code.replace(FILES, json.dumps(files)), "code.py", "exec"), {"print": texts.append})
    values = {"qwen-asr": version("qwen-asr"), "transformers": version("transformers"), "code": code, "texts": texts}
    out.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
