"""What an n-gram of training texts gains beside beams, and what it costs, where it holds no text of the test.

    python benchmarks/ngram_fusion.py demo --out O [--num 160]               builtin:round1 on the demo's test sets
    python benchmarks/ngram_fusion.py an4 --models M --data D --out O        whisper-tiny.en, five folds by text

`demo`: the n-gram has the texts of the demo's training set, whose sentences are in no test set. `an4`: its commands
repeat by nature, so utterances of one text lie in one fold, and each fold is heard with an n-gram of the other folds'
texts. Prints a line of JSON for each way to decode: WER, points against greedy decoding and against the same beams
without an n-gram with the interval over speakers, and seconds, on a CPU those of its own work. The line "chosen" has
for each fifth of the speakers the weight that was best on the other four, and may be none: it is what a user can
expect, since the test did not choose.
"""

import argparse
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from whisper_figures import rows_of, show

from shibolet.demo.corpus import CorpusConfig, build_corpus, plan
from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.folders import best_device, dtype_on
from shibolet.model.ngram.arpa import write_arpa
from shibolet.model.ngram.estimate import estimate
from shibolet.model.protocols import Prompt
from shibolet.records.files import cache_dir
from shibolet.records.utterance import Utterance
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.speech import audio
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource

FOLDS, ORDER = 5, 4
Part = tuple[list[Utterance], list[str]]  # what is heard, and the texts of its n-gram


def read(manifest: Path, language: str) -> list[Utterance]:
    source = DataSource(name=manifest.parent.name, manifest=manifest)
    return read_source(source, cache_dir(), lambda done, total: None, language)[0]


def fold(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % FOLDS


def demo(args: argparse.Namespace) -> list[Part]:
    """Both test sets, with the texts of the default training set; of that no audio is made."""
    build_corpus(args.out / "corpus", 0, CorpusConfig(num_train=8, num_long=0, num_test=args.num))
    texts = [one.text for one in plan(0, CorpusConfig()) if one.split == "train"]
    heard = [read(args.out / "corpus" / f"test_{name}" / "manifest.jsonl", "Hebrew") for name in ("clean", "whatsapp")]
    return [([one for some in heard for one in some], texts)]


def an4(args: argparse.Namespace) -> list[Part]:
    """Folds by text: an utterance's own is in no n-gram that it is heard with. The first `num` are heard."""
    every = read(args.data / "an4_en" / "manifest.jsonl", "English")
    own = every[:: max(1, len(every) // args.num)]
    return [
        ([u for u in own if fold(u.text) == k], [u.text.lower() for u in every if fold(u.text) != k])
        for k in range(FOLDS)
    ]


def write_ngram(loaded: LoadedModel, texts: Sequence[str], language: str, path: Path) -> float:
    """Write the n-gram of some texts; the seconds that it took."""
    started = time.perf_counter()
    targets, pieces = loaded.family.targets(loaded.tokenizer, Prompt(language)), loaded.tokenizer.get_vocab()
    ngram, _ = estimate(targets.encode(texts), ORDER, max(pieces.values()) + 1, targets.frame.end_id)
    write_arpa(ngram, pieces, path)
    return time.perf_counter() - started


def hear(
    loaded: LoadedModel, parts: Sequence[Part], language: str, files: Sequence[Path], beams: int, weight: float
) -> tuple[list[ScoredRow], float]:
    """Scored rows of all parts, and seconds of decoding: on a CPU of its own work, whatever else the machine does."""
    heard, seconds = {}, 0.0
    clock = time.process_time if loaded.model.device.type == "cpu" else time.perf_counter
    for (utterances, _), file in zip(parts, files, strict=True):
        engine = Transcriber(loaded, language, beam_size=beams, ngram=file if weight else None, ngram_weight=weight)
        clips = [audio.load(one.audio) for one in utterances]
        started = clock()
        texts = engine.transcribe(clips)
        seconds += clock() - started
        heard |= {one.id: text for one, text in zip(utterances, texts, strict=True)}
    return rows_of([one for utterances, _ in parts for one in utterances], heard, "test", language), seconds


def points(first: Sequence[ScoredRow], second: Sequence[ScoredRow]) -> dict:
    found = difference_interval([row.words for row in first], [row.words for row in second], groups_of(first))
    ends = None if found.low is None else [round(100 * found.low, 2), round(100 * found.high, 2)]
    return {"points": round(100 * found.value, 2), "interval": ends, "groups": found.num_clusters}


def wer_pct(rows: Sequence[ScoredRow]) -> float:
    return round(100 * sum(row.words.errors for row in rows) / sum(row.words.reference_length for row in rows), 2)


def chosen(by_weight: dict[float, list[ScoredRow]]) -> tuple[list[ScoredRow], list[float]]:
    """Each fifth of the groups with the weight that has the fewest errors on the others."""
    first = next(iter(by_weight.values()))
    fifths = [fold(group) for group in groups_of(first)]
    best = [
        min(by_weight, key=lambda w: sum(row.words.errors for row, at in zip(by_weight[w], fifths) if at != k))
        for k in range(FOLDS)
    ]
    return [by_weight[best[at]][i] for i, at in enumerate(fifths)], best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["demo", "an4"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--num", type=int, default=160, help="utterances of each set of the demo, or of AN4")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts, language = (demo(args), "Hebrew") if args.what == "demo" else (an4(args), "English")
    device = best_device()
    model = "builtin:round1" if args.what == "demo" else str(args.models / "whisper-tiny.en")
    loaded = load_recogniser(model, dtype=dtype_on(device), device=device)
    files = [args.out / f"{args.what}-{k}.arpa" for k in range(len(parts))]
    made_s = [write_ngram(loaded, texts, language, file) for (_, texts), file in zip(parts, files, strict=True)]
    said = {" ".join(one.text.lower().split()) for utterances, _ in parts for one in utterances}
    assert args.what == "an4" or not said & {text.lower() for text in parts[0][1]}
    show(args.what, {
        "model": model, "utterances": sum(len(some) for some, _ in parts), "ngram_texts": [len(t) for _, t in parts],
        "ngram_s": round(sum(made_s), 2), "order": ORDER,
    })  # fmt: skip
    greedy, greedy_s = hear(loaded, parts, language, files, 1, 0.0)
    show("greedy", {"wer_pct": wer_pct(greedy), "seconds": round(greedy_s, 1)})
    by_weight: dict[float, list[ScoredRow]] = {}
    for weight in [0.0, *args.weights]:
        rows, seconds = hear(loaded, parts, language, files, args.beams, weight)
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


if __name__ == "__main__":
    main()
