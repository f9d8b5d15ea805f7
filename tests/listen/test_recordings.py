"""Long recordings with the real tiny model: nothing lost, nothing doubled, in the memory of short ones."""

import json
import random
import subprocess
import sys
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from engines import Together

from shibolet.errors import AudioError, DataError
from shibolet.listen.engine import Engine, Written
from shibolet.listen.executor import Here, Processes
from shibolet.listen.lazy import Engines, Lazy
from shibolet.listen.open import open_aligner
from shibolet.listen.recordings import Heard, hear_recordings
from shibolet.listen.transcribe import Transcriber
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.scoring.counts import EditCounts, count_words
from shibolet.speech.text import get_language

RATE = 16000
HEBREW = get_language("Hebrew")
# The tiny model has only ever heard single sentences: two in a piece cost it more than a point by themselves. Between
# these lengths, with the pauses below, a piece of 5.5 s holds exactly one.
SENTENCE_S, PAUSE_S, MAX_PIECE_S = (2.7, 4.6), (0.4, 1.5), 5.5


class Recording:
    """Sentences of the demo's test voices with pauses between them in a file, and the same ones as short clips."""

    def __init__(self, path: Path, duration_s: float, transcriber: Transcriber) -> None:
        from shibolet.demo.lexicon import load_lexicon
        from shibolet.demo.sentences import sample_sentence
        from shibolet.demo.synth import Speaker
        from shibolet.demo.voices import TEST_VOICES, draw_manner

        rng, speaker, lexicon = random.Random(7), Speaker(), load_lexicon()
        noise = np.random.default_rng(7)
        self.path, self.starts_s, self.texts, self.as_clips = path, [], [], EditCounts()
        clips: list[np.ndarray] = []
        at = 0
        with sf.SoundFile(path, "w", RATE, 1) as file:
            while at < duration_s * RATE:
                words = [entry.spelling for entry in sample_sentence(rng, lexicon)]
                said = speaker.speak(words, draw_manner(rng, rng.choice(TEST_VOICES.variants))).samples
                if not SENTENCE_S[0] <= len(said) / RATE <= SENTENCE_S[1]:
                    continue
                pause = 1e-4 * noise.standard_normal(round(rng.uniform(*PAUSE_S) * RATE))
                file.write(np.concatenate([pause, said]))
                self.starts_s.append((at + len(pause)) / RATE)
                self.texts.append(" ".join(words))
                at += len(pause) + len(said)
                clips.append(said)
                if len(clips) == 64:
                    self._count(clips, transcriber)
            self._count(clips, transcriber)
            self.duration_s = at / RATE

    def _count(self, clips: list[np.ndarray], transcriber: Transcriber) -> None:
        texts = self.texts[len(self.texts) - len(clips) :]
        self.as_clips += sum((count_words(*pair) for pair in zip(texts, transcriber.transcribe(clips))), EditCounts())
        clips.clear()

    def check(self, spans: list[tuple[float, float]], texts: list[str]) -> None:
        """The bar: pieces are the recording once, and their words as good as those of short clips."""
        assert spans[0][0] == 0 and spans[-1][1] == pytest.approx(self.duration_s, abs=1e-3)
        assert all(before[1] == after[0] for before, after in pairwise(spans))
        assert all(0 < end - start <= MAX_PIECE_S for start, end in spans)
        starts = np.array([start for start, _ in spans])
        holding = np.searchsorted(starts, self.starts_s, side="right") - 1
        assert len(set(holding)) > 0.95 * len(self.starts_s), "else the clips are no measure for the pieces"
        as_pieces = count_words(" ".join(self.texts), " ".join(texts))
        assert as_pieces.reference_length == self.as_clips.reference_length > 100
        print(f"WER {as_pieces.rate:.4f} in {len(spans)} pieces, {self.as_clips.rate:.4f} in clips")
        assert as_pieces.rate < self.as_clips.rate + 0.01 < 0.1


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")
    return Transcriber(load_recogniser("builtin:round1"), "Hebrew")


@pytest.fixture(scope="module")
def four_minutes(transcriber, tmp_path_factory) -> Recording:
    return Recording(tmp_path_factory.mktemp("long") / "four.flac", 240.0, transcriber)


