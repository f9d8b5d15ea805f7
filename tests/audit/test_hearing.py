"""Hearing: nothing twice, the same bytes whatever was cut off or shared out, the same window for all of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ears import CONFIG, InFile, Louder, Swayed, evidence, half, listener

from shibolet.audit import chunks
from shibolet.audit.audio_changes import Shifted
from shibolet.audit.chunks import chunks_of
from shibolet.audit.clip import Clip
from shibolet.audit.hearing import Listener
from shibolet.audit.workers import decode
from shibolet.errors import DataError, ProcessLost
from shibolet.listen.decoders import Worker
from shibolet.listen.executor import Here, Processes
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import load


def test_a_run_that_was_cut_off_ends_with_the_same_evidence(tmp_path: Path, clips: list[Clip]) -> None:
    """A batch that is put together from what is left over has other neighbours, and with them other last bits."""
    whole = evidence(listener(tmp_path / "a", Swayed()).hear(clips))
    assert len({e.signals.text_score for e in whole.values()}) > 3, "scores must depend on the batch, or this is empty"
    calls = iter(range(3))

    class Stopped(Swayed):
        def hear(self, clips, words):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return super().hear(clips, words)

    with pytest.raises(KeyboardInterrupt):
        listener(tmp_path / "b", Stopped()).hear(clips)
    rest = Swayed()
    assert evidence(listener(tmp_path / "b", rest).hear(clips)) == whole
    assert 0 < len(rest.heard) < len(clips)


def test_nothing_is_heard_twice_whatever_it_is_called(tmp_path: Path, clips: list[Clip]) -> None:
    """Another order, other names, other folders and other times of files are the same content."""
    whole = evidence(listener(tmp_path, Swayed()).hear(clips))
    moved = []
    for clip in clips[::-1]:
        path = tmp_path / "moved" / Path(clip.audio.path).name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(Path(clip.audio.path).read_bytes())
        moved.append(replace(clip, key=clip.key + "-again", audio=AudioRef(path=str(path))))
    again = Swayed()
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
        replace(clip, change_audio=Louder(1.6)),
    ]  # fmt: skip
    ids = [c.content_id("a") for c in [clip, *other]] + [clip.content_id("b")]
    assert len(set(ids)) == len(ids)
    assert replace(clip, key="x", duration_s=9.0).content_id("a") == clip.content_id("a")
    shifted = replace(clip, change_audio=Shifted(0.2, clips[1].audio))
    elsewhere = replace(clip, change_audio=Shifted(0.2, replace(clips[1].audio, path="/elsewhere/b.wav")))
    assert shifted.content_id("a", ["b"]) == elsewhere.content_id("a", ["b"]) != shifted.content_id("a", ["c"])
    with pytest.raises(ValueError, match="function of a module"):
        replace(clip, change_audio=lambda samples, rng: samples).content_id("a")


def test_the_same_content_twice_is_heard_once_and_found_by_both_names(tmp_path: Path, clips: list[Clip]) -> None:
    ears = Swayed()
    heard = listener(tmp_path, ears).hear([*clips, replace(clips[3], key="twin")])
    assert len(ears.heard) == len(clips)
    assert replace(heard["twin"], key=clips[3].key) == heard[clips[3].key]


def test_shards_merge_to_one_run(tmp_path: Path, clips: list[Clip]) -> None:
    """A part that is missing must not pass as an audit."""
    whole = evidence(listener(tmp_path / "one", Swayed(), chunk_utterances=2).hear(clips))
    parts = [Swayed(), Swayed(), Swayed()]
    for i in (2, 0):
        listener(tmp_path / "many", parts[i], chunk_utterances=2).hear(clips, shard=(i, 3))
    with pytest.raises(DataError, match="heard by no shard"):
        listener(tmp_path / "many", Swayed(), chunk_utterances=2).merge(clips)
    listener(tmp_path / "many", parts[1], chunk_utterances=2).hear(clips, shard=(1, 3))
    assert evidence(listener(tmp_path / "many", Swayed(), chunk_utterances=2).merge(clips)) == whole
    assert all(part.heard for part in parts)
    assert sum(len(part.heard) for part in parts) == len(clips)


def test_processes_find_what_one_process_finds(tmp_path: Path, clips: list[Clip]) -> None:
    """Changes, failures and evidence cross to other processes and back; order and bytes stay."""
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    clips = [*clips[:9], replace(clips[9], key="bad", audio=AudioRef(path=str(broken))), *clips[10:]]
    one = evidence(listener(tmp_path / "one", Swayed()).hear(clips))
    two = evidence(listener(tmp_path / "two", Swayed(), num_workers=2).hear(clips))
    assert one == two and one["bad"].failure == "undecodable"
    files = [sorted(path.read_bytes() for path in (tmp_path / name).rglob("*.jsonl")) for name in ("one", "two")]
    assert files[0] == files[1]


def test_chunks_hold_every_content_once_and_stay_within_both_limits(clips: list[Clip]) -> None:
    ids = [clip.content_id(clip.audio.path) for clip in clips]
    chunks = list(chunks_of([*clips, clips[0]], [*ids, ids[0]], 8, 5.0))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(clips)))
    assert all(len(chunk) <= 8 and sum(clips[i].duration_s for i in chunk) <= 5.0 for chunk in chunks)
    assert max(map(len, chunks)) == 8 and len({len(chunk) for chunk in chunks}) > 1
    copies = [next(chunk for chunk in chunks if i in chunk) for i, clip in enumerate(clips) if clip.change_audio]
    assert sum(len({clips[i].audio for i in chunk}) < len(chunk) for chunk in copies) > 0


class Counting(Swayed):
    """Notes every array that it is given, once a call."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: list[bytes] = []
        self.calls: list[int] = []

    def hear(self, clips, words):
        distinct = {id(clip): clip for clip in clips}
        self.arrays += [clip.tobytes() for clip in distinct.values()]
        self.calls.append(len(clips))
        return super().hear(clips, words)


