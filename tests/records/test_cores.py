"""The number of processors a process may use."""

import os

import pytest

from shibolet.records import cores
from shibolet.records.cores import usable_cores


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Control groups of a machine of 64, as a function that sets the `cpu.max` of one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_OWN_CGROUP", tmp_path / "own")
    (tmp_path / "own").write_text("0::/pods/mine\n")

    def limit(group: str, text: str) -> None:
        folder = tmp_path / "cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text)

    return limit


def test_a_scheduler_gives_a_process_some_of_the_machine(container, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 9}, raising=False)
    assert usable_cores() == 2


def test_a_container_has_a_quota_and_so_may_what_it_lies_in(container):
    """Sixty-four decoders on four processors wait for each other."""
    assert usable_cores() == 64
    container("pods/mine", "max 100000\n")
    assert usable_cores() == 64
    container("pods", "450000 100000\n")
    assert usable_cores() == 4
    container("pods/mine", "50000 100000\n")
    assert usable_cores() == 1


def test_where_no_affinity_is_known_the_machine_counts(container, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert usable_cores() == 8
