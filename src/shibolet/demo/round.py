"""`shibolet demo`: build the data, run the round as on any data, then open the truth and write the page."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from shibolet.demo.corpus import build_corpus
from shibolet.demo.truth import open_truth
from shibolet.recipe import Recipe, load_recipe
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.files import read_json, write_json
from shibolet.records.runfolder import RunFolder
from shibolet.rounds import auditing, stages
from shibolet.rounds.flow import run_stages
from shibolet.rounds.shared import Round, Tell, Track, keep_the_demo_apart, open_round, untracked

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
    with open_round(recipe, out_dir, "demo", tell, track) as current:
        code = run_stages(current)
        truth = open_truth(corpus_dir, current.folder)
        if without_prepare and current.folder.finished("train"):
            truth["without_prepare"] = train_on_raw_data(current)
        write_json(out_dir / TRUTH, truth)
        stages.do_report(current)
    return code, summary_of(RunFolder(out_dir), seed, code)


def demo_recipe(corpus_dir: Path, seed: int, changes: Sequence[str]) -> Recipe:
    """The demo's recipe on this corpus."""
    places = {"data.train.0": "train", "evaluate.sets.0": "test_clean", "evaluate.sets.1": "test_whatsapp"}
    paths = [f"{key}.manifest={corpus_dir / name / 'manifest.jsonl'}" for key, name in places.items()]
    return load_recipe("demo", [f"seed={seed}", *paths, *changes])


def train_on_raw_data(current: Round) -> dict:
    """The same Round 2 trained on everything that can be decoded, compared with Round 1 on the same sets."""
    keep_all = current.recipe.prepare.model_copy(update={"drop_low_quality": False})
    recipe, raw_dir = current.recipe.model_copy(update={"prepare": keep_all}), current.folder.path / "without-prepare"
    with open_round(recipe, raw_dir, "demo", current.tell, current.track) as raw:
        for done in HEARD_ALREADY:  # the same data, heard by the same models
            if (source := current.folder.path / done).is_dir():
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
    paths = {"gate": folder.gate(), "gate_prepared": folder.gate(prepared=True)}
    results = {name: GateVerdict.read(path) for name, path in paths.items() if path.exists()}
    if folder.compare.exists():
        results["compare"] = read_json(folder.compare)
    return {
        "seed": seed,
        "exit_code": code,
        "truth": read_json(folder.path / TRUTH),
        **results,
        "page": str(folder.report),
    }
