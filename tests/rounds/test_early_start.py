"""Those that hear start at once and end early: protects from a round, and from a training, that waits for them."""

import shutil
import subprocess
import sys
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from audit_documents import gate_verdict

from shibolet.listen import open as opening
from shibolet.listen.decoders import Decoders
from shibolet.listen.executor import Processes
from shibolet.model.fast.compiling import begin_to_hash_compiler
from shibolet.model.folders import resolve
from shibolet.recipe import load_recipe
from shibolet.rounds import flow
from shibolet.rounds.rank import get_ready
from shibolet.rounds.shared import Round, open_round
from shibolet.train import stage

SCRIPT = """
import sys
from pathlib import Path
from shibolet.listen.executor import Processes
from shibolet.model import gpus
from shibolet.recipe import load_recipe
from shibolet.rounds.flow import require_gpus
from shibolet.rounds.shared import open_round

gpus._by_driver = lambda visible: 2
Processes.begin = lambda self, work: print(self.num_processes, self.has_gpus, "torch" in sys.modules)
with open_round(load_recipe("demo", []), Path(sys.argv[1]), "run", print) as current:
    print(require_gpus(2))
    current.start_processes("builtin:round1")
    current.executor.close = lambda: None
"""


def test_processes_of_gpus_start_before_torch_is_imported(tmp_path: Path) -> None:
    """It takes two to four seconds, and those that hear need it themselves: one import after the other, all wait."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "run"], capture_output=True, text=True)
    assert done.stdout == "2\n2 True False\n", done.stderr


def test_those_that_hear_start_before_those_that_decode_and_once(tmp_path: Path, monkeypatch) -> None:
    """A dozen that decode take half a second to start, one after the other, and are needed later."""
    begun = []
    monkeypatch.setattr("shibolet.model.folders.may_have_gpu", lambda: True)
    for place in ("shibolet.model.gpus", "shibolet.listen.executor"):
        monkeypatch.setattr(f"{place}.num_gpus", lambda: 2)
    monkeypatch.setattr(Processes, "begin", lambda self, work: begun.append("hear"))
    monkeypatch.setattr(Decoders, "start", lambda self: begun.append("decode"))
    with open_round(load_recipe("demo", []), tmp_path / "run", "run", lambda sentence: None) as current:
        current.hear_ahead("audit", "builtin:round1", lambda: begun.append("load"))
        current._end_loading()
    assert begun == ["hear", "decode", "load"]


TAUGHT = [
    "models.teacher=builtin:round1",
    "train={phases: [{name: T, num_epochs: 1, lr_by_part: {projector: 1e-4}, objective: distil}], lora: null, "
    "distil: {texts: true}}",
]


class Stopped(Exception):
    """The round is far enough."""


@pytest.mark.parametrize(
    ("next_stage", "is_trained", "changes", "is_ended"),
    [
        ("continue", False, [], True),
        ("repair", False, [], False),
        ("continue", True, [], False),
        ("continue", False, TAUGHT, False),
    ],
    ids=["training is next", "what is kept is heard", "trained before", "a teacher writes texts"],
)
def test_they_let_go_of_gpus_while_data_are_prepared_unless_they_are_needed_again(
    tmp_path: Path, monkeypatch, next_stage: str, is_trained: bool, changes: list[str], is_ended: bool
) -> None:
    """A GPU takes most of a second to be let go of, and libraries take twelve to be loaded again."""
    gate = gate_verdict("STOP" if next_stage == "repair" else "PROCEED", next=next_stage)
    ended = []

    def prepare(current: Round, meanwhile) -> None:
        meanwhile()
        raise Stopped

    monkeypatch.setattr(flow.auditing, "do_audit", lambda current, meanwhile: None)
    monkeypatch.setattr(flow.auditing, "do_gate", lambda current: gate)
    monkeypatch.setattr(flow.stages, "train_ahead", lambda current: None)
    monkeypatch.setattr(flow.stages, "do_prepare", prepare)
    monkeypatch.setattr(Round, "begin_to_make_way", lambda self: ended.append(True))
    with open_round(load_recipe("demo", changes), tmp_path / "run", "run", lambda sentence: None) as current:
        if is_trained:
            current.folder.final.mkdir(parents=True)
            current.folder.stage("train", {}).finish()
        with pytest.raises(Stopped):
            flow.run_stages(current)
    assert ended == [True] * is_ended


def test_a_rank_loads_the_base_while_it_waits_and_no_other_model_is_trained_for_it(tmp_path: Path, monkeypatch) -> None:
    """Two seconds are saved; a base in another precision, or one that was written anew meanwhile, is loaded."""
    base, loads = tmp_path / "base", []
    shutil.copytree(resolve("builtin:round1"), base)
    plain = stage.load_recogniser
    monkeypatch.setattr(
        stage, "load_recogniser", lambda name, dtype: loads.append(str(dtype)) or plain(name, dtype=dtype)
    )
    get_ready(str(base), False, "fp32")
    assert loads == ["torch.float32"]
    assert stage._load(str(base), "fp32").identity and len(loads) == 1
    assert stage._load(str(base), "fp32").identity and len(loads) == 2  # the first has been trained
    get_ready(str(base), False, "fp32")
    assert str(stage._load(str(base), "bf16").model.dtype) == "torch.bfloat16" and len(loads) == 4
    get_ready(str(base), False, "fp32")
    (base / "generation_config.json").write_text("{}")
    changed = stage._load(str(base), "fp32")
    assert len(loads) == 6 and changed.identity == opening.listener_identity(str(base))


def test_tritons_hash_of_itself_is_taken_beside_the_loading_of_a_model(monkeypatch) -> None:
    """It is a hash of hundreds of MB, and the first kernel waits for it; without Triton nothing happens."""
    hashed = Event()
    monkeypatch.setattr(opening, "may_have_gpu", lambda: True)
    monkeypatch.setitem(sys.modules, "triton.runtime.cache", None)
    begin_to_hash_compiler.cache_clear()
    opening.import_opener("builtin:ctc")
    begin_to_hash_compiler.cache_clear()
    for name in ("triton", "triton.runtime"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "triton.runtime.cache", SimpleNamespace(triton_key=hashed.set))
    opening.import_opener("builtin:ctc")
    assert hashed.wait(60)
    begun = []
    monkeypatch.setattr("shibolet.model.fast.compiling.Ahead", lambda *args, **options: begun.append(args))
    opening.import_opener("builtin:ctc")  # the next model of this process
    assert not begun


def test_the_first_model_that_is_opened_waits_for_no_search_for_others(monkeypatch) -> None:
    """It goes through all objects of torch and transformers."""
    looked = []
    monkeypatch.setattr(opening, "_KEPT", {})
    monkeypatch.setattr(opening.gc, "collect", lambda: looked.append(len(opening._KEPT)))
    opening.let_go()
    assert looked == []
    opening._KEPT["identity", "cpu"] = object()
    opening.let_go()
    assert looked == [0]
