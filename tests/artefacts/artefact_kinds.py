"""Every kind of artefact of a round: who writes it, who reads it, how damage is noticed and what happens then.

This writes the table into `docs/artefacts.md` (`make schemas`). Names in
brackets, such as <set>, stand for what differs from round to round.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import artefact_damage as damage
from artefact_damage import Change, json_value, line_value

DOCUMENT = Path(__file__).parents[2] / "docs" / "artefacts.md"
HASH, OWN, NOBODY, CACHE = (
    "hash in the marker of its stage",
    "its own checksum",
    "nothing notices it",
    "it is read as what it is, or made again",
)
AGAIN, REFUSED, LEFT = "made again by its stage, refused by others", "refused", "nothing is made from it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of file in a run folder."""

    name: str  # its path, with <...> for what differs
    example: str  # the file of the tiny round that is damaged, as a glob; of several the last
    writer: str  # the stage or command
    readers: tuple[str, ...]  # names in `artefact_commands.COMMANDS`; none: nobody reads it
    noticed: str
    then: str
    change: Change  # valid, and different

    @property
    def pattern(self) -> str:
        """Full paths of this kind."""
        return re.sub(r"<[a-z]+>", "[^/]+", re.escape(self.name).replace(r"\<", "<").replace(r"\>", ">"))


def _kind(
    name: str, writer: str, readers: str, change: Change, noticed: str = HASH, then: str = AGAIN, example: str = ""
):
    return Kind(
        name=name, example=example or re.sub(r"<[a-z]+>", "*", name), writer=writer, change=change, noticed=noticed,
        then=then, readers=tuple(filter(None, readers.split(", "))),
    )  # fmt: skip


def _marker(stage: str, readers: str, example: str = "") -> Kind:
    return _kind(
        f".stages/{stage}.json", stage.partition("/")[0], readers, damage.first_hash, "against the files that it speaks of",
        "its stage is made again, others refuse", example,
    )  # fmt: skip


PAGES = "report, figures"
MODEL_FILES = {
    "model.safetensors": damage.one_weight,
    "config.json": json_value("audio_config", "encoder_layers", value=5),
    "generation_config.json": json_value("eos_token_id", value=[0]),
    "tokenizer.json": json_value("model", "vocab", "!", value=1),
    "tokenizer_config.json": json_value("model_max_length", value=3),
    "processor_config.json": json_value("feature_extractor", "n_fft", value=512),
    "chat_template.jinja": damage.line_more("{{ 1 }}"),
}
MODEL_READERS = "run, train, evaluate, compare, tune-decoding, next, publish, " + PAGES
CHECKPOINT = "train/checkpoints/step-<step>"
LAST = "train/checkpoints/step-00000004"

