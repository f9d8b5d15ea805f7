"""`shibolet demo`: build the data, run the round as on any data, then open the truth and write the page."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shibolet.demo.corpus import build_corpus
from shibolet.demo.truth import open_truth
from shibolet.recipe import Recipe, load_recipe
from shibolet.records.documents.comparison import Block, Comparison
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.truth import Truth
from shibolet.records.runfolder import RunFolder
from shibolet.rounds import auditing, scoring, stages
from shibolet.rounds.flow import run_stages
from shibolet.rounds.shared import Round, Tell, Track, keep_the_demo_apart, open_round, untracked

TRUTH = "truth.json"


def run_demo(
    seed: int, out_dir: Path, changes: Sequence[str], *, without_prepare: bool, tell: Tell, track: Track = untracked
) -> "Summary":
    """What came of the round; `out_dir` is the run folder."""
    corpus_dir = out_dir / "corpus"
    recipe = demo_recipe(corpus_dir, seed, changes)
    keep_the_demo_apart(recipe, RunFolder(out_dir))
    with track("speak") as progress:
        build_corpus(corpus_dir, seed, on_progress=progress)
    with open_round(recipe, out_dir, "demo", tell, track) as current:
        code = run_stages(current)
        truth = open_truth(corpus_dir, current.folder)
        if without_prepare and current.folder.finished("train"):
            truth = truth.model_copy(update={"without_prepare": train_on_raw_data(current)})
        truth.write(out_dir / TRUTH)
        stages.do_report(current)
    return summary_of(RunFolder(out_dir), seed, code)


def demo_recipe(corpus_dir: Path, seed: int, changes: Sequence[str]) -> Recipe:
    """The demo's recipe on this corpus."""
    places = {"data.train.0": "train", "evaluate.sets.0": "test_clean", "evaluate.sets.1": "test_whatsapp"}
    paths = [f"{key}.manifest={corpus_dir / name / 'manifest.jsonl'}" for key, name in places.items()]
    return load_recipe("demo", [f"seed={seed}", *paths, *changes])


def train_on_raw_data(current: Round) -> dict[str, Block]:
    """The same round trained on everything that can be decoded, compared with the baseline by set."""
    keep_all = current.recipe.prepare.model_copy(update={"drop_low_quality": False})
    recipe, raw_dir = current.recipe.model_copy(update={"prepare": keep_all}), current.folder.path / "without-prepare"
    with open_round(recipe, raw_dir, "demo", current.tell, current.track) as raw:
        for done in heard_already(current):  # the same data, heard by the same models
            if (source := current.folder.path / done).is_dir():
                shutil.copytree(source, raw_dir / done, dirs_exist_ok=True)
            elif source.is_file():
                (raw_dir / done).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, raw_dir / done)
        auditing.do_audit(raw)
        auditing.do_gate(raw)
        stages.do_prepare(raw)
        stages.do_train(raw)
        scoring.do_evaluate(raw, scoring.candidates_of(raw))
        return scoring.do_compare(raw).sets


def heard_already(current: Round) -> tuple[str, ...]:
    """What a round on the same data need not hear again, by path in the run folder."""
    scored = f"evaluate/{current.names[0].label}"
    return "audit", ".stages/audit.json", ".stages/hear-rest.json", scored, f".stages/{scored}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What the demo came to."""

    seed: int
    exit_code: int
    truth: Truth
    gate: dict
    gate_prepared: dict | None  # None: there was no repair
    compare: Comparison | None  # None: the round ended before
    page: Path

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it, without what there is not."""
        verdicts = {"gate": self.gate, "gate_prepared": self.gate_prepared}
        documents = {"truth": self.truth.to_json(), **verdicts, "compare": self.compare and self.compare.to_json()}
        made = {name: document for name, document in documents.items() if document is not None}
        return {"seed": self.seed, "exit_code": self.exit_code, **made, "page": str(self.page)}


def summary_of(folder: RunFolder, seed: int, code: int) -> Summary:
    """What the demo came to, from the files of its folder."""
    gates = [GateVerdict.read(path) for path in (folder.gate(), folder.gate(prepared=True)) if path.exists()]
    return Summary(
        seed=seed,
        exit_code=code,
        truth=Truth.read(folder.path / TRUTH),
        gate=gates[0],
        gate_prepared=gates[1] if len(gates) > 1 else None,
        compare=Comparison.read(folder.compare) if folder.compare.exists() else None,
        page=folder.report,
    )
