"""What a small student gains from its teacher, stage by stage: the demo's speech, several seeds.

    python benchmarks/distillation.py --out OUT --seeds 500 --jobs 16 --arms texts --rate 6e-4    # a pilot of settings
    python benchmarks/distillation.py --out OUT --seeds 501 502 503 504 --jobs 32
    python benchmarks/distillation.py --out OUT --seeds 0 --demo RUN --arms texts top_k    # with a finished demo

The teacher is the demo's Round 2. The student is cut from it (`shibolet cut`) and has half of the encoder's layers: the
tiny decoder of four does not recover from the loss of one in so few steps. A teacher that was trained on the same texts
knows little about them that they do not say, so there is more speech than texts, as users have it: `--free` sentences
of the demo's training voices without a text (`data.unlabelled`), written by the teacher and judged by the round's
own `label` stage. All arms train equally many steps, with the checkpoint that is best on dev as the result:

plain      the likelihood of the texts alone: the control, which has no more speech
own        top-k of the teacher on those texts, without the other speech: what the teacher's distributions alone give
texts      and the teacher's texts that passed: sequence-level distillation (stage a)
top_k      the same data with the teacher's top-k distributions (stage b)
on_policy  the same, in the last third on the student's own texts (stage c)
unaudited  stage a with everything that the teacher wrote, a fifth of it being texts of other utterances
audited    stage a with those of these texts that the `label` stage lets pass

Only where `--arms` names them: `all_texts`, everything that the teacher wrote, as it is; `min_wer`, `plain` and a third
more steps of expected word errors; `longer`, the same steps of likelihood, which is the control of min_wer.

Prints a line of JSON a seed on its data, one a model of a seed, then one an arm over all seeds:

gap         the plain student's WER minus the teacher's, in points; where its interval touches 0 nothing can be closed
closed      the part of that gap which the arm closes; the interval over the speakers and recordings of all seeds, and
            the one over seeds (Student's t), each of which has data, a teacher and a student of its own
adds        the arm's WER minus that of the arm before it (`BEFORE`), and the part of the gap that it adds
audio_s_per_s  audio seconds a second of CPU time, at equal batch; `endless_pct`: texts that did not end by themselves

Everything runs on the CPU, a thread a process: models so small leave a GPU idle. The same command goes on with what is
missing; other settings train beside the arms that are there, on the same data.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np
from distillation_figures import PLAIN, SETS, TEACHER, models, stages_of, texts_of

# Data: those that the demo prepared, and these with the teacher's texts that passed, of speech as it is and damaged.
OWN, TAUGHT, DAMAGED = "own", "taught", "damaged"
ARMS = {  # arm -> its data, and (objective, share of the steps) of its phases
    PLAIN: (OWN, ("transcribe", 1.0)),
    "own": (OWN, ("distil", 1.0)),
    "texts": (TAUGHT, ("transcribe", 1.0)),
    "top_k": (TAUGHT, ("distil", 1.0)),
    "on_policy": (TAUGHT, ("distil", 2 / 3), ("on_policy", 1 / 3)),
    "all_texts": (f"{TAUGHT}_all", ("transcribe", 1.0)),
    "unaudited": (f"{DAMAGED}_all", ("transcribe", 1.0)),
    "audited": (DAMAGED, ("transcribe", 1.0)),
    "longer": (OWN, ("transcribe", 1.0), ("transcribe", 1 / 3)),
    "min_wer": (OWN, ("transcribe", 1.0), ("min_wer", 1 / 3)),
}
NOT_ASKED = ("all_texts", "longer", "min_wer")  # arms that train only where they are named
BATCH = 16


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--demo", type=Path, help="a finished demo run for the first seed; else rounds are run")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[arm for arm in ARMS if arm not in NOT_ASKED])
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--free", type=int, default=3000, help="sentences that nobody has written")
    parser.add_argument("--decoder", type=int, default=4, help="layers of the student's decoder")
    parser.add_argument("--encoder", type=int, default=3, help="and of its encoder")
    parser.add_argument("--steps", type=int, default=800, help=f"of {BATCH} utterances")
    parser.add_argument("--rate", type=float, default=3e-4, help="peak, of all parts; later phases have a quarter")
    parser.add_argument("--temperature", type=float, default=2.0, help="of the divergence on texts that are given")
    parser.add_argument("--likelihood-weight", type=float, default=0.2, help="of the cross-entropy beside it")
    parser.add_argument("--pauses", type=float, default=0.0, help="longest pause in s that half of the clips get")
    parser.add_argument("--every", type=int, default=1, help="score each n-th test utterance")
    return parser.parse_args()


def begin() -> None:
    """A process of the pool: one thread, and no life after its parent, whose next start would meet it at work."""
    import torch

    torch.set_num_threads(1)
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


@contextmanager
def round_of(seed: int, out: Path, args: argparse.Namespace, *changes: str):
    """A round of the demo on the corpus of a seed, open, that has heard and judged its training data."""
    from shibolet.demo.round import demo_recipe
    from shibolet.rounds import auditing
    from shibolet.rounds.shared import open_round

    few = ("train.num_threads=2", "audit.num_workers=0")
    recipe = demo_recipe(corpus_of(seed, args), seed, [*few, *changes])
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

    teacher = str(demo_of(seed, args) / "train" / "final")
    if not Path(teacher).is_dir():
        with round_of(seed, demo_of(seed, args), args) as current:
            stages.do_prepare(current)
            stages.do_train(current)
    if not student_of(seed, args).exists():
        cut(teacher, student_of(seed, args), encoder=args.encoder, decoder=args.decoder)
    if is_taught(args):
        label(seed, args, TAUGHT)
        label(seed, args, DAMAGED)
    if not (folder_of(seed, TEACHER, args) / "scores.json").is_file():
        score(seed, teacher, folder_of(seed, TEACHER, args), args)


def student_of(seed: int, args: argparse.Namespace) -> Path:
    return args.out / str(seed) / f"student-{args.encoder}-{args.decoder}"


def data_of(seed: int, name: str, args: argparse.Namespace) -> Path:
    """The prepared data of this name; those that nobody judged lie beside the round that wrote their texts."""
    if name == OWN:
        return demo_of(seed, args) / "prepared"
    run = args.out / str(seed) / f"{name.removesuffix('_all')}-{args.free}"
    return run / ("everything/prepared" if name.endswith("_all") else "prepared")


def label(seed: int, args: argparse.Namespace, name: str) -> None:
    """Two sets of data: with the teacher's texts of the free speech that the stage lets pass, and with all of them.

    Of `DAMAGED` a fifth of the texts were exchanged after the teacher wrote them and before anybody judged them.
    """
    from shibolet.prepare.stage import run_prepare
    from shibolet.records.machine_texts import MachineText
    from shibolet.rounds import stages
    from shibolet.rounds.judged import judged
    from shibolet.rounds.unlabelled import cut_into_pieces

    prepared, everything = (data_of(seed, one, args) for one in (name, f"{name}_all"))
    if (everything / "summary.json").is_file():
        return
    run, before = prepared.parent, demo_of(seed, args) if name == TAUGHT else data_of(seed, TAUGHT, args).parent
    if name == DAMAGED:
        exchange(before, run, seed)
    changes = [
        f"parent={before}", f"label.writer={demo_of(seed, args) / 'train' / 'final'}", "label.texts_of=writer",
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
    from dataclasses import asdict

    from shibolet.records.files import read_jsonl, write_jsonl
    from shibolet.rounds.hearers import Written

    texts = {row["id"]: row["text"] for row in written(before)}
    chosen = np.random.default_rng(seed).permutation(sorted(texts))[: len(texts) // 5].tolist()
    damaged = {one: texts[other] for one, other in zip(chosen, chosen[1:] + chosen[:1], strict=True)}
    for path in sorted((before / "labelled" / "heard").glob("*.jsonl")):
        rows = [Written.of(r["id"], damaged.get(r["id"], r["text"]), r["failure"]) for r in read_jsonl(path)]
        write_jsonl(run / "labelled" / "heard" / path.name, map(asdict, rows))


def config_of(arm: str, num_utterances: int, args: argparse.Namespace):
    """How an arm trains: all parts of the student, at a quarter of the rate where its objective changes."""
    from shibolet.train.config import AugmentConfig, PauseConfig, PhaseConfig, TrainConfig
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
        augment=AugmentConfig(pauses=PauseConfig(most_s=args.pauses)) if args.pauses else None,
        untie_head=False, utterances_per_step=BATCH, precision="fp32", eval_every_steps=max(1, args.steps // 4),
        eval_every_epoch=False, checkpoint_every_steps=max(1, args.steps // 4), average_best=None,
    )  # fmt: skip


def folder_of(seed: int, arm: str, args: argparse.Namespace) -> Path:
    if arm == TEACHER:
        return args.out / str(seed) / f"{TEACHER}-{args.every}"
    settings = (args.free, args.encoder, args.decoder, args.steps, args.rate, args.temperature, args.likelihood_weight)
    paused = [f"pauses{args.pauses:g}"] if args.pauses else []
    return args.out / str(seed) / "-".join([arm, *(f"{value:g}" for value in (*settings, args.every)), *paused])


def train(seed: int, arm: str, args: argparse.Namespace) -> None:
    """Train and score an arm; nothing to do where its scores are there."""
    out, data = folder_of(seed, arm, args), data_of(seed, ARMS[arm][0], args)
    if (out / "scores.json").is_file():
        return

    from shibolet.evaluate.config import EvaluateConfig
    from shibolet.evaluate.dev import dev_scorer, read_dev
    from shibolet.records.documents.training import DevRates
    from shibolet.records.files import make_folder
    from shibolet.records.shards import read_shard
    from shibolet.train.stage import run_train

    scorer = dev_scorer(read_dev(data_of(seed, OWN, args)), "Hebrew", EvaluateConfig())

    def score_dev(loaded, when: str) -> DevRates:
        scores = scorer(loaded)
        return DevRates(wer=scores.wer.rate, cer=scores.cer.rate, folds=scores.folds)

    started = time.process_time()
    num_utterances = sum(1 for path in data.glob("train-*.parquet") for _ in read_shard(path, "id"))
    own = out / "prepared"  # beside it a training keeps what the teacher expects, where two must not write at once
    make_folder(out)
    if not own.is_symlink():
        own.symlink_to(data)
    done = run_train(
        prepared_dir=own, out_dir=out / "train", base=str(student_of(seed, args)), seed=seed,
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


def report(args: argparse.Namespace) -> Iterator[dict]:
    """Lines on the texts of each seed, each model, and each arm over all seeds."""
    from shibolet.demo.corpus import read_truth
    from shibolet.records.machine_texts import read_texts

    if is_taught(args):
        for seed in args.seeds:
            said = {f"free-{one.id}": one.reference for one in read_truth(free_of(seed, args))}
            right = {row["id"]: row["text"] for row in written(data_of(seed, TAUGHT, args).parent)}
            for name in (TAUGHT, DAMAGED):
                run = data_of(seed, name, args).parent
                everything = {row["id"]: row["text"] for row in written(run)}
                passed = {one.id: one.text for one in read_texts(run / "labelled" / "texts.jsonl")}
                lines = {"written": everything, "passed": passed}
                yield {"seed": seed, "data": name, **{k: texts_of(said, right, texts) for k, texts in lines.items()}}
    found = {(seed, arm): read(folder_of(seed, arm, args)) for seed in args.seeds for arm in (TEACHER, *args.arms)}
    yield from models(found)
    yield from stages_of(args.arms, args.seeds, {key: rows for key, (_, rows) in found.items()})


def is_taught(args: argparse.Namespace) -> bool:
    """Whether an arm trains on more than the texts of the demo."""
    return any(ARMS[arm][0] != OWN for arm in args.arms)


def main() -> None:
    args = parse()
    args.out, args.demo = args.out.absolute(), args.demo and args.demo.absolute()
    args.arms = [arm for arm in ARMS if arm in {PLAIN, *args.arms}]
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn"), initializer=begin) as pool:
        parts = ("free", "demo") if is_taught(args) else ("demo",)
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
    for line in report(args):
        print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
