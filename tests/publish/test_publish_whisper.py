"""A Whisper that was trained goes out for faster-whisper: checked by what it hears, and the card says so."""

import json
import shutil
from pathlib import Path

import pytest
from real_models import real_model, real_speech
from test_publish_round import write_a_run_around

from shibolet.publish.config import PublishConfig
from shibolet.recipe import load_recipe
from shibolet.records.documents.published import Reproduced
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.rounds import scoring
from shibolet.rounds.publish import do_publish
from shibolet.rounds.shared import open_round


@pytest.mark.slow("publish", seconds=120)
@pytest.mark.parametrize("layout", ["ctranslate2", "native"])
def test_a_real_whisper_is_published_and_repeats_the_evaluation(layout, tmp_path: Path):
    """Real weights, real speech, the code of the card in a process of its own."""
    model, manifest = real_model("whisper-tiny.en"), real_speech()
    rows = read_jsonl(manifest)
    rows = [{**row, "audio": str(manifest.parent / row["audio"])} for row in rows[:: len(rows) // 24][:24]]
    write_jsonl(tmp_path / "test.jsonl", rows)
    settings = [
        f"models={{base: {model}, baseline: {model}}}", "language=English", "evaluate.audit_sets=false",
        f"evaluate.sets=[{{name: an4, manifest: {tmp_path / 'test.jsonl'}}}]",
    ]  # fmt: skip
    with open_round(load_recipe("demo", settings), tmp_path / "run", "run", lambda sentence: None) as current:
        begun = [current.folder.stage(name, {}) for name in ("gate", "prepare", "train")]
        shutil.copytree(model, current.folder.final)
        write_a_run_around(current)
        for stage in begun:
            stage.finish()
        scoring.do_evaluate(current, scoring.candidates_of(current))
        scoring.do_compare(current)
        out = Path(do_publish(current, PublishConfig(to="org/name", layout=layout), force=True, upload=False))
        done = Reproduced.read(current.folder.publish / "reproduced.json")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert len(done.ids) >= 20 and done.same >= len(done.ids) - 1
    assert f"{done.same} of {len(done.ids)} hypotheses of the evaluation came out word for word" in card
    assert "The code under Use was run on the export" in card and "Converted back" not in card
    library = {"ctranslate2": "library_name: ctranslate2", "native": "library_name: transformers"}[layout]
    assert library in card and (out / "model.bin").is_file() == (layout == "ctranslate2")
    assert json.dumps(str(tmp_path)) not in card
