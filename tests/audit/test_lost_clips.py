"""Clips that a process was lost over: what the machine did costs this run alone, and nothing on disk says it."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pyarrow.parquet as pq
import pytest
from ears import CONFIG, Ears, Swayed, evidence, listener

from shibolet.audit import workers
from shibolet.audit.clip import Clip
from shibolet.audit.config import AuditConfig, SelfTestConfig
from shibolet.audit.hearing import Listener
from shibolet.audit.sampling import SampleConfig, draw_sample
from shibolet.errors import AudioError, DataError, ShiboletError
from shibolet.listen import decoders
from shibolet.listen.decoders import InThisProcess
from shibolet.listen.executor import Here
from shibolet.listen.processes import WorkerLost
from shibolet.recipe import load_recipe
from shibolet.records.utterance import AudioRef
from shibolet.rounds import auditing
from shibolet.rounds.shared import SourceData, open_round
from shibolet.speech.audio import load


def load_or_die(ref: AudioRef) -> np.ndarray:
    """A decoder that crashes on one file and never returns from another."""
    if ref.path.endswith("/3.wav"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if ref.path.endswith("/4.wav"):
        signal.pause()
    return load(ref)


def with_time_enough(clips: Sequence[Clip], short: str = "") -> list[Clip]:
    """The clips with ten minutes as the limit of each, so that no pause of a busy machine is too long, but for one."""
    return [clip if clip.key == short else replace(clip, duration_s=6000.0) for clip in clips]


SLOW = {"num_workers": 1, "decode_timeout_s": 0.5, "chunk_utterances": 1}


def test_a_decoder_that_crashes_or_hangs_costs_one_clip_each_and_this_run_alone(tmp_path: Path, clips) -> None:
    """One file must not end an audit, and what the machine did must not be taken for what the file is."""
    clips = with_time_enough(clips[:8], short="u4")
    bad = Listener(Swayed(), Swayed(), tmp_path, load_or_die, CONFIG.model_copy(update=SLOW), "Hebrew")
    heard = bad.hear(clips)
    lost = {key: e for key, e in evidence(heard).items() if e.failure}
    assert {key: e.failure for key, e in lost.items()} == {"u3": "decoder_crashed", "u4": "decoder_hung"}
    assert lost["u4"].key == "u4" and lost["u4"].detail.endswith("in 3 tries; the next audit tries again")
    assert bad.num_lost == 2 and "tries: 2." in bad.notes[-1]
    with pytest.raises(DataError, match="2 of 8 clips have been heard by no shard"):
        bad.merge(clips)
    good = listener(tmp_path, ears := Swayed())
    again = good.hear(clips)
    assert len(ears.heard) == 2 and good.num_lost == 0 and good.notes == []
    assert not any(e.failure for e in evidence(again).values()) and len(again) == 8
    assert evidence(listener(tmp_path, Swayed()).merge(clips)) == evidence(again)


class Elsewhere(Here):
    """Other machines, as far as who hands out knows."""

    is_elsewhere = True


def does_not_see(ref: AudioRef) -> np.ndarray:
    """A machine to which a folder is not mounted."""
    if ref.path.endswith("/4.wav"):
        raise AudioError(f"{ref.path}: no such file", "missing_file")
    return load(ref)


def test_a_machine_that_does_not_see_a_file_ends_the_audit_and_writes_nothing_of_it(
    tmp_path: Path, clips, monkeypatch
) -> None:
    """A node without the disk of the audio would else drop good clips for ever, under the hash of their content."""
    config = CONFIG.model_copy(update={"chunk_utterances": 1})
    blind = Listener(Swayed(), Swayed(), tmp_path / "heard", does_not_see, config, "Hebrew", Elsewhere())
    with pytest.raises(DataError, match=r"4\.wav was not found where it was to be heard, .* under the same path"):
        blind.hear(clips[:8])
    monkeypatch.setattr(workers, "content_hash", lambda ref: str(does_not_see(ref)))
    with pytest.raises(DataError, match=r"4\.wav was not found where it was to be heard"):
        Listener(Swayed(), Swayed(), tmp_path / "new", load, config, "Hebrew", Elsewhere()).hear(clips[:8])
    monkeypatch.undo()
    seeing = listener(tmp_path / "heard", Swayed())
    assert not any(one.failure for one in evidence(seeing.hear(clips[:8])).values()) and not list(
        tmp_path.glob("new/*")
    )


def test_a_file_that_no_machine_sees_is_a_failure_of_its_clip(tmp_path: Path, own_files) -> None:
    Path(own_files[4].audio.path).unlink()
    found = Listener(Swayed(), Swayed(), tmp_path / "heard", load, CONFIG, "Hebrew", Elsewhere()).hear(own_files)
    assert {key: one.failure for key, one in evidence(found).items() if one.failure} == {
        own_files[4].key: "missing_file"
    }


class Stalled(InThisProcess):
    """Gives up what one function is to do with one file."""

    def __init__(self, function: Callable, file: str) -> None:
        self._function, self._file = function, file

    def run(self, function, items, *, timeout_s):
        paths = [getattr(item, "audio", item).path for item in items if not isinstance(item, tuple)]
        if getattr(function, "func", function) is self._function and any(p.endswith(self._file) for p in paths):
            raise WorkerLost("decoder_hung", f"not decoded within {timeout_s:.0f} s")
        return function(items)


def test_a_file_that_cannot_be_read_for_its_hash_costs_this_run_alone(tmp_path: Path, clips, monkeypatch) -> None:
    """A name that stands for what the machine did must not come to stand for the file."""

    monkeypatch.setattr(decoders, "InThisProcess", lambda: Stalled(workers.hash_audio, "/4.wav"))
    first = listener(tmp_path, Swayed())
    heard = first.hear(clips[:8])
    assert [key for key, e in evidence(heard).items() if e.failure] == ["u4"] and first.num_lost == 1
    monkeypatch.undo()
    ears = Swayed()
    assert not any(e.failure for e in evidence(listener(tmp_path, ears).hear(clips[:8])).values())
    assert len(ears.heard) == 1


def load_and_stop(ref: AudioRef) -> np.ndarray:
    """A decoder whose process is paused the first time that it comes to one file."""
    stopped = Path(ref.path).with_suffix(".stopped")
    if ref.path.endswith("/4.wav") and not stopped.exists():
        stopped.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
        stopped.with_suffix(".resumed").touch()
    return load(ref)


@pytest.fixture
def own_files(tmp_path: Path, clips: list[Clip]) -> list[Clip]:
    """Eight clips of which the files are this test's."""
    moved = []
    for clip in clips[:8]:
        path = tmp_path / Path(clip.audio.path).name
        path.write_bytes(Path(clip.audio.path).read_bytes())
        moved.append(replace(clip, audio=AudioRef(path=str(path))))
    return moved


