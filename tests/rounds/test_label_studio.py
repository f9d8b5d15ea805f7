"""Label Studio: what was given comes back, what annotators add is theirs, and a file that is none is named."""

import json

import numpy as np
import pytest
from audit_documents import audited

from shibolet.errors import DataError
from shibolet.records.answers import Given
from shibolet.records.files import write_bytes
from shibolet.records.utterance import AudioRef
from shibolet.rounds.reviewing.label_studio import UNNAMED, answers_in, export_tasks
from shibolet.speech.audio import encode_flac, load

ANNA = Given(by="anna", id="a", text="text a", verdict="bad", note="hums", corrected="text b", accepted=True)


@pytest.fixture
def exported(tmp_path):
    """Two utterances, one of them a second of a longer recording, and one without audio."""
    samples = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    write_bytes(tmp_path / "run" / "long.flac", encode_flac(samples))
    span = AudioRef(path="long.flac", start_s=1.0, end_s=2.0)
    rows = [audited("a", audio=span), audited("b", audio=AudioRef(path="long.flac")), audited("c")]
    old = ANNA.model_copy(update={"text": "what stood there before", "by": "ben"})
    told = export_tasks(rows, [ANNA, old], tmp_path / "run", tmp_path / "out")
    assert told == (2, 1)
    return tmp_path / "out"


def test_what_was_exported_comes_back_as_it_was(exported):
    """All but the acceptance: who annotates elsewhere proposes, and somebody here accepts."""
    content = (exported / "tasks.json").read_bytes()
    assert answers_in(content, "tasks.json") == [ANNA.model_copy(update={"accepted": False})]
    tasks = json.loads(content)
    assert [len(task["annotations"]) for task in tasks] == [1, 0] and tasks[0]["data"]["text"] == "text a"
    path = tasks[0]["data"]["audio"].removeprefix("/data/local-files/?d=")
    assert len(load(AudioRef(path=str(exported / path)))) == 16_000, "the span alone"


def test_the_labels_are_those_of_the_configuration(exported):
    """Label Studio drops regions whose names its configuration does not have."""
    config = (exported / "config.xml").read_text()
    for task in json.loads((exported / "tasks.json").read_bytes()):
        for region in (region for one in task["annotations"] for region in one["result"]):
            assert f'name="{region["from_name"]}"' in config and f'toName="{region["to_name"]}"' in config


def test_annotations_are_their_annotators(exported):
    """By the name that they wrote, else by their account; a skipped task is no answer."""
    verdict = {"from_name": "verdict", "to_name": "audio", "type": "choices", "value": {"choices": ["good"]}}
    name = {"from_name": "reviewer", "to_name": "audio", "type": "textarea", "value": {"text": ["carl"]}}
    tasks = json.loads((exported / "tasks.json").read_bytes())
    tasks[1]["annotations"] = [
        {"completed_by": 7, "result": [verdict], "updated_at": "2026-01-01T00:00:00Z"},
        {"completed_by": {"id": 3, "email": "eve@example.org"}, "result": [verdict]},
        {"completed_by": 7, "result": [verdict, name]},
        {"result": [verdict]},
        {"completed_by": 7, "result": [verdict], "was_cancelled": True},
    ]
    found = answers_in(json.dumps(tasks[1:]).encode(), "export.json")
    assert [one.by for one in found] == [f"{UNNAMED} 7", "eve@example.org", "carl", UNNAMED]
    assert {(one.id, one.text, one.verdict) for one in found} == {("b", "text b", "good")}


def test_lines_of_our_own_are_read_too():
    saved = {"id": "a", "verdict": "bad", "text": "t"}
    lines = [ANNA.model_dump(), saved]
    found = answers_in("\n".join(map(json.dumps, lines)).encode(), "folder/review-x.jsonl")
    assert found[0] == ANNA and (found[1].by, found[1].verdict) == ("review-x.jsonl", "bad")


def test_whose_answers_they_are_is_not_read_out_of_their_text():
    """A text that says "by" is no name, and answers of several people must not become one person's."""
    line = json.dumps({"id": "a", "verdict": "bad", "text": "by", "corrected": "by"}).encode()
    assert b'"by"' in line
    [found] = answers_in(line, "dana.jsonl")
    assert (found.by, found.text) == ("dana.jsonl", "by")
    assert answers_in(line, "dana.jsonl", "Dana")[0].by == "Dana"
    assert len(answers_in(line, "d" * 200)[0].by) == 60


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[", "is not whole"),
        (b"[1]", "task 1 is no task that 'shibolet review --export-label-studio' wrote"),
        (b'[{"data": {}, "annotations": []}, {"data": {"id": "a", "text": "t"}, "annotations": [{}]}]', "task 2 is no"),
        (b'[{"data": {"id": "a", "text": "t"}, "annotations": [{"result": [{"from_name": "verdict", '
         b'"value": {"choices": ["fine"]}}]}]}]', "task 1: verdict: "),
        (b'{"id": "a"}', "line 1: "),
        (b'{"by": ""}', "line 1: "),
        (b"\xff\xfe", "line 1: "),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_named_with_its_place(content, said):
    with pytest.raises(DataError, match="export") as error:
        answers_in(content, "export.json")
    assert said in str(error.value)


def test_an_export_writes_over_nothing(exported, tmp_path):
    with pytest.raises(DataError, match="exists; name a new folder"):
        export_tasks([], [], tmp_path, exported)
