"""A Whisper of half the decoder that learns from the whole one: base tuned on AN4 as the teacher, folds by speaker.

    python benchmarks/whisper_student.py --models M --data D --out O --jobs 10 --device cuda

In each fold whisper-base is tuned as whisper-small-data does it. The student is its cut with every second decoder layer
(`shibolet cut --decoder 3`) and the encoder whole, so its speech is encoded once. All arms train equally many epochs of
the same clips at the same rate, and a quarter of it in the last third:

plain      likelihood of the texts
top_k      the teacher's top 16 at each token of the texts
stages     a third each: likelihood of the texts and of those of the teacher's that the audit lets pass (its recogniser
           is a file of tiny.en's texts), the top 16 of both, and the teacher's on what the student writes

Prints lines of JSON, in the nearest reading: teacher, cut and arms; the gap between plain and teacher; the part of it
that an arm closes, with the interval over speakers. Where the gap's interval holds 0 it says that there is nothing to
close. The same command goes on with the trainings that are missing, as long as the teachers are there.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from whisper_figures import rows_of, show
from whisper_folds import DECODER
from whisper_jobs import (
    Job,
    arguments,
    folds_by_speaker,
    hear_untouched,
    hypotheses_file,
    parse,
    run_jobs,
    train_and_score,
    utterances_of,
    written,
)
from whisper_settings import data_of

from shibolet.scoring.intervals import difference_interval, differences, ratio_intervals
from shibolet.scoring.nearest import in_nearest_reading
from shibolet.scoring.rows import groups_of
from shibolet.speech.text import get_language

LANGUAGE, LAYERS = "English", 3
TEACHER, CUT, PLAIN = "teacher", "cut", "plain"
ARMS: dict[str, tuple[tuple[str, float], ...]] = {  # phases: objective, part of the epochs
    PLAIN: (("transcribe", 2 / 3), ("transcribe", 1 / 3)),
    "top_k": (("distil", 2 / 3), ("distil", 1 / 3)),
    "stages": (("transcribe", 1 / 3), ("distil", 1 / 3), ("on_policy", 1 / 3)),
}


def plan_of(arm: str, epochs: float, rate: float, teacher: Path) -> list[str]:
    """Overrides of the recipe for a student of this arm."""
    last = len(ARMS[arm]) - 1
    phases = [
        {
            "name": f"{number}-{objective}", "objective": objective, "num_epochs": round(share * epochs, 3),
            "lr_by_part": dict.fromkeys(DECODER, rate / 4 if number == last else rate),
            "warmup_steps": 10, "schedule": "linear",
        }
        for number, (objective, share) in enumerate(ARMS[arm])
    ]  # fmt: skip
    made = [f"train.phases={json.dumps(phases)}", "train.eval_every_epoch=false", "train.eval_every_steps=60"]
    if arm != PLAIN:
        made += [f"models.teacher={teacher}", f"train.distil={{texts: {json.dumps(arm == 'stages')}}}"]
    return made


def teach(job: Job) -> dict:
    """Tune the teacher, cut the student from it, and hear the test with both."""
    from shibolet.model.cut import cut
    from shibolet.records.hypotheses import read_hypothesis_lines
    from shibolet.rounds.scoring import evaluate_manifest

    made, student = train_and_score(job), student_of(job.run_dir)
    if not student.exists():
        cut(str(final_of(job.run_dir)), student, decoder=LAYERS)
    heard = job.run_dir.with_name("cut-heard")
    evaluate_manifest(str(student), Path(job.about["test"]), LANGUAGE, heard)
    return {**made, "cut": [[line.id, line.hypothesis] for line in read_hypothesis_lines(heard / "hypotheses.jsonl")]}


def final_of(run: Path) -> Path:
    return run / "train" / "final"


def student_of(teacher: Path) -> Path:
    return teacher.with_name("student")


def jobs_of(args: argparse.Namespace, utterances: Sequence, heard: Path) -> tuple[list[Job], list[Job]]:
    """The teachers, and the students' trainings."""
    teachers, students = [], []
    for fold, speakers in folds_by_speaker(utterances, 5):
        if fold not in args.folds:
            continue
        folder = args.out / f"fold{fold}"
        test = written(folder / "test.jsonl", [u for u in utterances if u.speaker in speakers])
        train = written(folder / "train.jsonl", [u for u in utterances if u.speaker not in speakers])
        always = (
            f"data.train.0.manifest={train}", "data.train.0.letter_case=lower", f"audit.recogniser={heard}",
            f"language={LANGUAGE}", f"evaluate.sets=[{{name: test, manifest: {test}, letter_case: lower}}]",
            "prepare.min_duration_s=0.1", *args.set,
        )  # fmt: skip
        teacher = folder / TEACHER
        for arm in (TEACHER, *args.arms):
            base = args.models / "whisper-base" if arm == TEACHER else student_of(teacher)
            own = () if arm == TEACHER else plan_of(arm, args.epochs, args.rate, final_of(teacher))
            (teachers if arm == TEACHER else students).append(
                Job(
                    key=f"{arm}/{fold}", run_dir=folder / arm, recipe=args.recipe, data=data_of(train, test),
                    changes=(f"models.base={base}", f"models.baseline={base}", "seed=0", *always, *own),
                    about={"arm": arm, "fold": fold, "keep": arm == TEACHER, "test": str(test)},
                )
            )  # fmt: skip
    return teachers, students


