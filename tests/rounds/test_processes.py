"""A round on several processes, with the models that ship: bytes of one process in audit, scores and transcripts."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from shibolet.audit.material import clips_of
from shibolet.listen.executor import Here, Processes
from shibolet.model.folders import best_device
from shibolet.recipe import load_recipe
from shibolet.records.candidate import Candidate, Model, named
from shibolet.records.files import write_jsonl
from shibolet.rounds import auditing, scoring
from shibolet.rounds.shared import open_round

RATE = 16000
pytestmark = pytest.mark.slow("listen", seconds=25)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A dozen utterances of noise that swells: what the models make of it is the same nonsense every time."""
    made = []
    for i in range(12):
        rng, path = np.random.default_rng(i), tmp_path / "audio" / f"{i}.flac"
        path.parent.mkdir(exist_ok=True)
        t = np.arange(round((1.0 + 0.21 * i) * RATE)) / RATE
        sf.write(path, 0.3 * np.sin(2 * np.pi * 4 * t) ** 2 * rng.standard_normal(len(t)), RATE)
        made.append({"id": f"u{i}", "audio": str(path), "text": "שלום עולם"})
    write_jsonl(tmp_path / "noise.jsonl", made)
    return tmp_path / "noise.jsonl"


def everything_heard(manifest: Path, out_dir: Path, executor) -> dict[str, bytes]:
    """Files that an audit's hearing and an evaluation with a round's settings leave."""
    sets = f"evaluate.sets=[{{name: noise, manifest: {manifest}}}]"
    changes = [
        f"data.train=[{{name: noise, manifest: {manifest}}}]", sets, "audit.chunk_utterances=3", "audit.num_workers=0",
        "evaluate.batch_utterances=3",
    ]  # fmt: skip
    with open_round(load_recipe("demo", changes), out_dir, "run", lambda sentence: None) as current:
        current._executor = executor
        assert best_device() == "cpu"
        clips, wordless = clips_of(current.data.utterances, "Hebrew")
        heard = auditing.listener_of(current).hear(clips)
        assert len(heard) == 12 and not wordless and not any(heard[key].failure for key in heard)
        scoring.do_evaluate(current, [Candidate(named("Round 1"), Model("builtin:round1"))])
        folders = (current.folder.audit() / "heard", current.folder.evaluation("round1", "noise"))
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        found = {str(path.relative_to(out_dir)): path.read_bytes() for path in files}
        assert current.make_way() == 0 and not any(peer._child for peer in getattr(executor, "_peers", ()))
        return found


def test_a_round_on_several_processes_has_the_bytes_of_one(manifest: Path, tmp_path: Path) -> None:
    one = everything_heard(manifest, tmp_path / "one", Here())
    assert {"hypotheses.jsonl", "scores.json"} <= {Path(name).name for name in one} and len(one) >= 4 + 3
    for num in (2, 3):
        several = Processes([{}] * num, num_threads=1)  # the demo's
        assert everything_heard(manifest, tmp_path / f"by-{num}", several) == one


def test_transcripts_of_several_processes_are_those_of_one(manifest: Path, tmp_path, run_cli, monkeypatch) -> None:
    import torch

    args = [
        "transcribe", str(manifest.parent / "audio"), "--model", "builtin:round1", "--aligner", "builtin:aligner",
        "--format", "json", "--batch", "3", "--language", "Hebrew",
    ]  # fmt: skip
    code, one, _ = run_cli(*args)
    assert code == 0 and one.count('"start_s"') >= 12
    with closing(Processes([{}] * 2, num_threads=torch.get_num_threads())) as two:
        monkeypatch.setattr("shibolet.listen.executor.local_executor", lambda *_: two)
        code, found, err = run_cli(*args)
    assert (code, found) == (0, one), err
