"""Data that get better with the model, on the demo's speech: turns, null loops, texts taken away, a planted habit.

    python benchmarks/loop_turns.py turns --out DIR [--turns 2] [--seeds 3] [--corpora 1 2] [--jobs N]
    python benchmarks/loop_turns.py null --out DIR [--loops 20]        # the rule on trainings that differ by seed alone
    python benchmarks/loop_turns.py texts --out DIR [--corpora 1 2]    # all texts, a quarter, a quarter and audio
    python benchmarks/loop_turns.py habit --out DIR [--turns 3]        # one frequent word always written as another

Prints one JSON line a result. `turns`: of each turn the share of what was kept that is damaged, good hours lost,
texts that were corrected and are not what is said, and WER with the interval over seeds. `null`: whether a round
"gained" over another of the same data whose seeds are others. `texts`: points of WER of the three and the share of the
gain of having all texts that audio without them gives, of each corpus and of all; in which domains the listener's texts
train, and false accepts against the bound. `habit`: of the places where the word
is said, how many are written as the other, in the texts that train and on the test sets. `--small` is the smallest
size that runs.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from shibolet.demo.corpus import CorpusConfig, build_corpus, read_truth
from shibolet.demo.round import demo_recipe
from shibolet.demo.truth import open_truth
from shibolet.evaluate.stage import read_rows
from shibolet.label.agreement import is_false_accept
from shibolet.recipe import Recipe
from shibolet.records.documents.labelled import Labelled
from shibolet.records.documents.loop import Loop
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.records.machine_texts import read_texts
from shibolet.records.manifest import read_manifest
from shibolet.records.runfolder import RunFolder
from shibolet.records.shards import read_shard
from shibolet.records.utterance import Utterance
from shibolet.rounds.loop import do_loop
from shibolet.rounds.unlabelled import whole_of
from shibolet.scoring.rows import groups_of
from shibolet.scoring.seeds import seeds_difference
from shibolet.speech.text import get_language

HEBREW = get_language("Hebrew")
SETS = ("clean", "whatsapp")
KEPT = 4  # of so many recordings one keeps its texts
# A first round that does not gain has no second; here each turn is wanted, whatever came before.
ALL_TURNS = ("compare.keep_below_points=1000", "compare.loop_cost=0", "gate.accept=[INVALID]")
SMALL = (
    "train.phases=[{name: B, num_epochs: 1, lr_by_part: {projector: 5.0e-4, lora: 5.0e-4}}]", "audit.aligner=null",
    "audit.selftest.num_clips=40", "gate.stop_above_pct=90", "gate.proceed_below_pct=80", "gate.min_selftest_recall=0",
    "gate.max_harmless_changed_frac=1", "label.calibration_clips=120", "evaluate.audit_sets=false",
    "compare.bootstrap_samples=100", "prepare.dev_frac=0.45",  # 47 of dev are needed to calibrate a second turn
)  # fmt: skip


def corpus_of(out_dir: Path, seed: int, small: str | None, **changes: float) -> Path:
    """The demo's corpus, or one of the least size for a part of this script, in a folder of its own."""
    folder = (
        out_dir / f"corpus-{small or 'demo'}-{seed}{''.join(f'-{name}{value:g}' for name, value in changes.items())}"
    )
    # A quarter of the texts has to be enough to calibrate by, where only that is known.
    num_train = 160 if small == "turns" else 320
    size = {"num_train": num_train, "num_long": 0, "num_test": 16, "recording_utterances": 4} if small else {}
    build_corpus(folder, seed, CorpusConfig(**size, **changes))
    return folder


def recipe_of(corpus: Path, args: argparse.Namespace, *changes: str) -> Recipe:
    small = SMALL if args.small else ()
    calibrated = ("label.max_wer=0.3", "label.max_false_accept_pct=10", "label.max_corrected_share=0.2")
    always = (*ALL_TURNS, "audit.num_workers=0", "audit.sample.sample_frac=1.0", *calibrated)
    return demo_recipe(corpus, 0, [*always, *small, *changes])


def looped(recipe: Recipe, folder: Path, turns: int, seeds: int) -> Loop:
    tell = lambda sentence: print(f"{folder.name}: {sentence}", file=sys.stderr, flush=True)  # noqa: E731
    return do_loop(recipe, folder, turns=turns, seeds=seeds, tell=tell)


def spoken(corpus: Path) -> dict[str, str]:
    """What is said in each training utterance."""
    return {one.id: " ".join(word for word, *_ in one.words) for one in read_truth(corpus) if one.split == "train"}


def wer_pct(run: RunFolder, label: str) -> dict[str, float]:
    found = {}
    for name in SETS:
        rows = [row.words for row in read_rows(run.evaluation(label, name))]
        found[name] = round(100 * sum(one.errors for one in rows) / sum(one.reference_length for one in rows), 2)
    return found


def label_of(run: RunFolder) -> str:
    """Of what was trained in a run folder: the label that is not its baseline's."""
    from shibolet.records.documents.comparison import Comparison

    return Comparison.read(run.compare).candidate.label


