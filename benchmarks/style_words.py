"""Whether style words keep the marks of a model that trains on a source with punctuation and on one without.

    python benchmarks/style_words.py --out O --jobs 16 [--worlds 401 402] [--seeds 0 1 2]

The demo's sentences get marks that their words decide: a question ends in "?", another sentence in ".", and "," stands
before a conjunction. Recordings are dealt to two sources, so that nothing but its style tells one from the other; the
texts of the second have no marks. Round 1 of the demo has never written a mark. Rows are trainings by the demo's
recipe on the first source alone, on both, and on both with a style word each, of which the tests ask for the first's.

Prints lines of JSON: a row's F1 by mark and WER without marks; what each row changes against the first, both with
intervals over speakers, a training being a set; and whether F1 is shown to fall by less than 2 points and WER not to
rise. The same command goes on with what is missing.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from demo_worlds import LANGUAGE, TESTS, add_arguments, as_it_is, world
from whisper_figures import differences, rows_of, show
from whisper_jobs import Job, parse, process_arguments, run_jobs, train_and_score, training_arguments
from whisper_settings import data_of

from shibolet.demo.lexicon import load_lexicon
from shibolet.records.utterance import Utterance
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import cluster_sums, ratio_intervals
from shibolet.scoring.punctuation import count_marks
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.speech.text import get_language
from shibolet.speech.text.marks import tokens

WITH, WITHOUT = "punctuation", "no punctuation"
ALONE, BOTH, TOLD = "marked alone", "both", "both with style words"
F1_POINTS = 2.0  # that the marks may lose
MARKS = ".,?"


def with_marks(text: str, categories: Mapping[str, str]) -> str:
    """The sentence with its marks."""
    words = text.split()
    for place in range(1, len(words)):
        if categories.get(words[place]) in ("but", "because"):
            words[place - 1] += ","
    asks = categories.get(words[0]) in ("ask", "who")
    return " ".join(words) + ("?" if asks else ".")


def sources(utterances: Sequence[Utterance], categories: Mapping[str, str]) -> dict[str, list[Utterance]]:
    """With marks and without, every other recording of a voice in each."""
    recordings = sorted({(u.speaker, u.domain, u.recording) for u in utterances})
    first = {recording for _, _, recording in recordings[::2]}
    return {
        "marked": [replace(u, text=with_marks(u.text, categories)) for u in utterances if u.recording in first],
        "bare": [u for u in utterances if u.recording not in first],
    }


def jobs_of(args: argparse.Namespace) -> tuple[list[Job], dict[int, list[Utterance]]]:
    """One for each world, row and seed; and the test utterances of each world."""
    categories = {entry.spelling: entry.category for entry in load_lexicon().entries}
    jobs, tested = [], {}
    for number in args.worlds:
        spoken = world(args, number)
        train = sources(spoken["train"], categories)
        tests = {name: [replace(u, text=with_marks(u.text, categories)) for u in spoken[name]] for name in TESTS}
        tested[number] = [u for own in tests.values() for u in own]
        folder = args.out / f"world{number}"
        paths, same = as_it_is(args, folder, train, tests)
        marked, bare = (f"name: {name}, manifest: {paths[name]}" for name in train)
        rows = {
            ALONE: (f"data.train=[{{{marked}}}]",),
            BOTH: (f"data.train=[{{{marked}}}, {{{bare}}}]",),
            TOLD: (
                f"data.train=[{{{marked}, style: {WITH}}}, {{{bare}, style: {WITHOUT}}}]",
                f"evaluate.styles={{candidate: {WITH}}}",
            ),
        }
        jobs += [
            Job(
                key=f"style/{number}/{row}/{seed}", run_dir=folder / f"{row.replace(' ', '_')}-{seed}", recipe="demo",
                changes=(*same, *changes, f"seed={seed}", *args.set), data=data_of(*paths.values()),
                about={"what": "style", "world": number, "row": row, "seed": seed},
            )
            for seed in args.seeds
            for row, changes in rows.items()
        ]  # fmt: skip
    return jobs, tested


def scored(found: Sequence[dict], tested: Mapping[int, list[Utterance]]) -> list[ScoredRow]:
    """Rows of several trainings, each a set."""
    rows = []
    for one in found:
        heard = {id: text for own in one["rows"].values() for id, text in own}
        rows += rows_of(tested[one["world"]], heard, f"world {one['world']} seed {one['seed']}", LANGUAGE)
    return rows


def mark_counts(rows: Sequence[ScoredRow]) -> np.ndarray:
    """[U, 1 + marks, 2]: twice the correct ones, and those in reference and hypothesis together; all marks first."""
    to_words = get_language(LANGUAGE).to_scoring
    made = np.zeros((len(rows), 1 + len(MARKS), 2))
    for u, row in enumerate(rows):
        said, heard = (tokens(text, to_words) for text in (row.reference, row.hypothesis))
        counts = count_marks(said, heard)
        for m, mark in enumerate(MARKS, 1):
            written = sum(token.is_mark and token.text == mark for token in (*said, *heard))
            made[u, m] = 2 * counts["correct", mark], written
    made[:, 0] = made[:, 1:].sum(axis=1)
    return made


def f1_difference(first: np.ndarray, second: np.ndarray, groups: Sequence[str]) -> list[float]:
    """Points of F1, the second minus the first, of [U, 2] counts each, and the ends of its 95% interval over groups.

    Linearised, as for the difference of two ratios of different wholes (Cochran, 1977, ch. 6), with Student's t.
    """
    from scipy.special import stdtrit

    sums = [cluster_sums(one, groups) for one in (first, second)]  # [K, 2]
    (t1, b1), (t2, b2) = (one.sum(axis=0) for one in sums)
    if not b1 or not b2:
        raise SystemExit("a row has no marks in its references: there is no F1")
    pulls = (sums[1] @ [1, -t2 / b2]) / b2 - (sums[0] @ [1, -t1 / b1]) / b1  # [K]
    k = len(pulls)
    half = stdtrit(k - 1, 0.975) * np.sqrt(k / (k - 1) * np.sum(pulls**2))
    change = t2 / b2 - t1 / b1
    return [round(100 * float(value), 2) for value in (change, change - half, change + half)]


def report(found: Mapping[str, dict], tested: Mapping[int, list[Utterance]]) -> None:
    """On the worlds and seeds that all rows have."""
    placed: dict[str, dict[tuple[int, int], dict]] = {row: {} for row in (ALONE, BOTH, TOLD)}
    for one in found.values():
        placed[one["row"]][one["world"], one["seed"]] = one
    shared = sorted(set.intersection(*(set(own) for own in placed.values())))
    if not shared:
        return
    rows = {row: scored([own[place] for place in shared], tested) for row, own in placed.items()}
    counts = {row: mark_counts(own) for row, own in rows.items()}
    groups = groups_of(rows[ALONE])
    for row, own in counts.items():
        parts = ratio_intervals(own[:, :, 0], own[:, :, 1], groups)
        words = sum((one.words for one in rows[row]), EditCounts())
        show(row, {
            "trainings": len(shared), "utterances": len(groups), "groups": len(set(groups)),
            "steps": sorted({placed[row][place]["steps"] for place in shared}),
            "wer_pct": round(100 * words.rate, 2),
            "f1_pct": {
                name: [None if value is None else round(100 * value, 2) for value in (one.value, one.low, one.high)]
                for name, one in zip(("all", *MARKS), parts, strict=True)
            },
            "cpu_s": round(sum(placed[row][place]["cpu_s"] for place in shared) / len(shared), 1),
        })  # fmt: skip
    for row in (BOTH, TOLD):
        wer = differences(rows[ALONE], rows[row], (ALONE, row), LANGUAGE)["raw"]
        f1 = {
            name: f1_difference(counts[ALONE][:, m], counts[row][:, m], groups)
            for m, name in enumerate(("all", *MARKS))
        }
        show(f"{row} against {ALONE}", {
            "f1_points": f1, "wer_points": [wer["points"], *(wer["interval"] or ())],
            "f1_shown_within_2_points": f1["all"][1] > -F1_POINTS,
            "f1_within_2_points": f1["all"][0] > -F1_POINTS,
            "wer_not_shown_worse": bool(wer["interval"] and wer["interval"][0] <= 0),
        })  # fmt: skip


def main() -> None:
    parser = process_arguments(__doc__)
    training_arguments(parser)
    add_arguments(parser)
    parser.set_defaults(worlds=[401, 402], train=1600)
    args = parse(parser)
    jobs, tested = jobs_of(args)
    report(run_jobs(args, train_and_score, jobs), tested)


if __name__ == "__main__":
    main()
