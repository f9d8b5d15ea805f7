"""Hears so many rows with listeners that say nothing, and prints the peak memory of the process in MiB."""

import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile as sf

from shibolet.audit.clip import Clip
from shibolet.audit.config import AuditConfig
from shibolet.audit.hearing import Listener
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.records.utterance import AudioRef

WORDS = ("שלום", "לכל", "העולם", "היום")


class Rows(Sequence):
    """Spans of one file, made when they are asked for: what an audit keeps of its rows itself is not measured here."""

    def __init__(self, path: str, num_rows: int) -> None:
        self._path, self._num_rows = path, num_rows

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, i: int) -> Clip:
        if not 0 <= i < self._num_rows:
            raise IndexError(i)
        audio = AudioRef(path=self._path, start_s=i / 1e6)
        return Clip(key=f"u{i}", audio=audio, words=WORDS, verifiable=(True,) * 4, duration_s=5.0)


class Stub:
    identity = "stub"

    def hear(self, clips, words):
        return [Hearing(hypothesis=" ".join(said) * 5, text_score=-0.1) for said in words]

    def align(self, clips, words):
        return [Alignment(starts_s=np.arange(len(w)), ends_s=np.arange(len(w)) + 1.0) for w in words]


def load_nothing(ref: AudioRef) -> np.ndarray:
    return np.full(3200, 0.01, np.float32)


def main(num_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.wav"
        sf.write(path, np.zeros(16000), 16000)
        config = AuditConfig(aligner="-", recogniser="-", num_workers=0)
        rows = Rows(str(path), num_rows)
        heard = Listener(Stub(), Stub(), Path(folder) / "heard", load_nothing, config, "Hebrew").hear(rows)
        assert sum(heard[key].signals.num_words for key in heard) == 4 * num_rows
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main(int(sys.argv[1]))