def turns(corpus_seed: int, args: argparse.Namespace) -> Iterator[dict]:
    """What each turn leaves of the damage and gains in WER."""
    corpus = corpus_of(args.out, corpus_seed, args.small)
    folder, truth = args.out / f"turns-{corpus_seed}", spoken(corpus)
    for turn in looped(recipe_of(corpus, args), folder, args.turns, args.seeds).turns:
        run = RunFolder(folder / turn.folder)
        left = open_truth(corpus, run).after_prepare
        texts = read_texts(run.labelled / "texts.jsonl") if turn.flagged else []
        wrong = [one for one in texts if HEBREW.to_scoring(one.text) != HEBREW.to_scoring(truth[one.id])]
        yield {
            "corpus": corpus_seed, "turn": turn.folder, "kept_damaged_pct": round(left.kept_damaged_pct, 2),
            "good_hours_lost_pct": round(left.good_hours_lost_pct, 2), "train_hours": turn.train_hours,
            "taken_back": sum(one.kind == "taken_back" for one in texts),
            "corrected": sum(one.kind == "corrected" for one in texts),
            "wrong_of_these": dict(Counter(one.kind for one in wrong)), "wer_pct": wer_pct(run, label_of(run)),
            "points": turn.points, "points_by_seed": turn.points_by_seed, "interval_points": turn.interval_points,
        }  # fmt: skip


def null(corpus_seed: int, args: argparse.Namespace) -> Iterator[dict]:
    """Whether trainings of the same data "gain" over others of it: half of the seeds against the other half."""
    corpus, num = corpus_of(args.out, corpus_seed, args.small, damaged_frac=0.0), 2 * args.seeds
    folder = args.out / f"null-{corpus_seed}"
    looped(recipe_of(corpus, args), folder, 1, num)
    runs = [RunFolder(folder / ("turn1" if seed == 0 else f"turn1-seed{seed}")) for seed in range(num)]
    label = label_of(runs[0])
    rows = [[row for name in SETS for row in read_rows(run.evaluation(label, name))] for run in runs]
    counts = [[row.words for row in own] for own in rows]
    first, second = counts[: args.seeds], counts[args.seeds :]
    found = seeds_difference(first, second, list(groups_of(rows[0])), level=1 - 0.05 / 2)
    one, rates = found.estimate, [[100 * rate for rate in own] for own in found.rates]
    yield {
        "corpus": corpus_seed, "points": 100 * one.value, "wer_pct": rates,
        "interval_points": [100 * one.low, 100 * one.high], "gained": one.high < 0,
    }  # fmt: skip


def split_texts(corpus: Path, change: Callable[[str], str] = lambda text: text) -> tuple[Path, Path]:
    """Manifests of the recordings that keep their texts, changed, and of the others, without."""
    folder = corpus / "train"
    rows = read_jsonl(folder / "manifest.jsonl")
    recordings = sorted({row["recording"] for row in rows})
    told = {name for i, name in enumerate(recordings) if i % KEPT == 0}
    known, free = folder / "known.jsonl", folder / "free.jsonl"
    write_jsonl(known, [{**row, "text": change(row["text"])} for row in rows if row["recording"] in told])
    write_jsonl(free, [{k: v for k, v in row.items() if k != "text"} for row in rows if row["recording"] not in told])
    return known, free


def without_texts(known: Path, free: Path) -> list[str]:
    return [
        f"data.train.0.manifest={known}", f"data.unlabelled=[{{name: free, manifest: {free}}}]",
        "label.max_labelled_share=4", "prepare.dev_frac=0.2",
    ]  # fmt: skip


def texts(corpus_seed: int, args: argparse.Namespace) -> Iterator[dict]:
    """All texts, a quarter of them, and a quarter beside the audio of the rest; a process each."""
    corpus = corpus_of(args.out, corpus_seed, args.small, damaged_frac=0.0)
    known, free = split_texts(corpus)
    arms = {"all": [], "quarter": [f"data.train.0.manifest={known}"], "quarter_and_audio": without_texts(known, free)}
    with ProcessPoolExecutor(len(arms), mp_context=get_context("spawn")) as pool:
        making = {
            arm: pool.submit(
                with_texts, recipe_of(corpus, args, *changes), args.out / f"texts-{corpus_seed}-{arm}", args
            )
            for arm, changes in arms.items()
        }
        found = {arm: one.result() for arm, one in making.items()}
    points = {arm: one["points"] for arm, one in found.items()}
    accepted = _accepted(RunFolder(args.out / f"texts-{corpus_seed}-quarter_and_audio" / "turn1"), corpus)
    possible, gained = (points["quarter"] - points[arm] for arm in ("all", "quarter_and_audio"))
    share = 100 * gained / possible if possible else None
    yield {"corpus": corpus_seed, **found, **accepted, "gain_of_texts_points": possible, "share_of_it_pct": share}


def with_texts(recipe: Recipe, folder: Path, args: argparse.Namespace) -> dict:
    """A first turn, in a process of its own."""
    [turn] = looped(recipe, folder, 1, args.seeds).turns
    return {"points": turn.points, "by_seed": turn.points_by_seed, "machine_hours": turn.machine_hours}


