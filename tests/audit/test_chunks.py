"""What is heard together on a GPU, and how chunks follow each other through decoding, both models and the disk."""

import gc
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from threading import Barrier, Event, Lock, current_thread

import pytest
from ears import CONFIG, Swayed, evidence, listener

from shibolet.audit import chunks, workers
from shibolet.audit.chunks import chunks_of, grouped
from shibolet.audit.clip import Clip
from shibolet.audit.hearing import Listener
from shibolet.listen.decoders import AnyWorker
from shibolet.listen.dispatch import Run
from shibolet.listen.executor import Here
from shibolet.listen.lazy import LazyListener
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import load


def sizes(num: int, duration_s: float = 6.0, on_gpu: bool = True) -> list[int]:
    """Of the chunks of so many clips, with the settings of an audit."""
    clip = Clip(key="", audio=AudioRef(path="a"), words=("א",), verifiable=(True,), duration_s=duration_s)
    clips = [replace(clip, key=str(i), audio=AudioRef(path=str(i))) for i in range(num)]
    found = list(chunks_of(clips, [clip.key for clip in clips], 128, 900.0))
    if on_gpu:
        found = [list(chain.from_iterable(group)) for group in grouped(found)]
    assert [i for chunk in found for i in chunk] == list(range(num))
    return list(map(len, found))


def test_chunks_on_a_gpu_grow_from_those_of_a_cpu_and_end_smaller() -> None:
    """A GPU must have work at once, then long chunks; and the last must not keep one of several GPUs alone."""
    assert sizes(1000, on_gpu=False) == [128] * 7 + [104]
    assert sizes(6000) == [512, 640, 640, 640, 640, 640, 640, 512, 512, 512, 112]
    for num in (1, 127, 129, 300, 500, 900, 12_000, 40_000):
        found = sizes(num)
        assert max(found) <= 2048 and found[0] == min(num, 512)
        assert found[-1] <= 512 and max(found) <= max(512, num / 8), "one GPU would hear alone for long"
    audio_s = [15.0 * num for num in sizes(12_000, duration_s=15.0)]
    assert audio_s[:3] == [3600.0, 7200.0, 14_400.0] and max(audio_s) == 14_400.0 and audio_s[-1] <= 3600.0


def test_growing_chunks_are_the_same_in_every_job_of_an_array_and_after_a_kill(tmp_path, clips, monkeypatch) -> None:
    """Their sizes must hang on the list alone, and not on what was heard or on who hears."""
    monkeypatch.setattr(Listener, "_is_on_gpu", lambda self: True)
    few = {"chunk_utterances": 2}
    whole = listener(tmp_path / "one", Swayed(), **few).hear(clips)
    assert len(list((tmp_path / "one").rglob("*.jsonl"))) < len(clips) / 2 / 2
    for i in (1, 0):
        listener(tmp_path / "many", Swayed(), **few).hear(clips, shard=(i, 2))
    assert bytes_of(tmp_path / "many") == bytes_of(tmp_path / "one")
    first, *rest = sorted((tmp_path / "many").rglob("*.jsonl"))
    first.unlink()
    assert evidence(listener(tmp_path / "many", Swayed(), **few).hear(clips)) == evidence(whole)
    assert bytes_of(tmp_path / "many") == bytes_of(tmp_path / "one") and rest


def test_nodes_of_an_array_with_and_without_a_gpu_leave_nothing_unheard(tmp_path, clips, monkeypatch) -> None:
    """What a job hears must not hang on its node: clips between two cuts would be nobody's, however often it starts."""
    few = {"chunk_utterances": 2}
    for i, on_gpu in ((0, True), (1, False)):
        monkeypatch.setattr(Listener, "_is_on_gpu", lambda self, on_gpu=on_gpu: on_gpu)
        listener(tmp_path, Swayed(), **few).hear(clips, shard=(i, 2))
    assert evidence(listener(tmp_path, Swayed(), **few).merge(clips)) is not None


class Refusing(Here):
    """Whoever hears more than two clips at a time dies of it."""

    def map(self, work, chunks):
        run, number = Run(work, chunks), 0
        with work.open() as do:
            while run.has(number):
                while number not in run.results:
                    task = run.suspects.popleft() if run.suspects else run.take()
                    if len(task.chunk) > 2:
                        run.lose(task, "here")
                    else:
                        run.succeed(task, do(task.chunk))
                yield run.results.pop(number)
                number += 1


def test_a_group_that_kills_who_hears_it_is_heard_chunk_by_chunk(tmp_path, clips, monkeypatch) -> None:
    """One bad clip must not cost a thousand good ones."""
    by_chunk = listener(tmp_path / "alone", Swayed(), chunk_utterances=2).hear(clips)
    monkeypatch.setattr(Listener, "_is_on_gpu", lambda self: True)
    done = []
    config = CONFIG.model_copy(update={"chunk_utterances": 2})
    ears = Listener(Swayed(), Swayed(), tmp_path, load, config, "Hebrew", Refusing())
    found = ears.hear(clips, lambda now, total: done.append((now, total)))
    assert evidence(found) == evidence(by_chunk)
    assert ears.num_lost == 0 and done[-1][0] == done[-1][1] == len(clips)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.jsonl")}


