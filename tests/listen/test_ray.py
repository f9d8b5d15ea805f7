"""A real Ray cluster on this machine: the bytes of one process, a killed node and a killed actor, and its refusals."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import soundfile as sf

from shibolet.audit.clip import Clip
from shibolet.audit.config import AuditConfig
from shibolet.audit.hearing import Listener
from shibolet.listen.lazy import LazyListener
from shibolet.listen.open import open_executor
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.stage import run_prepare
from shibolet.recipe import load_recipe
from shibolet.records.files import write_jsonl
from shibolet.records.manifest import read_manifest
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds import teaching
from shibolet.rounds.shared import open_round
from shibolet.speech.audio import load

RATE = 16000
CONFIG = PrepareConfig(unheard="keep", dev_frac=0.1, min_duration_s=0.1, shard_utterances=8)
SMALL = {"object_store_memory": 80_000_000}


@pytest.fixture(scope="module")
def nodes() -> Iterator[list]:
    """Three nodes that hear beside a head that does not, and an address in RAY_ADDRESS."""
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    import ray
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # actors read classes of this file by its name
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
    nodes = [cluster.add_node(num_cpus=1, **SMALL) for _ in range(3)]
    patch.setenv("RAY_ADDRESS", cluster.address)
    yield [cluster, nodes]
    patch.undo()
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Thirty utterances of noise that swells, one of which is no audio."""
    (tmp_path / "audio").mkdir()
    made = []
    for i in range(30):
        path = tmp_path / "audio" / f"{i}.wav"
        t = np.arange(round((0.8 + 0.05 * i) * RATE)) / RATE
        noise = np.random.default_rng(i).standard_normal(len(t))
        sf.write(path, 0.3 * np.sin(2 * np.pi * 4 * t) ** 2 * noise, RATE)
        made.append({"id": f"u{i}", "audio": str(path), "text": "שלום עולם", "duration": len(t) / RATE})
    Path(made[7]["audio"]).write_bytes(b"RIFF")
    write_jsonl(tmp_path / "noise.jsonl", made)
    return tmp_path / "noise.jsonl"


