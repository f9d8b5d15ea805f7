"""What a soup of three seeds gives against the mean of the three: the demo in four worlds, AN4 in five folds.

    python benchmarks/soups.py demo --out O --jobs 16                         the demo's recipe on clean synthetic data
    python benchmarks/soups.py an4 --models M --data D --out O --jobs 16      whisper-small-data on tiny.en

Trainings of a world, or of a fold by speakers, differ in their seed alone and share the dev split. Then `shibolet
average --soup greedy` makes the mean of all and the greedy soup, and all of them are heard on the tests; beside them
stands a vote of the seeds word by word (ROVER), which costs as many hearings. A job that averages trains again what was
lost with a machine. Prints lines of JSON: for each world, for all folds together, soups and vote against the mean of
the seeds and against the seed that is best on dev, as written and in the nearest reading, with intervals over speakers;
then what the bar asks. The same command goes on with what is missing.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace

from demo_worlds import LANGUAGE, TESTS, add_arguments, as_it_is, world
from whisper_figures import differences, rows_of, show
from whisper_jobs import (
    AS_IT_IS,
    SMALL_LETTERS,
    Job,
    folds_by_speaker,
    hear_untouched,
    hypotheses_file,
    model_arguments,
    opened,
    parse,
    process_arguments,
    run_jobs,
    training_arguments,
    utterances_of,
    written,
)
from whisper_settings import data_of

from shibolet.records.utterance import Utterance
from shibolet.scoring.rover import transcript, vote
from shibolet.speech.text import get_language

WORSE_POINTS = 0.5  # than the mean of the seeds, at most, on AN4
SOUPS = ("uniform", "greedy")

Place = tuple[Job, list[Utterance]]  # what every training of a world or fold has, and the utterances of its tests


def demo_places(args: argparse.Namespace) -> list[Place]:
    places = []
    for number in args.worlds:
        spoken = world(args, number)
        folder = args.out / f"world{number}"
        tests = {name: spoken[name] for name in TESTS}
        paths, changes = as_it_is(args, folder, {"train": spoken["train"]}, tests)
        job = Job(
            key=f"demo/{number}", run_dir=folder, recipe="demo",
            changes=(f"data.train=[{{name: synthetic, manifest: {paths['train']}}}]", *changes,
                     f"prepare.seed={number}", *args.set),
            data=data_of(*paths.values()), about={"what": "demo", "place": str(number)},
        )  # fmt: skip
        places.append((job, [u for own in tests.values() for u in own]))
    return places


def an4_places(args: argparse.Namespace) -> list[Place]:
    utterances = utterances_of(args.data / "an4_en" / "manifest.jsonl", "an4", "English")
    model, places = args.models / "whisper-tiny.en", []
    whole = written(args.out / "an4" / "all.jsonl", utterances)
    heard = hear_untouched(args, model, {"an4": (whole, "English")})["an4"]
    listener = hypotheses_file(args.out / "an4" / "heard.jsonl", heard)
    for fold, speakers in folds_by_speaker(utterances, args.folds):
        folder = args.out / "an4" / f"fold{fold}"
        held = [u for u in utterances if u.speaker in speakers]
        test = written(folder / "test.jsonl", held)
        train = written(folder / "train.jsonl", [u for u in utterances if u.speaker not in speakers])
        job = Job(
            key=f"an4/{fold}", run_dir=folder, recipe="whisper-small-data",
            changes=(
                f"models.base={model}", f"models.baseline={model}", f"data.train.0.manifest={train}", SMALL_LETTERS,
                f"audit.recogniser={listener}", "language=English", "prepare.min_duration_s=0.1", "prepare.seed=0",
                f"evaluate.sets=[{{name: test, manifest: {test}, letter_case: lower}}]", *args.set,
            ),
            data=data_of(train, test), about={"what": "an4", "place": fold},
        )  # fmt: skip
        places.append((job, held))
    return places


def of_seed(job: Job, seed: int) -> Job:
    """The training of a seed in a place."""
    return replace(
        job, key=f"{job.key}/{seed}", run_dir=job.run_dir / f"seed{seed}", changes=(*job.changes, f"seed={seed}"),
        about={**job.about, "seed": seed},
    )  # fmt: skip


def soup_of(job: Job, seeds: Sequence[int]) -> Job:
    return replace(job, key=f"{job.key}/soup of {'+'.join(map(str, seeds))}", about={**job.about, "seeds": list(seeds)})


def train(job: Job) -> dict:
    """Train on the data as they are, unless that is done; the finished model stays and its checkpoints do not."""
    from shibolet.rounds import auditing, stages

    with opened(job, **AS_IT_IS) as current:
        auditing.do_audit(current)
        auditing.do_gate(current)
        stages.do_prepare(current)
        result = stages.do_train(current)
        for part in (current.folder.checkpoints, current.folder.train / "encoder_cache"):
            shutil.rmtree(part, ignore_errors=True)
        dev_wer = [[score.step, round(score.wer, 4)] for score in result.dev]
        return {"steps": result.steps, "chosen_step": result.chosen_step, "dev_wer": dev_wer}


def average(job: Job) -> dict:
    """The soups of a place's trainings, all heard on its tests; then the models are deleted."""
    from shibolet.records.hypotheses import read_hypothesis_lines
    from shibolet.rounds import averaging

    trainings = [of_seed(job, seed) for seed in job.about["seeds"]]
    for one in trainings:
        train(one)
    with opened(trainings[0], **AS_IT_IS) as current:
        names = [str((one.run_dir / "train" / "final").absolute()) for one in trainings]
        how = averaging.Averaging(
            sources=averaging.models(current, names), method="greedy",
            sets=averaging.sets_named(current, [one.name for one in current.sets]),
        )  # fmt: skip
        table = averaging.do_average(current, "soup", how)
        folder = current.folder.averaged("soup").parent / "scores"
        rows = {
            one.name: [
                [line.id, line.hypothesis]
                for name in one.sets
                for line in read_hypothesis_lines(folder / one.name / f"set {name}" / "hypotheses.jsonl")
            ]
            for one in table.tried
        }
    for one in trainings:
        shutil.rmtree(one.run_dir / "train" / "final")
    shutil.rmtree(current.folder.averaged("soup"))
    return {
        "weights": {one.name: list(one.weights) for one in table.tried},
        "dev_pct": {one.name: round(one.dev.wer_pct, 2) for one in table.tried},
        "chosen": table.chosen, "sentence": table.sentence, "rows": rows,
    }  # fmt: skip


