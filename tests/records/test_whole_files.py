"""Files that are whole or absent, also where several write the same one."""

from pathlib import Path

import pytest

from shibolet.records.files import writing


def test_two_that_write_one_file_at_a_time_both_end(tmp_path: Path) -> None:
    """Jobs of an array choose the same thing at their start: with one name beside it the second would find none."""
    path = tmp_path / "window.json"
    with writing(path) as first:
        with writing(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        first.write(b"first")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_what_could_not_be_written_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ZeroDivisionError), writing(path) as file:
        file.write(b"{")
        raise ZeroDivisionError
    path.mkdir()  # where it cannot be put
    with pytest.raises(OSError), writing(path) as file:
        file.write(b"{")
    assert list(tmp_path.iterdir()) == [path]
