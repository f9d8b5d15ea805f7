"""What a small student gains from its teacher, stage by stage: the demo's speech, several seeds.

    python benchmarks/distillation.py --out OUT --seeds 501 502 503 504 --jobs 32
    python benchmarks/distillation.py --out OUT --seeds 0 --demo RUN --arms texts top_k    # with a finished demo

The teacher is the demo's Round 2; the student is cut from it (`shibolet cut`). A teacher that was trained on the same
texts knows no more of them than they say, so there has to be more speech than texts, as users have it: `--free`
sentences of the demo's training voices without a text (`data.unlabelled`), written by the teacher and judged by the
round's own `label` stage. All arms train equally many steps, with the checkpoint that is best on dev as the result:

plain      the likelihood of the texts alone: the control, which has no more speech
own        top-k of the teacher on those texts, without the other speech: what the teacher's distributions alone give
texts      and the teacher's texts that passed: sequence-level distillation (stage a)
top_k      the same data with the teacher's top-k distributions (stage b)
on_policy  the same, in the last third on the student's own texts (stage c)
all_texts  the likelihood of everything that the teacher wrote, judged by nobody
unaudited  the same, a fifth of the texts being those of other utterances
audited    those of them that the `label` stage lets pass
longer     `plain` and a third more steps, the control of equal steps for
min_wer    `plain` and a third more steps of expected word errors; these two train only where `--arms` names them

Prints a line of JSON a seed on its data, one a model of a seed, then one an arm over all seeds:

gap         the plain student's WER minus the teacher's, in points; where its interval touches 0 nothing can be closed
closed_pct  the part of that gap which the arm closes; the interval over the speakers and recordings of all seeds, and
            the one over seeds (Student's t), each of which has data, a teacher and a student of its own
adds        the arm's WER minus that of the arm before it (`BEFORE`), and the part of the gap that it adds
speed       audio seconds a second of CPU, at equal batch; `endless_pct` texts that did not end by themselves

The same command goes on with what is missing.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

TEACHER, PLAIN = "teacher", "plain"
OWN, TAUGHT = "own", "taught"  # data: the demo's prepared ones, and those with the teacher's texts that passed
ARMS = {  # arm -> its data, and (objective, share of the steps) of its phases
    PLAIN: (OWN, ("transcribe", 1.0)),
    "own": (OWN, ("distil", 1.0)),
    "texts": (TAUGHT, ("transcribe", 1.0)),
    "top_k": (TAUGHT, ("distil", 1.0)),
    "on_policy": (TAUGHT, ("distil", 2 / 3), ("on_policy", 1 / 3)),
    "all_texts": ("all", ("transcribe", 1.0)),
    "unaudited": ("damaged_all", ("transcribe", 1.0)),
    "audited": ("damaged", ("transcribe", 1.0)),
    "longer": (OWN, ("transcribe", 1.0), ("transcribe", 1 / 3)),
    "min_wer": (OWN, ("transcribe", 1.0), ("min_wer", 1 / 3)),
}
BEFORE = {
    "own": PLAIN, "texts": PLAIN, "top_k": "texts", "on_policy": "top_k", "all_texts": "texts",
    "unaudited": "all_texts", "audited": "unaudited", "longer": PLAIN, "min_wer": "longer",
}  # fmt: skip
SETS = ("test_clean", "test_whatsapp")
BATCH = 16


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--demo", type=Path, help="a finished demo run for the first seed; else rounds are run")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[a for a in ARMS if a not in ("longer", "min_wer")])
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--free", type=int, default=2000, help="sentences that nobody has written")
    parser.add_argument("--decoder", type=int, default=3, help="layers of the student's decoder")
    parser.add_argument("--encoder", type=int, default=6, help="and of its encoder")
    parser.add_argument("--steps", type=int, default=450, help=f"of {BATCH} utterances")
    parser.add_argument("--rate", type=float, default=3e-4, help="peak, of all parts; later phases have a quarter")
    parser.add_argument("--temperature", type=float, default=2.0, help="of the divergence on texts that are given")
    parser.add_argument("--likelihood-weight", type=float, default=0.2, help="of the cross-entropy beside it")
    parser.add_argument("--every", type=int, default=1, help="score each n-th test utterance")
    return parser.parse_args()


def one_thread() -> None:
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@contextmanager
def round_of(seed: int, out: Path, args: argparse.Namespace, *changes: str):
    """A round of the demo on the corpus of a seed, open, that has heard and judged its training data."""
    from shibolet.demo.round import demo_recipe
    from shibolet.rounds import auditing
    from shibolet.rounds.shared import open_round

    one_core = ("train.num_threads=1", "audit.num_workers=0")
    recipe = demo_recipe(corpus_of(seed, args), seed, [*one_core, *changes])
    with open_round(recipe, out, "demo", lambda said: None) as current:
        auditing.do_audit(current)
        auditing.do_gate(current)
        yield current


def corpus_of(seed: int, args: argparse.Namespace) -> Path:
    return demo_of(seed, args) / "corpus"


def demo_of(seed: int, args: argparse.Namespace) -> Path:
    """The run folder of the demo of a seed."""
    return args.demo if args.demo and seed == args.seeds[0] else args.out / str(seed) / "demo"


def speak(seed: int, part: str, args: argparse.Namespace) -> None:
    """The corpus of a seed's demo, or its speech without texts: other sentences of the same voices, none of a test."""
    from shibolet.demo.corpus import CorpusConfig, build_corpus
    from shibolet.records.files import read_jsonl, write_jsonl

    one_thread()
    if part == "demo":
        build_corpus(corpus_of(seed, args), seed)
        return
    free = free_of(seed, args)
    changes = {"num_train": args.free, "num_long": 0, "num_test": 0, "damaged_frac": 0.0}
    build_corpus(free, 1000 + seed, CorpusConfig(**changes))
    rows = read_jsonl(free / "train" / "manifest.jsonl")
    marked = [{k: f"free-{v}" if k in ("id", "recording") else v for k, v in r.items() if k != "text"} for r in rows]
    write_jsonl(free / "train" / "free.jsonl", marked)


