"""What a search of rates costs and gains at demo size: found rates against wrong ones, and against the recipe's own.

    python benchmarks/search_rates.py --world 401 402 403 404 --grid encoder decoder lora --jobs 16 --out DIR

Synthetic speech without damage, dev of half of the voices. In one tower the recipe's rates are made ten times too high
(or `--times`); the search starts from those, another one from the recipe's own, a third one from the wrong rates with
the texts of dev shuffled, which must admit nothing. Then all are trained to the end and scored on the test sets. Prints
a JSON object for each, with what a search cost in trainings and in CPU seconds, and one for each pair: points of WER
with the interval over speakers. `--grid` trains all 27 combinations of three towers' rates beside it, in the first
world alone. Everything runs on the CPU, `--jobs` of these at once, each on `--threads` cores of its own. The same
command goes on with what is missing.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shibolet.demo.corpus import CorpusConfig, build_corpus
from shibolet.evaluate.stage import read_rows
from shibolet.recipe import Recipe, load_recipe
from shibolet.records.files import read_json, read_jsonl, write_json, write_jsonl
from shibolet.rounds import auditing, scoring, stages
from shibolet.rounds.search.dimensions import dimensions_of, training_at
from shibolet.rounds.search.stage import Asked, do_search
from shibolet.rounds.search.writing import write_found
from shibolet.rounds.shared import Round, open_round
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.rows import ScoredRow, groups_of

SETS = ("clean", "whatsapp")
GRID, GRID_CHUNK = (0.316, 1.0, 3.16), 3  # trainings that share the phases before, in one folder


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


def trained(recipe: Recipe, run_dir: Path) -> dict[str, Path]:
    """The folder of each test set's scores after a training."""
    with opened(recipe, run_dir) as current:
        prepare(current, shuffled=False)
        stages.do_train(current)
        candidate = scoring.candidates_of(current)[1:]
        scoring.do_evaluate(current, candidate)
        return {name: current.folder.evaluation(candidate[0].label, name) for name in SETS}


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


class World:
    """A corpus, and what is made with it; each kind of result is kept in `scored/`, once it is whole."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self._args, self.seed, self.path = args, seed, args.out.absolute() / str(seed)

    @property
    def asked(self) -> dict[str, Any]:
        """What changes a result."""
        named = ("wrong", "times", "trials", "budget", "proposals", "train", "test", "threads", "set")
        return {name: getattr(self._args, name) for name in named}

    def tasks(self, with_grid: bool) -> list[str]:
        """The longest first."""
        chunks = range(-(-len(grid_points(self._args)) // GRID_CHUNK)) if with_grid else ()
        return ["search wrong", "search own", *(f"grid {i}" for i in chunks), "search shuffled", "own", "wrong"]

    def build(self) -> None:
        sizes = CorpusConfig(num_train=self._args.train, num_test=self._args.test, damaged_frac=0.0)
        build_corpus(self.path / "corpus", self.seed, sizes)
        rows = read_jsonl(self.path / "corpus" / "train" / "manifest.jsonl")
        write_jsonl(self.path / "heard.jsonl", [{"id": row["id"], "hypothesis": row["text"]} for row in rows])

    def do(self, task: str) -> None:
        kind, _, which = task.partition(" ")
        changes = [f"train.num_threads={self._args.threads}", *self._args.set]
        own = recipe_of(self.path, self.seed, changes)
        wrong = with_factors(own, {self._args.wrong: self._args.times})
        start = wrong if which in ("wrong", "shuffled") or kind == "wrong" else own
        if kind == "search":
            self._search(start, which)
        elif kind == "grid":
            for name, factors in grid_points(self._args)[int(which) * GRID_CHUNK :][:GRID_CHUNK]:
                self._train(name, with_factors(own, factors), self.path / task.replace(" ", "-"))
        else:
            self._train(kind, start, self.path / kind)

    def rows(self, name: str) -> list[ScoredRow]:
        return [row for one in SETS for row in read_rows(self.path / "scored" / name / one)]

    def said(self, name: str) -> dict[str, Any] | None:
        """What a result says; None: it is not there yet. SystemExit where it was made in another way."""
        path = self.path / "scored" / name / "said.json"
        if not path.is_file():
            return None
        found = read_json(path)
        if found["asked"] != self.asked:
            sys.exit(f"{path} was made with {found['asked']}, and this command has {self.asked}: name another --out")
        return found["said"]

    def _search(self, start: Recipe, which: str) -> None:
        args = self._args
        asked = Asked(num_trials=args.trials, budget=args.budget, proposals=args.proposals)
        name, run_dir = f"search {which}", self.path / f"search-{which}"
        if not self.said(name):
            _, said = searched(start, run_dir, asked, which == "shuffled")
            self._keep(name, {"search": which, **said})
        if which != "shuffled":
            self._train(f"found from {which}", load_recipe(run_dir.with_suffix(".yaml")), run_dir)

    def _train(self, name: str, recipe: Recipe, run_dir: Path) -> None:
        if self.said(name):
            return
        folders = trained(recipe, run_dir)
        for set_name, folder in folders.items():
            shutil.copytree(folder, self.path / "scored" / name / set_name, dirs_exist_ok=True)
        self._keep(name, {"training": name, "wer_pct": wer_pct(self.rows(name))})

    def _keep(self, name: str, said: dict[str, Any]) -> None:
        write_json(self.path / "scored" / name / "said.json", {"asked": self.asked, "said": said})


def grid_points(args: argparse.Namespace) -> list[tuple[str, dict[str, float]]]:
    """Each combination by its name; the recipe's own is trained anyway."""
    points = [dict(zip(args.grid, point, strict=True)) for point in itertools.product(GRID, repeat=len(args.grid))]
    named = lambda point: "grid " + " ".join(f"{tower} {factor:g}" for tower, factor in point.items())  # noqa: E731
    return [(named(point), point) for point in points if set(point.values()) != {1.0}] if args.grid else []