def test_four_minutes_are_heard_once_and_as_well_as_short_clips(four_minutes, transcriber):
    progress = []
    heard = list(
        hear_recordings([four_minutes.path], transcriber, HEBREW, max_piece_s=MAX_PIECE_S, on_progress=progress.append)
    )
    assert heard[-1] == Heard(path=four_minutes.path) and all(one.piece is not None for one in heard[:-1])
    pieces = [one.piece for one in heard[:-1]]
    four_minutes.check([(piece.start_s, piece.end_s) for piece in pieces], [piece.text for piece in pieces])
    assert {piece.ending for piece in pieces} == {"end"}
    assert sum(progress) == pytest.approx(four_minutes.duration_s, abs=1e-3)


HEAR_AND_WATCH = """
import json, resource, sys
from pathlib import Path
import torch
from shibolet.listen.recordings import hear_recordings
from shibolet.listen.transcribe import Transcriber
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.speech.text import get_language
torch.set_num_threads(1)
engine = Transcriber(load_recogniser("builtin:round1"), "Hebrew")
for heard in hear_recordings([Path(sys.argv[1])], engine, get_language("Hebrew"), max_piece_s=float(sys.argv[2])):
    if heard.piece is not None:
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([heard.piece.start_s, heard.piece.end_s, heard.piece.text, peak_mib]))
"""


