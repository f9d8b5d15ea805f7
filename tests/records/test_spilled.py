"""Lists on disk: protects rows from coming back changed or in another place, and memory from holding all of them."""

import errno
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shibolet.errors import DiskError
from shibolet.records import batches, spilled
from shibolet.records.batches import for_each_row, in_threads
from shibolet.records.ledger import LedgerLine
from shibolet.records.manifest import manifest_hash, read_manifest, write_manifest
from shibolet.records.spilled import SpilledDict, SpilledList
from shibolet.records.utterance import AudioRef, Utterance


@pytest.fixture
def small(monkeypatch) -> None:
    monkeypatch.setattr(spilled, "BATCH_ROWS", 4)


def rows(num: int) -> Iterator[Utterance]:
    for i in range(num):
        yield Utterance(
            id=f"u{i}", audio=AudioRef(path=f"a\udcff{i // 3}.wav", start_s=float(i), end_s=i + 0.5 if i % 2 else None),
            text=f"שלום {i}", duration_s=0.1 * i, source="s", speaker=None if i % 5 else "דנה",
            flags=("noisy",) if i % 7 == 0 else None,
        )  # fmt: skip


@pytest.mark.parametrize("num", [0, 1, 3, 4, 5, 8, 23])
def test_it_is_the_list_that_was_put_in(num: int, small) -> None:
    """Whether the last batch is full, and whatever is asked for: one from the end, a slice, none at all."""
    plain, found = list(rows(num)), SpilledList(rows(num))
    assert list(found) == plain and found == plain and len(found) == num
    assert [found[i] for i in range(-num, num)] == [*plain, *plain]
    for part in (slice(None, None, 3), slice(2, 7), slice(-3, None), slice(None, None, -1)):
        assert found[part] == plain[part]
    assert found != [*plain, *rows(1)] and (num < 2 or found != [*plain[1:], plain[0]])
    for beyond in (num, -num - 1):
        with pytest.raises(IndexError):
            found[beyond]


def test_lists_of_any_length_are_joined_without_a_copy(small) -> None:
    parts = [SpilledList(rows(6)), [], list(rows(3)), SpilledList(), SpilledList(rows(9))]
    whole = SpilledList.joined(parts)
    plain = [row for part in parts for row in part]
    assert whole == plain and [whole[i] for i in range(len(plain))] == plain
    assert SpilledList.joined([whole, whole]) == [*plain, *plain]
    assert whole._file is None


def test_rows_of_other_kinds_and_nested_ones_that_are_missing(small) -> None:
    """A field may be a row in some and None in others: such a column is no column of rows."""
    lines = [LedgerLine(id=str(i), source="s", stage="read", rule="r", duration_s=None) for i in range(9)]
    assert SpilledList(lines) == lines
    some = [Utterance(**{**{f: getattr(u, f) for f in u.__slots__}, "audio": None}) for u in rows(3)]
    mixed = [*some, *rows(5)]
    assert SpilledList(mixed) == mixed


def test_threads_read_the_same_file_at_once(small) -> None:
    found, plain = SpilledList(rows(200)), list(rows(200))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found.__getitem__, [i * 37 % 200 for i in range(2000)])) == [
            plain[i * 37 % 200] for i in range(2000)
        ]


def test_memory_does_not_grow_with_the_rows() -> None:
    def traced_mib(kind: type) -> float:
        tracemalloc.start()
        kept = kind(rows(8 * spilled.BATCH_ROWS + 1))
        size = tracemalloc.get_traced_memory()[0] / 2**20
        tracemalloc.stop()
        assert len(kept)
        return size

    assert traced_mib(SpilledList) < 0.3 < 3 < traced_mib(list)


def test_a_full_disk_is_told_with_its_place(small, monkeypatch) -> None:
    class Full:
        def tell(self) -> int:
            return 0

        def write(self, content: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spilled.tempfile, "TemporaryFile", Full)
    with pytest.raises(DiskError, match=rf"^{spilled.tempfile.gettempdir()} could not be written: No space left"):
        SpilledList(rows(5))


@pytest.mark.parametrize("few", [1, 3, 6, 100])  # so many are in memory
def test_names_of_any_bytes_are_found_again_and_the_first_stays(few: int, monkeypatch) -> None:
    monkeypatch.setattr(spilled, "FEW_KEYS", few)
    found = SpilledDict()
    names = ["", "a", "שלום", "a\udcff.wav", "x\0y", "x"]
    assert all(found.add(name, f"at {name}") for name in names)
    assert not any(found.add(name, "later") for name in names)
    assert [found[name] for name in names] == [f"at {name}" for name in names]
    assert "a" in found and "A" not in found
    with pytest.raises(KeyError):
        found["x\0"]


@pytest.mark.parametrize("known", [1, 3, 100])
def test_each_row_has_what_its_own_file_has_however_many_are_remembered(known: int, monkeypatch) -> None:
    monkeypatch.setattr(batches, "_ROWS", 4)
    monkeypatch.setattr(batches, "_KNOWN_FILES", known)
    looked_at: list[str] = []

    def look(path: str) -> str:
        looked_at.append(path)
        return path.upper()

    paths = [*"aabbcadbeeaabcd", *"xyzxyz"]
    assert list(for_each_row(in_threads, look, iter(paths))) == [path.upper() for path in paths]
    assert sorted(looked_at) == sorted(set(paths)) if known == 100 else len(looked_at) > len(set(paths))


def test_a_manifest_is_the_same_data_from_disk_and_from_memory(tmp_path: Path, small) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    given = [
        Utterance(id=str(i), audio=AudioRef(path=str(tmp_path / "a.wav")), text="א", duration_s=1.0, source="s")
        for i in range(11)
    ]
    write_manifest(tmp_path / "m.jsonl", SpilledList(given))
    assert read_manifest(tmp_path / "m.jsonl") == given
    assert manifest_hash(SpilledList(given)) == manifest_hash(given)
