"""Greedy decoding, beams and minimum Bayes risk over samples on one set: error rates in the nearest reading, and costs.

    python benchmarks/decoding_ways.py --model builtin:round1 --manifest runs/demo/corpus/test_clean/manifest.jsonl
    python benchmarks/decoding_ways.py --model whisper-tiny.en --language English --manifest an4_en/manifest.jsonl

A line of JSON a way. `points` is its word error rate minus that of greedy decoding, with a 95% interval over speakers
and recordings; `errors` and `words` are what it is made of. `end_to_end_s` is what reading, hearing and choosing take;
`decoding_s` is that without what one greedy token of each clip takes, which is reading, features, encoder and prompt.
Both are the medians of `--repeats` rounds in which all ways take turns, so that a busy machine slows down all of them.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch

from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import load_recogniser
from shibolet.model.folders import best_device, dtype_on
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.nearest import in_nearest_reading
from shibolet.scoring.rows import groups_of, score_row
from shibolet.speech import audio
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language

ONE_TOKEN = "one token"  # its seconds are those of everything but decoding


def ways(args: argparse.Namespace) -> dict[str, dict]:
    """Settings of a transcriber by the name of a way, greedy decoding first."""
    return {
        "greedy": {},
        **{f"beam {beams}": {"beam_size": beams} for beams in args.beams},
        **{
            f"MBR {num} at {temperature:g}": {"mbr_samples": num, "mbr_temperature": temperature}
            for num in args.samples
            for temperature in args.temperatures
        },
        **{f"bias {bias:g}": {"repeat_bias": bias} for bias in args.biases},
        ONE_TOKEN: {"max_new_tokens_per_s": 1e-3},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--language", default="Hebrew")
    parser.add_argument("--every", type=int, default=1, help="take each n-th utterance")
    parser.add_argument("--beams", type=int, nargs="*", default=[4])
    parser.add_argument("--samples", type=int, nargs="*", default=[8])
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.7])
    parser.add_argument("--biases", type=float, nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    language, device = get_language(args.language), best_device()
    source = DataSource(name="set", manifest=args.manifest)
    utterances, _ = read_source(source, Path(), language=args.language)
    utterances = utterances[:: args.every]
    loaded = load_recogniser(args.model, dtype=dtype_on(device), device=device)
    transcribers = {name: Transcriber(loaded, args.language, **how) for name, how in ways(args).items()}
    taken: dict[str, list[float]] = {name: [] for name in transcribers}
    heard: dict[str, list[str]] = {}
    for transcriber in transcribers.values():  # what takes time at first use
        transcriber.transcribe([audio.load(utterances[0].audio)])
    for _ in range(args.repeats):
        for name, transcriber in transcribers.items():
            started = time.perf_counter()
            heard[name] = transcriber.transcribe([audio.load(utterance.audio) for utterance in utterances])
            taken[name].append(time.perf_counter() - started)
    seconds = {name: median(own) for name, own in taken.items()}
    report = {name: heard[name] for name in heard if name != ONE_TOKEN}
    rows = [
        [
            score_row(u, text, set="set", normaliser=language.to_scoring)
            for u, text in zip(utterances, texts, strict=True)
        ]
        for texts in report.values()
    ]
    near = dict(zip(report, in_nearest_reading(rows, language), strict=True))
    base = near["greedy"]
    for name, own in near.items():
        errors = sum((row.words for row in own), EditCounts())
        change = difference_interval([row.words for row in base], [row.words for row in own], groups_of(own))
        decoding = {way: seconds[way] - seconds[ONE_TOKEN] for way in ("greedy", name)}
        print(
            json.dumps({
                "way": name, "model": args.model, "utterances": len(own), "errors": errors.errors,
                "words": errors.reference_length, "wer_pct": _pct(errors.rate), "points": _pct(change.value),
                "interval": [_pct(change.low), _pct(change.high)], "groups": len(set(groups_of(own))),
                "other_texts": sum(a != b for a, b in zip(heard["greedy"], heard[name], strict=True)),
                "end_to_end_s": round(seconds[name], 2), "times_greedy": round(seconds[name] / seconds["greedy"], 2),
                "decoding_s": round(decoding[name], 2),
                "decoding_times_greedy": round(decoding[name] / decoding["greedy"], 2),
            }),
            flush=True,
        )  # fmt: skip


def _pct(rate: float | None) -> float | None:
    return None if rate is None else round(100 * rate, 2)


if __name__ == "__main__":
    main()
