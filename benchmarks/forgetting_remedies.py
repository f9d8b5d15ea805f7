"""What a model of two languages keeps of the one while it learns more of the other, with and without a remedy.

    python benchmarks/forgetting_remedies.py --out O --jobs 4 [--seeds 0] [--english 2000] [--hebrew 1500] ...

A Round 1 of both languages is built first: the demo's Round 1, which knows synthetic Hebrew, learns English of a small
grammar, said by espeak-ng, with half of each step Hebrew. Round 2 then learns Hebrew of other voices through a
messenger, and English is what it may forget. It is tested on voices that train nothing.
Rows are the demo's whole plan without a remedy; with a share of English replayed in each step; adapters alone, and with
a replay; and models between Round 1 and the one without a remedy, of which `shibolet average` chooses one on the dev
split. What models write where nobody speaks is not heard here, since it would decide the verdict too.

Prints a line of JSON a row: gain in Hebrew and loss in English, each in points of WER with its 95% interval over
speakers, whether the loss is shown to stay under 2 points, and the verdict. The last line of a seed holds each replay
against no remedy: the share of the gain that is kept, and the loss relative to Round 1's WER. Cut off, the same command
goes on. It needs the extra `demo`, and a GPU for its full size.
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from espeak_english import said

LIMIT = 2.0
ALPHAS = (0.25, 0.5, 0.75, 1.0)
AS_IT_IS = ("gate.accept=[INVALID]", "audit.aligner=null", "prepare.drop_low_quality=false", "audit.num_workers=0")
# What is not augmented is decoded once, and its features are kept.
IN_MEMORY = ("train.num_workers=0", "train.feature_cache_gib=4")
ADAPTERS = (
    "train.phases=[{name: B, num_epochs: 8, lr_by_part: {lora: 2.0e-3}, warmup_steps: 10}]",
    "train.lora={part: 'decoder.layers[0:4]', rank: 16, alpha: 32}", "train.untie_head=false",
)  # fmt: skip
PARTS = ("encoder.conv", "encoder.layers[0:6]", "projector", "decoder.layers[0:4]", "embeddings")
NOUNS = "river letter window garden teacher bridge market doctor kitchen winter music farmer street island".split()
ADJECTIVES = "old small green quiet heavy broken early simple".split()
VERBS = "found opened painted watched carried followed remembered sold".split()
ENDINGS = ("in the morning", "after the rain", "without a word", "near the station", "on sunday", "again")


def english_sentence(rng: random.Random) -> str:
    """Seven words or more of the grammar."""
    noun, other = rng.sample(NOUNS, 2)
    adjective, verb = rng.choice(ADJECTIVES), rng.choice(VERBS)
    return f"the {adjective} {noun} {verb} the {other} {rng.choice(ENDINGS)}"


def saved(folder: Path, rows: list[tuple[str, str, object]]) -> Path:
    """A manifest of (text, speaker, samples)."""
    import soundfile

    from shibolet.records.files import write_jsonl

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for place, (text, speaker, samples) in enumerate(rows):
        path = folder / f"{place}.wav"
        soundfile.write(path, samples, 16000)
        lines.append({"id": f"{folder.name}{place}", "audio": str(path), "text": text, "speaker": speaker})
    write_jsonl(folder.with_suffix(".jsonl"), lines)
    return folder.with_suffix(".jsonl")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is said and trained."""

    english: int  # utterances in all: an eighth is the test, the others train Round 1 and are replayed
    hebrew: int  # utterances of each training
    test: int  # Hebrew utterances of the test
    first_epochs: int  # of English, in Round 1
    first_lr: float


def corpus(folder: Path, seed: int, sizes: Sizes) -> dict[str, Path]:
    """Manifests: English and Hebrew that Round 1 knows, Hebrew that Round 2 learns, and tests in both languages."""
    from shibolet.demo.channel import whatsapp
    from shibolet.demo.lexicon import load_lexicon
    from shibolet.demo.sentences import sample_sentence
    from shibolet.demo.synth import SPEECH_RMS, SpeechRequest, synthesise
    from shibolet.demo.voices import ROUND1_VOICES, TEST_VOICES, TRAIN_VOICES, draw_manner

    num_english_test = sizes.english // 8
    wanted = {
        "english_train": (sizes.english - num_english_test, ROUND1_VOICES),
        "english_test": (num_english_test, TEST_VOICES),
        "hebrew_first": (sizes.hebrew, ROUND1_VOICES),
        "hebrew_train": (sizes.hebrew, TRAIN_VOICES),
        "hebrew_test": (sizes.test, TEST_VOICES),
    }
    made = {name: folder / f"{name}.jsonl" for name in wanted}
    if all(path.exists() for path in made.values()):
        return made
    lexicon = load_lexicon()
    for number, (name, (count, group)) in enumerate(wanted.items()):
        rng, noise = random.Random(100 * seed + number), np.random.default_rng([seed, number])
        # Names of several words are variants that cannot be asked for by the name of a language.
        voices = [voice for voice in group.variants if " " not in voice]
        of = [voices[i % len(voices)] for i in range(count)]
        if name.startswith("english"):
            texts = [english_sentence(rng) for _ in of]
            samples = said(list(zip(texts, of, strict=True)), SPEECH_RMS)
        else:
            words = [tuple(entry.spelling for entry in sample_sentence(rng, lexicon)) for _ in of]
            requests = [SpeechRequest(words=w, voice=draw_manner(rng, v)) for w, v in zip(words, of, strict=True)]
            texts = [" ".join(request.words) for request in requests]
            samples = [speech.samples for speech in synthesise(requests, folder / "speech", 1)]
            if name != "hebrew_first":
                samples = [whatsapp(one, noise) for one in samples]
        saved(folder / name, list(zip(texts, of, samples, strict=True)))
    return made


