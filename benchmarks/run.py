"""Benchmarks by topic: what each shows, how long it takes and where it runs; with a topic, run those that need no more.

    python benchmarks/run.py [TOPIC] [--out DIR]

A benchmark that needs recordings, a model or a GPU that are not here is listed with its command and not run.
"""

import argparse
import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
SPEECH = "recordings and a recogniser"
WHISPERS = "real Whispers and the speech of an4_en, fsdd_en and yesno_he"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One command; `minutes` as last measured on two quiet cores or the GPUs that it needs, None: not written down."""

    topic: str
    command: str  # OUT stands for a folder
    minutes: float | None
    gpus: int = 0
    needs: str = ""  # what the caller has to name

    @property
    def claim(self) -> str:
        """The first line of its file."""
        text = (FOLDER / self.command.split()[0]).read_text(encoding="utf-8")
        return ast.get_docstring(ast.parse(text)).split("\n")[0]


BENCHMARKS = (
    Benchmark("gate", "verdicts.py --part rates extend corrected", 12),
    Benchmark("gate", "verdicts.py --part review", 2),
    Benchmark("compare", "verdicts.py --part keep", 5),
    Benchmark("compare", "verdicts.py --part seeds", 2),
    Benchmark("audit", "audit_detection.py --seed 411 --out OUT --copies 150", 10),
    Benchmark("audit", "audit_memory.py", None),
    Benchmark("audit", "real_audit.py --data MANIFEST --recogniser MODEL --out OUT", 30, needs=SPEECH),
    Benchmark("audit", "reliability.py --data MANIFEST --recogniser MODEL --out OUT", None, needs=SPEECH),
    Benchmark("audit", "audit_speed.py", None, gpus=1),
    Benchmark("audit", "audit_speed.py --size tiny --device cpu --clips 240", None),
    Benchmark("audit", "hearing_gpus.py --gpus 1 2 4", None, gpus=4),
    Benchmark("prepare", "prepare_speed.py --clips 1600 --processes 0 2", None),
    Benchmark("demo", "demo_seeds.py 401 402 403 404 405 --out OUT", 35),
    Benchmark("demo", "seed_pairs.py --out OUT --jobs 2", None),
    Benchmark("demo", "tiny_models.py --sentences 200", None),
    Benchmark("demo", "forgetting_remedies.py --out OUT --train 240", None),
    Benchmark("distil", "distillation.py --out OUT --seeds 501 502 503 504 --jobs 16", None),
    Benchmark(
        "compare", "non_speech.py MODEL --language NAME --terms FILE", None, needs="a model and a file of terms"
    ),
    Benchmark("demo", "context_training.py --run RUN --out OUT", None, needs="a finished demo round"),
    Benchmark("train", "loss_curves.py --steps 40 --dtype float32", None),
    Benchmark("train", "loss_curves.py --steps 200", None, gpus=1),
    Benchmark("train", "sharded_update.py --ranks 2", 1),
    Benchmark("train", "node_bytes.py --ranks 2", None, gpus=4),
    Benchmark("train", "train_speed.py --seconds 30", None, gpus=1),
    Benchmark("train", "train_run.py --scratch OUT", None, gpus=1),
    Benchmark("train", "profile_step.py --phase B --utterances 128", None, gpus=1),
    Benchmark("train", "scaling.py --gpus 1 2 4 --seconds 20", None, gpus=4),
    Benchmark("train", "search_rates.py --world 401 --out OUT", None),
    Benchmark("memory", "memory_plan.py", None, gpus=1),
    Benchmark("read", "loader_speed.py --hours 4 --workers 1 4 8 15 --seconds 20", None, gpus=1),
    Benchmark("whisper", "whisper_folds.py an4 --models M --data D --out OUT", None, needs=WHISPERS),
    Benchmark("whisper", "whisper_folds.py fsdd --models M --data D --out OUT", None, needs=WHISPERS),
    Benchmark("whisper", "whisper_folds.py variants --models M --data D --out OUT --jobs 8", None, needs=WHISPERS),
    Benchmark("whisper", "whisper_damage.py --models M --data D --out OUT --jobs 8", None, needs=WHISPERS),
    Benchmark("whisper", "whisper_forgetting.py --models M --data D --out OUT", None, needs=WHISPERS),
    Benchmark("transcribe", "transcribe_speed.py", None, gpus=1),
    Benchmark("distil", "student_speed.py --tokenizer FOLDER", None, gpus=1, needs="Qwen3-ASR's tokenizer"),
    Benchmark("transcribe", "transcribe_speed.py --model builtin:round1 --utterances 64 --rows 8 16", None),
    Benchmark("serve", "serving.py FILES", 2, needs="50 recordings in Hebrew"),
)  # fmt: skip


def describe(benchmark: Benchmark) -> str:
    """What a person reads before it runs."""
    took = "time not written down" if benchmark.minutes is None else f"about {benchmark.minutes:g} min"
    where = f"{benchmark.gpus} GPU{'s' * (benchmark.gpus > 1)}" if benchmark.gpus else "two cores"
    needs = f", needs {benchmark.needs}" if benchmark.needs else ""
    return f"{benchmark.topic}: {benchmark.command}\n    {benchmark.claim}\n    {took} on {where}{needs}"


def main() -> None:
    topics = sorted({benchmark.topic for benchmark in BENCHMARKS})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topic", nargs="?", choices=topics)
    parser.add_argument("--out", default="build/benchmarks", metavar="DIR")
    given = parser.parse_args()
    chosen = [benchmark for benchmark in BENCHMARKS if given.topic in (None, benchmark.topic)]
    print("\n".join(map(describe, chosen)), flush=True)
    if given.topic is None:
        return
    import torch

    for benchmark in chosen:
        if benchmark.needs or benchmark.gpus > torch.cuda.device_count():
            continue
        print(f"\n== {benchmark.command}", flush=True)
        script, *rest = benchmark.command.replace("OUT", given.out).split()
        subprocess.run([sys.executable, str(FOLDER / script), *rest], check=True)


if __name__ == "__main__":
    main()
