"""What an n-gram of training texts gains beside beams, and what it costs, where it holds no text of the test.

    python benchmarks/ngram_fusion.py demo --out O [--num 160] [--jobs 4]           builtin:round1, the demo's test sets
    python benchmarks/ngram_fusion.py an4 --models M --data D --out O [--jobs 16]   whisper-tiny.en, five folds by text

`demo`: the n-gram has the texts of the demo's training set, whose sentences are in no test set. `an4`: its commands
repeat by nature, so utterances of one text lie in one fold, and each fold is heard with an n-gram of the other folds'
texts. Prints a line of JSON for each way to decode: WER, points against greedy decoding and against the same beams
without an n-gram with the interval over speakers, and seconds, on a CPU those of its own work; on a GPU that several
jobs share they say nothing. The line "chosen" has for each fifth of the speakers the weight that was best on the other
four, and may be none: it is what a user can expect, since the test did not choose. A way on a fold is one job, and the
same command goes on with those that are missing. `--device cuda` hears on a GPU.
"""

import argparse
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from whisper_figures import rows_of, show
from whisper_jobs import Job, model_arguments, parse, process_arguments, run_jobs, utterances_of, written
from whisper_settings import data_of

from shibolet.demo.corpus import CorpusConfig, build_corpus, plan
from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.folders import best_device, dtype_on
from shibolet.model.ngram.arpa import write_arpa
from shibolet.model.ngram.estimate import estimate
from shibolet.model.protocols import Prompt
from shibolet.records.files import hash_json
from shibolet.records.utterance import Utterance
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.speech import audio

FOLDS, ORDER = 5, 4
Part = tuple[list[Utterance], list[str]]  # what is heard, and the texts of its n-gram