def source(name: str, manifest: Path, language: str) -> str:
    return f"{{name: {name}, manifest: {manifest}, language: {language}}}"


def run_round(
    folder: Path, language: str, train: Path, sets: str, seed: int, changes: Sequence[str], then: Callable
) -> list[dict]:
    """Train on a manifest as a round does, and what `then` makes of the open round."""
    from shibolet.recipe import load_recipe
    from shibolet.records.files import read_jsonl, write_jsonl
    from shibolet.rounds import auditing, stages
    from shibolet.rounds.shared import open_round

    heard = folder.with_name(f"{folder.name}-heard.jsonl")
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(heard, [{"id": row["id"], "hypothesis": row["text"]} for row in read_jsonl(train)])
    given = (
        "name=remedies", f"language={language}", f"seed={seed}", f"audit.recogniser={heard}", f"evaluate.sets=[{sets}]",
        f"data.train=[{source('own', train, language)}]", "evaluate.audit_sets=false", "evaluate.non_speech=null",
    )  # fmt: skip
    recipe = load_recipe("demo", [*given, *AS_IT_IS, *IN_MEMORY, *changes])
    with open_round(recipe, folder, "benchmark", lambda sentence: None) as current:
        for stage in (auditing.do_audit, auditing.do_gate, stages.do_prepare, stages.do_train):
            stage(current)
        return then(current)


def build_first(out: Path, sizes: Sizes, changes: Sequence[str], seed: int) -> list[dict]:
    """Round 1 of both languages."""
    data = corpus(out / f"seed{seed}" / "corpus", seed, sizes)
    rates = ", ".join(f"'{part}': {sizes.first_lr}" for part in PARTS)
    phase = f"{{name: both, num_epochs: {sizes.first_epochs}, warmup_steps: 100, lr_by_part: {{{rates}}}}}"
    own = (
        "title=Round 1 of both", f"train.phases=[{phase}]", "train.lora=null", "train.untie_head=false",
        "train.utterances_per_step=64", "train.eval_every_epoch=false", "prepare.dev_frac=0.05",
        f"data.replay={{share: 0.5, sources: [{source('hebrew_first', data['hebrew_first'], 'Hebrew')}]}}",
    )  # fmt: skip
    sets = source("english", data["english_test"], "English")

    def dev(current) -> list[dict]:
        from shibolet.records.documents.training import StepRow, TrainResult

        result, last = TrainResult.read(current.folder.train_result), StepRow.read_all(current.folder.metrics)[-1]
        english_dev = None if result.chosen_dev is None else round(100 * result.chosen_dev.wer, 1)
        return [{"row": "round 1 of both", "seed": seed, "english_dev_pct": english_dev, **last.numbers}]

    return run_round(out / f"seed{seed}" / "first", "English", data["english_train"], sets, seed, [*own, *changes], dev)


def second(out: Path, sizes: Sizes, changes: Sequence[str], job: tuple[int, str]) -> list[dict]:
    """A row: Round 2 from the Round 1 of both, against it."""
    from shibolet.rounds import scoring

    seed, name = job
    data = corpus(out / f"seed{seed}" / "corpus", seed, sizes)
    first = out / f"seed{seed}" / "first" / "train" / "final"
    remedy = list(ADAPTERS) if name.startswith("adapters") else []
    if share := name.partition("replay ")[2]:
        english = source("english_train", data["english_train"], "English")
        remedy.append(f"data.replay={{share: {share}, sources: [{english}]}}")
    sets = ", ".join(source(f"{one.lower()}", data[f"{one.lower()}_test"], one) for one in ("Hebrew", "English"))
    own = (f"models={{base: '{first}', baseline: '{first}'}}", f"compare.limits={{English: {LIMIT}}}")

    def compared(current) -> list[dict]:
        scoring.do_evaluate(current, scoring.candidates_of(current))
        rows = [row_of(name, seed, scoring.do_compare(current))]
        return [*rows, *interpolated(current, seed)] if name == "no remedy" else rows

    folder = out / f"seed{seed}" / name.replace(",", "").replace(" ", "-")
    return run_round(folder, "Hebrew", data["hebrew_train"], sets, seed, [*own, *remedy, *changes], compared)


