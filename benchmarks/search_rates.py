"""What a search of rates costs and gains at demo size: found rates against wrong ones, and against the recipe's own.

    python benchmarks/search_rates.py --world 401 --out DIR [--wrong encoder] [--grid encoder decoder lora]

Synthetic speech without damage, dev of half of the voices. In one tower the recipe's rates are made ten times too high
(or `--times`); the search starts from those, another one from the recipe's own, a third one from the wrong rates with
the texts of dev shuffled, which must admit nothing. Then all are trained to the end and scored on the test sets. Prints
a JSON object for each, with what a search cost in trainings and in CPU seconds, and one for each pair: points of WER
with the interval over speakers. `--grid` trains all 27 combinations of three towers' rates beside it. The same command
goes on with what is missing.
"""

import argparse
import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shibolet.demo.corpus import CorpusConfig, build_corpus
from shibolet.evaluate.stage import read_rows
from shibolet.recipe import Recipe, load_recipe
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.rounds import auditing, scoring, stages
from shibolet.rounds.search.dimensions import dimensions_of, training_at
from shibolet.rounds.search.stage import Asked, do_search
from shibolet.rounds.search.writing import write_found
from shibolet.rounds.shared import Round, open_round
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.rows import ScoredRow, groups_of

SETS = ("clean", "whatsapp")
GRID = (0.316, 1.0, 3.16)


def recipe_of(world: Path, seed: int, changes: list[str]) -> Recipe:
    """The demo's recipe on the corpus of a world; its audit reads the transcripts as hypotheses and decides nothing."""
    places = {"data.train.0": "train", **{f"evaluate.sets.{i}": f"test_{name}" for i, name in enumerate(SETS)}}
    paths = [f"{key}.manifest={world / 'corpus' / name / 'manifest.jsonl'}" for key, name in places.items()]
    audit = [f"audit.recogniser={world / 'heard.jsonl'}", "audit.aligner=null", "audit.selftest={num_clips: 10}"]
    gates = ["gate.accept=[INVALID]", "gate.stop_above_pct=100", "prepare.drop_low_quality=false"]
    kept = ["prepare.dev_frac=0.49", "evaluate.audit_sets=false", "train.eval_every_epoch=false"]
    return load_recipe("demo", ["name=search", f"seed={seed}", *paths, *audit, *gates, *kept, *changes])


def with_factors(recipe: Recipe, factors: dict[str, float]) -> Recipe:
    """The recipe with the rates of towers multiplied in its last phase."""
    index = len(recipe.train.phases) - 1
    found = dimensions_of(recipe.train.phases[index], tuple(factors), warmup=False)
    return recipe.model_copy(update={"train": training_at(recipe.train, index, found, factors)})


def opened(recipe: Recipe, run_dir: Path):
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    log = run_dir.with_suffix(".log").open("a", encoding="utf-8")
    return open_round(recipe, run_dir, "benchmark", lambda said: print(said, file=log, flush=True))


def prepare(current: Round, shuffled: bool) -> None:
    auditing.do_audit(current)
    auditing.do_gate(current)
    if not current.folder.finished("prepare"):
        stages.do_prepare(current)
        if shuffled:
            shuffle_dev(current)


def shuffle_dev(current: Round) -> None:
    """Exchange the texts of dev among its utterances, as if it had been prepared so."""
    for path in sorted(current.folder.prepared.glob("dev-*.parquet")):
        table = pq.read_table(path)
        texts = table["text"].to_pylist()
        random.Random(0).shuffle(texts)
        place = table.schema.get_field_index("text")
        pq.write_table(table.set_column(place, table.schema.field(place), pa.array(texts, table["text"].type)), path)
    current.folder.seal("prepare", current.folder.inputs("prepare"))


def trained(recipe: Recipe, run_dir: Path, shuffled: bool = False) -> list[ScoredRow]:
    """Rows of the test sets after a training."""
    with opened(recipe, run_dir) as current:
        prepare(current, shuffled)
        stages.do_train(current)
        candidate = scoring.candidates_of(current)[1:]
        scoring.do_evaluate(current, candidate)
        return [row for name in SETS for row in read_rows(current.folder.evaluation(candidate[0].label, name))]


