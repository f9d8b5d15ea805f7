"""Models of a round: protects from loading or hashing one twice, and from a background that hides an error."""

import shutil
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import soundfile as sf
from audit_documents import gate_verdict

from shibolet.errors import DataError, ModelError
from shibolet.listen import open as opening
from shibolet.listen.executor import Processes
from shibolet.listen.lazy import Lazy
from shibolet.listen.open import open_recogniser, open_transcriber
from shibolet.model import family
from shibolet.model.fast.first_use import use_libraries
from shibolet.model.folders import resolve
from shibolet.recipe import load_recipe
from shibolet.records import files
from shibolet.records.candidate import Candidate, Model, named
from shibolet.records.files import write_jsonl
from shibolet.records.runfolder import RunFolder
from shibolet.rounds import auditing, doubting, flow, scoring, stages
from shibolet.rounds.shared import Round, open_round
from shibolet.train import launch

RATE = 16000


@pytest.fixture
def opened(tmp_path: Path, monkeypatch):
    """Opens a round on a dozen utterances of noise, whose recogniser is its baseline too."""
    made = []
    for i in range(12):
        rng, path = np.random.default_rng(i), tmp_path / "audio" / f"{i}.flac"
        path.parent.mkdir(exist_ok=True)
        sf.write(path, 0.1 * rng.standard_normal(RATE + 2000 * i), RATE)
        made.append({"id": f"u{i}", "audio": str(path), "text": "שלום עולם"})
    write_jsonl(tmp_path / "noise.jsonl", made)
    monkeypatch.setattr(opening, "_KEPT", {})

    def open_it(*changes: str):
        data = f"[{{name: noise, manifest: {tmp_path / 'noise.jsonl'}}}]"
        settings = [
            f"data.train={data}", f"evaluate.sets={data}", "audit.recogniser=builtin:round1", "audit.num_workers=0",
            "audit.selftest.num_clips=10",
        ]  # fmt: skip
        return open_round(load_recipe("demo", [*settings, *changes]), tmp_path / "run", "run", lambda sentence: None)

    return open_it


@pytest.fixture
def loads(monkeypatch) -> Counter:
    """How often each model was loaded to hear or transcribe."""
    counts = Counter()

    def counted(load):
        def and_count(name: str, **settings):
            counts[name] += 1
            return load(name, **settings)

        return and_count

    for function in ("load_recogniser", "load_aligner"):
        monkeypatch.setattr(family, function, counted(getattr(family, function)))
    return counts