def free_of(seed: int, args: argparse.Namespace) -> Path:
    return args.out / str(seed) / f"free-{args.free}"


def teach(seed: int, args: argparse.Namespace) -> None:
    """The teacher and its scores, the student, and the data of all arms."""
    from shibolet.model.cut import cut
    from shibolet.rounds import stages

    one_thread()
    teacher = str(demo_of(seed, args) / "train" / "final")
    if not Path(teacher).is_dir():
        with round_of(seed, demo_of(seed, args), args) as current:
            stages.do_prepare(current)
            stages.do_train(current)
    if not student_of(seed, args).exists():
        cut(teacher, student_of(seed, args), encoder=args.encoder, decoder=args.decoder)
    if {ARMS[arm][0] for arm in args.arms} - {OWN}:
        label(seed, args, TAUGHT)
        label(seed, args, "damaged")
    if not (folder_of(seed, TEACHER, args) / "scores.json").is_file():
        score(seed, teacher, folder_of(seed, TEACHER, args), args)


def student_of(seed: int, args: argparse.Namespace) -> Path:
    return args.out / str(seed) / f"student-{args.encoder}-{args.decoder}"


def data_of(seed: int, name: str, args: argparse.Namespace) -> Path:
    """The prepared data of this name; those that nobody judged lie beside the round that wrote their texts."""
    if name == OWN:
        return demo_of(seed, args) / "prepared"
    run = args.out / str(seed) / f"{'damaged' if name.startswith('damaged') else TAUGHT}-{args.free}"
    return run / ("everything/prepared" if name.endswith("all") else "prepared")


