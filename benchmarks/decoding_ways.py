"""Greedy decoding, beams and minimum Bayes risk over samples on one set: error rates in the nearest reading, and costs.

    python benchmarks/decoding_ways.py --model builtin:round1 --manifest corpus/test_clean/manifest.jsonl --out O
    python benchmarks/decoding_ways.py --model whisper-tiny.en --language English --manifest an4_en/manifest.jsonl ...

A line of JSON a way. `points` is its word error rate minus that of greedy decoding, with a 95% interval over speakers
and recordings; `errors` and `words` are what it is made of. `end_to_end_s` is what reading, hearing and choosing take;
`decoding_s` is that without what one greedy token of each clip takes, which is reading, features, encoder and prompt.
Both are the medians of `--repeats` rounds in which all ways take turns, so that a busy machine slows down all of them.
With `--out O --parts 16 --jobs 16` each sixteenth of the set is a process of its own with all ways, seconds are sums
over them, and the same command goes on with the parts that are missing. `--device cuda` hears on a GPU.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from whisper_figures import rows_of, show
from whisper_jobs import Job, parse, process_arguments, run_jobs, utterances_of, written
from whisper_settings import data_of

from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import load_recogniser
from shibolet.model.folders import best_device, dtype_on
from shibolet.records.utterance import Utterance
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.nearest import in_nearest_reading
from shibolet.scoring.rows import groups_of
from shibolet.speech import audio
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


def jobs_of(args: argparse.Namespace, utterances: list[Utterance]) -> list[Job]:
    """One for each part of the set, with all ways."""
    how, jobs = ways(args), []
    for part in range(args.parts):
        manifest = written(args.out / f"part{part}.jsonl", utterances[part :: args.parts])
        about = {"manifest": str(manifest), "model": args.model, "language": args.language, "ways": how,
                 "repeats": args.repeats}  # fmt: skip
        jobs.append(
            Job(
                key=f"decoding/{part} of {args.parts}", run_dir=args.out, recipe="", data=data_of(manifest),
                changes=(f"model={Path(args.model).name}", f"ways={how}", f"repeats={args.repeats}"), about=about,
            )
        )  # fmt: skip
    return jobs


def hear(job: Job) -> dict:
    """By way, seconds and what was heard in a part."""
    about, device = job.about, best_device()
    utterances = utterances_of(Path(about["manifest"]), "part", about["language"])
    loaded = load_recogniser(about["model"], dtype=dtype_on(device), device=device)
    transcribers = {name: Transcriber(loaded, about["language"], **how) for name, how in about["ways"].items()}
    taken: dict[str, list[float]] = {name: [] for name in transcribers}
    heard: dict[str, list] = {}
    for transcriber in transcribers.values():  # what takes time at first use
        transcriber.transcribe([audio.load(utterances[0].audio)])
    for _ in range(about["repeats"]):
        for name, transcriber in transcribers.items():
            started = time.perf_counter()
            texts = transcriber.transcribe([audio.load(utterance.audio) for utterance in utterances])
            taken[name].append(time.perf_counter() - started)
            heard[name] = [[u.id, text] for u, text in zip(utterances, texts, strict=True)]
    return {"way_s": {name: median(own) for name, own in taken.items()}, "rows": heard}


def report(args: argparse.Namespace, found: Mapping[str, dict], utterances: list[Utterance]) -> None:
    language, names = get_language(args.language), ways(args)
    seconds = {name: sum(row["way_s"][name] for row in found.values()) for name in names}
    heard = {name: {id: text for row in found.values() for id, text in row["rows"][name]} for name in names}
    del heard[ONE_TOKEN]
    rows = [rows_of(utterances, texts, "set", args.language) for texts in heard.values()]
    near = dict(zip(heard, in_nearest_reading(rows, language), strict=True))
    base = near["greedy"]
    for name, own in near.items():
        errors = sum((row.words for row in own), EditCounts())
        change = difference_interval([row.words for row in base], [row.words for row in own], groups_of(own))
        decoding = {way: seconds[way] - seconds[ONE_TOKEN] for way in ("greedy", name)}
        show("way", {
            "way": name, "model": args.model, "utterances": len(own), "errors": errors.errors,
            "words": errors.reference_length, "wer_pct": _pct(errors.rate), "points": _pct(change.value),
            "interval": [_pct(change.low), _pct(change.high)], "groups": len(set(groups_of(own))),
            "other_texts": sum(heard["greedy"][id] != text for id, text in heard[name].items()),
            "end_to_end_s": round(seconds[name], 2), "times_greedy": round(seconds[name] / seconds["greedy"], 2),
            "decoding_s": round(decoding[name], 2),
            "decoding_times_greedy": round(decoding[name] / decoding["greedy"], 2),
        })  # fmt: skip


def main() -> None:
    parser = process_arguments(__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--language", default="Hebrew")
    parser.add_argument("--every", type=int, default=1, help="take each n-th utterance")
    parser.add_argument("--parts", type=int, default=1, help="of the set, each a process of its own")
    parser.add_argument("--beams", type=int, nargs="*", default=[4])
    parser.add_argument("--samples", type=int, nargs="*", default=[8])
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.7])
    parser.add_argument("--biases", type=float, nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    args = parse(parser)
    utterances = utterances_of(args.manifest, "set", args.language)[:: args.every]
    jobs = jobs_of(args, utterances)
    found = run_jobs(args, hear, jobs)
    if len(found) == len(jobs):
        report(args, found, utterances)


def _pct(rate: float | None) -> float | None:
    return None if rate is None else round(100 * rate, 2)


if __name__ == "__main__":
    main()
