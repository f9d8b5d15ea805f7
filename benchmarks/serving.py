"""`shibolet serve` under clients that all come at once: none is lost, and each text is the one that `transcribe` gives.

    python benchmarks/serving.py [--model builtin:round1] [--language Hebrew] [--clients 50] FILES...

Starts the server as a process, sends one file by each of the openai package's clients, and then transcribes the same
files with `shibolet transcribe`. Prints one JSON line: clients, how many got no answer, texts that differ from the
command's, distinct texts, and seconds to the last and the median answer. Ends with 1 where one is lost or differs.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import openai

SHIBOLET = [sys.executable, "-m", "shibolet.cli"]


def started(model: str, language: str) -> tuple[subprocess.Popen, str]:
    """A server on a free port, and its address."""
    command = [*SHIBOLET, "serve", model, "--language", language, "--port", "0", "--name", "asr"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if " answers at " in line:
            return process, line.split(" answers at ")[1].partition("/v1/")[0]
    raise SystemExit("the server did not start")


def texts_of(files: list[Path], model: str, language: str) -> list[str]:
    """By the command, a text for each file."""
    command = [*SHIBOLET, "transcribe", *map(str, files), "--model", model, "--language", language, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [one["text"] for one in json.loads(done.stdout)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="builtin:round1")
    parser.add_argument("--language", default="Hebrew")
    parser.add_argument("--clients", type=int, default=50)
    given = parser.parse_args()
    files = [given.files[i % len(given.files)] for i in range(given.clients)]
    process, address = started(given.model, given.language)
    together = Barrier(given.clients)

    def ask(file: Path) -> tuple[str | None, float]:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=600)
        together.wait()
        begun = time.monotonic()
        try:
            text = client.audio.transcriptions.create(model="asr", file=file).text
        except openai.OpenAIError as error:
            print(f"{file}: {error}", file=sys.stderr)
            text = None
        return text, time.monotonic() - begun

    with ThreadPoolExecutor(given.clients) as pool:
        answers = list(pool.map(ask, files))
    process.terminate()
    unique = list(dict.fromkeys(given.files))
    expected = dict(zip(unique, texts_of(unique, given.model, given.language), strict=True))
    texts, took_s = zip(*answers, strict=True)
    lost = sum(text is None for text in texts)
    differ = sum(text not in (None, expected[file]) for text, file in zip(texts, files, strict=True))
    figures = {
        "clients": given.clients, "lost": lost, "differ": differ, "distinct_texts": len(set(expected.values())),
        "last_answer_s": round(max(took_s), 2), "median_answer_s": round(statistics.median(took_s), 2),
    }  # fmt: skip
    print(json.dumps(figures))
    sys.exit(1 if lost or differ else 0)


if __name__ == "__main__":
    main()