def label(seed: int, args: argparse.Namespace, name: str) -> None:
    """Two sets of data: with the teacher's texts of the free speech that the stage lets pass, and with all of them.

    Of `damaged` a fifth of the texts were exchanged after the teacher wrote them and before anybody judged them.
    """
    from shibolet.prepare.stage import run_prepare
    from shibolet.records.machine_texts import MachineText
    from shibolet.rounds import stages
    from shibolet.rounds.judged import judged
    from shibolet.rounds.unlabelled import cut_into_pieces

    prepared, everything = (data_of(seed, one, args) for one in (name, "all" if name == TAUGHT else "damaged_all"))
    if (everything / "summary.json").is_file():
        return
    run, before = prepared.parent, demo_of(seed, args) if name == TAUGHT else data_of(seed, TAUGHT, args).parent
    if name == "damaged":
        exchange(before, run, seed)
    changes = [
        f"parent={before}", f"label.writer={demo_of(seed, args) / 'train' / 'final'}",
        f"data.unlabelled=[{{name: free, manifest: {free_of(seed, args) / 'train' / 'free.jsonl'}}}]",
        "label.max_labelled_share=1000", "label.max_wer=0.3", "label.max_false_accept_pct=10",
    ]  # fmt: skip
    with round_of(seed, run, args, *changes) as current:
        stages.do_prepare(current)
        audio, by = current.join(current.recipe.data.unlabelled), judged(current)
        pieces, _ = cut_into_pieces(list(audio.utterances), current.recipe.label.max_piece_s, 0.5, lambda *_: None)
        texts = {row["id"]: row["text"] for row in written(run) if row["text"].strip()}
        text_of = lambda id: MachineText(  # noqa: E731
            id=id, kind="labelled", text=texts[id], written=texts[id], heard="", disagreement=0.0
        )
        run_prepare(
            current.data.utterances, by.rows(), config=by.config, language="Hebrew", seed=seed, out_dir=everything,
            machine_texts=[(replace(one, text=texts[one.id]), text_of(one.id)) for one in pieces if one.id in texts],
        )  # fmt: skip


def written(run: Path) -> Iterator[dict]:
    """What the teacher wrote of the speech without texts."""
    from shibolet.records.files import read_jsonl

    for path in sorted((run / "labelled" / "heard").glob("*.jsonl")):
        yield from (row for row in read_jsonl(path) if row["id"].startswith("free-"))