def report(found: Mapping[str, dict], utterances: Sequence) -> None:
    """The arms on the folds that all of them have."""
    said: dict[str, dict[str, dict]] = {}
    for row in found.values():
        said.setdefault(row["arm"], {})[row["fold"]] = dict(row["rows"]["test"])
        if "cut" in row:
            said.setdefault(CUT, {})[row["fold"]] = dict(row["cut"])
    folds = sorted(set.intersection(*(set(own) for own in said.values())))
    rows = {
        arm: [row for fold in folds for row in rows_of(utterances, own[fold], "an4", LANGUAGE)]
        for arm, own in said.items()
    }
    near = dict(zip(rows, in_nearest_reading(list(rows.values()), get_language(LANGUAGE)), strict=True))
    counts = {arm: [row.words for row in own] for arm, own in near.items()}
    groups = list(groups_of(near[TEACHER]))
    for arm, own in counts.items():
        words = sum(one.reference_length for one in own)
        heard = sum(len(row.heard.split()) for row in near[arm]) / sum(len(row.said.split()) for row in near[arm])
        line = {"folds": len(folds), "wer_pct": round(100 * sum(one.errors for one in own) / words, 2), "words": words}
        steps = sorted({row["steps"] for row in found.values() if row["arm"] == arm})
        show(arm, {**line, "length_ratio": round(heard, 3), "steps": steps})
    if PLAIN not in counts:
        return
    gap = difference_interval(counts[TEACHER], counts[PLAIN], groups)
    closable = gap.low is not None and gap.low > 0
    show("gap", {"points": 100 * gap.value, "interval": [100 * gap.low, 100 * gap.high], "groups": len(set(groups)),
                 "note": None if closable else "its interval holds 0: there is nothing to close"})  # fmt: skip
    between = differences(counts[TEACHER], counts[PLAIN])[:, None]
    for arm in (one for one in ARMS if one in counts and one != PLAIN):
        one = difference_interval(counts[PLAIN], counts[arm], groups)
        (part,) = ratio_intervals(differences(counts[arm], counts[PLAIN])[:, None], between, groups)
        line = {"points": 100 * one.value, "interval": [100 * one.low, 100 * one.high]}
        if closable:
            line["closed_pct"] = [100 * part.value, 100 * part.low, 100 * part.high]
        show(f"{arm} against plain", line)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--folds", nargs="+", default=[str(fold) for fold in range(5)])
    parser.add_argument("--epochs", type=float, default=12.0, help="of a student, in both phases together")
    parser.add_argument("--rate", type=float, default=3e-4, help="of a student's first phase")
    args = parse(parser)
    utterances = utterances_of(args.data / "an4_en" / "manifest.jsonl", "an4", LANGUAGE)
    whole = written(args.out / "all.jsonl", utterances)
    said = hear_untouched(args, args.models / "whisper-tiny.en", {"an4": (whole, LANGUAGE)})["an4"]
    teachers, students = jobs_of(args, utterances, hypotheses_file(args.out / "heard.jsonl", said))
    found = run_jobs(args, teach, teachers)
    ready = [job for job in students if student_of(job.run_dir).exists() or args.report]
    found |= run_jobs(args, train_and_score, ready)
    report(found, utterances)


if __name__ == "__main__":
    main()
