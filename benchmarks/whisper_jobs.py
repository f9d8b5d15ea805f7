"""What the benchmarks of `whisper_*.py` share: rounds in processes of their own, a line of JSON for each, and pairs.

A result stands in `OUT/results.jsonl` under its key once its process has ended; the same command again goes on with
those that are missing. It keeps what it was made with: recipe, changes of it, a digest of the data. A command that
means others under the same key ends in a sentence. Figures are made from the hypotheses in the lines of the command's
own jobs, by `shibolet.compare`, wherever they are.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from whisper_settings import RESULTS, data_of, require_same_settings, settings_of

HERE = Path(__file__).resolve().parent
TEST_SPEAKERS = frozenset("fbbh fjam fjdn fsaf2 mblw mcrt mdcs2 mjbh mnfe mrjc2 mrmg msjr mskh mtcv".split())  # of AN4
UNTOUCHED = "untouched"
# A training on data as they are: a file of hypotheses is read as an audit, and its verdicts drop nothing.
AS_IT_IS = {"prepare.drop_low_quality": "false", "gate.accept": "[INVALID]", "audit.aligner": "null"}
SMALL_LETTERS = "data.train.0.letter_case=lower"  # AN4 has capitals alone, which a Whisper spells worse


@dataclass(frozen=True, kw_only=True)
class Job:
    """A round, or a part of one, as plain data."""

    key: str  # of its result
    run_dir: Path
    recipe: str  # a name or a path
    changes: tuple[str, ...]  # overrides of the recipe
    data: str  # `data_of` what it trains on and is tested on
    about: Mapping[str, Any] = field(default_factory=dict)  # stands in the result beside what came of it


def process_arguments(doc: str) -> argparse.ArgumentParser:
    """A parser with what `run_jobs` needs."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--threads", type=int, default=1, help="of torch, of each process")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--limit-s", type=float, default=540.0, help="nothing is started after so many seconds")
    parser.add_argument("--report", action="store_true", help="figures of what is there; nothing is run")
    return parser


def training_arguments(parser: argparse.ArgumentParser) -> None:
    """What trainings of several seeds take beside it."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of every recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])


def model_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--models", type=Path, required=required, help="folder with whisper-tiny.en and whisper-base")
    parser.add_argument("--data", type=Path, required=required, help="folder with an4_en, fsdd_en and yesno_he")


def arguments(doc: str) -> argparse.ArgumentParser:
    """A parser with what all that train a Whisper take."""
    parser = process_arguments(doc)
    model_arguments(parser)
    training_arguments(parser)
    parser.add_argument("--recipe", default="whisper-small-data")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, with paths that do not depend on the current folder and the processes' environment set."""
    args = parser.parse_args()
    for name in ("models", "data", "out"):
        setattr(args, name, (path := getattr(args, name, None)) and path.absolute())
    args.started = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "false"}
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    args.set = [f"num_threads={args.threads}", "evaluate.audit_sets=false", *getattr(args, "set", ())]
    return args


# Results


def results(out: Path) -> dict[str, dict]:
    """Results by key; a line that was cut off is none, and the last one of a key counts."""
    found = {}
    path = out / RESULTS
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row["key"]] = row
    return found


def run_jobs(args: argparse.Namespace, work: Callable[[Job], dict], jobs: Sequence[Job]) -> dict[str, dict]:
    """The results of these jobs by key; those not there yet are made in so many processes and added to the file."""
    known, path = results(args.out), args.out / RESULTS
    require_same_settings(args, known, jobs)
    known = {job.key: known[job.key] for job in jobs if job.key in known}
    missing = [job for job in jobs if job.key not in known]
    if args.report or not missing:
        return known
    print(f"{len(missing)} of {len(jobs)} to do", file=sys.stderr, flush=True)
    pool = ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1)
    with pool, path.open("a", encoding="utf-8") as file:
        left, running, shares = list(missing), {}, cores_of_jobs(args.jobs)

        def start() -> None:
            while left and shares and time.monotonic() - args.started < args.limit_s:
                job, cores = left.pop(0), shares.pop()
                running[pool.submit(measured, work, job, cores)] = job, cores

        start()
        while running:
            done = next(as_completed(running))
            job, cores = running.pop(done)
            shares.append(cores)
            try:
                row = {"key": job.key, **job.about, "settings": settings_of(args, job), **done.result()}
            except Exception as error:  # one that fails is told, and the others go on
                print(f"{job.key} failed: {error!r}", file=sys.stderr, flush=True)
                traceback.print_exception(error, limit=4, file=sys.stderr)
            else:
                print(json.dumps(row, ensure_ascii=False), file=file, flush=True)
                short = {name: value for name, value in row.items() if name not in ("rows", "loss", "settings")}
                print(json.dumps(short, ensure_ascii=False)[:400], file=sys.stderr, flush=True)
                known[job.key] = row
            start()
    if left:
        print(f"{len(left)} are left: run the same command again", file=sys.stderr, flush=True)
    return known


def cores_of_jobs(num: int) -> list[set[int]]:
    """Each job's own cores: a round starts as many decoders as it has, and all rounds' would wait for each other."""
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[place % len(cores) :: num]) for place in range(num)]


