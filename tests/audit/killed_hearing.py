"""An audit in a process of its own that kills itself (SIGKILL) where it is told to; for test_killed_hearing.

Nothing in the program knows of it: the kill hangs on a function that the program calls.
"""

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from shibolet.audit import chunks, hearing
from shibolet.audit.config import AuditConfig, SelfTestConfig
from shibolet.audit.hearing import Listener
from shibolet.audit.sampling import SampleConfig
from shibolet.audit.stage import run_audit
from shibolet.listen.family_aligner import FamilyAligner
from shibolet.listen.family_recogniser import FamilyRecogniser
from shibolet.listen.lazy import LazyListener
from shibolet.listen.open import listener_identity, open_aligner, open_recogniser
from shibolet.records import files
from shibolet.records.utterance import Utterance
from shibolet.speech.audio import load

CONFIG = AuditConfig(
    aligner="builtin:aligner", recogniser="builtin:round1", chunk_utterances=3, num_workers=1,
    sample=SampleConfig(shares={}, min_utterances=14), selftest=SelfTestConfig(num_clips=10),
)  # fmt: skip
# Where the program can be killed: what calls it, and under which name.
PLACES = {
    "hash": (hearing, "hash_part"), "decode": (chunks, "_decode_part"), "hear": (FamilyRecogniser, "hear"),
    "align": (FamilyAligner, "align"), "weigh": (chunks, "_weigh_part"), "write": (chunks, "write_lines"),
    "rename": (files.os, "replace"),
}  # fmt: skip


def at_call(function: Callable, number: int) -> Callable:
    """The function, with the end of this process at its call `number` (from 1), in whichever thread that comes."""
    calls, counting = 0, Lock()

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        with counting:
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()
        return function(*args, **kwargs)

    return wrapped


def audit(utterances: Sequence[Utterance], out: Path, at: tuple[str, int] | None) -> None:
    """Audit with the models that ship; `at` says where to be killed, counted within this process."""
    torch.set_num_threads(1)
    if at is not None:
        owner, name = PLACES[at[0]]
        setattr(owner, name, at_call(getattr(owner, name), at[1]))
    ears = [
        LazyListener(listener_identity(name), partial(open_it, name, "Hebrew"))
        for name, open_it in ((CONFIG.aligner, open_aligner), (CONFIG.recogniser, open_recogniser))
    ]
    listener = Listener(*ears, out / "heard", load, CONFIG, "Hebrew")
    run_audit(utterances, [], out_dir=out / "audit", listener=listener, config=CONFIG, language="Hebrew")