def exchange(before: Path, run: Path, seed: int) -> None:
    """Copy what the teacher wrote, with the texts of a fifth of the utterances dealt anew among them."""
    from shibolet.records.files import read_jsonl, write_jsonl

    texts = {row["id"]: row["text"] for row in written(before)}
    chosen = np.random.default_rng(seed).permutation(sorted(texts))[: len(texts) // 5].tolist()
    damaged = {one: texts[other] for one, other in zip(chosen, chosen[1:] + chosen[:1], strict=True)}
    for path in sorted((before / "labelled" / "heard").glob("*.jsonl")):
        rows = [{**row, "text": damaged.get(row["id"], row["text"])} for row in read_jsonl(path)]
        write_jsonl(run / "labelled" / "heard" / path.name, rows)


def config_of(arm: str, num_utterances: int, args: argparse.Namespace):
    """How an arm trains: all parts of the student, at a quarter of the rate where its objective changes."""
    from shibolet.train.config import PhaseConfig, TrainConfig
    from shibolet.train.objectives.config import TAUGHT, DistilConfig

    parts = ("encoder.conv", "encoder.layers", "projector", "embeddings", "decoder.layers", "decoder.norm")
    epochs = args.steps / -(-num_utterances // BATCH)
    phases = [
        PhaseConfig(
            name=f"{number}-{objective}", num_epochs=share * epochs, objective=objective, warmup_steps=20,
            schedule="linear", lr_by_part=dict.fromkeys(parts, args.rate / (4 if number else 1)),
        )
        for number, (objective, share) in enumerate(ARMS[arm][1:])
    ]  # fmt: skip
    taught = DistilConfig(temperature=args.temperature, likelihood_weight=args.likelihood_weight)
    return TrainConfig(
        distil=taught if any(phase.objective in TAUGHT for phase in phases) else None, phases=phases, lora=None,
        untie_head=False, utterances_per_step=BATCH, precision="fp32", eval_every_steps=max(1, args.steps // 6),
        eval_every_epoch=False, checkpoint_every_steps=max(1, args.steps // 6), average_best=None,
    )  # fmt: skip


def folder_of(seed: int, arm: str, args: argparse.Namespace) -> Path:
    if arm == TEACHER:
        return args.out / str(seed) / f"{TEACHER}-{args.every}"
    settings = (args.free, args.encoder, args.decoder, args.steps, args.rate, args.temperature, args.likelihood_weight)
    return args.out / str(seed) / "-".join([arm, *(f"{value:g}" for value in (*settings, args.every))])


def train(seed: int, arm: str, args: argparse.Namespace) -> None:
    """Train and score an arm; nothing to do where its scores are there."""
    one_thread()
    out, data = folder_of(seed, arm, args), data_of(seed, ARMS[arm][0], args)
    if (out / "scores.json").is_file():
        return

    from shibolet.evaluate.config import EvaluateConfig
    from shibolet.evaluate.dev import dev_scorer, read_dev
    from shibolet.records.documents.training import DevRates
    from shibolet.records.shards import read_shard
    from shibolet.train.stage import run_train

    scorer = dev_scorer(read_dev(data_of(seed, OWN, args)), "Hebrew", EvaluateConfig())

    def score_dev(loaded, when: str) -> DevRates:
        scores = scorer(loaded)
        return DevRates(wer=scores.wer.rate, cer=scores.cer.rate, folds=scores.folds)

    started = time.process_time()
    num_utterances = sum(1 for path in data.glob("train-*.parquet") for _ in read_shard(path, "id"))
    done = run_train(
        prepared_dir=data, out_dir=out / "train", base=str(student_of(seed, args)), seed=seed,
        config=config_of(arm, num_utterances, args), language="Hebrew",
        teacher=str(demo_of(seed, args) / "train" / "final"), score_dev=score_dev, about={}, num_threads=1,
    )  # fmt: skip
    about = {"utterances": num_utterances, "steps": done.steps, "chosen_step": done.chosen_step}
    about |= {"dev_wer_pct": round(100 * done.chosen_dev.wer, 2), "train_s": round(time.process_time() - started, 1)}
    score(seed, str(out / "train" / "final"), out, args, **about)


def score(seed: int, model: str, out: Path, args: argparse.Namespace, **about) -> None:
    """Write what a model makes of the test sets: a row an utterance, and how fast."""
    from shibolet.listen.transcribe import Transcriber
    from shibolet.model.family import load_recogniser
    from shibolet.records.files import make_folder, write_json
    from shibolet.scoring.rows import score_row
    from shibolet.speech import audio
    from shibolet.speech.read import read_source
    from shibolet.speech.sources import DataSource
    from shibolet.speech.text import get_language

    language = get_language("Hebrew")
    transcriber = Transcriber(load_recogniser(model), language.name)
    rows, endless, seconds, audio_s = [], 0, 0.0, 0.0
    for name in SETS:
        source = DataSource(name=name, manifest=corpus_of(seed, args) / name / "manifest.jsonl")
        utterances = read_source(source, Path(), language=language.name)[0][:: args.every]
        clips = [audio.load(utterance.audio) for utterance in utterances]
        started = time.process_time()
        texts = transcriber.write(clips)
        seconds += time.process_time() - started
        audio_s += sum(utterance.duration_s for utterance in utterances)
        endless += sum(one.ending != "end" for one in texts)
        rows += [
            score_row(utterance, one.text, set=name, normaliser=language.to_scoring).to_json()
            for utterance, one in zip(utterances, texts, strict=True)
        ]
    make_folder(out)
    about |= {"endless_pct": round(100 * endless / len(rows), 2), "audio_s_per_s": round(audio_s / seconds, 1)}
    write_json(out / "scores.json", {"about": about, "rows": rows})


def read(out: Path) -> tuple[dict, list]:
    from shibolet.records.files import read_json
    from shibolet.scoring.rows import ScoredRow

    found = read_json(out / "scores.json")
    return found["about"], [ScoredRow.from_json(row) for row in found["rows"]]


def report_data(seed: int, args: argparse.Namespace) -> dict:
    """How right the texts of the free speech are: all that the teacher wrote, and those that passed."""
    from shibolet.demo.corpus import read_truth
    from shibolet.records.machine_texts import read_texts
    from shibolet.scoring.counts import EditCounts, count_words
    from shibolet.speech.text import get_language

    normalise, line = get_language("Hebrew").to_scoring, {"seed": seed}
    said = {f"free-{one.id}": one.reference for one in read_truth(free_of(seed, args))}

    def wer(texts: dict[str, str]) -> dict:
        pairs = [(normalise(said[id.rsplit("-", 1)[0]]), normalise(text)) for id, text in texts.items()]
        counts = sum((count_words(*pair) for pair in pairs), EditCounts())
        return {"texts": len(texts), "wer_pct": round(100 * counts.rate, 2) if texts else None}

    right = {row["id"]: row["text"] for row in written(data_of(seed, TAUGHT, args).parent)}
    for name in (TAUGHT, "damaged"):
        run = data_of(seed, name, args).parent
        all_texts = {row["id"]: row["text"] for row in written(run)}
        passed = {one.id: one.text for one in read_texts(run / "labelled" / "texts.jsonl")}
        planted = [sum(right[id] != text for id, text in some.items()) for some in (all_texts, passed)]
        line[name] = {"written": wer(all_texts), "passed": wer(passed), "exchanged": planted}
    return line


def report(args: argparse.Namespace) -> Iterator[dict]:
    """Figures of each model of a seed, and of each arm over all seeds."""
    found = {(seed, arm): read(folder_of(seed, arm, args)) for seed in args.seeds for arm in (TEACHER, *args.arms)}
    for (seed, arm), (about, rows) in found.items():
        said = sum(len(row.said.split()) for row in rows)
        wer = {name: rate([row for row in rows if row.set == name]) for name in SETS}
        ratio = round(sum(len(row.heard.split()) for row in rows) / said, 3)
        yield {"seed": seed, "model": arm, "wer_pct": rate(rows), **wer, "length_ratio": ratio, **about}
    rows = {arm: [found[seed, arm][1] for seed in args.seeds] for arm in (TEACHER, *args.arms)}
    for arm in args.arms:
        yield {"arm": arm, "wer_pct": rate([row for own in rows[arm] for row in own]), **against(arm, rows, args)}


def against(arm: str, rows: dict[str, list[list]], args: argparse.Namespace) -> dict:
    """An arm beside the plain student and the teacher, and beside the arm before it; `rows` are by model and seed."""
    from scipy.special import stdtrit

    from shibolet.scoring.intervals import difference_interval, differences, ratio_intervals
    from shibolet.scoring.rows import groups_of

    groups = [f"{seed} {group}" for seed, own in zip(args.seeds, rows[arm]) for group in groups_of(own)]
    counts = {name: [row.words for own in by_seed for row in own] for name, by_seed in rows.items()}
    gap_of = differences(counts[TEACHER], counts[PLAIN])[:, None]

    def points(first: str, second: str) -> dict:
        made = difference_interval(counts[first], counts[second], groups)
        return {"points": pct(made.value), "interval": [pct(made.low), pct(made.high)]}

    def part_of_gap(first: str, second: str) -> dict:
        (made,) = ratio_intervals(differences(counts[second], counts[first])[:, None], gap_of, groups)
        rates = [[rate(own) for own in rows[name]] for name in (first, second, PLAIN, TEACHER)]
        by_seed = [
            100 * (one - two) / (plain - teacher) for one, two, plain, teacher in zip(*rates) if plain != teacher
        ]
        line = {"pct": pct(made.value), "interval": [pct(made.low), pct(made.high)]}
        if (num := len(by_seed)) > 1:
            half = stdtrit(num - 1, 0.975) * np.std(by_seed, ddof=1) / num**0.5
            line["interval_over_seeds"] = [round(float(np.mean(by_seed) + sign * half), 2) for sign in (-1, 1)]
        return {**line, "by_seed": [round(value, 1) for value in by_seed]}

    line = {"gap": points(TEACHER, PLAIN), "closed": part_of_gap(PLAIN, arm)}
    if (before := BEFORE.get(arm)) in rows and before != PLAIN:
        line["adds"] = {"to": before, **points(before, arm), "of_the_gap": part_of_gap(before, arm)}
    return line


def rate(rows: Sequence) -> float:
    """WER in percent."""
    return round(100 * sum(row.words.errors for row in rows) / sum(row.words.reference_length for row in rows), 2)


def pct(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(100 * value, 2)


def main() -> None:
    args = parse()
    args.out, args.demo = args.out.absolute(), args.demo and args.demo.absolute()
    args.arms = [arm for arm in ARMS if arm in {PLAIN, *args.arms}]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        parts = ("free", "demo") if {ARMS[arm][0] for arm in args.arms} - {OWN} else ("demo",)
        spoken = [pool.submit(speak, seed, part, args) for part in parts for seed in args.seeds]
        for one in spoken:
            one.result()
        taught = {pool.submit(teach, seed, args): seed for seed in args.seeds}
        trainings = []
        for done in as_completed(taught):
            done.result()
            trainings += [pool.submit(train, taught[done], arm, args) for arm in reversed(args.arms)]
        for one in trainings:
            one.result()
    lines = [report_data(seed, args) for seed in args.seeds] if len(parts) > 1 else []
    for line in [*lines, *report(args)]:
        print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