def _accepted(run: RunFolder, corpus: Path) -> dict:
    """False accepts among the texts that passed, beside what calibration says that there are at most."""
    labelled = Labelled.read(run.labelled / "label.json")
    words = {one.id: one.words for one in read_truth(corpus)}
    pieces = read_manifest(run.labelled / "manifest.jsonl")
    false = [one for one in pieces if is_false_accept(_said_in(one, words), one.text, labelled.max_wer, HEBREW)]
    limit = labelled.agreement
    [bound] = [step.upper_pct for step in limit.steps if (step.by, step.limit) == (limit.by, limit.limit)]
    return {
        "listeners_domains": labelled.listeners_domains, "limit": [limit.by, limit.limit], "passed": len(pieces),
        "false": len(false), "bound_pct": bound, "habits": len(labelled.habits),
    }  # fmt: skip


def _said_in(piece: Utterance, words: dict[str, Sequence[tuple[str, float, float]]]) -> str:
    """The words whose middle lies in a piece of an utterance."""
    start, end = piece.audio.start_s, piece.audio.end_s
    return " ".join(word for word, from_s, to_s in words[whole_of(piece.id)] if start <= (from_s + to_s) / 2 <= end)


def of_all_corpora(found: Sequence[dict]) -> dict:
    """Of the mean points of the corpora: what all texts gain over a quarter, and how much of it audio without texts."""
    arms = ("all", "quarter", "quarter_and_audio")
    mean = {arm: sum(one[arm]["points"] for one in found) / len(found) for arm in arms}
    possible, gained = (mean["quarter"] - mean[arm] for arm in ("all", "quarter_and_audio"))
    share = 100 * gained / possible if possible else None
    return {"part": "texts", "corpora": len(found), "mean_points": mean, "share_of_it_pct": share}


def habit(corpus_seed: int, args: argparse.Namespace) -> Iterator[dict]:
    """The most frequent word of five letters or more is another one in every text that is known."""
    corpus = corpus_of(args.out, corpus_seed, args.small, damaged_frac=0.0)
    truth = spoken(corpus)
    counted = Counter(word for text in truth.values() for word in text.split() if len(word) >= 3)
    said, written = counted.most_common(1)[0][0], next(w for w, _ in reversed(counted.most_common()) if len(w) >= 4)
    swap = lambda text: " ".join(written if word == said else word for word in text.split())  # noqa: E731
    known, free = split_texts(corpus, swap)
    folder = args.out / f"habit-{corpus_seed}"
    # From the second turn on limits are calibrated on dev, since the writer learns the rest: 47 utterances at least.
    recipe = recipe_of(corpus, args, *without_texts(known, free), "prepare.dev_frac=0.35")
    for turn in looped(recipe, folder, args.turns, args.seeds).turns:
        run = RunFolder(folder / turn.folder)
        rows = [row for path in run.prepared.glob("train-*.parquet") for row in read_shard(path, "text", "text_by")]
        by_machine = [text.split() for text, text_by in rows if text_by is not None]
        heard = [row for name in SETS for row in read_jsonl(run.hypotheses(label_of(run), name))]
        num_said = lambda word: sum(words.count(word) for words in by_machine)  # noqa: B023, E731
        yield {
            "corpus": corpus_seed, "turn": turn.folder, "said": said, "written": written, "habits": turn.habits,
            "texts_by_machine": len(by_machine), "right_in_these": num_said(said), "wrong_in_these": num_said(written),
            "wrong_on_test": sum(row["hypothesis"].split().count(written) for row in heard),
            "interval_points": turn.interval_points,
        }  # fmt: skip


PARTS = {"turns": turns, "null": null, "texts": texts, "habit": habit}


def run_job(corpus_seed: int, part: str, args: argparse.Namespace) -> list[dict]:
    return [{"part": part, **found} for found in PARTS[part](corpus_seed, args)]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each round")
    parser.add_argument("--corpora", type=int, nargs="+", default=[1, 2], help="seeds of the demo's corpus")
    parser.add_argument("--loops", type=int, default=20, help="of 'null', each on a corpus of its own")
    parser.add_argument("--jobs", type=int, default=1, help="corpora at once")
    parser.add_argument("--small", action="store_true", help="the smallest size that runs")
    args = parser.parse_args(given)
    args.out = args.out.absolute()
    if args.small or args.part == "null":
        args.small = "turns" if args.part in ("turns", "null") else "texts"
    corpora = range(1, args.loops + 1) if args.part == "null" else args.corpora
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        lines = []
        for found in pool.map(partial(run_job, part=args.part, args=args), corpora):
            for line in found:
                lines.append(line)
                print(json.dumps(line, ensure_ascii=False), flush=True)
    if args.part == "null":
        print(json.dumps({"part": "null", "loops": len(lines), "gained": sum(line["gained"] for line in lines)}))
    if args.part == "texts":
        print(json.dumps(of_all_corpora(lines)))


if __name__ == "__main__":
    main()
