"""Limits on texts by machines with real models on real recordings: AN4, one half of the speakers with texts.

    python benchmarks/label_limits.py --writer WHISPER --listener OTHER --out DIR       # models on this machine

Limits are calibrated on the half with texts and on damaged copies of it, as `label` does, without an audit before it,
once with the texts of the writer and once with those of the listener. Prints a JSON line for each: the word errors of
both, the limit that is chosen, and of every limit what passes and is false on the known clips with their copies, its
bound, and the same in the other half. A text is false where over 30% of its letters differ from the truth in their
nearest readings: AN4 spells numbers out, and Whisper writes digits.
"""

import argparse
import json
from dataclasses import replace
from math import inf
from pathlib import Path

from shibolet.label.agreement import Tried, choose_limit, letters_apart, surprise
from shibolet.label.authors import Scored, choose_authors
from shibolet.recipe import load_recipe
from shibolet.records.audited import Audited
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.records.utterance import Utterance
from shibolet.rounds.hearers import Hearers
from shibolet.rounds.known_texts import damaged
from shibolet.rounds.shared import open_round
from shibolet.speech.text import get_language

AN4 = Path(__file__).resolve().parents[2] / "shared" / "data" / "an4_en"
ENGLISH = get_language("English")
FALSE, MOST_PCT = 0.3, 10.0


def halves(out: Path) -> tuple[Path, set[str]]:
    """A manifest of all clips, and the speakers whose texts are known: every second one."""
    rows = read_jsonl(AN4 / "manifest.jsonl")
    path = out / "an4.jsonl"
    write_jsonl(path, [
        {**row, "audio": str(AN4 / row["audio"]), "id": Path(row["audio"]).stem, "domain": "an4"} for row in rows
    ])  # fmt: skip
    return path, set(sorted({row["speaker"] for row in rows})[::2])


def tried(utterance: Utterance, row: Audited, truth: str) -> Tried:
    is_false = letters_apart(ENGLISH.to_words(truth).tokens, row.text, ENGLISH) > FALSE if truth else bool(row.text)
    unlikely = surprise(row)
    return Tried(
        clip=utterance.id, group=utterance.cluster, is_wrong=is_false,
        disagreement=inf if row.failure or row.cer is None else row.cer,
        surprise=inf if row.failure or unlikely is None else unlikely,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--writer", "--listener"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    writer, listener = (str(path.absolute()) for path in (args.writer, args.listener))
    manifest, speakers = halves(args.out.absolute())
    recipe = load_recipe("demo", [
        "language=English", f"data.train=[{{name: an4, manifest: {manifest}}}]", "evaluate.sets=[]",
        f"models.base={writer}", f"models.baseline={writer}", "audit.aligner=null", f"audit.recogniser={listener}",
    ])  # fmt: skip
    with open_round(recipe, args.out / "run", "label", lambda sentence: None) as current:
        every = list(current.data.utterances)
        known = [one for one in every if one.speaker in speakers]
        free = [one for one in every if one.speaker not in speakers]
        copies = damaged(current, known)
        clips = [*known, *(copy for copy, _ in copies), *free]
        truths = [*(one.text for one in known), *(text for _, text in copies), *(one.text for one in free)]
        hearers, num = Hearers(current, writer, listener), len(known) + len(copies)
        silent = [replace(one, text="") for one in clips]
        heard = hearers.hear(silent, "an4", "an4")
        [author] = choose_authors(
            [
                Scored(domain="an4", group=one.cluster, truth=truth, written=row.text, heard=row.hypothesis)
                for one, truth, row in zip(known, truths, heard)
                if row.failure is None
            ],
            ENGLISH,
        )
        for by in ("writer", "listener"):
            rows = hearers.in_turn(silent, heard, {"an4": author.model_copy(update={"by": by})}, "an4")
            found = [tried(*one) for one in zip(clips, rows, truths, strict=True)]
            chosen = choose_limit(found[:num], MOST_PCT)
            others = {(step.by, step.limit): step for step in choose_limit(found[num:], MOST_PCT).steps}
            steps = [
                {**step.model_dump(), "free": others[step.by, step.limit].accepted,
                 "free_false": others[step.by, step.limit].false_accepts}
                for step in chosen.steps
            ]  # fmt: skip
            right = sum(not one.is_wrong for one in found[num:])
            shown = {"texts_of": by, "author": author.model_dump(), "chosen": [chosen.by, chosen.limit]}
            print(json.dumps({**shown, "free_clips": len(free), "free_right": right, "steps": steps}), flush=True)


if __name__ == "__main__":
    main()