def with_texts(clips: Sequence[Clip], num: int) -> list[Clip]:
    """The clips and `num` copies of each with other words: row by row, as the matrix of damage makes them."""
    return [*clips, *(replace(c, key=f"{n}/{c.key}", words=("מילה", "א" * (n + 1))) for n in range(num) for c in clips)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_sound_is_heard_once_however_many_texts_it_has(tmp_path: Path, clips, num_workers: int) -> None:
    """A listener knows the same audio by the identity of its array: in another chunk it would encode it again."""
    noisy = [
        replace(clip, key=f"louder/{clip.key}", change_audio=Louder(1.5)) for clip in clips if not clip.change_audio
    ]
    everything = with_texts([*clips, *noisy], 5)
    ears = Counting()
    heard = listener(tmp_path, ears, num_workers=num_workers).hear(everything)
    assert len(heard) == len(everything) == sum(ears.calls) > 8 * len(ears.calls) / 2
    assert len(ears.calls) > 10, "one chunk would prove nothing"
    assert len(ears.arrays) == len(set(ears.arrays)) == len(clips) + len(noisy)


def test_a_change_sounds_the_same_under_every_text_and_is_one_array_from_another_process(clips: list[Clip]) -> None:
    """Noise that depends on the words would be another sound for each text, and heard as often."""
    noisy = [replace(clip, change_audio=Louder(1.5)) for clip in clips[2:4]]
    texted = [replace(clip, key=f"texted/{clip.key}", words=("מילה",), verifiable=(True,)) for clip in noisy]
    worker = Worker()
    try:
        found = worker.run(decode, [*noisy, *texted, clips[2], clips[2]], load, timeout_s=600)
    finally:
        worker.close()
    samples = [array for array, _ in found]
    assert samples[0] is samples[2] and samples[1] is samples[3] and samples[4] is samples[5]
    assert np.array_equal(samples[0], decode([texted[0]], load)[0][0])
    noise = [
        after - 1.5 * before for after, before in zip(samples[:2], (samples[4], load(clips[3].audio)), strict=True)
    ]
    assert np.abs(noise[0]).max() > 1e-3 and not np.allclose(noise[0][:3000], noise[1][:3000], atol=1e-4)


def test_only_the_texts_of_one_sound_exceed_a_chunk(clips: list[Clip]) -> None:
    everything = with_texts(clips, 11)
    ids = [clip.content_id(clip.audio.path) for clip in everything]
    chunks = list(chunks_of(everything, ids, 8, 900.0))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(everything)))
    sounds = [{(everything[i].audio, everything[i].change_audio) for i in chunk} for chunk in chunks]
    assert len(chunks) == len(clips) and all(len(chunk) == 12 for chunk in chunks)
    assert all(len(own) == 1 for own in sounds)
    near = [{everything[i].audio for i in chunk} for chunk in chunks]
    assert sum(a == b for a, b in pairwise(near)) == sum(bool(c.change_audio) for c in clips)


