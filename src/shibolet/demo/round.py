"""`shibolet demo`: build the data, run the round as on any data, then open the truth and write the page."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from shibolet.demo.corpus import build_corpus
from shibolet.demo.truth import open_truth
from shibolet.recipe import Recipe, load_recipe
from shibolet.records.files import read_json, write_json
from shibolet.records.runfolder import RunFolder
from shibolet.round import auditing, stages
from shibolet.round.flow import run_stages
from shibolet.round.shared import Round, Tell, Track, keep_the_demo_apart, open_round, untracked
from shibolet.terminal import OUT, pct, show_compare, show_gate, show_gate_prepared, table

TRUTH = "truth.json"


def run_demo(
    seed: int, out_dir: Path, changes: Sequence[str], *, without_prepare: bool, tell: Tell, track: Track = untracked
) -> tuple[int, dict]:
    """The exit code of the round and what came of it: verdicts, truth, comparison; `out_dir` is the run folder."""
    corpus_dir = out_dir / "corpus"
    recipe = demo_recipe(corpus_dir, seed, changes)
    keep_the_demo_apart(recipe, RunFolder(out_dir))
    with track("speak") as progress:
        build_corpus(corpus_dir, seed, on_progress=progress)
    with open_round(recipe, out_dir, "demo", tell, track) as round:
        code = run_stages(round)
        truth = open_truth(corpus_dir, round.folder)
        if without_prepare and round.folder.finished("train"):
            truth["without_prepare"] = train_on_raw_data(round)
        write_json(out_dir / TRUTH, truth)
        stages.do_report(round)
    return code, summary_of(RunFolder(out_dir), seed, code)


def demo_recipe(corpus_dir: Path, seed: int, changes: Sequence[str]) -> Recipe:
    """The demo's recipe on this corpus."""
    places = {"data.train.0": "train", "evaluate.sets.0": "test_clean", "evaluate.sets.1": "test_whatsapp"}
    paths = [f"{key}.manifest={corpus_dir / name / 'manifest.jsonl'}" for key, name in places.items()]
    return load_recipe("demo", [f"seed={seed}", *paths, *changes])


def train_on_raw_data(round: Round) -> dict:
    """The same Round 2 trained on everything that can be decoded, compared with Round 1 on the same sets."""
    keep_all = round.recipe.prepare.model_copy(update={"drop_low_quality": False})
    recipe, raw_dir = round.recipe.model_copy(update={"prepare": keep_all}), round.folder.path / "without-prepare"
    with open_round(recipe, raw_dir, "demo", round.tell, round.track) as raw:
        for done in HEARD_ALREADY:  # the same data, heard by the same models
            if (source := round.folder.path / done).is_dir():
                shutil.copytree(source, raw_dir / done, dirs_exist_ok=True)
            elif source.is_file():
                (raw_dir / done).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, raw_dir / done)
        auditing.do_audit(raw)
        auditing.do_gate(raw)
        stages.do_prepare(raw)
        stages.do_train(raw)
        stages.do_evaluate(raw, stages.rounds_of(raw))
        return stages.do_compare(raw)["sets"]


HEARD_ALREADY = (
    "audit", ".stages/audit.json", ".stages/hear-rest.json", "evaluate/round1", ".stages/evaluate/round1"
)  # fmt: skip


def summary_of(folder: RunFolder, seed: int, code: int) -> dict:
    """What the demo came to, from the files of its folder."""
    paths = {"gate": folder.gate(), "gate_prepared": folder.gate(prepared=True), "compare": folder.compare}
    results = {name: read_json(path) for name, path in paths.items() if path.exists()}
    return {
        "seed": seed,
        "exit_code": code,
        "truth": read_json(folder.path / TRUTH),
        **results,
        "page": str(folder.report),
    }


def show_demo(summary: dict) -> None:
    """The summary for a person."""
    show_gate(summary["gate"])
    if "gate_prepared" in summary:
        show_gate_prepared(summary["gate_prepared"])
    truth = summary["truth"]
    rows = [
        (row["kind"], row["domain"], row["utterances"], row["flagged"], pct(row["flagged"] / row["utterances"]))
        for row in truth["rows"]
    ]
    table("The truth, opened after the round", ["what was done", "domain", " utterances", " flagged", ""], rows)
    if left := truth.get("after_prepare"):
        OUT.print(
            f"Kept: {left['kept_utterances']} utterances, {left['kept_damaged_pct']:.1f}% of them damaged; "
            f"{left['good_hours_lost_pct']:.1f}% of the good hours are lost."
        )
    if "compare" in summary:
        show_compare(summary["compare"])
    for name, block in truth.get("without_prepare", {}).items():
        OUT.print(f"Trained without prepare, {name}: WER {pct(block['wer']['round2']['rate'])}")
    OUT.print(f"Page: {summary['page']}. All speech in it is synthetic.", markup=False, soft_wrap=True)