@pytest.mark.slow("listen", seconds=5)
def test_from_audit_to_evaluation_each_model_is_hashed_once_and_loaded_once(opened, loads, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_KEPT_BYTES", 100_000)
    monkeypatch.setattr(files, "_SETTLED_S", -1.0)
    monkeypatch.setattr(doubting, "_why_not", lambda current: None)  # of noise nobody can judge
    hashed, real = Counter(), files._digest
    monkeypatch.setattr(files, "_digest", lambda file: hashed.update([Path(file.name)]) or real(file))
    with opened() as current:
        auditing.do_audit(current)
        auditing.do_gate(current)
        assert loads == {"builtin:aligner": 1, "builtin:round1": 1}
        found = scoring.do_evaluate(current, [Candidate(named("Round 1"), Model("builtin:round1"))])
    assert found["round1"]["noise"].wer.words == 24 and current.folder.finished("audit-sets/noise")
    assert loads == {"builtin:aligner": 1, "builtin:round1": 1}
    weights = {path: count for path, count in hashed.items() if path.suffix == ".safetensors"}
    assert len(weights) == 2 and set(weights.values()) == {1}
    with opened() as current:
        auditing.do_audit(current)
        assert loads.total() == 2 and current._loading is None  # a stage that is done loads nothing


def test_another_model_takes_the_place_of_the_one_that_was_open(opened, loads, tmp_path):
    """Two of them may not fit on one GPU."""
    shutil.copytree(resolve("builtin:round1"), tmp_path / "same")
    shutil.copytree(resolve("builtin:round1"), tmp_path / "other")
    (tmp_path / "other" / "vocab.txt").write_text("changed")
    names = ["builtin:round1", str(tmp_path / "same"), str(tmp_path / "other"), "builtin:round1"]
    with opened() as current:
        transcribers = [current.transcriber(name, "round1", "Hebrew") for name in names]
        assert len({one.identity for one in transcribers}) == 2 and len(opening._KEPT) == 1
        assert loads == {"builtin:round1": 2, names[2]: 1}
        current.make_way()
        assert not opening._KEPT


@dataclass(frozen=True)
class Mark:
    """The work: open a model, say whether it was marked before, and mark it."""

    opens: Lazy
    at_once = 1

    @contextmanager
    def open(self):
        self.opens.get()
        [loaded] = opening._KEPT.values()
        was_marked = hasattr(loaded.model, "marked")
        loaded.model.marked = True
        yield lambda chunk: was_marked


@pytest.mark.slow("listen", seconds=12)
def test_a_process_that_heard_transcribes_with_the_same_model():
    """The work that heard is closed first: the aligner's memory is free then."""
    hear, write = (Lazy(partial(one, "builtin:round1", "Hebrew")) for one in (open_recogniser, open_transcriber))
    with closing(Processes([{}], num_threads=1)) as process:
        assert [list(process.map(Mark(opens), [0])) for opens in (hear, write)] == [[False], [True]]


def test_models_are_loaded_while_data_are_read(opened, monkeypatch):
    """And what is wrong with the data is said without waiting for them."""
    loaded, load = Event(), family.load_recogniser

    def and_say_so(*args, **settings):
        found = load(*args, **settings)
        loaded.set()
        return found

    def read_once_loaded(self, source):
        assert self.decoders._threads, "what decodes starts with the models"
        assert loaded.wait(60)
        assert self.executor.decoders(0) is self.decoders
        raise DataError("there are none")

    monkeypatch.setattr(family, "load_recogniser", and_say_so)
    monkeypatch.setattr(Round, "read", read_once_loaded)
    with pytest.raises(DataError, match="there are none"), opened() as current:
        auditing.do_audit(current)
    current._loading.get()


def test_libraries_are_imported_while_models_are_hashed(opened, loads, monkeypatch):
    """Both take seconds, and a model is loaded once both are done."""
    imported, names = Event(), []

    def hash_once_imported(name):
        assert imported.wait(60) and not loads
        return "0" * 16

    def and_say_so(name):
        names.append(name)
        if len(names) == 2:
            imported.set()

    def read(self, source):
        self._loading.get()
        raise DataError("there are none")

    monkeypatch.setattr(opening, "listener_identity", hash_once_imported)
    monkeypatch.setattr(opening, "import_opener", and_say_so)
    monkeypatch.setattr(Round, "read", read)
    with pytest.raises(DataError, match="there are none"), opened() as current:
        auditing.do_audit(current)
    assert names == ["builtin:aligner", "builtin:round1"] == sorted(loads)


@pytest.mark.parametrize("broken", ["no weights", "not there", "cut"])
def test_what_fails_in_the_background_is_said_as_it_always_was(opened, tmp_path, broken):
    folder = tmp_path / "model"
    if broken != "not there":
        shutil.copytree(resolve("builtin:round1"), folder)
    if broken == "no weights":
        (folder / "model.safetensors").unlink()
    if broken == "cut":
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(1000)
    with pytest.raises(ModelError) as plain:
        open_recogniser(str(folder), "Hebrew")
    with pytest.raises(ModelError) as caught, opened(f"audit.recogniser={folder}") as current:
        auditing.do_audit(current)
    assert str(caught.value) == str(plain.value)


def test_weights_are_read_ahead_as_far_as_they_are_there(opened, monkeypatch, tmp_path):
    """Nothing is downloaded, and a model that is missing is for the stage that needs it to say."""
    read = []
    real = files.read_through
    monkeypatch.setattr("shibolet.rounds.models.read_through", lambda path: read.append(path) or real(path))
    (tmp_path / "empty").mkdir()
    with opened() as current:
        current.read_ahead(
            "org/on-the-hub", "no/id/at/all", None, str(tmp_path / "empty"), "builtin:round1", "builtin:round1"
        ).wait()
    assert read == [resolve("builtin:round1") / "model.safetensors"]


@pytest.mark.parametrize(
    ("num_workers", "gpus", "is_done", "begun"),
    [
        (2, 1, False, ["workers"]), (0, 1, False, []), (2, 1, True, []),
        (2, 2, False, ["2 ranks with workers"]), (0, 2, False, ["2 ranks"]), (2, 2, True, []),
    ],
)  # fmt: skip
def test_a_training_loads_its_libraries_while_data_are_prepared(opened, monkeypatch, num_workers, gpus, is_done, begun):
    """Ranks in processes of their own have workers of their own, and a training that was done needs nothing."""
    done = []

    class StubRanks:
        are_alive = True

        def __init__(self, num_ranks, get_ready) -> None:
            done.append(f"{num_ranks} ranks" + " with workers" * get_ready.args[1])

        def close(self) -> None:
            done.append("closed")

    def prepare(current, meanwhile):
        assert done == ["audit", *begun]
        raise DataError("there are none")

    monkeypatch.setattr(launch, "begin_to_load_workers", lambda: done.append("workers"))
    monkeypatch.setattr(launch, "Ranks", StubRanks)
    monkeypatch.setattr(auditing, "do_audit", lambda current, meanwhile: done.append("audit"))
    monkeypatch.setattr(auditing, "do_gate", lambda current: gate_verdict("PROCEED"))
    monkeypatch.setattr(stages, "do_prepare", prepare)
    monkeypatch.setattr(RunFolder, "finished", lambda folder, stage: is_done)
    with pytest.raises(DataError, match="there are none"), opened(f"train.num_workers={num_workers}") as current:
        current.gpus = gpus
        flow.run_stages(current)
    assert done[1 + len(begun) :] == ["closed"] * any("ranks" in one for one in begun)


def test_ranks_that_died_while_they_waited_are_started_anew(opened, monkeypatch):
    """The audit of a large set takes hours, and the system may take their memory; nothing was lost with them."""
    closed = []

    class DeadRanks:
        are_alive = False

        def __init__(self, num_ranks, get_ready) -> None: ...

        def close(self) -> None:
            closed.append(self)

    monkeypatch.setattr(launch, "Ranks", DeadRanks)
    with opened() as current:
        current.gpus = 2
        current.start_ranks()
        assert current.take_ranks() is None and len(closed) == 1


@pytest.mark.parametrize("is_done", [False, True])
def test_ranks_that_wait_prepare_their_gpus_once_nobody_hears(opened, monkeypatch, is_done: bool):
    """The first step of a rank waited four seconds for what a GPU loads at its first use."""
    asked = []

    class WaitingRanks:
        are_alive = True

        def __init__(self, num_ranks, get_ready) -> None: ...

        def prepare(self, function) -> None:
            asked.append(function)

        def close(self) -> None: ...

    monkeypatch.setattr(launch, "Ranks", WaitingRanks)
    with opened() as current:
        stages.end_hearing_ahead(current)
        current.gpus = 2
        current.start_ranks()
        assert asked == []
        monkeypatch.setattr(RunFolder, "finished", lambda folder, stage: is_done)
        stages.end_hearing_ahead(current)
    assert asked == ([] if is_done else [use_libraries])


@pytest.mark.parametrize("total", [1, 2, 7, 10, 188])
def test_what_follows_a_training_is_read_once_and_before_its_end(total):
    near = [done for done in range(1, total + 1) if stages._is_near_the_end(done, total)]
    assert len(near) == 1 and total / 2 <= near[0] <= total


def test_an_interrupt_does_not_wait_for_a_model(opened, monkeypatch):
    begun, go_on = Event(), Event()
    monkeypatch.setattr(family, "load_recogniser", lambda *_, **__: begun.set() or (go_on.wait(60) and 1 / 0))

    def interrupted(self, source):
        assert begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(Round, "read", interrupted)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), opened() as current:
            auditing.do_audit(current)
        assert time.monotonic() - started < 30 and not go_on.is_set()
    finally:
        go_on.set()
    current._loading.wait()