KINDS = (
    _kind("recipe.yaml", "every command", f"{PAGES}, next, rounds, export-data, export-adapter, publish",
          damage.line_more("title: Round 9"), "hash in .stages/start.json", "written anew by commands with a recipe, refused by others"),
    _kind("provenance.json", "every command", f"run, {PAGES}, export-data, publish", json_value("starts", 0, "command", value="train"),
          "hash in .stages/start.json", "put into .aside and begun anew by commands with a recipe, refused by others"),
    _kind(".lock", "every command", "", damage.line_more("x"), NOBODY, LEFT),
    _marker("start", f"run, {PAGES}, export-data, next"),
    _marker("audit", "run, audit, gate, prepare, export-data verdicts"),
    _marker("extend", "run, audit, audit --extend"),
    _marker("review", "run, audit, prepare"),
    _marker("hear-rest", "run, prepare"),
    _marker("calibrate", "calibrate, audit with calibration"),
    _marker("gate", "run, gate, prepare, publish"),
    _marker("prepare", "run, prepare, train, tune-decoding, export-data, publish"),
    _marker("audit-prepared", "run"),
    _marker("gate-prepared", "run"),
    _marker("train", "run, train, evaluate, compare, tune-decoding, next, export-adapter, publish"),
    _marker("evaluate/<label>/<set>", "run, evaluate, compare", ".stages/evaluate/round2/clean.json"),
    _marker("compare", "run, compare, publish, next"),
    _marker("systems", "compare --system"),
    _marker("tune-decoding", "tune-decoding"),
    _marker("publish", "publish"),
    _kind("audit/alignment_report.json", "audit", f"run, audit, gate, {PAGES}", json_value("low_quality_count", value=0)),
    _kind("audit/utterances.parquet", "audit", f"run, audit, gate, prepare, {PAGES}, export-data verdicts", damage.rows_less),
    _kind("audit/calibration.json", "audit", f"run, audit, prepare, {PAGES}", json_value("maps", 0, "center", 0)),
    _kind("audit/rest.parquet", "hear-rest", f"run, prepare, {PAGES}", damage.texts_reversed),
    _kind("audit/review.jsonl", "audit --review", f"run, audit, prepare, {PAGES}", line_value("verdict", "bad"),
          "hash in .stages/review.json", REFUSED),
    _kind("audit/extended.json", "audit --extend", "run, audit, audit --extend", json_value("sizes", 0, value=30),
          "hash in .stages/extend.json", REFUSED),
    _kind("audit/audit.html", "report", "", damage.line_more("<p>x</p>"), NOBODY, "written anew by `report` and `run`"),
    _kind("audit/sounds.jsonl", "report", "report, run", line_value("wave"), CACHE, "encoded again"),
    _kind("audit/heard/<listeners>/<clips>.jsonl", "audit", "audit with other settings, audit of the next round",
          damage.evidence_text, OWN, "named .broken, and heard again", "audit/heard/*/*.jsonl"),
    _kind("audit/heard/window-<recogniser>.json", "audit", "audit with other settings, audit of the next round",
          json_value("window_s", value=9.0), OWN, "chosen again", "audit/heard/window-*.json"),
    _kind("audit-prepared/alignment_report.json", "audit-prepared", f"run, {PAGES}", json_value("low_quality_count", value=0)),
    _kind("audit-prepared/utterances.parquet", "audit-prepared", f"run, {PAGES}", damage.rows_less),
    _kind("audit-prepared/calibration.json", "audit-prepared", f"run, {PAGES}", json_value("maps", 0, "center", 0)),
    _kind("calibration.json", "calibrate", "calibrate, audit with calibration", json_value("calibration", "maps", 0, "center", 0)),
    _kind("gate.json", "gate", f"run, gate, prepare, {PAGES}, publish", json_value("decision", value="PROCEED")),
    _kind("gate-prepared.json", "gate-prepared", f"run, {PAGES}", json_value("decision", value="PROCEED")),
    _kind("prepared/train-<shard>.parquet", "prepare", f"run, prepare, train, plan, tune-decoding, {PAGES}, export-data, "
          "export-data lhotse, export-data nemo, publish", damage.texts_reversed),
    _kind("prepared/dev-<shard>.parquet", "prepare", f"run, prepare, train, tune-decoding, {PAGES}, export-data, export-data nemo",
          damage.rows_less),
    _kind("prepared/manifest.jsonl", "prepare", f"run, prepare, train, evaluate, tune-decoding, {PAGES}", damage.line_less),
    _kind("prepared/ledger.jsonl", "prepare", f"run, prepare, {PAGES}", damage.line_less),
    _kind("prepared/summary.json", "prepare", f"run, prepare, {PAGES}, export-data, publish", json_value("utterances", "kept")),
    _kind("train/plan.json", "train", f"run, train, rounds, {PAGES}, publish", json_value("training_set", "utterances")),
    _kind("train/metrics.jsonl", "train", f"rounds, {PAGES}", line_value("loss"), HASH, "refused by pages; nothing is made from it"),
    _kind("train/dev.jsonl", "train", PAGES, line_value("wer"), HASH, "refused by pages; nothing is made from it"),
    _kind("train/events.jsonl", "train", PAGES, damage.line_more("{}"), HASH, "refused by pages; nothing is made from it"),
    _kind("train/ledger.jsonl", "train", "", damage.line_more("{}"), NOBODY, LEFT),
    _kind("train/result.json", "train", f"run, train, rounds, {PAGES}, export-adapter, publish", json_value("steps")),
    _kind("train/tensorboard/<events>", "train", "", damage.bytes_more, NOBODY, LEFT),
    _kind("train/encoder_cache/<key>/states.bin", "train", "", damage.bytes_more, NOBODY, "read within one phase of one boot alone"),
    _kind("train/encoder_cache/<key>/entries.bin", "train", "", damage.bytes_more, NOBODY, "read within one phase of one boot alone"),
    _kind("train/encoder_cache/<key>/meta.json", "train", "", json_value("boot"), NOBODY, "a cache of another boot is started anew"),
    *(
        _kind(f"{CHECKPOINT}/{name}", "train", "train --only-through, export-adapter", change, noticed, then, f"{LAST}/{name}")
        for name, change, noticed, then in (
            ("state.json", json_value("step"), "hash in its manifest", "an earlier checkpoint, or refused"),
            ("masters.safetensors", damage.one_weight, "hash in its manifest", "an earlier checkpoint, or refused"),
            ("moments.safetensors", damage.one_weight, "hash in its manifest", "an earlier checkpoint, or refused"),
            ("frozen.safetensors", damage.one_weight, "hash in its manifest", "an earlier checkpoint, or refused"),
            ("manifest.json", json_value("state.json", "bytes"), "hash in COMPLETE", "an earlier checkpoint, or refused"),
            ("COMPLETE", damage.bytes_more, "against the manifest", "an earlier checkpoint, or refused"),
        )
    ),
    *(_kind(f"train/final/{name}", "train", MODEL_READERS, change) for name, change in MODEL_FILES.items()),
    _kind("evaluate/<label>/<set>/hypotheses.jsonl", "evaluate", f"run, evaluate, compare, {PAGES}", line_value("hypothesis"),
          example="evaluate/round2/clean/hypotheses.jsonl"),
    _kind("evaluate/<label>/<set>/listing.txt", "evaluate", f"run, evaluate, compare, {PAGES}", damage.line_more("x"),
          example="evaluate/round2/clean/listing.txt"),
    _kind("evaluate/<label>/<set>/scores.json", "evaluate", f"run, evaluate, compare, rounds, {PAGES}", json_value("wer", "errors"),
          example="evaluate/round2/clean/scores.json"),
    _kind("compare.json", "compare", f"run, compare, rounds, next, {PAGES}, publish", json_value("verdict", value="reject")),
    _kind("systems.json", "compare --system", f"compare --system, {PAGES}", json_value("systems", "one", "wer", "errors")),
    _kind("tune-decoding/decoding.json", "tune-decoding", "tune-decoding", json_value("settings", 0, "wer_pct")),
    *(_kind(f"publish/model/{name}", "publish", "publish", change) for name, change in MODEL_FILES.items()),
    _kind("publish/model/README.md", "publish", "publish", damage.line_more("The best model.")),
    _kind("publish/reproduced.json", "publish", "publish", json_value("hypotheses")),
    _kind("report.html", "report", "", damage.line_more("<p>x</p>"), NOBODY, "written anew by `report` and `run`"),
    _kind(".aside/<stage>/<path>", "every stage whose inputs changed", "audit of the first look", damage.rows_less,
          "hash in its marker, once it is taken back", "made again", ".aside/audit-*/audit/utterances.parquet"),
    _kind(".aside/<stage>/.stages/<stage>.json", "every stage whose inputs changed", "audit of the first look", damage.first_hash,
          "against the files that it speaks of", "made again", ".aside/audit-*/.stages/audit.json"),
)  # fmt: skip


def kind_of(path: str) -> Kind | None:
    """The kind of a file of a run folder; None where the table has none."""
    if path.startswith(".aside/"):
        name = ".aside/<stage>/.stages/<stage>.json" if "/.stages/" in path else ".aside/<stage>/<path>"
        return next(kind for kind in KINDS if kind.name == name)
    return next((kind for kind in KINDS if re.fullmatch(kind.pattern, path)), None)


_HEAD = """# Artefacts

Every kind of file in a run folder: which stage or command writes it, which commands read it, how they notice that it is
not as it was written, and what happens then. `tests/artefacts` damages one of each kind in four ways (cut, emptied, one
bit, valid and different), runs every command that reads it, and compares with an undisturbed round. The table comes
from there (`make schemas`).

"Refused" is exit code 3 and a sentence with the file and the command that makes it again.

| artefact | written by | read by | noticed by | then |
|---|---|---|---|---|
"""


def document() -> str:
    """The text of `docs/artefacts.md`."""
    rows = (
        f"| `{kind.name}` | {kind.writer} | {', '.join(kind.readers) or 'nobody'} | {kind.noticed} | {kind.then} |"
        for kind in KINDS
    )
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