class Meeting(Swayed):
    """Goes on with hearing a second chunk and with aligning the first only when both have begun."""

    identity = "meeting"

    def __init__(self) -> None:
        super().__init__()
        self.barrier, self.counting = Barrier(2, timeout=60), Lock()
        self.inside, self.most, self.calls = Counter(), Counter(), Counter()
        self.threads: dict[str, set[str]] = {"hear": set(), "align": set()}

    def enter(self, name: str) -> int:
        with self.counting:
            self.inside[name] += 1
            self.most[name] = max(self.most[name], self.inside[name])
            self.calls[name] += 1
            self.threads[name].add(current_thread().name)
            return self.calls[name]

    def leave(self, name: str) -> None:
        with self.counting:
            self.inside[name] -= 1

    def hear(self, clips, words):
        if self.enter("hear") == 2:
            self.barrier.wait()
        found = super().hear(clips, words)
        self.leave("hear")
        return found

    def align(self, clips, words):
        if self.enter("align") == 1:
            self.barrier.wait()
        found = super().align(clips, words)
        self.leave("align")
        return found


def test_a_chunk_is_aligned_while_the_next_one_is_heard(tmp_path: Path, clips: list[Clip]) -> None:
    """Models that wait for each other leave the GPU idle; two chunks with one model would share its memory."""
    ears = Meeting()
    found = listener(tmp_path / "met", ears).hear(clips)
    assert evidence(found) == evidence(listener(tmp_path / "alone", Swayed()).hear(clips))
    assert ears.calls["hear"] == ears.calls["align"] > 4 and dict(ears.most) == {"hear": 1, "align": 1}
    assert [len(own) for own in ears.threads.values()] == [1, 1]


def test_what_was_there_before_is_not_looked_through_for_garbage_while_models_hear(tmp_path: Path, clips) -> None:
    """That takes 0.4 s with torch and transformers loaded, in which no kernel is launched; later it must be done."""
    held = []

    class Looking(Swayed):
        def hear(self, clips, words):
            held.append(gc.get_freeze_count())
            return super().hear(clips, words)

    gc.unfreeze()  # what other tests left
    listener(tmp_path, Looking()).hear(clips[:4])
    assert held and min(held) > 10_000 and gc.get_freeze_count() == 0


def test_the_next_chunks_are_decoded_while_models_are_busy_and_few_at_a_time(tmp_path, clips, monkeypatch) -> None:
    """Models must not wait for decoders, nor a corpus of samples in memory for the models."""
    decode_part, decoded, is_ahead, is_too_far = chunks._decode_part, [], Event(), Event()

    def noted(worker, part: Sequence[Clip], **settings) -> list:
        decoded.extend(part)
        if len(decoded) > (chunks.DECODED - 1) * CONFIG.chunk_utterances:
            is_ahead.set()
        if len(decoded) > chunks.DECODED * CONFIG.chunk_utterances:
            is_too_far.set()
        return decode_part(worker, part, **settings)

    class Waiting(Swayed):
        def hear(self, clips, words):
            if not self.heard:
                assert is_ahead.wait(60), "nothing is decoded meanwhile"
                assert not is_too_far.wait(0.2), "samples of all chunks would be in memory"
            return super().hear(clips, words)

    monkeypatch.setattr(chunks, "_decode_part", noted)
    one_each = [clip for clip in clips if not clip.change_audio]
    listener(tmp_path, ears := Waiting()).hear(one_each)
    assert is_too_far.is_set() and len(ears.heard) == len(one_each)


def test_listeners_are_loaded_while_audio_is_hashed_and_only_where_something_is_heard(
    tmp_path: Path, clips: list[Clip], monkeypatch
) -> None:
    """Loading takes as long as hashing; but a run that only takes verdicts again must load nothing."""
    num_loaded, is_loading = [0], Event()

    def open_ears() -> Swayed:
        num_loaded[0] += 1
        is_loading.set()
        return Swayed()

    def hash_late(refs: Sequence[AudioRef]) -> list[str]:
        assert is_loading.wait(60), "audio is hashed before anything is loaded"
        return workers.hash_audio(refs)

    monkeypatch.setattr(chunks, "hash_audio", hash_late)
    ears = lambda: LazyListener("swayed", open_ears)  # noqa: E731
    recogniser = ears()
    heard = Listener(None, recogniser, tmp_path, load, CONFIG, "Hebrew").hear(clips)
    assert num_loaded == [1]
    again = Listener(None, ears(), tmp_path, load, CONFIG, "Hebrew").hear(clips)
    assert evidence(again) == evidence(heard) and num_loaded == [1]


def test_workers_are_kept_from_one_hearing_to_the_next_and_end_with_the_executor(tmp_path: Path, clips) -> None:
    """Their start takes a second or two, before every stage of a round and every set."""
    here = Here()
    config = CONFIG.model_copy(update={"num_workers": 1})
    pids = set()
    for name in ("one", "two"):
        Listener(Swayed(), Swayed(), tmp_path / name, load, config, "Hebrew", here).hear(clips[:4])
        pids.add(here.decoders(1).submit(pid_of, None).result())
    assert len(pids) == 1
    here.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pids.pop(), 0)
    alone = Listener(Swayed(), Swayed(), tmp_path / "three", load, config, "Hebrew")
    alone.hear(clips[:4])
    assert not alone._own._decoders._threads, "nobody else would end them"


def pid_of(worker: AnyWorker, _: None) -> int:
    return worker.run(os.getpid, timeout_s=600)
