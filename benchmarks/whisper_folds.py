"""What Whisper gains from an hour of speech or less, by folds of speakers: before, after, ways to train it, its cost.

    python benchmarks/whisper_folds.py an4 --models M --data D --out O         5 folds x 3 seeds of tiny.en, a CPU
    python benchmarks/whisper_folds.py an4 ... --whole                         each by `shibolet run`, audit and all
    python benchmarks/whisper_folds.py variants ... --jobs 8 --device cuda     4 ways to train x 5 folds x 3 seeds
    python benchmarks/whisper_folds.py rates ...     rates and epochs on the first fold's dev split; no test is heard
    python benchmarks/whisper_folds.py fsdd ...                                one of six speakers left out
    python benchmarks/whisper_folds.py own ... --manifest FILE --language Hebrew --model whisper-base

Every training leaves a line in OUT/results.jsonl, and the same command goes on with those that are missing. Then prints
lines of JSON: error rates as written and in the nearest reading with the interval over speakers, by seed; the loss of a
label; CPU seconds and memory of a fold. With --report it prints them from the lines alone.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np
from whisper_figures import differences, rows_of, show
from whisper_jobs import (
    Job,
    arguments,
    folds_by_speaker,
    hear_untouched,
    hypotheses_file,
    parse,
    run_jobs,
    train_and_score,
    train_for_dev,
    utterances_of,
    whole_round,
    written,
)
from whisper_settings import data_of

from shibolet.scoring.intervals import ratio_intervals
from shibolet.scoring.nearest import in_nearest_reading
from shibolet.speech.text import get_language

AN4 = ("an4_en", "whisper-tiny.en", 5)  # data, model, folds
SETS = {"an4": AN4, "rates": AN4, "variants": AN4, "fsdd": ("fsdd_en", "whisper-tiny.en", None)}
RECIPES_OWN = "recipe"  # the variant that changes nothing


DECODER = ("cross_attention", "decoder.layers", "decoder.norm")
ENCODER = ("encoder.conv", "encoder.layers", "encoder.norm")
GRID = [f"{rate:g}x{epochs}" for rate in (3e-5, 1e-4, 2e-4, 4e-4) for epochs in (2, 4, 8)]
ONE_SCORE = "train.eval_every_epoch=false"  # on dev, at the end: each hears it all


def phases(*plans: tuple[str, float, Mapping[str, float]]) -> str:
    """An override of the phases: name, epochs and rates of each."""
    given = [
        {"name": name, "num_epochs": num, "lr_by_part": dict(rates), "warmup_steps": 10, "schedule": "linear"}
        for name, num, rates in plans
    ]
    return f"train.phases={json.dumps(given)}"


def rates(grid: Sequence[str]) -> dict[str, list[str]]:
    """Overrides by name, rate x epochs of the decoder alone."""
    places = [(name, *map(float, name.split("x"))) for name in grid]
    return {name: [phases(("B", epochs, dict.fromkeys(DECODER, rate))), ONE_SCORE] for name, rate, epochs in places}


def variants(epochs: float, rate: float) -> dict[str, list[str]]:
    """Overrides by name, of equal epochs; an encoder trains at a third of the decoder's rate."""
    decoder, encoder = dict.fromkeys(DECODER, rate), dict.fromkeys(ENCODER, rate / 3)
    rest = dict.fromkeys(("embeddings", "decoder.positions"), rate / 3)
    lora = {"part": "decoder.layers", "rank": 16, "alpha": 32, "dropout": 0.0}
    return {
        "decoder alone": [phases(("B", epochs, decoder))],
        "gradual": [phases(("B", epochs / 2, decoder), ("A", epochs / 2, decoder | encoder))],
        "everything": [phases(("all", epochs, decoder | encoder | rest)), "train.encoder_cache=false"],
        "lora alone": [f"train.lora={json.dumps(lora)}", phases(("L", epochs, {"lora": 10 * rate}))],
    }


