"""What damaged texts cost a Whisper that is tuned on them, what the audit finds of them, and what repair wins back.

    python benchmarks/whisper_damage.py --models M --data D --out O --jobs 8 --device cuda

tiny.en on AN4, 60 speakers for training and 14 for testing. Damage: 20, 40 and 60% of the texts swapped; one frequent
word always written as another; two fifths of the texts without their second half. Each is trained on as it is, and once
more through audit, gate and prepare (`gate.on_stop: repair`), by three seeds, for 30 steps and for three times the
recipe's epochs; beside it what was never damaged. What an audit keeps is made once for each damage and seed.

Prints a line of JSON for each damage: clips found, good ones lost, the gate and whether it is right; and for each
length of training the rates and what repair wins back, where the damage is shown to do harm. Every job leaves a line in
OUT/results.jsonl, and the same command goes on with those that are missing. 72 trainings and 18 audits.
"""

import argparse
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from whisper_figures import differences, rows_of, show
from whisper_jobs import (
    AS_IT_IS,
    SMALL_LETTERS,
    TEST_SPEAKERS,
    Job,
    arguments,
    hear_untouched,
    hypotheses_file,
    opened,
    parse,
    run_jobs,
    trained,
    utterances_of,
    written,
)
from whisper_settings import data_of

CLEAN = "clean"
SWAPPED_PCT = (20, 40, 60)
SHORT_STEPS = 30
LONG_TIMES = 3
LANGUAGE = "English"
Made = tuple[list, list[str]]  # utterances, ids of the damaged


def damages() -> dict[str, Callable[[Sequence, int], Made]]:
    """By name, what makes the damaged utterances with a seed."""
    return {
        CLEAN: lambda clean, seed: (list(clean), []),
        **{f"{pct}% swapped": lambda clean, seed, pct=pct: swapped(clean, seed, pct) for pct in SWAPPED_PCT},
        "one word for another": one_for_another,
        "ends cut off": without_ends,
    }