def test_a_worker_that_is_paused_for_longer_than_its_limit_ends_with_the_clip_heard(
    tmp_path: Path, own_files, monkeypatch
) -> None:
    """A machine that stands still for a while says nothing of the clip that was being decoded then."""
    monkeypatch.setattr(decoders, "RETRIES", (20, 200))
    config = CONFIG.model_copy(update=SLOW | {"decode_timeout_s": 3.0})  # a busy machine has one minute, then ten
    paused = Listener(Swayed(), Swayed(), tmp_path / "heard", load_and_stop, config, "Hebrew")
    found = paused.hear(with_time_enough(own_files, short="u4"))
    assert (tmp_path / "4.stopped").exists() and not (tmp_path / "4.resumed").exists()
    assert not any(e.failure for e in evidence(found).values()) and paused.num_lost == 0 and len(found) == 8


def test_a_worker_that_is_paused_and_resumed_goes_on(tmp_path: Path, own_files) -> None:
    stopped, ended = tmp_path / "4.stopped", Event()

    def resume() -> None:
        while not (ended.wait(0.01) or (tmp_path / "4.resumed").exists()):
            if stopped.exists() and (pid := stopped.read_text()):
                os.kill(int(pid), signal.SIGCONT)

    resumer = Thread(target=resume)
    resumer.start()
    try:
        config = CONFIG.model_copy(update={"num_workers": 1, "decode_timeout_s": 600.0})
        found = Listener(Swayed(), Swayed(), tmp_path / "heard", load_and_stop, config, "Hebrew").hear(own_files)
    finally:
        ended.set()
        resumer.join()
    assert (tmp_path / "4.resumed").exists()
    assert not any(e.failure for e in evidence(found).values()) and len(found) == 8


def end_at_once(connection) -> None:
    os._exit(1)


def test_a_machine_on_which_no_process_starts_ends_the_audit(tmp_path: Path, clips, monkeypatch) -> None:
    """A hundred thousand clips must not be given up one by one, and none of them is to blame."""
    monkeypatch.setattr(decoders, "_serve", end_at_once)
    with pytest.raises(ShiboletError, match="no process that decodes audio starts here: 3 crashed"):
        listener(tmp_path, Swayed(), num_workers=1).hear(clips[:2])


def test_an_audit_that_lost_clips_is_not_done_and_hears_them_the_next_time(tmp_path: Path, corpus, monkeypatch) -> None:
    """Else what a pause of the machine did once would stay in the verdicts of the run for ever."""
    audit = AuditConfig(
        aligner="ears", recogniser="ears", num_workers=0, selftest=SelfTestConfig(num_clips=20),
        sample=SampleConfig(shares={}, min_utterances=100, max_utterances=100),
    )  # fmt: skip
    ears, told = Ears(), []
    new_listener = lambda *_: Listener(ears, ears, tmp_path / "heard", load, audit, "Hebrew")  # noqa: E731
    monkeypatch.setattr(auditing, "listener_of", new_listener)
    rows = lambda path: {row["id"]: row for row in pq.read_table(path).to_pylist()}  # noqa: E731

    with open_round(load_recipe("demo"), tmp_path / "run", "audit", told.append) as current:
        current.recipe = current.recipe.model_copy(update={"audit": audit})
        current.data = SourceData(corpus, [], "digest")
        sampled = draw_sample(corpus, audit.sample).in_order
        bad = [corpus[sampled[-1]], next(u for place, u in enumerate(corpus) if place not in sampled)]
        for utterance, listen in zip(bad, (auditing.do_audit, auditing.do_hear_rest), strict=True):
            monkeypatch.setattr(decoders, "InThisProcess", lambda u=utterance: Stalled(workers.decode, u.audio.path))
            listen(current)
            monkeypatch.setattr(decoders, "InThisProcess", InThisProcess)
            name = "audit" if listen is auditing.do_audit else "hear-rest"
            table = current.folder.audited_utterances() if name == "audit" else current.folder.audited_rest
            assert "in 3 tries: 1. " in told[-1] and current.folder.finished(name)
            assert rows(table)[utterance.id]["failure"] == "decoder_hung"
            num_heard = ears.num_heard
            listen(current)
            assert told[-1] == f"{name}: done before, but clips could not be decoded (1); these are heard again"
            assert rows(table)[utterance.id]["failure"] is None and ears.num_heard == num_heard + 1
            listen(current)
            assert told[-1] == f"{name}: done before, nothing changed" and ears.num_heard == num_heard + 1
