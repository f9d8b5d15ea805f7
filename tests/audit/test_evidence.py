"""Evidence on disk: protects a rebuilt audit from hypotheses that nobody heard."""

import json
import logging
import shutil

import pytest

from shibolet.audit import evidence
from shibolet.audit.clip import Evidence
from shibolet.audit.evidence import EvidenceStore, to_line, write_lines

IDS = ("00000000000000aa", "00000000000000bb")


def write(folder):
    write_lines(folder, {id: to_line(Evidence(key="clip", hypothesis=f"said {id}")) for id in IDS})
    [path] = folder.glob("*.jsonl")
    return path


def test_what_was_written_is_read_and_folders_may_be_put_together(tmp_path):
    path = write(tmp_path / "a")
    (tmp_path / "b").mkdir()
    shutil.copy(path, tmp_path / "b")
    store = EvidenceStore(tmp_path / "b")
    assert [store.read(id)["hypothesis"] for id in IDS] == [f"said {id}" for id in IDS]


def test_few_files_are_open_however_many_are_read(tmp_path, monkeypatch):
    """An audit of a thousand hours has thousands of them, and a process may open a thousand."""
    monkeypatch.setattr(evidence, "OPEN_FILES", 2)
    ids = [f"{number:016x}" for number in range(5)]
    for id in ids:
        write_lines(tmp_path, {id: to_line(Evidence(key="clip", hypothesis=f"said {id}"))})
    store = EvidenceStore(tmp_path)
    for id in [*ids, *reversed(ids)]:
        assert store.read(id)["hypothesis"] == f"said {id}" and len(store._open) <= 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content.replace(b"said", b"sung"),  # valid, and another hypothesis
        lambda content: content.replace(b"00aa", b"00ac"),  # said of another clip
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: b"[1, 2]\n" + content.split(b"\n", 1)[1],
        lambda content: json.dumps({"begins": json.loads(content.split(b"\n")[0])["begins"]}).encode() + b"\n",
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_set_aside_and_heard_again(tmp_path, caplog, damage):
    path = write(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        store = EvidenceStore(tmp_path)
    assert all(id not in store for id in IDS)
    assert path.name in caplog.text and "is heard again" in caplog.text
    assert not path.exists() and path.with_name(f"{path.name}.broken").exists()
    assert write(tmp_path).read_bytes() == whole
    store.refresh()
    assert all(id in store for id in IDS)