def fold(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % FOLDS


def demo(args: argparse.Namespace) -> list[Part]:
    """Both test sets, with the texts of the default training set; of that no audio is made."""
    build_corpus(args.out / "corpus", 0, CorpusConfig(num_train=8, num_long=0, num_test=args.num))
    texts = [one.text for one in plan(0, CorpusConfig()) if one.split == "train"]
    paths = [args.out / "corpus" / f"test_{name}" / "manifest.jsonl" for name in ("clean", "whatsapp")]
    return [([one for path in paths for one in utterances_of(path, path.parent.name, "Hebrew")], texts)]


def an4(args: argparse.Namespace) -> list[Part]:
    """Folds by text: an utterance's own is in no n-gram that it is heard with. The first `num` are heard."""
    every = utterances_of(args.data / "an4_en" / "manifest.jsonl", "an4", "English")
    own = every[:: max(1, len(every) // args.num)]
    parts = [
        ([u for u in own if fold(u.text) == k], [u.text.lower() for u in every if fold(u.text) != k])
        for k in range(FOLDS)
    ]
    return [part for part in parts if part[0]]


def write_ngram(loaded: LoadedModel, texts: Sequence[str], language: str, path: Path) -> float:
    """Write the n-gram of some texts; the seconds that it took."""
    started = time.perf_counter()
    targets, pieces = loaded.family.targets(loaded.tokenizer, Prompt(language)), loaded.tokenizer.get_vocab()
    ngram, _ = estimate(targets.encode(texts), ORDER, max(pieces.values()) + 1, targets.frame.end_id)
    write_arpa(ngram, pieces, path)
    return time.perf_counter() - started


def jobs_of(args: argparse.Namespace, parts: Sequence[Part], model: str, language: str) -> list[Job]:
    """One for each way to decode and part; greedy decoding first."""
    jobs = []
    manifests = [written(args.out / f"{args.what}-{k}.jsonl", own) for k, (own, _) in enumerate(parts)]
    for beams, weight in ((1, 0.0), *((args.beams, weight) for weight in (0.0, *args.weights))):
        jobs += [
            Job(
                key=f"{args.what}/{beams} beams/{weight:g}/{k}", run_dir=args.out, recipe="", data=data_of(manifest),
                changes=(f"model={model}", f"order={ORDER}", f"texts={hash_json(parts[k][1])}"),
                about={"beams": beams, "weight": weight, "part": k, "model": model, "language": language,
                       "manifest": str(manifest), "ngram": str(args.out / f"{args.what}-{k}.arpa")},
            )
            for k, manifest in enumerate(manifests)
        ]  # fmt: skip
    return jobs


def hear(job: Job) -> dict:
    """What a way hears in a part, and seconds of decoding: on a CPU of its own work, whatever else the machine does."""
    about, device = job.about, best_device()
    loaded = load_recogniser(about["model"], dtype=dtype_on(device), device=device)
    clock = time.process_time if loaded.model.device.type == "cpu" else time.perf_counter
    weight = about["weight"]
    engine = Transcriber(
        loaded, about["language"], beam_size=about["beams"], ngram=Path(about["ngram"]) if weight else None,
        ngram_weight=weight,
    )  # fmt: skip
    utterances = utterances_of(Path(about["manifest"]), "part", about["language"])
    clips = [audio.load(one.audio) for one in utterances]
    started = clock()
    texts = engine.transcribe(clips)
    return {"decoding_s": clock() - started, "rows": [[u.id, text] for u, text in zip(utterances, texts, strict=True)]}


def points(first: Sequence[ScoredRow], second: Sequence[ScoredRow]) -> dict:
    found = difference_interval([row.words for row in first], [row.words for row in second], groups_of(first))
    ends = None if found.low is None else [round(100 * found.low, 2), round(100 * found.high, 2)]
    return {"points": round(100 * found.value, 2), "interval": ends, "groups": found.num_clusters}


def wer_pct(rows: Sequence[ScoredRow]) -> float:
    return round(100 * sum((row.words for row in rows), EditCounts()).rate, 2)


def chosen(by_weight: dict[float, list[ScoredRow]]) -> tuple[list[ScoredRow], list[float]]:
    """Each fifth of the groups with the weight that has the fewest errors on the others."""
    first = next(iter(by_weight.values()))
    fifths = [fold(group) for group in groups_of(first)]
    best = [
        min(by_weight, key=lambda w: sum(row.words.errors for row, at in zip(by_weight[w], fifths) if at != k))
        for k in range(FOLDS)
    ]
    return [by_weight[best[at]][i] for i, at in enumerate(fifths)], best


def report(args: argparse.Namespace, found: Mapping[str, dict], parts: Sequence[Part], language: str) -> None:
    """The ways that were heard in every part."""
    utterances = [u for own, _ in parts for u in own]

    def way(beams: int, weight: float) -> tuple[list[ScoredRow], float] | None:
        own = [row for row in found.values() if (row["beams"], row["weight"]) == (beams, weight)]
        heard = {id: text for row in own for id, text in row["rows"]}
        if len(own) < len(parts):
            return None
        return rows_of(utterances, heard, "test", language), sum(row["decoding_s"] for row in own)

    if (first := way(1, 0.0)) is None:
        return
    greedy, greedy_s = first
    show("greedy", {"wer_pct": wer_pct(greedy), "seconds": round(greedy_s, 1)})
    by_weight: dict[float, list[ScoredRow]] = {}
    for weight in [0.0, *args.weights]:
        if (made := way(args.beams, weight)) is None:
            return
        rows, seconds = made
        by_weight[weight] = rows
        show("beams" if not weight else "beams and n-gram", {
            "beams": args.beams, "weight": weight, "wer_pct": wer_pct(rows), "against_greedy": points(greedy, rows),
            **({"against_beams": points(by_weight[0.0], rows)} if weight else {}),
            "seconds": round(seconds, 1), "times_greedy": round(seconds / greedy_s, 2),
        })  # fmt: skip
    rows, weights = chosen(by_weight)
    show("chosen", {
        "weights": weights, "wer_pct": wer_pct(rows), "against_greedy": points(greedy, rows),
        "against_beams": points(by_weight[0.0], rows),
    })  # fmt: skip


def main() -> None:
    parser = process_arguments(__doc__)
    model_arguments(parser, required=False)
    parser.add_argument("what", choices=["demo", "an4"])
    parser.add_argument("--num", type=int, default=160, help="utterances of each set of the demo, or of AN4")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    args = parse(parser)
    if args.what == "an4" and not (args.models and args.data):
        parser.error("an4 needs --models and --data")
    parts, language = (demo(args), "Hebrew") if args.what == "demo" else (an4(args), "English")
    model = "builtin:round1" if args.what == "demo" else str(args.models / "whisper-tiny.en")
    said = {" ".join(one.text.lower().split()) for utterances, _ in parts for one in utterances}
    if args.what == "demo" and said & {text.lower() for text in parts[0][1]}:
        raise SystemExit("a text of the test is in the n-gram")
    jobs = jobs_of(args, parts, model, language)
    loaded = load_recogniser(model)
    files = dict.fromkeys(Path(job.about["ngram"]) for job in jobs)
    made_s = [write_ngram(loaded, texts, language, file) for (_, texts), file in zip(parts, files, strict=True)]
    show(args.what, {
        "model": model, "utterances": sum(len(some) for some, _ in parts), "ngram_texts": [len(t) for _, t in parts],
        "ngram_s": round(sum(made_s), 2), "order": ORDER,
    })  # fmt: skip
    report(args, run_jobs(args, hear, jobs), parts, language)


if __name__ == "__main__":
    main()