def noise_of(manifest: Path) -> list[Utterance]:
    """The same, each of a recording of its own."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    return [
        Utterance(
            id=row["id"], audio=AudioRef(path=row["audio"]), text=row["text"], duration_s=row["duration"],
            source="noise", recording=row["id"],
        )
        for row in rows
    ]  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def audit(run_cli, manifest: Path, out_dir: Path, *more: str) -> dict[str, bytes]:
    code, _, err = run_cli(
        "audit", "demo", "-o", str(out_dir), "--set", f"data.train=[{{name: noise, manifest: {manifest}}}]",
        "--set", "evaluate.sets=[]", "--set", "audit.chunk_utterances=4", "--set", "audit.num_workers=0",
        "--set", "audit.selftest.num_clips=10", "--set", "audit.sample={shares: {}}", *more,
    )  # fmt: skip
    assert code in (10, 20, 30, 0), err
    found = files_of(out_dir / "audit")
    return {name: content for name, content in found.items() if name.endswith((".json", ".jsonl", ".parquet"))}


@pytest.mark.slow("listen", seconds=90)
def test_an_audit_on_a_cluster_leaves_the_files_of_one_machine(nodes, run_cli, manifest: Path, tmp_path: Path) -> None:
    """Nobody could say which rows of a corpus were heard otherwise."""
    one = audit(run_cli, manifest, tmp_path / "one")
    assert {"alignment_report.json", "utterances.parquet"} <= set(one) and sum("heard" in name for name in one) > 5
    assert audit(run_cli, manifest, tmp_path / "cluster", "--on", "ray") == one


@pytest.mark.slow("listen", seconds=60)
def test_scores_of_a_cluster_are_those_of_one_machine(nodes, run_cli, manifest: Path, tmp_path: Path) -> None:
    command = ["evaluate", "--model", "builtin:round1", "--manifest", str(manifest), "--language", "Hebrew", "--json"]
    code, one, err = run_cli(*command, "-o", str(tmp_path / "one"))
    assert code == 0, err
    code, found, err = run_cli(*command, "-o", str(tmp_path / "cluster"), "--on", "ray")
    assert (code, found) == (0, one), err
    assert files_of(tmp_path / "cluster") == files_of(tmp_path / "one")


@pytest.mark.slow("listen", seconds=60)
def test_transcripts_of_a_folder_on_a_cluster_are_those_of_one_machine(
    nodes, run_cli, manifest: Path, tmp_path: Path, monkeypatch
) -> None:
    """Each node hears whole groups of recordings: an order, a broken file or its exit code could get lost between."""
    monkeypatch.setattr("shibolet.listen.recordings.GROUP_S", 4.0)  # 60 short clips are about twenty groups
    shutil.copytree(manifest.parent / "audio", manifest.parent / "audio" / "again")
    command = ["transcribe", str(manifest.parent / "audio"), "--model", "builtin:round1", "--language", "Hebrew"]
    command += ["--format", "jsonl", "--aligner", "builtin:aligner", "--out"]
    code, _, told = run_cli(*command, str(tmp_path / "one"))
    assert code == 3 and "audio/7.wav" in told and "again/7.wav" in told
    code, _, err = run_cli(*command, str(tmp_path / "cluster"), "--on", "ray")
    assert code == 3 and "audio/7.wav" in err and "again/7.wav" in err, err
    one = files_of(tmp_path / "one")
    assert len(one) == 58 and "7.jsonl" not in one and sum(b'"words"' in content for content in one.values()) > 5
    assert files_of(tmp_path / "cluster") == one


@pytest.mark.slow("listen", seconds=60)
def test_prepared_data_of_a_cluster_are_those_of_one_machine_though_a_node_is_killed(
    nodes, manifest: Path, tmp_path: Path, monkeypatch, capfd
) -> None:
    """Shards lie on the machine that asked, rows in the order of the list: which node encoded a row shows nowhere.

    Ray tells of a lost node on the standard output, where a command may be writing transcripts.
    """
    cluster, alive = nodes
    monkeypatch.setattr("shibolet.prepare.processes.CHUNK_UTTERANCES", 2)
    prepare = partial(run_prepare, noise_of(manifest), {}, config=CONFIG, language="he", seed=0)
    prepare(out_dir=tmp_path / "one")
    with closing(open_executor("ray", num_threads=1)) as executor:

        def kill(done: int, total: int) -> None:
            if len(alive) == 3 and done:
                cluster.remove_node(alive.pop(), allow_graceful=False)

        monkeypatch.setattr("shibolet.prepare.stage.PROGRESS_UTTERANCES", 4)
        made = prepare(out_dir=tmp_path / "cluster", decoders=executor.share(1), executor=executor, on_progress=kill)
        sleep(3.0)  # it takes so long to tell
    assert capfd.readouterr().out == ""
    assert len(alive) == 2 and made.dropped_by_rule["undecodable"].utterances == 1
    one = files_of(tmp_path / "one")
    assert len(one) >= 6 and files_of(tmp_path / "cluster") == one
    alive.append(cluster.add_node(num_cpus=1, **SMALL))


@pytest.mark.slow("listen", seconds=40)
def test_what_a_teacher_writes_on_a_cluster_is_what_it_writes_on_one_machine(
    nodes, manifest: Path, tmp_path: Path
) -> None:
    """It hears rows of shards in the run folder, and no files of the corpus."""
    run_prepare(noise_of(manifest), {}, config=CONFIG, language="he", seed=0, out_dir=tmp_path / "prepared")
    train = [u for u in read_manifest(tmp_path / "prepared" / "manifest.jsonl") if "train-" in u.audio.path]
    for name, on in (("one", None), ("cluster", "ray")):
        with open_round(load_recipe("demo"), tmp_path / f"run-{name}", "train", lambda sentence: None) as current:
            current.on = on
            texts, _ = teaching._written(current, "builtin:round1", train, tmp_path / name)
        assert len(texts) == len(train) > 20 and sum(map(bool, texts.values())) > 5
    one = files_of(tmp_path / "one")
    assert len(one) > 1 and files_of(tmp_path / "cluster") == one


class Fatal:
    """Ends its process when it hears a clip of so many samples; notes where it heard."""

    identity = "fatal"

    def __init__(self, notes: Path, num_samples: int) -> None:
        self.notes, self.num_samples = notes, num_samples

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list:
        from shibolet.listen.protocols import Hearing

        (self.notes / f"heard-{os.getpid()}").touch()
        if self.num_samples in map(len, clips):
            (self.notes / f"died-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [Hearing(hypothesis=" ".join(said), text_score=-0.1) for said in words]


def clips_in(folder: Path, num: int) -> list[Clip]:
    clips = []
    for i in range(num):
        path = folder / f"{i}.wav"
        samples = 0.1 * np.random.default_rng(i).standard_normal(4000 + 10 * i)
        sf.write(path, samples, RATE)
        clips.append(
            Clip(key=f"u{i}", audio=AudioRef(path=str(path)), words=("שלום",), verifiable=(True,),
                 duration_s=len(samples) / RATE)
        )  # fmt: skip
    return clips


@pytest.mark.slow("listen", seconds=90)
def test_a_clip_that_kills_its_actor_is_given_up_alone_and_a_killed_node_costs_nothing(nodes, tmp_path: Path) -> None:
    cluster, alive = nodes
    (notes := tmp_path / "notes").mkdir()
    clips = clips_in(tmp_path, 60)
    config = AuditConfig(aligner=None, recogniser="-", chunk_utterances=4, num_workers=0)
    with closing(open_executor("ray", num_threads=1)) as executor:
        ears = LazyListener("fatal", partial(Fatal, notes, 4000 + 10 * 30))
        listener = Listener(None, ears, tmp_path / "heard", load, config, "Hebrew", executor)
        killed: list[int] = []

        def kill(done: int, total: int) -> None:
            if done > 10 and not killed:
                killed.append(done)
                cluster.remove_node(alive.pop(), allow_graceful=False)

        found = listener.hear(clips, kill)
        assert killed and [key for key, one in found.items() if one.failure] == ["u30"] and listener.num_lost == 1
        assert found["u30"].failure == "listener_crashed" and len(found) == 60
        assert len(list(notes.glob("died-*"))) >= 5
        assert os.getpid() not in {int(path.name.split("-")[1]) for path in notes.iterdir()}
    alive.append(cluster.add_node(num_cpus=1, **SMALL))


def test_without_ray_or_a_cluster_the_command_says_what_to_do(run_cli, tmp_path: Path, monkeypatch) -> None:
    """A traceback of another package says nothing to who reads it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    sf.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    command = ["transcribe", str(tmp_path / "a.wav"), "--model", "builtin:round1", "--language", "Hebrew"]
    code, _, err = run_cli(*command, "--on", "ray")
    assert code == 2 and "--on ray needs Ray: pip install 'shibolet[cluster]'" in err
    code, _, err = run_cli(*command, "--on", "slurm")
    assert code == 2 and "--on slurm: expected ray, or ray://HOST:PORT" in err
    code, _, err = run_cli("transcribe", str(tmp_path / "a.wav"), "--server", "http://localhost:1", "--on", "ray")
    assert code == 2 and "leave one of them out" in err