def swapped(clean: Sequence, seed: int, pct: int) -> Made:
    """So many texts given to the next of the chosen that says something else."""
    import real_audit

    chosen = random.Random(f"swaps {seed}").sample(list(clean), len(clean))[: len(clean) * pct // 100]
    made, ids = real_audit.swapped(list(clean), chosen)
    return made, sorted(ids)


def one_for_another(clean: Sequence, seed: int) -> Made:
    """The most frequent word of several letters is written as the second one, in every text."""
    counts = Counter(word for u in clean for word in u.text.split() if len(word) > 1)
    (one, _), (other, _) = counts.most_common(2)
    texts = {u.id: " ".join(other if word == one else word for word in u.text.split()) for u in clean}
    return [replace(u, text=texts[u.id]) for u in clean], [u.id for u in clean if texts[u.id] != u.text]


def without_ends(clean: Sequence, seed: int) -> Made:
    """Two fifths of the texts, of those with two words or more, lose their second half."""
    long = [u for u in clean if len(u.text.split()) > 1]
    chosen = {u.id for u in random.Random(f"ends {seed}").sample(long, len(clean) * 2 // 5)}
    halves = {u.id: " ".join(u.text.split()[: (len(u.text.split()) + 1) // 2]) for u in long if u.id in chosen}
    return [replace(u, text=halves.get(u.id, u.text)) for u in clean], sorted(halves)


# In processes of their own


def repair(job: Job) -> dict:
    """Audit, gate and prepare as `shibolet run` does it, and where it says STOP the second audit and gate."""
    from shibolet.demo.truth import flagged_ids, kept_pieces
    from shibolet.rounds import auditing, stages

    with opened(job, **{"gate.on_stop": "repair"}) as current:
        auditing.do_audit(current)
        first = auditing.do_gate(current)
        made = {"gate": first.decision, "why": first.reasons[0] if first.reasons else None, "gate_prepared": None}
        if first.decision != "INVALID":
            stages.do_prepare(current)
            if first.next == "repair":
                auditing.do_audit(current, prepared=True)
                second = auditing.do_gate(current, prepared=True)
                made |= {"gate_prepared": second.decision, "open_after_repair": second.next == "continue"}
            made["kept"] = sorted({piece.utterance for piece in kept_pieces(current.folder)})
        return {**made, "flagged": sorted(flagged_ids(current.folder))}


def train_for(job: Job) -> dict:
    """Train so many steps, or so many times the recipe's epochs, on what a repair left or on the data as they are."""
    from shibolet.records.documents.prepared import Prepared
    from shibolet.rounds import auditing, scoring, stages

    repaired = job.about.get("repaired_in")
    plain = {"gate.on_stop": "repair"} if repaired else AS_IT_IS
    if repaired and not job.run_dir.is_dir():
        shutil.copytree(repaired, job.run_dir)
    with opened(job, **plain) as current:
        if not repaired:
            auditing.do_audit(current)
            auditing.do_gate(current)
            stages.do_prepare(current)
        config = current.recipe.train
        utterances = Prepared.read(current.folder.prepared / "summary.json").train.utterances
    epochs = sum(phase.num_epochs for phase in config.phases)
    wanted = (
        LONG_TIMES * epochs if job.about["length"] == "long" else SHORT_STEPS * config.utterances_per_step / utterances
    )
    phases = [
        phase.model_dump(mode="json") | {"num_epochs": phase.num_epochs * wanted / epochs} for phase in config.phases
    ]
    with opened(job, **plain, **{"train.phases": json.dumps(phases)}) as current:
        stages.do_train(current)
        scoring.do_evaluate(current, scoring.candidates_of(current)[1:])
        return trained(current, job)


# Jobs


def jobs_of(args: argparse.Namespace, clean: Sequence, test: Path, heard: Path) -> tuple[list[Job], list[Job]]:
    """Repairs, and the trainings that need nothing of them."""
    repairs, plain = [], []
    base = args.models / "whisper-tiny.en"
    for seed in args.seeds:
        for name in args.only:
            make = damages()[name]
            folder = args.out / "damage" / name.replace(" ", "_").replace("%", "") / str(seed)
            utterances, ids = make(clean, seed)
            manifest = written(folder / "train.jsonl", utterances)
            changes = (
                f"models.base={base}", f"models.baseline={base}", f"data.train.0.manifest={manifest}",
                f"language={LANGUAGE}", f"seed={seed}", f"evaluate.sets=[{{name: test, manifest: {test}}}]",
                SMALL_LETTERS, "prepare.min_duration_s=0.1", *args.set,
            )  # fmt: skip
            about, data = {"damage": name, "seed": seed}, data_of(manifest, test)
            repairs.append(
                Job(
                    key=f"repair/{name}/{seed}",
                    run_dir=folder / "repaired",
                    recipe=args.recipe,
                    changes=(*changes, f"audit.recogniser={args.models / args.recogniser}"),
                    data=data,
                    about={**about, "what": "repair", "damaged": ids, "of": len(utterances)},
                )
            )
            plain += [
                Job(
                    key=f"unprepared/{name}/{length}/{seed}",
                    run_dir=folder / f"unprepared-{length}",
                    recipe=args.recipe,
                    changes=(*changes, f"audit.recogniser={heard}"),
                    data=data,
                    about={**about, "what": "unprepared", "length": length},
                )
                for length in ("short", "long")
            ]
    return repairs, plain


def after_repair(repairs: Sequence[Job], found: Mapping[str, dict]) -> list[Job]:
    """Trainings on what each repair kept; none where the audit judged nothing."""
    return [
        Job(
            key=f"repaired/{job.about['damage']}/{length}/{job.about['seed']}",
            run_dir=job.run_dir.with_name(f"repaired-{length}"),
            recipe=job.recipe,
            changes=job.changes,
            data=job.data,
            about={"damage": job.about["damage"], "seed": job.about["seed"], "what": "repaired", "length": length,
                   "repaired_in": str(job.run_dir)},
        )
        for job in repairs
        if found.get(job.key, {}).get("kept")
        for length in ("short", "long")
    ]  # fmt: skip


# Figures


def of_audits(rows: Sequence[dict]) -> dict:
    """Damaged clips found, good ones lost, the gate and whether it is right, over seeds."""
    found = lost = damaged = good = kept_damaged = kept = 0
    verdicts = []
    for row in sorted(rows, key=lambda row: row["seed"]):
        ids, flagged = set(row["damaged"]), set(row["flagged"])
        damaged, good = damaged + len(ids), good + row["of"] - len(ids)
        found, lost = found + len(ids & flagged), lost + len(flagged - ids)
        left = set(row.get("kept", ()))
        kept, kept_damaged = kept + len(left), kept_damaged + len(left & ids)
        share, after = 100 * len(ids) / row["of"], 100 * len(left & ids) / max(len(left), 1)
        verdicts.append(
            {"damaged_pct": round(share, 1), "gate": row["gate"], "right": row["gate"] == _due(share),
             "after_repair_pct": round(after, 1), "gate_prepared": row["gate_prepared"],
             "right_after": row["gate_prepared"] and row["gate_prepared"] == _due(after), "why": row["why"]}
        )  # fmt: skip
    pct = lambda part, whole: round(100 * part / whole, 1) if whole else None  # noqa: E731
    return {"found": [found, damaged, pct(found, damaged)], "good_lost": [lost, good, pct(lost, good)],
            "damaged_among_kept": [kept_damaged, kept, pct(kept_damaged, kept)], "gates": verdicts}  # fmt: skip


def _due(damaged_pct: float) -> str:
    """What the gate has to say of a true share, by the recipe's usual limits."""
    from shibolet.gate.config import GateConfig

    limits = GateConfig()
    if damaged_pct > limits.stop_above_pct:
        return "STOP"
    return "PROCEED" if damaged_pct < limits.proceed_below_pct else "CAUTION"


def of_trainings(found: Mapping[str, dict], damage: str, length: str, test: Sequence) -> dict:
    """Unprepared, repaired and clean on the seeds that all of them have."""
    arms = {"clean": ("unprepared", CLEAN), "unprepared": ("unprepared", damage), "repaired": ("repaired", damage)}
    by_seed = {
        arm: {row["seed"]: row for row in found.values()
              if (row.get("what"), row.get("damage"), row.get("length")) == (what, own, length)}
        for arm, (what, own) in arms.items()
    }  # fmt: skip
    by_seed = {arm: own for arm, own in by_seed.items() if own or arm != "repaired"}
    seeds = sorted(set.intersection(*(set(own) for own in by_seed.values())))
    if not seeds:
        return {"seeds": 0}
    rows = {
        arm: [row for seed in seeds for row in rows_of(test, dict(own[seed]["rows"]["test"]), f"seed {seed}", LANGUAGE)]
        for arm, own in by_seed.items()
    }
    harm = differences(rows["clean"], rows["unprepared"], ("clean", "unprepared"), LANGUAGE)
    made: dict = {"seeds": len(seeds), "steps": {arm: [own[s]["steps"] for s in seeds] for arm, own in by_seed.items()}}
    for kind in ("raw", "nearest"):
        line = {"clean_pct": harm[kind]["before_pct"], "unprepared_pct": harm[kind]["after_pct"],
                "unprepared_less_clean": [harm[kind]["points"], harm[kind]["interval"]]}  # fmt: skip
        if "repaired" in rows:
            left = differences(rows["clean"], rows["repaired"], ("clean", "repaired"), LANGUAGE)[kind]
            won = differences(rows["unprepared"], rows["repaired"], ("unprepared", "repaired"), LANGUAGE)[kind]
            line |= {"repaired_pct": left["after_pct"], "repaired_less_clean": [left["points"], left["interval"]],
                     "repaired_less_unprepared": [won["points"], won["interval"]]}  # fmt: skip
            if harm[kind]["interval"] and harm[kind]["interval"][0] > 0:
                line["recovered_pct"] = round(-100 * won["points"] / harm[kind]["points"], 1)
        if not (harm[kind]["interval"] and harm[kind]["interval"][0] > 0):
            line["note"] = "this damage did no measurable harm"
        made[kind] = line
    return made


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--recogniser", default="whisper-base", help="folder in --models: what the audit hears with")
    parser.add_argument("--only", nargs="+", choices=list(damages()), default=list(damages()), help="these damages")
    parser.add_argument("--as-they-are", action="store_true", help="no audits: only trainings on the data as they are")
    args = parse(parser)
    utterances = utterances_of(args.data / "an4_en" / "manifest.jsonl", "an4", LANGUAGE)
    clean = [u for u in utterances if u.speaker not in TEST_SPEAKERS]
    test = [u for u in utterances if u.speaker in TEST_SPEAKERS]
    whole = written(args.out / "damage" / "all.jsonl", utterances)
    said = hear_untouched(args, args.models / "whisper-tiny.en", {"an4": (whole, LANGUAGE)})["an4"]
    heard = hypotheses_file(args.out / "damage" / "heard.jsonl", said)
    repairs, plain = jobs_of(args, clean, written(args.out / "damage" / "test.jsonl", test), heard)
    found = {} if args.as_they_are else run_jobs(args, repair, repairs)
    found |= run_jobs(args, train_for, [*plain, *after_repair(repairs, found)])
    for name in args.only:
        audits = [row for row in found.values() if row.get("what") == "repair" and row["damage"] == name]
        if audits:
            show(f"audit of {name}", of_audits(audits))
        for length in ("short", "long"):
            show(f"{length} training on {name}", of_trainings(found, name, length, test))


if __name__ == "__main__":
    main()