def heard_by(row: dict, language: str) -> dict[str, dict[str, str]]:
    """Hypotheses by id of each seed, the best of them on dev first, of both soups and of the seeds' vote."""
    by_member = {name: dict(pairs) for name, pairs in row["rows"].items()}
    names = sorted((name for name in by_member if name.startswith("alone")), key=row["dev_pct"].get)
    seeds, rules = {name: by_member[name] for name in names}, get_language(language)
    voted = {
        id: vote([transcript(heard[id], rules) for heard in seeds.values()]).text for id in next(iter(seeds.values()))
    }
    return {**seeds, "uniform": by_member["mean"], "greedy": by_member[row["chosen"]], "vote": voted}


def figures(rows: Sequence[dict], tested: Mapping[str, list[Utterance]], language: str, what: str) -> dict[str, dict]:
    """By soup, its differences from the mean of the seeds; prints them, and those from the seed that dev likes best."""
    heard, found = {row["place"]: heard_by(row, language) for row in rows}, {}
    for soup in (*SOUPS, "vote"):
        alone, soups, best = [], [], []
        for place, own in heard.items():
            seeds = [name for name in own if name.startswith("alone")]
            for name in seeds:  # a soup stands opposite each of them
                for member, to in ((name, alone), (soup, soups), (seeds[0], best)):
                    to += rows_of(tested[place], own[member], f"{place} {name}", language)
        found[soup] = differences(alone, soups, ("mean of the seeds", soup), language)
        show(f"{what}: {soup} against the mean of the seeds", found[soup])
        show(f"{what}: {soup} against the best on dev", differences(best, soups, ("best on dev", soup), language))
    return found


def report(what: str, rows: Sequence[dict], tested: Mapping[str, list[Utterance]]) -> None:
    for row in rows:
        kept = {name: row[name] for name in ("chosen", "weights", "dev_pct", "sentence", "cpu_s", "seconds")}
        show(f"{what} {row['place']}", kept)
    if what == "an4":
        made = figures(rows, tested, "English", f"an4, {len(rows)} folds")
        near = {soup: made[soup]["nearest"] for soup in SOUPS}
        show("bar", {"folds": len(rows)} | {
            soup: {
                "points": own["points"], "interval": own["interval"],
                "not_worse_by_half_a_point": own["points"] <= WORSE_POINTS,
                "shown_so_by_the_interval": bool(own["interval"] and own["interval"][1] <= WORSE_POINTS),
            }
            for soup, own in near.items()
        })  # fmt: skip
        return
    made = {row["place"]: figures([row], tested, LANGUAGE, f"world {row['place']}") for row in rows}
    below = {
        soup: [place for place, own in made.items() if (ends := own[soup]["raw"]["interval"]) and ends[1] < 0]
        for soup in SOUPS
    }
    if len(rows) > 1:
        figures(rows, tested, LANGUAGE, "all worlds")
    show("bar", {"worlds": list(made), "interval_below_0_in": below})


def main() -> None:
    parser = process_arguments(__doc__)
    model_arguments(parser, required=False)
    training_arguments(parser)
    parser.add_argument("what", choices=("demo", "an4"))
    parser.add_argument("--folds", type=int, default=5, help="of AN4")
    add_arguments(parser)
    args = parse(parser)
    if args.what == "an4" and not (args.models and args.data):
        parser.error("an4 needs --models and --data")
    places = demo_places(args) if args.what == "demo" else an4_places(args)
    trained = run_jobs(args, train, [of_seed(job, seed) for job, _ in places for seed in args.seeds])
    ready = [job for job, _ in places if all(of_seed(job, seed).key in trained for seed in args.seeds)]
    averaged = run_jobs(args, average, [soup_of(job, args.seeds) for job in ready])
    if averaged:
        report(args.what, list(averaged.values()), {job.about["place"]: own for job, own in places})


if __name__ == "__main__":
    main()
