"""Hearing: nothing twice, the same bytes whatever was cut off or shared out, and workers that die or hang."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import soundfile as sf

from shibolet.audit.clip import Clip
from shibolet.audit.config import AuditConfig
from shibolet.audit.hearing import Listener, _chunks
from shibolet.audit.workers import AnyWorker, Worker, WorkerLost, worker_threads
from shibolet.errors import DataError
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import load

RATE = 16000


class Ears:
    """A listener whose score depends on who shares the batch, as a half-precision model's last bits do."""

    identity = "ears"

    def __init__(self) -> None:
        self.heard: list[int] = []

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        self.heard += [len(clip) for clip in clips]
        together = sum(map(len, clips)) % 9973 / 1e4
        return [Hearing(hypothesis=" ".join(said), text_score=-together) for said in words]

    def align(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Alignment]:
        return [
            Alignment(starts_s=np.zeros(len(w)), ends_s=np.full(len(w), len(c) % 97 / 97))
            for c, w in zip(clips, words, strict=True)
        ]


def half(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return samples[: len(samples) // 2]


@dataclass(frozen=True)
class Louder:
    gain: float

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.clip(self.gain * samples + 1e-3 * rng.standard_normal(len(samples)), -1, 1).astype(np.float32)


def shifted(alignment: Alignment, duration_s: float, rng: np.random.Generator) -> Alignment:
    return replace(alignment, starts_s=alignment.starts_s + rng.uniform())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """40 clips of 0.2 to 2.2 s, no two of one length; a copy of every fifth and other times of every seventh."""
    folder, rng, made = tmp_path_factory.mktemp("clips"), np.random.default_rng(0), []
    for i in range(40):
        samples = (0.1 * rng.standard_normal(3200 + 797 * i)).astype(np.float32)
        sf.write(folder / f"{i}.wav", samples, RATE)
        clip = Clip(
            key=f"u{i}", audio=AudioRef(path=str(folder / f"{i}.wav")), words=("שלום", "עולם"),
            verifiable=(True, True), duration_s=len(samples) / RATE,
            change_times={"shifted": shifted} if i % 7 == 0 else {},
        )  # fmt: skip
        made.append(clip)
        if i % 5 == 0:
            made.append(replace(clip, key=f"half/u{i}", change_audio=half, change_times={}))
    return made


CONFIG = AuditConfig(aligner="ears", recogniser="ears", chunk_utterances=8, num_workers=0)


def listener(folder: Path, ears: Ears, **settings) -> Listener:
    return Listener(ears, ears, folder, load, CONFIG.model_copy(update=settings))


def evidence(heard) -> dict:
    return {key: heard[key] for key in heard}


def test_a_run_that_was_cut_off_ends_with_the_same_evidence(tmp_path: Path, clips: list[Clip]) -> None:
    """A batch that is put together from what is left over has other neighbours, and with them other last bits."""
    whole = evidence(listener(tmp_path / "a", Ears()).hear(clips))
    assert len({e.signals.text_score for e in whole.values()}) > 3, "scores must depend on the batch, or this is empty"
    calls = iter(range(3))

    class Stopped(Ears):
        def hear(self, clips, words):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return super().hear(clips, words)

    with pytest.raises(KeyboardInterrupt):
        listener(tmp_path / "b", Stopped()).hear(clips)
    rest = Ears()
    assert evidence(listener(tmp_path / "b", rest).hear(clips)) == whole
    assert 0 < len(rest.heard) < len(clips)


def test_nothing_is_heard_twice_whatever_it_is_called(tmp_path: Path, clips: list[Clip]) -> None:
    """Another order, other names, other folders and other times of files are the same content."""
    whole = evidence(listener(tmp_path, Ears()).hear(clips))
    moved = []
    for clip in clips[::-1]:
        path = tmp_path / "moved" / Path(clip.audio.path).name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(Path(clip.audio.path).read_bytes())
        moved.append(replace(clip, key=clip.key + "-again", audio=AudioRef(path=str(path))))
    again = Ears()
    found = listener(tmp_path, again).hear(moved)
    assert again.heard == []
    assert {key: replace(found[key + "-again"], key=key) for key in whole} == whole
    added = replace(moved[0], key="new", words=("מילה", "אחרת"))
    listener(tmp_path, again).hear([*moved[:5], added, *moved[5:]])
    assert len(again.heard) == 1


def test_content_is_audio_span_words_and_changes(clips: list[Clip]) -> None:
    """Two clips that differ in what is heard must not share evidence; the argument of a change counts too."""
    clip = clips[0]
    other = [
        replace(clip, words=("שלום",)), replace(clip, audio=clip.audio.cut(0.0, 0.1)),
        replace(clip, verifiable=(True, False)), replace(clip, change_audio=half),
        replace(clip, change_audio=Louder(1.5)),
        replace(clip, change_audio=Louder(1.6)), replace(clip, change_times={}),
    ]  # fmt: skip
    ids = [c.content_id("a") for c in [clip, *other]] + [clip.content_id("b")]
    assert len(set(ids)) == len(ids)
    assert replace(clip, key="x", duration_s=9.0).content_id("a") == clip.content_id("a")
    with pytest.raises(ValueError, match="function of a module"):
        replace(clip, change_audio=lambda samples, rng: samples).content_id("a")


def test_the_same_content_twice_is_heard_once_and_found_by_both_names(tmp_path: Path, clips: list[Clip]) -> None:
    ears = Ears()
    heard = listener(tmp_path, ears).hear([*clips, replace(clips[3], key="twin")])
    assert len(ears.heard) == len(clips)
    assert replace(heard["twin"], key=clips[3].key) == heard[clips[3].key]


def test_shards_merge_to_one_run(tmp_path: Path, clips: list[Clip]) -> None:
    """A part that is missing must not pass as an audit."""
    whole = evidence(listener(tmp_path / "one", Ears()).hear(clips))
    parts = [Ears(), Ears(), Ears()]
    for i in (2, 0):
        listener(tmp_path / "many", parts[i]).hear(clips, shard=(i, 3))
    with pytest.raises(DataError, match="heard by no shard"):
        listener(tmp_path / "many", Ears()).merge(clips)
    listener(tmp_path / "many", parts[1]).hear(clips, shard=(1, 3))
    assert evidence(listener(tmp_path / "many", Ears()).merge(clips)) == whole
    assert all(part.heard for part in parts)
    assert sum(len(part.heard) for part in parts) == len(clips)


def test_processes_find_what_one_process_finds(tmp_path: Path, clips: list[Clip]) -> None:
    """Changes, failures and evidence cross to other processes and back; order and bytes stay."""
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    clips = [*clips[:9], replace(clips[9], key="bad", audio=AudioRef(path=str(broken))), *clips[10:]]
    one = evidence(listener(tmp_path / "one", Ears()).hear(clips))
    two = evidence(listener(tmp_path / "two", Ears(), num_workers=2).hear(clips))
    assert one == two and one["bad"].failure == "undecodable"
    files = [sorted(path.read_bytes() for path in (tmp_path / name).rglob("*.jsonl")) for name in ("one", "two")]
    assert files[0] == files[1]


def test_evidence_under_changed_times_is_beside_its_clip(tmp_path: Path, clips: list[Clip]) -> None:
    heard = listener(tmp_path, Ears()).hear(clips)
    assert heard["shifted/u7"].starts_s != heard["u7"].starts_s and heard["shifted/u7"].key == "shifted/u7"
    assert "shifted/u8" not in heard and heard.get("nothing") is None


def load_or_die(ref: AudioRef) -> np.ndarray:
    """A decoder that crashes on one file and never returns from another."""
    if ref.path.endswith("/3.wav"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if ref.path.endswith("/4.wav"):
        time.sleep(600)
    return load(ref)


def test_a_decoder_that_crashes_or_hangs_costs_one_clip_each(tmp_path: Path, clips: list[Clip]) -> None:
    """One file of a hundred thousand must neither end an audit nor hold it up, nor take its neighbours with it."""
    config = CONFIG.model_copy(update={"num_workers": 1, "decode_timeout_s": 2.5})
    heard = Listener(Ears(), Ears(), tmp_path, load_or_die, config).hear(clips[:8])
    failures = {key: e.failure for key, e in evidence(heard).items() if e.failure}
    assert failures == {"u3": "decoder_crashed", "u4": "decoder_hung"}


def test_a_worker_raises_what_its_function_raises() -> None:
    """A defect of ours has to look like one, and not like bad audio."""
    worker = Worker()
    try:
        with pytest.raises(ZeroDivisionError):
            worker.run(divmod, 1, 0, timeout_s=60)
        with pytest.raises(WorkerLost):
            worker.run(os._exit, 3, timeout_s=60)
        assert worker.run(divmod, 7, 2, timeout_s=60) == (3, 1)
    finally:
        worker.close()


def test_chunks_hold_every_content_once_and_stay_within_both_limits(clips: list[Clip]) -> None:
    ids = [clip.content_id(clip.audio.path) for clip in clips]
    chunks = list(_chunks([*clips, clips[0]], [*ids, ids[0]], 8, 5.0))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(clips)))
    assert all(len(chunk) <= 8 and sum(clips[i].duration_s for i in chunk) <= 5.0 for chunk in chunks)
    assert max(map(len, chunks)) == 8 and len({len(chunk) for chunk in chunks}) > 1
    copies = [next(chunk for chunk in chunks if i in chunk) for i, clip in enumerate(clips) if clip.change_audio]
    assert sum(len({clips[i].audio for i in chunk}) < len(chunk) for chunk in copies) > 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows() -> None:
    """A whole corpus is heard on the machine that heard its sample: evidence must not wait in memory."""

    def peak_mib(num_rows: int) -> float:
        script = Path(__file__).with_name("many_rows.py")
        done = subprocess.run([sys.executable, script, str(num_rows)], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert peak_mib(20_000) < 1.5 * peak_mib(2_000)


class Theirs:
    """Hypotheses from elsewhere, of all utterances but one."""

    identity = "theirs"

    def look_up(self, ids: Sequence[str]) -> list[Hearing | None]:
        return [None if i == "u2" else Hearing(hypothesis=f"שלום {i}", text_score=None) for i in ids]


def test_hypotheses_from_elsewhere_belong_to_utterances_and_to_no_changed_audio(tmp_path: Path, clips) -> None:
    """A hypothesis is known by its utterance: copies with another text share it, those with other audio have none."""
    clips = [replace(clip, utterance=clip.key.removeprefix("half/")) for clip in clips[:6]]
    texted = replace(clips[2], key="swapped/u1", words=("אחר", "לגמרי"))
    theirs = Listener(Ears(), Theirs(), tmp_path, load, CONFIG)
    assert [theirs.can_hear(clip) for clip in [*clips, texted]] == [not clip.change_audio for clip in [*clips, texted]]
    heard = theirs.hear([clip for clip in [*clips, texted] if theirs.can_hear(clip)])
    assert heard["u2"].failure == "no_hypothesis" and theirs.notes
    assert heard["swapped/u1"].hypothesis == heard["u1"].hypothesis == "שלום u1"
    assert heard["u1"].signals.text_score == 0.0


def test_an_interrupt_does_not_wait_for_what_is_with_the_models() -> None:
    running, left, ended = Event(), Event(), Event()

    def busy(worker: AnyWorker, item: int) -> None:
        running.set()
        if left.wait(30):
            ended.set()

    def until_interrupted() -> Iterator[int]:
        yield 0
        assert running.wait(30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), worker_threads(0) as threads:
        list(threads(busy, until_interrupted()))
    left.set()
    assert ended.wait(30), "the interrupt waited until the listening was over"
