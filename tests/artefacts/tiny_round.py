"""The smallest real round with every kind of artefact: made by the commands, from a corpus of the demo's speech.

`<base>/run` is the run folder with the data in `corpus/`, `<base>/tiny.yaml` the recipe, and `<base>/next.yaml` that of
the round after it. A copy of `<base>` is the same round: paths in the recipe and in the folder are relative.
"""

import io
import json
import logging
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import yaml

from shibolet import cli
from shibolet.demo.corpus import CorpusConfig, build_corpus
from shibolet.model.cut import cut
from shibolet.records.files import read_jsonl, write_jsonl

LOW, HIGH = 1, 3  # the gate's lines, in percent: the damage of the raw data is over both, what is kept is no proof
FEW_DOSES = "robustness={noises: [], bitrate_kbps: [8], packet_loss_pct: [], utterances_per_set: 4}"
# A first look at half of the data, which the gate cannot decide on: `--extend` then asks for more.
FIRST_LOOK = ("gate.proceed_below_pct=1", "gate.stop_above_pct=15")
RECIPE = {
    "name": "tiny",
    "language": "Hebrew",
    "num_threads": 1,
    "models": {"base": "builtin:round1", "baseline": "builtin:round1"},
    "data": {"train": [{"name": "synthetic", "manifest": "run/corpus/train/manifest.jsonl"}]},
    "audit": {
        "aligner": "builtin:aligner",
        "recogniser": "builtin:ctc",
        "sample": {"sample_frac": 0.5, "min_utterances": 20, "shares": {"clean": 0.5, "whatsapp": 0.5}},
        "selftest": {"num_clips": 10},
        "aligner_max_s": 4,
        "chunk_utterances": 48,
        "num_workers": 0,
    },
    "calibrate": {"max_utterances": 40, "copies_per_row": 20},
    "gate": {
        "proceed_below_pct": LOW,
        "stop_above_pct": HIGH,
        "min_selftest_recall": 0.0,
        "max_harmless_changed_frac": 1.0,
        "on_stop": "repair",
    },
    "prepare": {"dev_frac": 0.2},
    "train": {
        "phases": [
            {"name": "B", "num_epochs": 1, "lr_by_part": {"projector": 5e-4, "lora": 5e-4}},
            {"name": "A", "num_epochs": 1, "lr_by_part": {"encoder.layers[0:6]": 3e-4, "lora": 2e-4}},
        ],
        "lora": {"part": "decoder.layers[0:2]", "rank": 4, "alpha": 8},
        "utterances_per_step": 16,
        "precision": "fp32",
        "eval_every_steps": 2,
        "checkpoint_every_steps": 2,
        "encoder_cache": True,
    },
    "evaluate": {
        "max_new_tokens_per_s": 15.0,
        "sets": [
            {"name": "clean", "manifest": "run/corpus/test_clean/manifest.jsonl"},
            {"name": "whatsapp", "manifest": "run/corpus/test_whatsapp/manifest.jsonl"},
        ],
    },
    "compare": {"bootstrap_samples": 100, "keep_below_points": 100.0, "loop_cost": 0.0},
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return f"{self.out}\n{self.err}"


def shibolet(*args: str | Path) -> Answer:
    """Run a command in this process; its log is on its error output, as in a terminal."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    log = logging.StreamHandler(err)
    sys.argv = ["shibolet", *map(str, args)]
    logging.getLogger("shibolet").addHandler(log)
    code = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code or 0
    except Exception as error:  # what `main` lets through ends the real command with a traceback and 1
        code = 1
        err.write(f"Traceback: {type(error).__name__}: {error}\n")
    finally:
        sys.argv = before
        logging.getLogger("shibolet").removeHandler(log)
    return Answer(code, out.getvalue(), err.getvalue())


def must(*args: str | Path, codes: Sequence[int] = (0,)) -> Answer:
    """Run a command that has to end with one of these codes."""
    answer = shibolet(*args)
    assert answer.code in codes, f"{args}: {answer}"
    return answer


def write_corpus(base: Path, num_train: int, num_test: int, **changes: dict) -> Path:
    """The corpus and the recipe, with other sections than `RECIPE` has, and where the recipe is."""
    size = CorpusConfig(num_train=num_train, num_long=1, num_test=num_test, recording_utterances=2)
    build_corpus(base / "run" / "corpus", 3, size)
    path = base / "tiny.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}, sort_keys=False), encoding="utf-8")
    return path


def build_round(base: Path) -> None:
    """From audit to report, no more; nobody listens, so it takes seconds."""
    heard = base / "heard.jsonl"
    audit = {"aligner": None, "recogniser": str(heard), "selftest": {"num_clips": 10}, "num_workers": 0}
    recipe = write_corpus(base, 24, 3, audit=audit, gate={"stop_above_pct": 100, "accept": ["INVALID"]})
    rows = read_jsonl(base / "run" / "corpus" / "train" / "manifest.jsonl")
    write_jsonl(heard, [{"id": row["id"], "hypothesis": row["text"]} for row in rows])
    must("run", recipe, "-o", base / "run", codes=(0, 40))


def build_taught_round(base: Path) -> None:
    """A student that learns from a teacher and its texts, with data that are replayed, and with texts by machines."""
    cut("builtin:round1", base / "student", decoder=3)
    free = CorpusConfig(num_train=12, num_long=0, num_test=1, recording_utterances=2, damaged_frac=0.0)
    build_corpus(base / "run" / "corpus" / "more", 5, free)
    rows = read_jsonl(base / "run" / "corpus" / "more" / "train" / "manifest.jsonl")
    for name, own in (("free", rows[:6]), ("replayed", rows[6:])):
        write_jsonl(base / "run" / "corpus" / "more" / "train" / f"{name}.jsonl", own)
    more = "run/corpus/more/train"
    phase = {"name": "T", "num_epochs": 1, "lr_by_part": {"projector": 1e-5}, "objective": "distil"}
    recipe = write_corpus(
        base, 60, 3,
        models={"base": "./student", "baseline": "./student", "teacher": "builtin:round1"},
        data={
            **RECIPE["data"], "unlabelled": [{"name": "free", "manifest": f"{more}/free.jsonl"}],
            "replay": {"share": 0.25, "sources": [{"name": "other", "manifest": f"{more}/replayed.jsonl"}]},
        },
        audit={
            **{key: value for key, value in RECIPE["audit"].items() if key != "aligner_max_s"}, "aligner": None,
            "sample": {"sample_frac": 1.0},
        },
        gate={**RECIPE["gate"], "proceed_below_pct": 50, "stop_above_pct": 90, "on_stop": "stop"},
        label={"writer": "builtin:round1", "max_false_accept_pct": 45, "calibration_clips": 40, "max_wer": 0.5,
               "flagged": True},
        train={
            **RECIPE["train"], "phases": [phase], "lora": None, "encoder_cache": False,
            "distil": {"texts": True, "top_k": 4},
        },
        evaluate={**RECIPE["evaluate"], "audit_sets": False, "non_speech": None, "dev_utterances": 8},
    )  # fmt: skip
    must("run", recipe, "-o", base / "run", codes=(0, 40))


def build_full_round(base: Path) -> None:
    """The same with all that a person may ask for beside it."""
    recipe, run = write_corpus(base, 44, 6), base / "run"
    first_look = [word for change in FIRST_LOOK for word in ("--set", change)]
    must("audit", recipe, "-o", run, "--shard", "1/2")
    must("audit", recipe, "-o", run, *first_look, codes=(10,))
    must("audit", recipe, "-o", run, *first_look, "--extend", codes=(0, 10, 20))
    review(base)
    must("audit", recipe, "-o", run, "--review", base / "saved.jsonl", codes=(20,))
    must("run", recipe, "-o", run, codes=(0, 40))
    clean = base / "run" / "corpus" / "train" / "manifest.jsonl"
    must("calibrate", recipe, "-o", run, "--clean", clean)
    must("ngram", recipe, "-o", run)
    must("tune-decoding", recipe, "-o", run, "--beam-size", "2", "--length-penalty", "1", "--mbr-samples", "2")
    other_systems(base)
    given = [f"{name}={base / name}.jsonl" for name in ("one", "two")]
    must("evaluate", recipe, "-o", run, "--hypotheses", given[0], "--hypotheses", given[1])
    must("compare", recipe, "-o", run, "--system", "one", "--system", "two")
    must("compare", recipe, "-o", run, "--chain", "two", "--chain", "one")
    must("robustness", recipe, "-o", run, "--set", FEW_DOSES)
    must("publish", run, "--to", "org/name", "--no-upload")
    must("next", run, "--out", base / "next.yaml")
    must("report", run)


def review(base: Path) -> None:
    """A person's verdicts on ten utterances of the page, as the page saves them."""
    page = (base / "run" / "audit" / "audit.html").read_text(encoding="utf-8")
    rows = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])["rows"]
    answers = [{"id": row["id"], "verdict": "bad" if row["low"] else "good", "text": row["text"]} for row in rows[:10]]
    write_jsonl(base / "saved.jsonl", answers)


def other_systems(base: Path) -> None:
    """Hypotheses of two systems: one drops a word, the other two."""
    rows = [
        row
        for name in ("clean", "whatsapp")
        for row in read_jsonl(base / "run" / "corpus" / f"test_{name}/manifest.jsonl")
    ]
    for name, dropped in (("one", 1), ("two", 2)):
        lines = [{"id": row["id"], "hypothesis": " ".join(row["text"].split()[dropped:])} for row in rows]
        write_jsonl(base / f"{name}.jsonl", lines)