def do(args: argparse.Namespace, seed: int, task: str) -> float:
    """Carry out a task; CPU seconds."""
    before, world = _cpu_s(), World(args, seed)
    world.build() if task == "corpus" else world.do(task)
    return _cpu_s() - before


def on_cores(cores: Any) -> None:
    """Bind this process to cores of its own: whatever counts processors counts these."""
    os.sched_setaffinity(0, cores.get())


def work(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Carry out what is missing, as many tasks at once as `--jobs` says."""
    context, available = get_context("spawn"), sorted(os.sched_getaffinity(0))
    cores = context.SimpleQueue()
    for job in range(args.jobs):
        cores.put({available[(job * args.threads + i) % len(available)] for i in range(args.threads)})
    tasks = [(seed, task) for seed in args.world for task in World(args, seed).tasks(seed == args.world[0])]
    tasks.sort(key=lambda one: ("search shuffled", "own", "wrong").count(one[1]))  # the longest first, of all worlds
    with ProcessPoolExecutor(args.jobs, mp_context=context, initializer=on_cores, initargs=(cores,)) as pool:
        for wave in ([(seed, "corpus") for seed in args.world], tasks):
            running = {pool.submit(do, args, *one): one for one in wave}
            for future in as_completed(running):
                seed, task = running[future]
                said = {"failed": repr(error)} if (error := future.exception()) else {"cpu_s": round(future.result())}
                yield {"world": seed, "task": task, **said}


def results(args: argparse.Namespace, seed: int) -> Iterator[dict[str, Any]]:
    """What is there of a world: each search and training, and each training against the wrong rates and the own."""
    world, grid = World(args, seed), [name for name, _ in grid_points(args)] if seed == args.world[0] else []
    scored = {}
    for name in ("own", "wrong", "search wrong", "found from wrong", "search own", "found from own", "search shuffled",
                 *grid):  # fmt: skip
        if (said := world.said(name)) is not None:
            yield said
            if "training" in said:
                scored[name] = world.rows(name)
    pairs = [(first, second) for first in ("wrong", "own") for second in scored if first in scored and second != first]
    if grid and "own" in scored:
        best = min((n for n in scored if n == "own" or n in grid), key=lambda n: sum(wer_pct(scored[n]).values()))
        yield {"best of the grid": best, "trained": sum(name in scored for name in grid) + 1}
        pairs += [(best, name) for name in ("found from wrong", "found from own") if name in scored]
    for first, second in dict.fromkeys(pairs):
        yield {"pair": [first, second], **pair(scored[first], scored[second])}


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, nargs="+", required=True, help="seeds, each of a corpus and its trainings")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--threads", type=int, default=1, help="cores of each")
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
    os.environ |= {"OMP_NUM_THREADS": str(args.threads), "CUDA_VISIBLE_DEVICES": ""}
    failed, began = False, time.monotonic()
    for line in work(args):
        failed |= "failed" in line
        print(json.dumps(line | {"after_s": round(time.monotonic() - began)}), flush=True)
    for seed in args.world:
        for line in results(args, seed):
            print(json.dumps({"world": seed, **line}, ensure_ascii=False), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