@pytest.mark.slow("listen", seconds=40)
def test_an_hour_is_heard_once_as_well_as_short_clips_and_in_the_memory_of_minutes(transcriber, tmp_path):
    hour = Recording(tmp_path / "hour.flac", 3600.0, transcriber)
    done = subprocess.run(
        [sys.executable, "-c", HEAR_AND_WATCH, str(hour.path), str(MAX_PIECE_S)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    hour.check([(start, end) for start, end, *_ in rows], [text for _, _, text, _ in rows])
    after_five = next(peak for start, _, _, peak in rows if start > 300)
    print(f"peak {after_five:.0f} MiB after five minutes, {rows[-1][3]:.0f} MiB after the hour")
    assert rows[-1][3] < after_five + 40, "the samples alone are 220 MiB"


class Lengths(Engine):
    """Says how long each clip is, in hundredths of a second; loops over what is longer than three seconds."""

    identity, clips_at_once = "lengths", 2

    def write(self, clips):
        return [Written(f"{len(clip) * 100 // RATE}", "loop" if len(clip) > 3 * RATE else "end") for clip in clips]


def test_recordings_keep_their_order_and_a_bad_one_ends_nothing(tmp_path):
    """Protects the pieces of one file from the name of another, and a hundred files from the one that is broken."""
    for i, seconds in enumerate((1.0, 4.0, 2.0)):
        sf.write(tmp_path / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(round(seconds * RATE)), RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF and nothing else")
    names = ["0.wav", "broken.wav", "1.wav", "missing.wav", "2.wav"]
    heard = list(hear_recordings([tmp_path / name for name in names], Lengths(), HEBREW))
    assert [one.path.name for one in heard if one.piece is None] == names
    found = [(one.path.name, one.piece.text, one.piece.ending) for one in heard if one.piece is not None]
    assert found == [("0.wav", "100", "end"), ("1.wav", "400", "loop"), ("2.wav", "200", "end")]
    errors = {one.path.name: one.error for one in heard if one.error is not None}
    assert set(errors) == {"broken.wav", "missing.wav"} and all(isinstance(e, AudioError) for e in errors.values())


def test_several_processes_hear_what_one_hears(tmp_path):
    """Pieces of one window must stay together, in their order, with the ends of recordings where they belong."""
    for i, seconds in enumerate((9.0, 1.0, 14.0, 2.0, 1.5)):
        sf.write(tmp_path / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(round(seconds * RATE)), RATE)
    (tmp_path / "2b.wav").write_bytes(b"RIFF and nothing else")
    paths = sorted(tmp_path.iterdir())
    told = lambda heard: [(one.path.name, one.piece, str(one.error)) for one in heard]  # noqa: E731
    (notes := tmp_path / "notes").mkdir()
    one = told(hear_recordings(paths, Together(notes), HEBREW, max_piece_s=4.0))
    assert len({piece.text.split()[1] for _, piece, _ in one if piece}) > 2, "texts must depend on their window"
    with closing(Processes([{}] * 2)) as two:
        engines = Engines(Lazy(partial(Together, notes)), Together.clips_at_once, two)
        assert told(hear_recordings(paths, engines, HEBREW, max_piece_s=4.0)) == one
    assert len(list(notes.iterdir())) == 3, "both processes must have heard"


class Elsewhere(Here):
    """Other machines, as far as who hands out knows."""

    is_elsewhere = True


def test_machines_that_read_recordings_themselves_hear_what_one_hears(tmp_path, monkeypatch):
    """No samples pass to them, and what is heard together must be the same pieces."""
    for i, seconds in enumerate((9.0, 1.0, 14.0, 2.0, 1.5)):
        sf.write(tmp_path / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(round(seconds * RATE)), RATE)
    (tmp_path / "2b.wav").write_bytes(b"RIFF and nothing else")
    paths = sorted(tmp_path.iterdir())
    (notes := tmp_path / "notes").mkdir()
    monkeypatch.setattr("shibolet.listen.recordings.GROUP_S", 12.0)
    told = lambda heard: [(one.path.name, one.piece, str(one.error)) for one in heard]  # noqa: E731
    one = told(hear_recordings(paths, Together(notes), HEBREW, max_piece_s=4.0))
    chunks: list[list[Path]] = []

    class Noting(Elsewhere):
        def map(self, work, given):
            return super().map(work, (chunks.append(chunk) or chunk for chunk in given))

    engines = Engines(Lazy(partial(Together, notes)), Together.clips_at_once, Noting())
    heard_s = []
    found = told(hear_recordings(paths, engines, HEBREW, max_piece_s=4.0, on_progress=heard_s.append))
    assert found == one and {name for name, *_ in one} == {path.name for path in paths}
    assert [[path.name for path in chunk] for chunk in chunks] == [
        ["0.wav", "1.wav", "2.wav"],
        ["2b.wav", "3.wav", "4.wav"],
    ]
    assert sum(heard_s) == pytest.approx(27.5, abs=0.5)

    def blind(*_) -> None:
        raise AudioError("no such file", "missing_file")

    monkeypatch.setattr("shibolet.listen.recordings.cut_stream", blind)
    with pytest.raises(DataError, match=r"0\.wav was not found where it was to be heard"):
        list(hear_recordings(paths, engines, HEBREW))


def test_a_recording_that_breaks_off_gives_what_was_before(tmp_path, monkeypatch):
    monkeypatch.setattr("shibolet.listen.pieces.BLOCK_S", 5.0)
    path = tmp_path / "cut.wav"
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal(60 * RATE), RATE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[: 44 + 35 * RATE * 2])
    heard = list(hear_recordings([path], Lengths(), HEBREW, max_piece_s=4.0))
    assert heard[-1].error is not None or heard[-2].piece.end_s == pytest.approx(35.0, abs=0.01)
    assert len(heard) > 5 and heard[0].piece.start_s == 0


def test_word_times_are_those_of_the_recording(four_minutes, transcriber):
    """Protects from times that start anew in each piece, and from words without one."""
    aligner = open_aligner("builtin:aligner", "Hebrew")
    heard = hear_recordings([four_minutes.path], transcriber, HEBREW, aligner=aligner, max_piece_s=MAX_PIECE_S)
    pieces = [one.piece for one in heard if one.piece is not None]
    assert all([word.text for word in piece.words] == piece.text.split() for piece in pieces)
    words = [word for piece in pieces for word in piece.words]
    assert all(word.start_s <= word.end_s for word in words)
    assert all(before.start_s <= after.start_s for before, after in pairwise(words))
    firsts = np.array([piece.words[0].start_s for piece in pieces if piece.words])
    nearest = np.abs(np.array(four_minutes.starts_s)[:, None] - firsts[None]).min(axis=1)
    assert np.mean(nearest < 0.3) > 0.9