def measured(work: Callable[[Job], dict], job: Job, cores: set[int]) -> dict:
    """What a job comes to, with its seconds, CPU seconds and peak memory; runs in a process of its own."""
    os.sched_setaffinity(0, cores)
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    before, started = _cpu_s(), time.monotonic()
    made = work(job)
    gpu = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    peak_kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_s": round(_cpu_s() - before, 1),
        "peak_gib": round(peak_kib / 2**20, 2),
        "gpu_peak_gib": gpu and round(gpu, 2),
        **made,
    }


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


# Rounds


def opened(job: Job, **changes: Any):
    """The round of a job, its sentences in `log.txt` beside its folder."""
    from shibolet.recipe import load_recipe
    from shibolet.rounds.shared import open_round

    job.run_dir.parent.mkdir(parents=True, exist_ok=True)
    log = job.run_dir.with_suffix(".log").open("a", encoding="utf-8")
    recipe = load_recipe(job.recipe, [*job.changes, *(f"{name}={value}" for name, value in changes.items())])
    return open_round(recipe, job.run_dir, "benchmark", lambda said: print(said, file=log, flush=True))


def train_and_score(job: Job) -> dict:
    """Train on what the recipe names as it is, and score the result; the audit reads hypotheses and decides nothing."""
    from shibolet.rounds import auditing, scoring, stages

    times = {}
    with opened(job, **AS_IT_IS) as current:
        for name, stage in (
            ("audit", auditing.do_audit), ("gate", auditing.do_gate), ("prepare", stages.do_prepare),
            ("train", stages.do_train),
            ("evaluate", lambda current: scoring.do_evaluate(current, scoring.candidates_of(current)[1:])),
        ):  # fmt: skip
            before, started = _cpu_s(), time.monotonic()
            stage(current)
            times[name] = {"cpu_s": round(_cpu_s() - before, 1), "s": round(time.monotonic() - started, 1)}
        return {"stages": times, **trained(current, job)}


def whole_round(job: Job) -> dict:
    """`shibolet run` as far as its verdicts let it go."""
    from shibolet.records.documents.comparison import Comparison
    from shibolet.rounds.flow import run_round

    with opened(job) as current:
        code = run_round(current)
        made: dict[str, Any] = {"exit_code": code}
        if current.folder.compare.is_file():
            compared = Comparison.read(current.folder.compare)
            made |= {"verdict": compared.verdict, "sentence": compared.sentence, **trained(current, job)}
            baseline, _ = current.names
            made["baseline_rows"] = scored(current, baseline.label)
        return made


def trained(current, job: Job) -> dict:
    """What is known of a training: steps, the scores, the loss of the sets' texts; its weights are deleted."""
    from shibolet.records.documents.prepared import Prepared
    from shibolet.records.documents.training import TrainResult

    result = TrainResult.read(current.folder.train_result)
    prepared = Prepared.read(current.folder.prepared / "summary.json")
    made = {
        "steps": result.steps,
        "chosen_step": result.chosen_step,
        "dev_wer": [[score.step, round(score.wer, 4)] for score in result.dev],
        "train": prepared.train.utterances,
        "rows": scored(current, current.names[1].label),
        "loss": losses(current, str(current.folder.final)) if job.about.get("with_loss") else None,
    }
    if not job.about.get("keep"):
        _delete_weights(current)
    return made


def scored(current, label: str) -> dict[str, list]:
    """By set, [id, hypothesis] of every utterance."""
    from shibolet.records.hypotheses import read_hypothesis_lines

    names = [source.name for source in current.sets]
    lines = {name: read_hypothesis_lines(current.folder.hypotheses(label, name)) for name in names}
    return {name: [[line.id, line.hypothesis] for line in own] for name, own in lines.items()}


def losses(current, model: str) -> dict[str, list]:
    """By set, [id, loss, labels] of every utterance: the summed loss of its text, clip by clip."""
    from shibolet.rounds.scorers import language_of

    return {
        source.name: losses_of(model, current.read(source).utterances, language_of(current, source))
        for source in current.sets
    }


def losses_of(model: str, utterances: Sequence, language: str) -> list:
    """[id, loss, labels] of each."""
    import torch

    from shibolet.model.family import load_recogniser
    from shibolet.model.fast.losses import plain_cross_entropy
    from shibolet.model.folders import best_device
    from shibolet.model.protocols import Prompt
    from shibolet.speech.audio import load
    from shibolet.speech.text import get_language

    device, rows = best_device(), []
    loaded = load_recogniser(model, device=device)
    family, features = loaded.family, loaded.family.features(loaded.extractor, device)
    targets = family.targets(loaded.tokenizer, Prompt(language))
    for utterance in utterances:
        clip = load(utterance.audio)
        ids = targets.encode([get_language(language).to_target(utterance.text)])
        pack = family.lay_out(targets.frame, ids, [family.num_frames(len(clip))])
        with torch.inference_mode(), family.packed(loaded.model):
            pack = family.with_audio(pack, [clip], features, torch.device(device))
            hidden = family.hidden(loaded.model, pack)
            loss = plain_cross_entropy(hidden, family.head(loaded.model), pack.labels)
        rows.append([utterance.id, round(float(loss), 4), len(pack.labels)])
    return rows