@pytest.mark.slow("audit", seconds=25)
def test_memory_does_not_grow_with_the_rows() -> None:
    """A whole corpus is heard on the machine that heard its sample: evidence must not wait in memory."""

    def peak_mib(num_rows: int) -> float:
        script = Path(__file__).with_name("many_rows.py")
        done = subprocess.run([sys.executable, script, str(num_rows)], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert peak_mib(20_000) < 1.5 * peak_mib(2_000)


def test_hypotheses_from_elsewhere_belong_to_utterances_and_to_no_changed_audio(tmp_path: Path, clips) -> None:
    """A hypothesis is known by its utterance: copies with another text share it, those with other audio have none."""
    everything = [*clips[:6], replace(clips[2], key="swapped/u1", words=("אחר", "לגמרי"))]
    said = {clip.utterance: f"שלום {clip.utterance}" for clip in everything if clip.utterance != "u2"}
    theirs = Listener(Swayed(), InFile(said), tmp_path, load, CONFIG, "Hebrew")
    assert [theirs.can_hear(clip) for clip in everything] == [not clip.change_audio for clip in everything]
    assert not all(map(theirs.can_hear, everything))
    heard = theirs.hear([clip for clip in everything if theirs.can_hear(clip)])
    assert heard["u2"].failure == "no_hypothesis" and heard["u2"].signals is None
    assert heard["swapped/u1"].hypothesis == heard["u1"].hypothesis == "שלום u1"
    assert heard["u1"].signals.text_score is heard["u1"].signals.text_logp is None


def test_a_hypothesis_of_a_copy_with_changed_audio_is_known_by_the_copy_s_own_name(tmp_path: Path, clips) -> None:
    """Under its original's name it would have the original's hypothesis, and no damage to audio could be found."""
    copies = [clip for clip in clips if clip.change_audio]
    assert len(copies) > 3
    said = {clip.key: f"שלום {clip.key}" for clip in clips if clip.key != copies[1].key}
    theirs = Listener(None, InFile(said), tmp_path, load, CONFIG, "Hebrew")
    assert [theirs.can_hear(copy) for copy in copies] == [copy is not copies[1] for copy in copies]
    heard = theirs.hear([clip for clip in clips if theirs.can_hear(clip)])
    assert {key: e.hypothesis for key, e in evidence(heard).items()} == said


def test_without_an_aligner_words_have_the_recogniser_s_times_or_none(tmp_path: Path, clips: list[Clip]) -> None:
    """An aligner that is left out must leave coverage unknown, not full, and must not be asked for."""

    class Timed(Swayed):
        def hear(self, clips, words):
            spans = np.array([[-0.5, 0.1], [0.1, 9.0]])  # a recogniser's times may lie outside of the clip
            return [replace(hearing, word_spans_s=spans) for hearing in super().hear(clips, words)]

        def align(self, clips, words):
            raise AssertionError("asked for an alignment")

    for ears, spans in ((Timed(), [(0.0, 0.1), (0.1, 0.2)]), (Swayed(), [])):
        alone = Listener(None, ears, tmp_path / type(ears).__name__, load, CONFIG, "Hebrew")
        assert alone.identities == ("swayed",)
        found = alone.hear(clips[:1])["u0"]
        assert found.signals.coverage is None and found.signals.cer == 0.0
        assert list(zip(found.starts_s, found.ends_s, strict=True)) == spans
    assert listener(tmp_path / "aligned", Swayed()).hear(clips[:1])["u0"].signals.coverage is not None


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Noted(Swayed):
    """Leaves the name of the process that it hears in; there it dies when it hears a clip of so many samples."""

    def __init__(self, folder: Path, dies_of: int = 0, times: int = 1) -> None:
        super().__init__()
        folder.mkdir(exist_ok=True)
        self.folder, self.dies_of, self.times = folder, dies_of, times

    def hear(self, clips, words):
        (self.folder / f"heard-{os.getpid()}").touch()
        if self.dies_of in map(len, clips) and len(list(self.folder.glob("died-*"))) < self.times:
            (self.folder / f"died-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return super().hear(clips, words)


@pytest.mark.parametrize("num, num_workers", [(2, 4), (3, 0)])
def test_several_processes_put_on_disk_what_one_does(tmp_path: Path, clips, num: int, num_workers: int) -> None:
    """What is heard together must not hang on how many GPUs there are, nor the ledger, nor the order."""
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    clips = [*clips[:9], replace(clips[9], key="bad", audio=AudioRef(path=str(broken))), *clips[10:]]
    one = evidence(listener(tmp_path / "one", Swayed()).hear(clips))
    progress = []
    with closing(Processes([{}] * num)) as several:
        ears = Noted(tmp_path / "notes")
        config = CONFIG.model_copy(update={"num_workers": num_workers})
        found = Listener(ears, ears, tmp_path / "several", load, config, "Hebrew", several).hear(
            clips, lambda *done: progress.append(done)
        )
        assert evidence(found) == one and list(found) == [clip.key for clip in clips]
        assert bytes_of(tmp_path / "several") == bytes_of(tmp_path / "one")
        assert len(list(ears.folder.glob("heard-*"))) == num and ears.heard == [], "this process heard nothing"
        assert progress == sorted(progress) and progress[-1] == (len(clips), len(clips)) and len(progress) > 4
        again = Listener(ears, ears, tmp_path / "one", load, CONFIG, "Hebrew", several)
        assert evidence(again.hear(clips)) == one, "what one process heard, several know"


def test_a_process_that_is_killed_while_it_hears_loses_nothing(tmp_path: Path, clips: list[Clip]) -> None:
    listener(tmp_path / "one", Swayed()).hear(clips)
    with closing(Processes([{}] * 2)) as two:
        ears = Noted(tmp_path / "notes", dies_of=3200 + 797 * 17)
        killed = Listener(ears, ears, tmp_path / "two", load, CONFIG, "Hebrew", two)
        killed.hear(clips)
    assert len(list(ears.folder.glob("died-*"))) == 1 and killed.num_lost == 0
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def test_a_clip_that_kills_whoever_hears_it_is_given_up_alone_and_in_this_run_alone(tmp_path: Path, clips) -> None:
    """Else one recording that a model cannot take would end every audit of a corpus, or take its neighbours along."""
    pairs = CONFIG.model_copy(update={"chunk_utterances": 2})
    whole = evidence(Listener(Swayed(), Swayed(), tmp_path / "one", load, pairs, "Hebrew").hear(clips))
    ears = Noted(tmp_path / "notes", dies_of=3200 + 797 * 17, times=4)  # with its neighbour three times, then alone
    with closing(Processes([{}] * 2)) as two:
        first, second = (Listener(ears, ears, tmp_path / "two", load, pairs, "Hebrew", two) for _ in range(2))
        found = evidence(first.hear(clips))
        assert {key for key, one in found.items() if one.failure == "listener_crashed"} == {"u17"}
        assert first.num_lost == 1 and len(list(ears.folder.glob("died-*"))) == 4
        others = {key for key in whole if found[key] == whole[key]}
        assert len(others) == len(clips) - 2, "the neighbour is heard alone, which is another batch"
        again = evidence(second.hear(clips))
        assert second.num_lost == 0 and not any(one.failure for one in again.values())
        assert {key: again[key] for key in again if key != "u17"} == {key: found[key] for key in found if key != "u17"}


class Elsewhere(Here):
    """Other machines, as far as who hands out knows."""

    is_elsewhere = True


def test_machines_that_hash_files_themselves_find_the_same_contents(tmp_path: Path, clips: list[Clip]) -> None:
    """One machine that reads all audio of a corpus would hold up a hundred; what cannot be read is known as here."""
    clips = [*clips, replace(clips[0], key="gone", audio=AudioRef(path=str(tmp_path / "gone.wav")))]
    one = evidence(listener(tmp_path / "one", Swayed()).hear(clips))
    far = Listener(Swayed(), Swayed(), tmp_path / "far", load, CONFIG, "Hebrew", Elsewhere())
    assert evidence(far.hear(clips)) == one and one["gone"].failure
    assert bytes_of(tmp_path / "far") == bytes_of(tmp_path / "one")


def test_a_clip_that_left_no_evidence_is_missed(tmp_path: Path, clips: list[Clip], monkeypatch) -> None:
    """Every clip that was asked for is heard, undecodable or given up; one that is none of these must end the run."""
    write = chunks.write_lines
    monkeypatch.setattr(chunks, "write_lines", lambda folder, lines: write(folder, dict([*lines.items()][1:] or lines)))
    for shard in ((0, 1), (0, 2)):
        with pytest.raises(ProcessLost, match=r"of [0-9]+ clips that were to be heard [0-9]+ have left no evidence"):
            listener(tmp_path / str(shard[1]), Swayed()).hear(clips, shard=shard)
    monkeypatch.undo()
    assert len(listener(tmp_path / "1", Swayed()).hear(clips)) == len(clips)


class Windowed(Swayed):
    """Can hear with several windows; notes what it is tried on and what it is set to."""

    identity = "windowed"

    def __init__(self, good: float = 10.0) -> None:
        super().__init__()
        self.good, self.tried_on, self.set_to = good, [], []

    def choose_window(self, clips, words):
        self.tried_on.append([(clip.tobytes(), *said) for clip, said in zip(clips, words, strict=True)])
        return self.good

    def set_window(self, seconds):
        self.set_to.append(seconds)


def test_a_window_is_chosen_once_and_kept(tmp_path: Path, clips: list[Clip]) -> None:
    """Shards, later runs and the rest of the data must be heard in the way that the first run chose."""
    first, second, shard, other = Windowed(), Windowed(good=30.0), Windowed(good=30.0), Windowed()
    whole = evidence(listener(tmp_path / "one", first).hear(clips))
    [trial] = first.tried_on
    assert len(trial) == len(set(trial)) == 24 and first.set_to == [10.0]
    originals = {load(clip.audio).tobytes() for clip in clips if not clip.change_audio}
    assert {samples for samples, *_ in trial} <= originals, "a damaged copy says nothing of a window"
    assert evidence(listener(tmp_path / "one", second).hear(clips)) == whole
    assert second.tried_on == second.heard == [] and second.set_to == [10.0]
    listener(tmp_path / "many", other).hear(clips[::-1], shard=(0, 2))
    assert other.tried_on == [trial], "the trial hangs on what the clips are and not on their order"
    listener(tmp_path / "many", shard).hear(clips[::-1], shard=(1, 2))
    assert shard.tried_on == [] and shard.set_to == [10.0] and shard.heard
    assert evidence(listener(tmp_path / "many", Windowed(good=30.0)).merge(clips[::-1])).keys() == whole.keys()


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"window_s": 10',
        "{}",
        '{"window_s": "x"}',
        '{"window_s": -5.0}',
        "[10]",
        '{"window_s": 20.0}',
        '{"window_s": 20.0, "sha256": "0"}',
    ],
)
def test_a_window_that_cannot_be_read_is_chosen_again_and_said(tmp_path: Path, clips, content: str, caplog) -> None:
    """On the same clips it is the same one: what was heard with it stays."""
    first, again = Windowed(), Windowed()
    listener(tmp_path, first).hear(clips[:8])
    [path] = tmp_path.glob("**/window-*.json")
    kept = path.read_bytes()
    path.write_text(content)
    listener(tmp_path, again).hear(clips[:8])
    assert again.tried_on == first.tried_on and again.heard == [] and path.read_bytes() == kept
    [said] = caplog.messages
    assert str(path) in said and said.endswith("it is made again")


