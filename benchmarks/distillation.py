"""What a small student gains from its teacher, and training on word errors: demo's speech, several seeds.

    python benchmarks/distillation.py --out OUT --seeds 501 502 503 504 --jobs 16
    python benchmarks/distillation.py --out OUT --seeds 0 --demo RUN --arms plain distil    # with a finished demo

The teacher is the demo's Round 2; the student is cut from it (`shibolet cut`) and trained on what that round prepared.
The same command goes on with what is missing. A line of JSON a model of a seed, then one an arm over all seeds:

gap_points   the plain student's WER minus the teacher's, with its interval; below 3 there is little to close
closed_pct   the part of that gap which the arm closes, with its interval over the speakers and recordings of all seeds
by_seed      the same of each seed
speed        audio seconds a second of student and teacher, at equal batch

`damaged` and `audited` distil with texts of the teacher beside the references, of which a fifth are those of another
utterance: as they are, and those of them that the round's audit admits. Arms train for as many epochs as each other;
`longer` and `min_wer` go on from `plain` for a third more, `longer` with the likelihood, as the control of equal steps.
`gain` is min_wer's WER minus that of `longer`; `endless_pct` the texts that did not end by themselves, `length_ratio`
words written over words said.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

TEACHER, PLAIN = "teacher", "plain"
ARMS = {  # arm -> (objective, share of the epochs) of its phases
    PLAIN: (("transcribe", 1.0),),
    "distil": (("distil", 1.0),),
    "on_policy": (("distil", 2 / 3), ("on_policy", 1 / 3)),
    "longer": (("transcribe", 1.0), ("transcribe", 1 / 3)),
    "min_wer": (("transcribe", 1.0), ("min_wer", 1 / 3)),
    "damaged": (("distil", 1.0),),
    "audited": (("distil", 1.0),),
}
DAMAGED = (
    "damaged",
    "audited",
)  # arms with texts of the teacher beside the references, a fifth of them of other speech
SETS = ("test_clean", "test_whatsapp")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--demo", type=Path, help="a finished demo run for the first seed; else demos are run")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--decoder", type=int, default=3, help="layers of the student's decoder")
    parser.add_argument("--encoder", type=int, default=6, help="and of its encoder")
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--rate", type=float, default=3e-4, help="peak, of all parts; later phases have a quarter")
    parser.add_argument("--temperature", type=float, default=2.0, help="of the divergence on references")
    parser.add_argument("--every", type=int, default=1, help="score each n-th test utterance")
    return parser.parse_args()


def demo_of(seed: int, args: argparse.Namespace) -> Path:
    """The finished run of the demo of a seed."""
    run = args.demo if args.demo and seed == args.seeds[0] else args.out / str(seed) / "demo"
    if not (run / "train" / "result.json").is_file():
        command = [str(Path(sys.executable).parent / "shibolet"), "demo", "--seed", str(seed), "--out", str(run)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if done.returncode not in (0, 40):
            raise SystemExit(f"the demo of seed {seed} ended with {done.returncode}")
    return run


def student_of(seed: int, args: argparse.Namespace) -> Path:
    from shibolet.model.cut import cut

    path = args.out / str(seed) / f"student-{args.encoder}-{args.decoder}"
    if not path.exists():
        cut(str(demo_of(seed, args) / "train" / "final"), path, encoder=args.encoder, decoder=args.decoder)
    return path


def config_of(arm: str, args: argparse.Namespace):
    """How an arm trains: all parts of the student, at a quarter of the rate where its objective changes."""
    from shibolet.train.config import PhaseConfig, TrainConfig
    from shibolet.train.objectives.config import DistilConfig

    parts = ("encoder.conv", "encoder.layers", "projector", "embeddings", "decoder.layers", "decoder.norm")
    phases = [
        PhaseConfig(
            name=f"{number}-{objective}", num_epochs=share * args.epochs, objective=objective, warmup_steps=20,
            schedule="linear", lr_by_part=dict.fromkeys(parts, args.rate / (4 if number else 1)),
        )
        for number, (objective, share) in enumerate(ARMS[arm])
    ]  # fmt: skip
    is_taught = any(phase.objective in ("distil", "on_policy") for phase in phases)
    return TrainConfig(
        distil=DistilConfig(temperature=args.temperature) if is_taught else None, phases=phases, lora=None,
        untie_head=False, utterances_per_step=16, precision="fp32", eval_every_steps=10**6,
        checkpoint_every_steps=100, average_best=None,
    )  # fmt: skip


def make_texts(seed: int, args: argparse.Namespace) -> None:
    """Texts by utterance for the arms of `DAMAGED`: a fifth are another one's; all, and those that the audit admits."""
    from shibolet.recipe import load_recipe
    from shibolet.rounds.shared import open_round
    from shibolet.rounds.teaching import admitted

    paths = [args.out / str(seed) / f"{arm}.json" for arm in DAMAGED]
    if all(path.is_file() for path in paths):
        return
    run = demo_of(seed, args)
    before = (run / "recipe.yaml").read_bytes()
    phase = "{name: T, num_epochs: 1, lr_by_part: {projector: 1e-4}, objective: distil}"
    changes = [f"train={{phases: [{phase}], lora: null}}", f"models.teacher={run / 'train' / 'final'}"]
    try:
        with open_round(load_recipe(run / "recipe.yaml", changes), run, "train", print) as current:
            train = [u for u in current.prepared.utterances if Path(u.audio.path).name.startswith("train-")]
            wrong = np.random.default_rng(seed).permutation(len(train))[: len(train) // 5]
            damaged = {train[one].id: train[other].text for one, other in zip(wrong, np.roll(wrong, 1), strict=True)}
            kept, _, _ = admitted(current, train, {u.id: u.text for u in train} | damaged, paths[0].parent)
    finally:
        (run / "recipe.yaml").write_bytes(before)
    for path, texts in zip(paths, (damaged, {u.id: u.text for u in kept}), strict=True):
        path.write_text(json.dumps(texts, ensure_ascii=False))


def texts_of(seed: int, arm: str, args: argparse.Namespace) -> dict[str, str]:
    return json.loads((args.out / str(seed) / f"{arm}.json").read_text()) if arm in DAMAGED else {}


def folder_of(seed: int, arm: str, args: argparse.Namespace) -> Path:
    settings = (args.encoder, args.decoder, args.epochs, args.rate, args.temperature, args.every)
    return args.out / str(seed) / "-".join([arm, *(f"{value:g}" for value in settings)])


def train(seed: int, arm: str, args: argparse.Namespace) -> None:
    """Train and score an arm; nothing to do where its scores are there."""
    os.environ["OMP_NUM_THREADS"] = "1"
    out, run = folder_of(seed, arm, args), demo_of(seed, args)
    if not (out / "scores.json").is_file():
        import torch

        from shibolet.evaluate.config import EvaluateConfig
        from shibolet.evaluate.dev import dev_scorer, read_dev
        from shibolet.records.documents.training import DevRates
        from shibolet.train.stage import run_train

        torch.set_num_threads(1)
        scorer = dev_scorer(read_dev(run / "prepared"), "Hebrew", EvaluateConfig(dev_utterances=60))

        def score_dev(loaded, when: str) -> DevRates:
            scores = scorer(loaded)
            return DevRates(wer=scores.wer.rate, cer=scores.cer.rate, folds=scores.folds)

        started = time.process_time()
        run_train(
            prepared_dir=run / "prepared", out_dir=out / "train", base=str(student_of(seed, args)), seed=seed,
            config=config_of(arm, args), language="Hebrew", teacher=str(run / "train" / "final"), score_dev=score_dev,
            texts=texts_of(seed, arm, args), about={}, num_threads=1,
        )  # fmt: skip
        score(seed, str(out / "train" / "final"), out, args, train_s=round(time.process_time() - started, 1))


def score(seed: int, model: str, out: Path, args: argparse.Namespace, **about) -> None:
    """Write what a model makes of the test sets: a row an utterance, and how fast."""
    import torch

    from shibolet.listen.transcribe import Transcriber
    from shibolet.model.family import load_recogniser
    from shibolet.scoring.rows import score_row
    from shibolet.speech import audio
    from shibolet.speech.read import read_source
    from shibolet.speech.sources import DataSource
    from shibolet.speech.text import get_language

    torch.set_num_threads(1)
    language, run = get_language("Hebrew"), demo_of(seed, args)
    transcriber = Transcriber(load_recogniser(model), language.name)
    rows, endless, seconds, audio_s = [], 0, 0.0, 0.0
    for name in SETS:
        source = DataSource(name=name, manifest=run / "corpus" / name / "manifest.jsonl")
        utterances = read_source(source, Path(), language=language.name)[0][:: args.every]
        clips = [audio.load(utterance.audio) for utterance in utterances]
        started = time.process_time()
        written = transcriber.write(clips)
        seconds += time.process_time() - started
        audio_s += sum(utterance.duration_s for utterance in utterances)
        endless += sum(one.ending != "end" for one in written)
        rows += [
            score_row(utterance, one.text, set=name, normaliser=language.to_scoring).to_json()
            for utterance, one in zip(utterances, written, strict=True)
        ]
    out.mkdir(parents=True, exist_ok=True)
    about |= {"endless_pct": round(100 * endless / len(rows), 2), "audio_s_per_s": round(audio_s / seconds, 1)}
    (out / "scores.json").write_text(json.dumps({"about": about, "rows": rows}, ensure_ascii=False))


def read(out: Path) -> tuple[dict, list]:
    from shibolet.scoring.rows import ScoredRow

    found = json.loads((out / "scores.json").read_text())
    return found["about"], [ScoredRow.from_json(row) for row in found["rows"]]


def report(args: argparse.Namespace) -> Iterator[dict]:
    """Figures of each model of a seed, and of each arm over the seeds that have it."""
    from shibolet.scoring.intervals import difference_interval, differences, lengths, ratio_intervals
    from shibolet.scoring.rows import groups_of

    def points(first: Sequence, second: Sequence, groups: Sequence[str]) -> dict:
        found = difference_interval([row.words for row in first], [row.words for row in second], groups)
        return {"points": pct(found.value), "interval": [pct(found.low), pct(found.high)]}

    found = {(seed, arm): read(folder_of(seed, arm, args)) for seed in args.seeds for arm in (TEACHER, *args.arms)}
    for (seed, arm), (about, rows) in found.items():
        said = sum(len(row.said.split()) for row in rows)
        wer = {name: rate([row for row in rows if row.set == name]) for name in SETS}
        ratio = round(sum(len(row.heard.split()) for row in rows) / said, 3)
        yield {"seed": seed, "model": arm, "wer_pct": rate(rows), **wer, "length_ratio": ratio, **about}
    for arm in args.arms:
        together: dict[str, list] = {TEACHER: [], PLAIN: [], arm: [], "longer": []}
        groups, by_seed = [], {}
        for seed in args.seeds:
            for name, rows in together.items():
                rows += found[seed, name][1] if (seed, name) in found else []
            groups += [f"{seed} {group}" for group in groups_of(found[seed, arm][1])]
            own = [found[seed, name][1] for name in (TEACHER, PLAIN, arm)]
            gap = rate(own[1]) - rate(own[0])
            by_seed[seed] = round(100 * (rate(own[1]) - rate(own[2])) / gap, 1) if gap else None
        line = {"arm": arm, "wer_pct": rate(together[arm]), "by_seed": by_seed}
        plain, teacher, ours = ([row.words for row in together[name]] for name in (PLAIN, TEACHER, arm))
        (closed,) = ratio_intervals(differences(ours, plain)[:, None], differences(teacher, plain)[:, None], groups)
        line |= {"gap": points(together[TEACHER], together[PLAIN], groups), "words": int(lengths(plain).sum())}
        line |= {"closed_pct": pct(closed.value), "closed_interval": [pct(closed.low), pct(closed.high)]}
        if arm == "min_wer" and together["longer"]:
            line["gain"] = points(together["longer"], together[arm], groups)
        yield line


def rate(rows: Sequence) -> float:
    """WER in percent."""
    return round(100 * sum(row.words.errors for row in rows) / sum(row.words.reference_length for row in rows), 2)


def pct(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(100 * value, 2)


def main() -> None:
    args = parse()
    args.out, args.demo = args.out.absolute(), args.demo and args.demo.absolute()
    args.arms = list(dict.fromkeys([PLAIN, *args.arms]))
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        list(pool.map(begin, args.seeds, [args] * len(args.seeds)))
        jobs = [(seed, arm, args) for arm in args.arms for seed in args.seeds]
        list(pool.map(train, *zip(*jobs, strict=True)))
    for line in report(args):
        print(json.dumps(line, ensure_ascii=False), flush=True)


def begin(seed: int, args: argparse.Namespace) -> None:
    """The demo, the student and the teacher's scores of a seed."""
    student_of(seed, args)
    if set(DAMAGED) & set(args.arms):
        make_texts(seed, args)
    out = folder_of(seed, TEACHER, args)
    if not (out / "scores.json").is_file():
        score(seed, str(demo_of(seed, args) / "train" / "final"), out, args)


if __name__ == "__main__":
    main()