def train_for_dev(job: Job) -> dict:
    """Train on data as they are, and what the dev split says of the result; no test set is heard."""
    from shibolet.records.documents.training import TrainResult
    from shibolet.records.manifest import read_manifest
    from shibolet.rounds import auditing, stages

    with opened(job, **AS_IT_IS) as current:
        auditing.do_audit(current)
        auditing.do_gate(current)
        stages.do_prepare(current)
        before = _cpu_s()
        stages.do_train(current)
        cpu_s = round(_cpu_s() - before, 1)
        result = TrainResult.read(current.folder.train_result)
        kept = read_manifest(current.folder.prepared / "manifest.jsonl")
        dev = [u for u in kept if Path(u.audio.path).name.startswith("dev-")]
        rows = losses_of(str(current.folder.final), dev, current.recipe.language)
        _delete_weights(current)
        return {
            "train_cpu_s": cpu_s,
            "dev_wer": [[score.step, round(score.wer, 4)] for score in result.dev],
            "chosen_step": result.chosen_step,
            "dev_loss_a_label": round(sum(row[1] for row in rows) / sum(row[2] for row in rows), 4),
            "dev": len(dev),
        }


def _delete_weights(current) -> None:
    for part in ("checkpoints", "final", "encoder_cache"):
        shutil.rmtree(current.folder.train / part, ignore_errors=True)


def untouched(job: Job) -> dict:
    """A model that nobody trained on whole manifests, by the names and languages in `about`."""
    from shibolet.records.hypotheses import read_hypothesis_lines
    from shibolet.rounds.scoring import evaluate_manifest

    made = {}
    for name, (manifest, language) in job.about["sets"].items():
        folder = job.run_dir / name
        evaluate_manifest(job.about["model"], Path(manifest), language, folder)
        made[name] = [[line.id, line.hypothesis] for line in read_hypothesis_lines(folder / "hypotheses.jsonl")]
    return {"rows": made}


def hear_untouched(args: argparse.Namespace, model: Path, sets: Mapping[str, tuple[Path, str]]) -> dict[str, dict]:
    """By set, the hypothesis of a model that nobody trained for every id."""
    key = f"{UNTOUCHED}/{model.name}/{'+'.join(sets)}"
    about = {"model": str(model), "sets": {name: [str(path), language] for name, (path, language) in sets.items()}}
    job = Job(
        key=key,
        run_dir=args.out / key,
        recipe="",
        changes=tuple(f"{name} in {language}" for name, (_, language) in sets.items()),
        data=data_of(*(path for path, _ in sets.values())),
        about=about,
    )
    row = run_jobs(args, untouched, [job])[key]
    return {name: dict(rows) for name, rows in row["rows"].items()}


def hypotheses_file(path: Path, heard: Mapping[str, str]) -> Path:
    """A file of hypotheses as `audit.recogniser` takes it."""
    from shibolet.records.files import write_jsonl

    write_jsonl(path, ({"id": id, "hypothesis": text} for id, text in heard.items()))
    return path


# Data


def utterances_of(manifest: Path, name: str, language: str) -> list:
    """The utterances of a manifest, which becomes one of ours: ids without the folders that the files lie in."""
    from shibolet.records.files import cache_dir
    from shibolet.speech.read import read_source
    from shibolet.speech.sources import DataSource

    found, left_out = read_source(DataSource(name=name, manifest=manifest), cache_dir(), None, language)
    if left_out:
        print(f"{manifest}: {len(left_out)} rows left out, the first {left_out[0]}", file=sys.stderr)
    return [replace(u, id=Path(u.id).name) for u in found]


def written(path: Path, utterances: Iterable) -> Path:
    """A manifest of these as recipes name it; the audio are files."""
    from shibolet.records.files import write_jsonl

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": u.id, "audio": u.audio.path, "text": u.text, "speaker": u.speaker, "recording": u.recording,
         "domain": u.domain, "start_s": u.audio.start_s or None, "end_s": u.audio.end_s}
        for u in utterances
    ]  # fmt: skip
    write_jsonl(path, ({name: value for name, value in row.items() if value is not None} for row in rows))
    return path


def folds_by_speaker(utterances: Sequence, num: int | None) -> Iterator[tuple[str, set[str]]]:
    """A name and the speakers of each fold, about as many utterances in each; None: one speaker a fold."""
    speakers: dict[str, int] = {}
    for u in utterances:
        key = u.speaker or u.recording
        speakers[key] = speakers.get(key, 0) + 1
    if num is None:
        yield from ((name, {name}) for name in sorted(speakers))
        return
    folds: list[set[str]] = [set() for _ in range(num)]
    for name in sorted(speakers, key=lambda name: (-speakers[name], name)):
        min(folds, key=lambda own: sum(speakers[one] for one in own)).add(name)
    yield from ((str(place), own) for place, own in enumerate(folds))
