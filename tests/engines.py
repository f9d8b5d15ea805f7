"""A transcription engine that needs no model. No torch: other processes load it in a second."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shibolet.listen.engine import Engine, Written


class Together(Engine):
    """Says how much audio shares the batch, as the last bits of a logit do; leaves notes in a folder.

    A process dies when it hears a clip of `dies_of` samples, as often as `times` says.
    """

    identity, clips_at_once = "together", 3

    def __init__(self, folder: Path, dies_of: int = 0, times: int = 0) -> None:
        self.folder, self.dies_of, self.times = folder, dies_of, times
        (folder / f"loaded-{os.getpid()}").touch()

    def write(self, clips: Sequence[np.ndarray]) -> list[Written]:
        if self.dies_of in map(len, clips) and len(list(self.folder.glob("died-*"))) < self.times:
            (self.folder / f"died-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the signal may reach this thread later than others
        shared = "ב" * (sum(map(len, clips)) % 11 + 1)
        return [Written(f"{'א' * (len(clip) % 7 + 1)} {shared}", "end") for clip in clips]