def jobs_of(
    args: argparse.Namespace, utterances: Sequence, heard: Mapping[str, str], model: Path, ways: Mapping[str, list[str]]
) -> list[Job]:
    """One for each way to train, fold and seed."""
    jobs, case = [], "written" if args.what == "own" else "lower"  # AN4's capitals are no way in which a Whisper writes
    listener = str(model) if args.whole else str(hypotheses_file(args.out / args.what / "heard.jsonl", heard))
    for fold, speakers in folds_by_speaker(utterances, args.folds):
        folder = args.out / args.what / f"fold{fold}"
        held = [u for u in utterances if (u.speaker or u.recording) in speakers]
        test = written(folder / "test.jsonl", held)
        train = written(folder / "train.jsonl", [u for u in utterances if (u.speaker or u.recording) not in speakers])
        data = data_of(train, test)
        for way, changes in ways.items():
            jobs += [
                Job(
                    key=f"{args.what}/{way}/{fold}/{seed}{'/whole' * args.whole}",
                    run_dir=folder / f"{way.replace(' ', '_')}-{seed}{'-whole' * args.whole}",
                    recipe=args.recipe,
                    changes=(
                        f"models.base={model}", f"models.baseline={model}", f"data.train.0.manifest={train}",
                        f"audit.recogniser={listener}", f"language={args.language}", f"seed={seed}",
                        f"evaluate.sets=[{{name: test, manifest: {test}, letter_case: {case}}}]",
                        f"data.train.0.letter_case={case}", "prepare.min_duration_s=0.1", *changes,
                        *args.set,
                    ),
                    data=data,
                    about={"what": args.what, "way": way, "fold": fold, "seed": seed, "with_loss": not args.whole},
                )
                for seed in args.seeds
            ]  # fmt: skip
    return jobs


def figures(rows: Sequence[dict], utterances: Sequence, heard: Mapping[str, str], language: str, title: str) -> dict:
    """All folds and seeds together against the untouched model; a seed is a set, speakers are the groups."""
    before, after = [], []
    for row in rows:
        said = dict(row["rows"]["test"])
        own = [u for u in utterances if u.id in said]
        before += rows_of(own, heard, f"seed {row['seed']}", language)
        after += rows_of(own, said, f"seed {row['seed']}", language)
    return {"trainings": len(rows), **differences(before, after, ("untouched", title), language)} | costs(rows)


def costs(rows: Sequence[dict]) -> dict:
    """Of one training, mean and most."""
    known = [row["stages"]["train"]["cpu_s"] for row in rows if row.get("stages")]
    lost = [part[1:] for row in rows for part in (row.get("loss") or {}).get("test", ())]
    return {
        "loss_a_label": round(sum(one for one, _ in lost) / sum(num for _, num in lost), 4) if lost else None,
        "cpu_s": [round(mean(row["cpu_s"] for row in rows), 1), max(row["cpu_s"] for row in rows)],
        "train_cpu_s": known and [round(mean(known), 1), max(known)],
        "seconds": [round(median(row["seconds"] for row in rows), 1), max(row["seconds"] for row in rows)],
        "peak_gib": max(row["peak_gib"] for row in rows),
        "gpu_peak_gib": max((row["gpu_peak_gib"] or 0 for row in rows), default=0),
        "steps": sorted({row.get("steps") for row in rows if row.get("steps")}),
    }


def report(args: argparse.Namespace, found: Mapping[str, dict], utterances: Sequence, heard: Mapping[str, str]) -> None:
    own = [row for row in found.values() if row.get("what") == args.what and row.get("rows", {}).get("test")]
    by_way = {way: [row for row in own if row["way"] == way] for way in dict.fromkeys(row["way"] for row in own)}
    for way, rows in by_way.items():
        show(f"{args.what}: {way}", figures(rows, utterances, heard, args.language, way))
    if args.folds is None:
        for way, rows in by_way.items():
            folds = {fold: [row for row in rows if row["fold"] == fold] for fold in sorted({r["fold"] for r in rows})}
            made = {fold: figures(some, utterances, heard, args.language, way) for fold, some in folds.items()}
            rates = {fold: one["nearest"]["after_pct"] for fold, one in made.items()}
            worst = max(rates, key=rates.get)
            show(
                f"{args.what}: {way} by speaker left out",
                {
                    "nearest_pct": rates, "raw_pct": {fold: one["raw"]["after_pct"] for fold, one in made.items()},
                    "mean_nearest_pct": round(mean(rates.values()), 2),
                    "mean_raw_pct": round(mean(one["raw"]["after_pct"] for one in made.values()), 2), "worst": worst,
                },
            )  # fmt: skip
    if len(by_way) > 1:
        between_ways(args, by_way, utterances)