def searched(recipe: Recipe, run_dir: Path, asked: Asked, shuffled: bool = False) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that a search writes, and what the search said and cost."""
    before, started = _cpu_s(), time.monotonic()
    with opened(recipe, run_dir) as current:
        prepare(current, shuffled)
        table = do_search(current, asked)
    took = {"cpu_s": round(_cpu_s() - before, 1), "seconds": round(time.monotonic() - started, 1)}
    path = run_dir.with_suffix(".yaml")
    path.unlink(missing_ok=True)
    found = write_found(recipe, "demo", table, path)
    said = table.model_dump(include={"cost", "rungs", "confirmation", "sentence", "recommended"}, mode="json")
    return found, {**said, "factors": table.trials[table.recommended].factors, **took}


def pair(first: list[ScoredRow], second: list[ScoredRow]) -> dict[str, Any]:
    """Points of WER, the second minus the first."""
    change = difference_interval([r.words for r in first], [r.words for r in second], groups_of(first))
    ends = None if change.low is None else [round(100 * change.low, 2), round(100 * change.high, 2)]
    return {"points": round(100 * change.value, 2), "interval": ends, "groups": change.num_clusters}


def wer_pct(rows: list[ScoredRow]) -> dict[str, float]:
    words = {name: [row.words for row in rows if row.set == name] for name in SETS}
    errors = lambda own: sum(w.errors for w in own) / sum(w.reference_length for w in own)  # noqa: E731
    return {name: round(100 * errors(own), 2) for name, own in words.items()}


def lines(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    world = args.out.absolute() / str(args.world)
    build_corpus(world / "corpus", args.world, CorpusConfig(num_train=args.train, num_test=args.test, damaged_frac=0.0))
    rows = read_jsonl(world / "corpus" / "train" / "manifest.jsonl")
    write_jsonl(world / "heard.jsonl", [{"id": row["id"], "hypothesis": row["text"]} for row in rows])
    own = recipe_of(world, args.world, args.set)
    wrong = with_factors(own, {args.wrong: args.times})
    asked = Asked(num_trials=args.trials, budget=args.budget, proposals=args.proposals)
    scored = {}
    for name, recipe in (("own", own), ("wrong", wrong)):
        scored[name] = trained(recipe, world / name)
        yield {"training": name, "wer_pct": wer_pct(scored[name])}
    for name, recipe, shuffled in (("wrong", wrong, False), ("own", own, False), ("shuffled", wrong, True)):
        found, said = searched(recipe, world / f"search-{name}", asked, shuffled)
        yield {"search": name, **said}
        if not shuffled:
            scored[f"found from {name}"] = trained(found, world / f"search-{name}")
            yield {"training": f"found from {name}", "wer_pct": wer_pct(scored[f"found from {name}"])}
    for point in itertools.product(GRID, repeat=len(args.grid)) if args.grid else ():
        name = "grid " + " ".join(f"{tower} {factor:g}" for tower, factor in zip(args.grid, point, strict=True))
        scored[name] = trained(with_factors(own, dict(zip(args.grid, point, strict=True))), world / "grid")
        yield {"training": name, "wer_pct": wer_pct(scored[name])}
    for first in ("wrong", "own"):
        for second in scored:
            if second != first:
                yield {"pair": [first, second], **pair(scored[first], scored[second])}


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, required=True, help="seed of the corpus and of the training")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wrong", default="encoder", help="tower whose rates are made wrong")
    parser.add_argument("--times", type=float, default=10.0, help="by how much")
    parser.add_argument("--trials", type=int, help="else as many as the budget gives enough steps")
    parser.add_argument("--budget", type=float, default=1.2, help="of a search, in trainings")
    parser.add_argument("--proposals", choices=("optuna", "halton"), default="optuna")
    parser.add_argument("--grid", nargs="*", default=[], metavar="TOWER", help="train all combinations of their rates")
    parser.add_argument("--train", type=int, default=1600, help="utterances for train and dev")
    parser.add_argument("--test", type=int, default=320, help="utterances of each test set")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    args = parser.parse_args()
    for line in lines(args):
        print(json.dumps({"world": args.world, **line}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
