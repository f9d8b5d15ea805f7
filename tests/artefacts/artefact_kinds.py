"""Every kind of artefact of a round, from the table of `docs/artefacts.md`, and how each is made a valid other one.

Names in brackets, such as <set>, stand for what differs from round to round.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import artefact_damage as damage
from artefact_damage import Change, json_value, line_value

DOCUMENT = Path(__file__).parents[2] / "docs" / "artefacts.md"
MODEL_FILES: dict[str, Change] = {
    "model.safetensors": damage.one_weight,
    "config.json": json_value("audio_config", "encoder_layers", value=5),
    "generation_config.json": json_value("eos_token_id", value=[0]),
    "tokenizer.json": json_value("model", "vocab", "!", value=1),
    "tokenizer_config.json": json_value("model_max_length", value=3),
    "processor_config.json": json_value("feature_extractor", "n_fft", value=512),
    "chat_template.jinja": damage.line_more("{{ 1 }}"),
}
CHANGES: dict[str, Change] = {
    "recipe.yaml": damage.line_more("title: Round 9"),
    "provenance.json": json_value("starts", 0, "command", value="train"),
    ".lock": damage.line_more("x"),
    "audit/alignment_report.json": json_value("low_quality_count", value=0),
    "audit/utterances.parquet": damage.rows_less,
    "audit/calibration.json": json_value("maps", 0, "center", 0),
    "audit/rest.parquet": damage.texts_reversed,
    "audit/review.jsonl": line_value("verdict", "bad"),
    "audit/extended.json": json_value("sizes", 0, value=30),
    "audit/audit.html": damage.line_more("<p>x</p>"),
    "audit/sounds.jsonl": line_value("wave"),
    "audit/heard/<listeners>/<clips>.jsonl": damage.evidence_text,
    "audit/heard/window-<recogniser>.json": json_value("window_s", value=9.0),
    "audit-prepared/alignment_report.json": json_value("low_quality_count", value=0),
    "audit-prepared/utterances.parquet": damage.rows_less,
    "audit-prepared/calibration.json": json_value("maps", 0, "center", 0),
    "calibration.json": json_value("calibration", "maps", 0, "center", 0),
    "gate.json": json_value("decision", value="PROCEED"),
    "gate-prepared.json": json_value("decision", value="PROCEED"),
    "prepared/train-<shard>.parquet": damage.texts_reversed,
    "prepared/dev-<shard>.parquet": damage.rows_less,
    "prepared/manifest.jsonl": damage.line_less,
    "prepared/ledger.jsonl": damage.line_less,
    "prepared/summary.json": json_value("utterances", "kept"),
    "train/plan.json": json_value("training_set", "utterances"),
    "train/metrics.jsonl": line_value("loss"),
    "train/dev.jsonl": line_value("wer"),
    "train/events.jsonl": damage.line_more("{}"),
    "train/ledger.jsonl": damage.line_more("{}"),
    "train/result.json": json_value("steps"),
    "train/encoder_cache/<key>/states.bin": damage.bytes_more,
    "train/encoder_cache/<key>/entries.bin": damage.bytes_more,
    "train/encoder_cache/<key>/meta.json": json_value("boot"),
    "train/checkpoints/<step>/state.json": json_value("step"),
    "train/checkpoints/<step>/masters.safetensors": damage.one_weight,
    "train/checkpoints/<step>/moments.safetensors": damage.one_weight,
    "train/checkpoints/<step>/frozen.safetensors": damage.one_weight,
    "train/checkpoints/<step>/manifest.json": json_value("state.json", "bytes"),
    "train/checkpoints/<step>/COMPLETE": damage.bytes_more,
    **{f"train/final/{name}": change for name, change in MODEL_FILES.items()},
    "evaluate/<label>/<set>/hypotheses.jsonl": line_value("hypothesis"),
    "evaluate/<label>/<set>/listing.txt": damage.line_more("x"),
    "evaluate/<label>/<set>/scores.json": json_value("wer", "errors"),
    "audit-sets/<set>/utterances.parquet": damage.rows_less,
    "non-speech/<label>/non_speech.json": json_value("clips", 0, "words"),
    "doubtful/<label>/<set>/doubtful.json": json_value("judged"),
    "compare.json": json_value("verdict", value="reject"),
    "systems.json": json_value("systems", "one", "wer", "errors"),
    "ngram/ngram.arpa": damage.bytes_more,
    "ngram/ngram.json": json_value("texts"),
    "waterfall.json": json_value("systems", "one", "wer", "errors"),
    "robustness/robustness.json": json_value("points", 0, "block", "utterances"),
    "robustness/<label>/<dose>/<set>/hypotheses.jsonl": line_value("hypothesis"),
    "robustness/<label>/<dose>/<set>/listing.txt": damage.line_more("x"),
    "robustness/<label>/<dose>/<set>/scores.json": json_value("wer", "errors"),
    "tune-decoding/decoding.json": json_value("settings", 0, "wer_pct"),
    **{f"publish/model/{name}": change for name, change in MODEL_FILES.items()},
    "publish/model/README.md": damage.line_more("The best model."),
    "publish/reproduced.json": json_value("words"),
    "tracking/tensorboard/<events>": damage.bytes_more,
    "tracking/tensorboard.json": json_value("lines"),
    "timings.jsonl": line_value("seconds"),
    "report.html": damage.line_more("<p>x</p>"),
    ".aside/<stage>/<path>": damage.rows_less,
    ".aside/<stage>/.stages/<stage>.json": damage.first_hash,
}
# Where the tiny round has several files of a kind: which of them is damaged.
EXAMPLES = {
    ".stages/evaluate/<label>/<set>.json": ".stages/evaluate/round2/clean.json",
    "evaluate/<label>/<set>/hypotheses.jsonl": "evaluate/round2/clean/hypotheses.jsonl",
    "evaluate/<label>/<set>/listing.txt": "evaluate/round2/clean/listing.txt",
    "evaluate/<label>/<set>/scores.json": "evaluate/round2/clean/scores.json",
    ".stages/non-speech/<label>.json": ".stages/non-speech/round2.json",
    "non-speech/<label>/non_speech.json": "non-speech/round2/non_speech.json",
    ".stages/doubtful/<label>/<set>.json": ".stages/doubtful/round2/clean.json",
    "doubtful/<label>/<set>/doubtful.json": "doubtful/round2/clean/doubtful.json",
    ".aside/<stage>/<path>": ".aside/audit-*/audit/utterances.parquet",
    ".aside/<stage>/.stages/<stage>.json": ".aside/audit-*/.stages/audit.json",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A row of the table: one kind of file in a run folder."""

    name: str  # its path, with <...> for what differs
    readers: tuple[str, ...]  # names in `artefact_commands.COMMANDS`; none: nobody reads it

    @property
    def change(self) -> Change:
        return damage.first_hash if self.name.startswith(".stages/") else CHANGES[self.name]

    @property
    def ways(self) -> tuple[str, ...]:
        """How it is damaged; of the files of a model, which are hashed alike, all but the weights in one way."""
        is_alike = self.name.startswith(("train/final/", "publish/model/")) and not self.name.endswith(".safetensors")
        return ("different",) if is_alike else damage.WAYS

    @property
    def example(self) -> str:
        """Its files in the tiny round, as a glob; of several the last is damaged."""
        return EXAMPLES.get(self.name) or re.sub("<[a-z]+>", "*", self.name.replace("<step>", "step-00000004"))

    def is_of(self, path: str) -> bool:
        """Whether a file of a run folder is of this kind."""
        return re.fullmatch(re.sub(r"<[a-z]+>", "[^/]+", re.escape(self.name)), path) is not None


def _kinds() -> tuple[Kind, ...]:
    """The rows of the table, in its order."""
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return tuple(Kind(name=name, readers=() if by == "nobody" else tuple(by.split(", "))) for name, _, by in rows)


KINDS = _kinds()


def kind_of(path: str) -> Kind | None:
    """The kind of a file of a run folder; None where the table has none."""
    if path.startswith(".aside/"):
        name = ".aside/<stage>/.stages/<stage>.json" if "/.stages/" in path else ".aside/<stage>/<path>"
        return next(kind for kind in KINDS if kind.name == name)
    return next((kind for kind in KINDS if kind.is_of(path)), None)
