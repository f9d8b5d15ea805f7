"""`shibolet demo`: build the data, run the round as on any data, then open the truth and write the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shibolet.demo.corpus import build_corpus
from shibolet.demo.truth import open_truth
from shibolet.recipe import Recipe, load_recipe
from shibolet.records.documents.comparison import Block, Comparison
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.lineage import Chain
from shibolet.records.documents.truth import Truth
from shibolet.records.runfolder import RunFolder
from shibolet.records.settings import peek
from shibolet.report.lineage import chain_of
from shibolet.rounds import auditing, scoring, stages
from shibolet.rounds.flow import run_stages
from shibolet.rounds.lineage import write_next
from shibolet.rounds.shared import Round, Tell, Track, keep_the_demo_apart, open_round, untracked

TRUTH = "truth.json"


def run_demo(
    seed: int, out_dir: Path, changes: Sequence[str], *, last_round: int = 2, without_prepare: bool, tell: Tell,
    track: Track = untracked,
) -> "Summary":  # fmt: skip
    """What came of the last round; `out_dir` is the run folder of Round 2, those of later ones are beside it.

    A round that is not kept has none after it.
    """
    corpus_dir = out_dir / "corpus"
    recipe = demo_recipe(corpus_dir, seed, changes)
    keep_the_demo_apart(recipe, RunFolder(out_dir))
    with track("speak", "parts of the corpus") as progress:
        build_corpus(corpus_dir, seed, on_progress=progress)
    with open_round(recipe, out_dir, "demo", tell, track) as current:
        code = run_stages(current)
        truth = open_truth(corpus_dir, current.folder)
        if without_prepare and current.folder.finished("train"):
            truth = truth.model_copy(update={"without_prepare": train_on_raw_data(current)})
        truth.write(out_dir / TRUTH)
        current.folder.seal("truth")
        stages.do_report(current)
    folder = RunFolder(out_dir)
    for number in range(3, last_round + 1):
        if code != 0 or not folder.compare.is_file():
            break
        run_dir = out_dir.with_name(f"{out_dir.name}-round{number}")
        code = run_next(folder, run_dir, corpus_dir, tell, track)
        folder = RunFolder(run_dir)
    return summary_of(folder, seed, code)


# Of Round 3 and later: gently on from the model before, with what telephones and messengers do to speech.
LATER = (
    "train.phases=[{name: A, num_epochs: 3, warmup_steps: 10, schedule: linear, lr_by_part: {encoder.conv: 1.0e-4, "
    "'encoder.layers[0:6]': 1.0e-4, projector: 1.0e-4, 'decoder.layers[2:4]': 5.0e-5, head: 5.0e-5, lora: 1.0e-4}}]",
    "train.augment={noise: {share: 0.3, snr_db: [5.0, 30.0], kinds: [white, pink, babble]}, "
    "codec: {share: 0.4, channels: [opus, mp3, telephone], bitrate_kbps: [8.0, 32.0]}}",
)


def run_next(before: RunFolder, run_dir: Path, corpus_dir: Path, tell: Tell, track: Track) -> int:
    """The round after one, with its recipe beside its run folder; the exit code."""
    path = run_dir.with_name(f"{run_dir.name}.yaml")
    path.unlink(missing_ok=True)
    recipe = write_next(before.path, path, changes=LATER)
    with open_round(recipe, run_dir, "demo", tell, track) as current:
        code = run_stages(current)
        open_truth(corpus_dir, current.folder).write(run_dir / TRUTH)
        current.folder.seal("truth")
        stages.do_report(current)
    return code


def demo_recipe(corpus_dir: Path, seed: int, changes: Sequence[str]) -> Recipe:
    """The demo's recipe on this corpus."""
    places = {"data.train.0": "train", "evaluate.sets.0": "test_clean", "evaluate.sets.1": "test_whatsapp"}
    paths = [f"{key}.manifest={corpus_dir / name / 'manifest.jsonl'}" for key, name in places.items()]
    return load_recipe("demo", [f"seed={seed}", *paths, *changes])


def train_on_raw_data(current: Round) -> dict[str, Block]:
    """The same round trained on everything that can be decoded, compared with the baseline by set."""
    keep_all = current.recipe.prepare.model_copy(update={"drop_low_quality": False})
    # It is not the round after this one, and takes over the same: the same data, heard by the same models.
    recipe = current.recipe.model_copy(update={"prepare": keep_all, "parent": current.folder.path})
    with open_round(recipe, current.folder.path / "without-prepare", "demo", current.tell, current.track) as raw:
        auditing.do_audit(raw)
        auditing.do_gate(raw)
        stages.do_prepare(raw)
        stages.do_train(raw)
        scoring.do_evaluate(raw, scoring.candidates_of(raw))
        return scoring.do_compare(raw).sets


@dataclass(frozen=True, slots=True)
class Summary:
    """What the demo came to."""

    seed: int
    exit_code: int
    truth: Truth
    gate: GateVerdict
    gate_prepared: GateVerdict | None  # None: there was no repair
    compare: Comparison | None  # None: the round ended before
    chain: Chain | None  # None: it is no later round
    page: Path

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it, without what there is not."""
        verdicts = {"gate": self.gate, "gate_prepared": self.gate_prepared}
        documents = {"truth": self.truth.to_json(), **verdicts, "compare": self.compare and self.compare.to_json()}
        documents["chain"] = self.chain and self.chain.model_dump(mode="json")
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
        chain=chain_of(folder.path) if peek(folder.recipe, "parent") else None,
        page=folder.report,
    )