def row_of(name: str, seed: int, compared) -> dict:
    """The row of a comparison."""
    hebrew, english = compared.overall.wer, compared.forgetting["english"].wer
    row = {"row": name, "seed": seed, "verdict": compared.verdict}
    for language, wer in (("hebrew", hebrew), ("english", english)):
        row |= {
            f"{language}_pct": [round(100 * side.rate, 2) for side in wer.sides],
            f"{language}_points": wer.delta_points, f"{language}_interval": wer.interval_points,
        }  # fmt: skip
    holds = english.interval_points is not None and english.interval_points[1] < LIMIT
    return row | {"holds_limit": holds, "sentence": compared.sentence}


def interpolated(current, seed: int) -> list[dict]:
    """The curve between the two models, and what is chosen on it."""
    from shibolet.rounds import averaging

    models = [current.recipe.models.base, str(current.folder.final.absolute())]
    how = averaging.Averaging(
        sources=averaging.models(current, models), method="interpolation", alphas=ALPHAS,
        sets=averaging.sets_named(current, ["hebrew", "english"]),
    )  # fmt: skip
    made, rows = averaging.do_average(current, "wise", how), []
    for one in made.tried:
        row = {"row": one.name, "seed": seed, "dev_pct": round(one.dev.wer_pct, 1), "chosen": one.name == made.chosen}
        for name, score in one.sets.items():
            row |= {
                f"{name}_pct": round(score.wer_pct, 1), f"{name}_points": score.points,
                f"{name}_interval": score.interval_points,
            }  # fmt: skip
        rows.append(row | {"holds_limit": "english" not in one.beyond})
    return [*rows, {"row": "wise", "seed": seed, "sentence": made.sentence, "notes": list(made.notes)}]


def bar(seed: int, rows: dict[str, dict]) -> dict:
    """Each replay against the same training without: the bar is 95% of the gain at 2% relative loss or less."""
    found: dict = {"row": "bar", "seed": seed}
    for name, row in rows.items():
        way, replays, _ = name.partition("replay ")
        plain = rows.get(way.strip(" ,") or "no remedy")
        if not replays:
            found[name] = row["verdict"]
        elif plain:
            before, after = row["english_pct"]
            found[name] = {
                "verdict": row["verdict"],
                "gain_kept_pct": round(100 * row["hebrew_points"] / plain["hebrew_points"], 1)
                if plain["hebrew_points"] else None,
                "english_relative_loss_pct": round(100 * (after - before) / before, 1) if before else None,
            }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="processes at once, all on one GPU where there is one")
    parser.add_argument("--english", type=int, default=2000, help="utterances in all")
    parser.add_argument("--hebrew", type=int, default=1500, help="utterances of each of the two trainings")
    parser.add_argument("--test", type=int, default=240, help="Hebrew utterances of the test")
    parser.add_argument("--first-epochs", type=int, default=60, help="of English, for the Round 1 of both languages")
    parser.add_argument("--first-lr", type=float, default=1e-3)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.25], help="of each step, that is replayed")
    parser.add_argument("--rows", nargs="+", help="these alone, as 'adapters, replay 0.25'; else all")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of every recipe")
    args = parser.parse_args()
    out = args.out.absolute()
    sizes = Sizes(
        english=args.english, hebrew=args.hebrew, test=args.test, first_epochs=args.first_epochs, first_lr=args.first_lr
    )
    replays = [f"replay {share:g}" for share in args.shares]
    names = args.rows or ["no remedy", *replays, "adapters", *(f"adapters, {replay}" for replay in replays)]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for rows in pool.map(partial(build_first, out, sizes, args.set), args.seeds):
            print(*map(json.dumps, rows), sep="\n", flush=True)
        jobs = [(seed, name) for seed in args.seeds for name in names]
        by_seed: dict[int, dict[str, dict]] = {seed: {} for seed in args.seeds}
        for (seed, name), rows in zip(jobs, pool.map(partial(second, out, sizes, args.set), jobs), strict=True):
            by_seed[seed][name] = rows[0]
            print(*map(json.dumps, rows), sep="\n", flush=True)
    for seed, rows in by_seed.items():
        print(json.dumps(bar(seed, rows)), flush=True)


if __name__ == "__main__":
    main()
