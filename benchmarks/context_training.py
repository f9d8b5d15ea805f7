"""Whether names in the prompt help a tuned model, and whether training with them keeps or costs anything.

    shibolet demo --out RUN
    python benchmarks/context_training.py --run RUN --out O [--set KEY=VALUE ...] [--block 16] [--terms 8]

Takes a finished demo round, trains its prepared data again with `train.context`, and has Round 1, the round's own model
and the new one transcribe the test sets, told nothing and told terms. Terms are given to blocks of utterances, as a
glossary is to a recording: up to `--terms` rare words that are said in the block, and as many that are not. Prints a
line of JSON a model: U-WER, B-WER and false words, told and not told, with the paired 95% interval over recordings and
speakers of what the terms change; then the trained models against each other. It shows no gain on real names: the
demo's rare words are of a small lexicon, and every word of the tests may stand in the training texts. Needs the extra
`demo`.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONTEXT = "train.context={right_share: 0.25, distractor_share: 0.25, max_utterances: 30}"


@dataclass(frozen=True)
class Block:
    """Utterances that one list is told for."""

    utterances: Sequence
    terms: tuple[str, ...]


def train_told(run: Path, out: Path, changes: Sequence[str]) -> str:
    """The model of the same prepared data, trained with contexts."""
    from shibolet.recipe import load_recipe
    from shibolet.rounds import auditing, stages
    from shibolet.rounds.shared import open_round

    recipe = load_recipe(run / "recipe.yaml", [f"parent={run}", CONTEXT, *changes])
    with open_round(recipe, out, "demo", print) as current:
        for stage in (auditing.do_audit, auditing.do_gate, stages.do_prepare, stages.do_train):
            stage(current)
        return str(current.folder.final.absolute())


def blocks_of(run: Path, num_block: int, num_terms: int) -> list[Block]:
    """The test sets in blocks of a set, with lists of words that few training texts have."""
    from shibolet.recipe import load_recipe
    from shibolet.records.files import cache_dir
    from shibolet.records.manifest import read_manifest
    from shibolet.speech.read import read_source
    from shibolet.speech.text import get_language

    recipe, rng = load_recipe(run / "recipe.yaml"), random.Random(0)
    normalise = get_language(recipe.language).to_scoring
    trained = [set(normalise(one.text).split()) for one in read_manifest(run / "prepared" / "manifest.jsonl")]
    times = Counter(word for words in trained for word in words)
    found, texts = [], []
    for source in recipe.evaluate.sets:
        utterances, _ = read_source(source, cache_dir(), lambda done, total: None, recipe.language)
        texts += [(source.name, one, normalise(one.text).split()) for one in utterances]
    rare = sorted({word for _, _, words in texts for word in words if times[word] <= 30 and len(word) > 2})
    for name in dict.fromkeys(name for name, _, _ in texts):
        own = [(one, words) for set_name, one, words in texts if set_name == name]
        for first in range(0, len(own), num_block):
            part = own[first : first + num_block]
            said = sorted({word for _, words in part for word in words if word in rare})
            right = rng.sample(said, min(num_terms, len(said)))
            others = [word for word in rng.sample(rare, min(len(rare), 4 * num_terms)) if word not in said]
            terms = right + others[:num_terms]
            rng.shuffle(terms)
            found.append(Block([one for one, _ in part], tuple(terms)))
    return found


def heard(model: str, blocks: Sequence[Block], language: str, told: bool) -> list:
    """Of each utterance its edits in words of the list and in others, and its group."""
    from shibolet.listen.open import open_transcriber
    from shibolet.scoring.biasing import count_apart
    from shibolet.scoring.rows import score_row
    from shibolet.speech import audio
    from shibolet.speech.text import get_language
    from shibolet.speech.text.terms import as_context

    normalise, found = get_language(language).to_scoring, []
    for block in blocks:
        engine = open_transcriber(model, language, context=as_context(block.terms) if told else "")
        texts = engine.transcribe([audio.load(one.audio) for one in block.utterances])
        for utterance, text in zip(block.utterances, texts, strict=True):
            row = score_row(utterance, text, set=utterance.source, normaliser=normalise)
            found.append((row, count_apart(row.said.split(), row.heard.split(), frozenset(block.terms))))
    return found


def change(first: list, second: list, side: str) -> dict:
    """Points of the second less the first, with the interval."""
    from shibolet.scoring.intervals import difference_interval
    from shibolet.scoring.rows import groups_of

    counts = [[getattr(apart, side) for _, apart in own] for own in (first, second)]
    made = difference_interval(*counts, groups_of([row for row, _ in first]))
    points = lambda value: None if value is None else round(100 * value, 2)  # noqa: E731
    return {"points": points(made.value), "interval": [points(made.low), points(made.high)]}


def rates(own: list) -> dict:
    """U-WER and B-WER in percent, and false words."""
    from shibolet.scoring.counts import EditCounts

    sums = {side: sum((getattr(apart, side) for _, apart in own), EditCounts()) for side in ("others", "listed")}
    return {
        "u_wer_pct": round(100 * sums["others"].rate, 2), "b_wer_pct": round(100 * sums["listed"].rate, 2),
        "listed_words": sums["listed"].reference_length, "false_words": sum(apart.false_words for _, apart in own),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a finished round of the demo")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--block", type=int, default=16, help="utterances that one list is told for")
    parser.add_argument("--terms", type=int, default=8, help="right ones of a list, at most, and as many others")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    args = parser.parse_args()
    run = args.run.absolute()
    told_model = train_told(run, args.out.absolute() / "told", args.set)
    models = {"round1": "builtin:round1", "plain": str(run / "train" / "final"), "told": told_model}
    blocks, found = blocks_of(run, args.block, args.terms), {}
    for name, model in models.items():
        found[name] = [heard(model, blocks, "Hebrew", told) for told in (False, True)]
        without, with_terms = found[name]
        sides = {side: change(without, with_terms, side) for side in ("listed", "others")}
        row = {"model": name, "not_told": rates(without), "told": rates(with_terms), "terms_change": sides}
        print(json.dumps(row), flush=True)
    for told in (0, 1):
        sides = {side: change(found["plain"][told], found["told"][told], side) for side in ("listed", "others")}
        print(json.dumps({"told_less_plain": sides, "with_terms": bool(told)}), flush=True)


if __name__ == "__main__":
    main()