def between_ways(args: argparse.Namespace, by_way: Mapping[str, Sequence[dict]], utterances: Sequence) -> None:
    """Each way against the one with the fewest errors in the nearest reading, on the folds and seeds that all have."""
    placed = {way: {(row["fold"], row["seed"]): row for row in rows} for way, rows in by_way.items()}
    shared = sorted(set.intersection(*(set(own) for own in placed.values())))
    scored = {
        way: [
            row
            for place in shared
            for row in rows_of(utterances, dict(own[place]["rows"]["test"]), f"seed {place[1]}", args.language)
        ]
        for way, own in placed.items()
    }
    near = dict(zip(scored, in_nearest_reading(list(scored.values()), get_language(args.language)), strict=True))
    best = min(near, key=lambda way: sum(row.words.errors for row in near[way]))
    speaker = {u.id: u.speaker or u.recording for u in utterances}
    for way in (way for way in by_way if way != best):
        made = differences(scored[best], scored[way], (best, way), args.language)["nearest"]
        pairs = [
            (speaker[two[0]], two[1] - one[1], two[2])
            for place in shared
            for one, two in zip(*(placed[name][place]["loss"]["test"] for name in (best, way)), strict=True)
        ]
        groups, *columns = zip(*pairs, strict=True)
        (loss,) = ratio_intervals(*(np.array(column, dtype=float)[:, None] for column in columns), groups)
        line = {"nearest_points": made["points"], "interval": made["interval"]}
        line["loss_a_label"] = [None if end is None else round(end, 4) for end in (loss.value, loss.low, loss.high)]
        line["not_worse_by_a_point"] = bool(made["interval"] and made["interval"][1] < 1)
        show(f"{args.what}: {way} against {best}", line)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("what", choices=("an4", "rates", "variants", "fsdd", "own"))
    parser.add_argument("--whole", action="store_true", help="`shibolet run` for each, audited by the model itself")
    parser.add_argument("--model", help="folder in --models; else tiny.en, whisper-base for own")
    parser.add_argument("--manifest", type=Path, help="of own")
    parser.add_argument("--language", default="English")
    parser.add_argument("--folds", type=int, help="else 5, of fsdd one a speaker")
    parser.add_argument("--ways", nargs="*", help="of variants, those that are tried")
    parser.add_argument("--grid", nargs="+", default=GRID, metavar="RATExEPOCHS", help="of rates")
    parser.add_argument("--epochs", type=float, default=4.0, help="of each variant, in all phases together")
    parser.add_argument("--rate", type=float, default=3e-5, help="of the decoder in variants")
    args = parse(parser)
    data, name, folds = SETS.get(args.what, ("", "whisper-base", 5))
    args.folds = args.folds or folds
    model = args.models / (args.model or name)
    manifest = args.manifest or args.data / data / "manifest.jsonl"
    utterances = utterances_of(manifest, args.what, args.language)
    whole = written(args.out / args.what / "all.jsonl", utterances)
    heard = hear_untouched(args, model, {args.what: (whole, args.language)})[args.what]
    ways = {RECIPES_OWN: []}
    if args.what == "rates":
        jobs = [job for job in jobs_of(args, utterances, heard, model, rates(args.grid)) if job.about["fold"] == "0"]
        first = [job for job in jobs if job.about["seed"] == args.seeds[0]]
        for row in run_jobs(args, train_for_dev, first).values():
            if row.get("what") == "rates":
                show(row["way"], {name: row[name] for name in ("dev", "dev_wer", "dev_loss_a_label", "train_cpu_s")})
        return
    if args.what == "variants":
        ways = {k: v for k, v in variants(args.epochs, args.rate).items() if args.ways is None or k in args.ways}
    found = run_jobs(
        args, whole_round if args.whole else train_and_score, jobs_of(args, utterances, heard, model, ways)
    )
    report(args, found, utterances, heard)


if __name__ == "__main__":
    main()
