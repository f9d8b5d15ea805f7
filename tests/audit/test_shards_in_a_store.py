"""Jobs of an array whose machines share a store alone: protects from clips that are heard twice, or by none."""

import time
from pathlib import Path

import pytest
from ears import Swayed, evidence, listener
from object_store import URL

from shibolet.audit.clip import Clip
from shibolet.errors import RecipeError, StoreError, UploadError
from shibolet.records import store
from shibolet.rounds import mirroring
from shibolet.rounds.mirroring import evidence_shared, mirrored

PLACE = f"{URL}/runs/mine"
FEW = {"chunk_utterances": 4}  # so that there are several groups, of which each job hears some


def heard_in(run: Path, ears: Swayed, clips: list[Clip], shard: tuple[int, int]) -> None:
    with evidence_shared(run, PLACE, print):
        listener(run / "audit" / "heard", ears, **FEW).hear(clips, shard=shard)


def merged(run: Path, clips: list[Clip]) -> dict:
    return evidence(listener(run / "audit" / "heard", Swayed(), **FEW).merge(clips))


def test_disks_of_their_own_come_to_one_audit(object_store, tmp_path: Path, clips: list[Clip]) -> None:
    """And the machine of a job can go on with the round later, though what it heard lies in its folder already."""
    clips = clips[:32]
    whole = evidence(listener(tmp_path / "one", Swayed(), **FEW).hear(clips))
    parts = [Swayed(), Swayed()]
    for i, ears in enumerate(parts):
        heard_in(tmp_path / f"job{i}", ears, clips, (i, 2))
    assert all(part.heard for part in parts) and sum(len(part.heard) for part in parts) == len(clips)
    (tmp_path / "judge").mkdir()
    with mirrored(tmp_path / "judge", PLACE, print):
        assert merged(tmp_path / "judge", clips) == whole
        (tmp_path / "judge" / "gate.json").write_text("{}")
    with mirrored(tmp_path / "job0", PLACE, print):
        assert merged(tmp_path / "job0", clips) == whole and (tmp_path / "job0" / "gate.json").is_file()


def test_a_folder_with_a_round_in_it_is_not_taken_for_that_of_a_job(object_store, tmp_path: Path) -> None:
    """Protects its files: a folder that a job made is replaced by the round of the store."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "gate.json").write_text("{}")
    with evidence_shared(tmp_path / "run", PLACE, print):
        pass
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["gate.json"]
    assert object_store.names() == []


def test_a_job_whose_machine_is_taken_away_goes_on_with_what_it_sent(
    object_store, tmp_path: Path, clips: list[Clip], monkeypatch
) -> None:
    monkeypatch.setattr(mirroring, "EVERY_S", 0.02)
    calls = iter(range(4))

    class Stopped(Swayed):
        def hear(self, clips, words):
            if next(calls, None) is None:
                wait_for(lambda: len(object_store.names()) >= 2)
                raise KeyboardInterrupt
            return super().hear(clips, words)

    first, second = Stopped(), Swayed()
    with pytest.raises(KeyboardInterrupt):
        heard_in(tmp_path / "first", first, clips, (0, 2))
    heard_in(tmp_path / "second", second, clips, (0, 2))
    in_two, at_once = len(first.heard) + len(second.heard), Swayed()
    listener(tmp_path / "one", at_once, **FEW).hear(clips, shard=(0, 2))
    assert 0 < len(second.heard) < len(at_once.heard) <= in_two < 2 * len(at_once.heard)


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)


def test_a_store_that_fails_is_told_before_or_after_the_hearing(
    object_store, tmp_path: Path, clips: list[Clip], monkeypatch
) -> None:
    """Before it nothing is heard in vain; after it nothing is heard again."""
    monkeypatch.setattr(store, "TRIES", 1)

    class Denied(Swayed):
        def hear(self, clips, words):
            object_store.denies = ("PUT",)
            return super().hear(clips, words)

    with pytest.raises(UploadError, match=f"on this machine, but not in {PLACE}: .*The same command sends the rest"):
        heard_in(tmp_path / "run", Denied(), clips, (0, 2))
    unheard = Swayed()
    with pytest.raises(StoreError, match="cannot be written"):
        heard_in(tmp_path / "other", unheard, clips, (1, 2))
    with pytest.raises(RecipeError, match="--mirror runs/mine: write a folder of a store"):
        with evidence_shared(tmp_path / "other", "runs/mine", print):
            pass
    assert not unheard.heard and object_store.names() == []
    object_store.denies = ()
    heard_in(tmp_path / "run", unheard, clips, (0, 2))
    files = {path.name for path in (tmp_path / "run" / "audit" / "heard").rglob("*.jsonl")}
    assert not unheard.heard and {name.rsplit("/", 1)[1] for name in object_store.names()} == files != set()
