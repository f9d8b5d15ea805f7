"""One reader for our JSON: protects from a traceback, and from a guess, where a file is not as it was written."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from shibolet.errors import DataError
from shibolet.records.documents.provenance import Extension, StageMarker
from shibolet.records.documents.training import DevScore
from shibolet.records.hypotheses import HypothesisLine, read_hypothesis_lines, write_hypothesis_lines
from shibolet.records.ledger import LedgerLine, read_ledger, write_ledger
from shibolet.records.reading import parse_own, read_as, read_cached, read_lines

GOOD = {"format": 1, "data": "aa", "sizes": [100, 200]}
REMEDY = "delete it, and 'shibolet audit RECIPE --extend' asks again"

# content of a document -> what the sentence says of it
BROKEN = {
    b"": "not whole",
    json.dumps(GOOD).encode()[:-5]: "not whole",
    b"\xff\xfe" + json.dumps(GOOD).encode("utf-16-le"): "UTF-16, not UTF-8",
    json.dumps(GOOD).encode().replace(b"aa", b"a\xe9"): "not UTF-8",
    b'{"format": 1, "data": "aa", "data": "bb", "sizes": []}': "key 'data' stands twice",
    b'{"format": 1, "data": "aa", "sizes": [NaN]}': "NaN is not a number in JSON",
    b'{"format": 1, "data": "aa", "sizes": [1e999]}': "1e999 is not a finite number",
    b'{"format": 1, "data": "aa", "sizes": ['
    + b"9" * 40
    + b"]}": "the integer 99999999999999999999... has more than 64 bits",
    b'{"format": 1, "data": "a\\ud800", "sizes": []}': "half of a surrogate pair",
    b'{"format": 1, "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "nested too deeply",
    b"[1, 2]": "a version that did not say so",
    b"null": "a version that did not say so",
    b'{"format": true, "data": "aa", "sizes": []}': "a version that did not say so",
    b'{"format": "1", "data": "aa", "sizes": []}': "a version that did not say so",
    b'{"format": 2, "data": "aa", "sizes": []}': "version 2 of this file",
    b'{"format": 1, "data": "aa", "sizes": ["x"]}': "sizes.0: ",
    b'{"format": 1, "data": "aa", "sizes": [1.5]}': "sizes.0: ",
    b'{"format": 1, "data": "aa"}': "sizes: Field required",
    b'{"format": 1, "data": "aa", "sizes": [], "' + b"k" * 100_000 + b'": 1}': "Extra inputs",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "extended.json"


@pytest.mark.parametrize("content", BROKEN, ids=list(range(len(BROKEN))))
def test_a_document_that_is_not_as_it_was_written_is_one_sentence_with_file_and_remedy(path: Path, content: bytes):
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        Extension.read(path)
    sentence = str(error.value)
    assert sentence.startswith(f"{path} ") and BROKEN[content] in sentence and sentence.endswith(REMEDY)
    assert len(sentence) < 600 and "\n" not in sentence


def test_a_whole_document_is_read_whatever_its_text(path: Path):
    """Escapes of whole pairs and the largest integers are JSON that a person may have written by hand."""
    path.write_text(r'{"format": 1, "data": "\ud83d\ude00 \u05d0 ' + '\u2028", "sizes": [9223372036854775807]}')
    assert Extension.read(path) == Extension(data="😀 א \u2028", sizes=(2**63 - 1,))


def test_what_is_no_file_is_a_sentence_and_is_never_waited_for(tmp_path: Path, monkeypatch):
    """A directory, a pipe without a writer (reading it would never end), nothing, and a file that may not be read."""
    for name, make, said in (("folder", Path.mkdir, "it is not a file"), ("pipe", os.mkfifo, "it is not a file"),
                             ("absent", str, "there is no ")):  # fmt: skip
        make(tmp_path / name)
        with pytest.raises(DataError, match=rf"{said}.*{REMEDY}"):
            Extension.read(tmp_path / name)
        assert read_cached(tmp_path / name, dict) is None
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        Extension.read(tmp_path / ("x" * 300))

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "closed").write_text("{}")
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(DataError, match=rf"closed cannot be read: Permission denied; {REMEDY}"):
        Extension.read(tmp_path / "closed")


def test_a_line_that_is_none_is_named_by_its_number(tmp_path: Path):
    """Hypotheses, ledgers and steps: a line that was cut, changed by hand, or is of another file."""
    line = HypothesisLine(id="a", reference="שלום\u2028", hypothesis="", duration_s=1, domain=None)
    write_hypothesis_lines(tmp_path / "hypotheses.jsonl", [line, line])
    assert read_hypothesis_lines(tmp_path / "hypotheses.jsonl") == [line, line]
    write_ledger(tmp_path / "ledger.jsonl", [LedgerLine(id="a", source="s", stage="read", rule="undecodable")] * 2)
    whole = {file: (tmp_path / f"{file}.jsonl").read_bytes() for file in ("hypotheses", "ledger")}
    for broken in (b"{", b"[]", b'"x"', b"null", b'{"id": 5}', b'{"ids": "x"}', b"\xff", whole["ledger"][:20]):
        for file, read in (("hypotheses", read_hypothesis_lines), ("ledger", read_ledger)):
            path = tmp_path / f"{file}.jsonl"
            path.write_bytes(whole[file] + b"\n" + broken + b"\n")  # the blank line counts and says nothing
            with pytest.raises(DataError, match=rf"{file}\.jsonl, line 4: .*RECIPE' makes it again"):
                read(path)
    path = tmp_path / "dev.jsonl"
    assert DevScore.read_all(path) == []
    path.mkdir()  # not the same as none
    with pytest.raises(DataError, match="it is not a file"):
        DevScore.read_all(path)


def test_a_cache_that_is_broken_is_said_and_is_as_if_there_were_none(path: Path, caplog):
    @dataclass(frozen=True)
    class Kept:
        seconds: float | None

    assert read_cached(path, Kept) is None and not caplog.messages
    path.write_text('{"seconds": 20}')
    assert read_cached(path, Kept) == Kept(20.0) and not caplog.messages
    for content in ('{"seconds": "x"}', "{}", "", "[]", '{"seconds": 20'):
        caplog.clear()
        path.write_text(content)
        assert read_cached(path, Kept) is None
        [said] = caplog.messages
        assert str(path) in said and said.endswith("it is made again")


def test_values_of_a_type_and_lines_after_a_mark_of_windows(path: Path):
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "source": "s", "stage": "read", "rule": "x"}\r\n')
    assert read_lines(path, LedgerLine, "")[0].rule == "x"
    path.write_text('{"a": 1}')
    assert read_as(path, dict[str, int], "") == {"a": 1}
    with pytest.raises(DataError, match=r"extended\.json: a: .*; so$"):
        read_as(path, dict[str, list], "so")


def test_markers_of_any_plain_data_come_back_as_they_were(tmp_path: Path):
    """Their inputs are of any type: text that could not be hashed again must not come in."""
    inputs = {"a": [1, 2.5, None, True, {"b": "שלום"}]}
    StageMarker(state="begun", inputs=inputs).write(tmp_path / "marker.json")
    assert StageMarker.read(tmp_path / "marker.json").inputs == inputs
    assert parse_own(b"-9223372036854775808") == -(2**63)