def test_a_window_that_another_process_chose_is_the_same(tmp_path: Path, clips: list[Clip]) -> None:
    """This process, which loads no model where several hear, has no say in it."""
    ears = Windowed()
    listener(tmp_path / "one", Windowed()).hear(clips)
    with closing(Processes([{}] * 2)) as two:
        Listener(ears, ears, tmp_path / "two", load, CONFIG, "Hebrew", two).hear(clips)
    assert ears.tried_on == [] and ears.set_to == [10.0]
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def test_another_window_is_another_evidence_and_one_that_is_given_is_not_tried(tmp_path: Path, clips) -> None:
    listener(tmp_path, Windowed()).hear(clips[:8])
    given = Windowed()
    listener(tmp_path, given, window_s=20.0).hear(clips[:8])
    assert given.tried_on == [] and given.set_to == [20.0] and len(given.heard) == 8
    known = Windowed()
    listener(tmp_path, known, window_s=10.0).hear(clips[:8])
    assert known.heard == [], "the same window is the same evidence, whoever chose it"


def test_clips_that_cannot_be_decoded_choose_no_window(tmp_path: Path, clips: list[Clip]) -> None:
    """A first run on a broken disk must not decide how everything after it is heard."""
    gone = [replace(clip, audio=AudioRef(path=str(tmp_path / f"{clip.key}.wav"))) for clip in clips[:3]]
    ears = Windowed()
    assert all(e.failure for e in evidence(listener(tmp_path / "heard", ears).hear(gone)).values())
    assert ears.tried_on == [] and not list((tmp_path / "heard").glob("window-*"))
    listener(tmp_path / "heard", ears).hear(clips[:3])
    assert len(ears.tried_on) == 1 and ears.set_to == [10.0]
