"""`shibolet review` by plain HTTP: who may ask, what is kept, and that nothing else is written."""

import base64
import hashlib
import io
import json
import re
import shutil
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from audit_documents import audited
from review_client import JSON, serving

from shibolet.errors import DataError
from shibolet.recipe import load_recipe
from shibolet.records.answers import EARLIER, Given, latest, read_answers
from shibolet.records.files import write_jsonl
from shibolet.records.review import Answer, read_review
from shibolet.records.runfolder import RunFolder
from shibolet.rounds.reviewing.address import address_of
from shibolet.rounds.reviewing.desk import Desk, _mended
from shibolet.rounds.reviewing.label_studio import task_of
from shibolet.rounds.reviewing.server import MAX_ANSWER_BYTES
from shibolet.rounds.reviewing.settling import open_journal, settle_answers, take_in


@pytest.fixture
def run(run_dir, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


@pytest.fixture(scope="module")
def client(run_dir, tmp_path_factory):
    """Of a server for tests that only ask, or that are refused."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        with serving(Path(shutil.copytree(run_dir, folder / "run"))) as client:
            yield client


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_the_page_runs_its_own_script_alone_and_has_no_data_in_it(client):
    status, headers, body = client.ask("")
    page = body.decode()
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    policy = headers["Content-Security-Policy"]
    assert status == 200 and len(scripts) == 1 and page.count("<script") == 2
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert way_in not in scripts[0], way_in
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page) and "alert('x')" not in page
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"


def test_everything_heard_is_listed_worst_first_without_what_is_asked_for_later(client):
    rows = client.get("rows")
    assert len(rows) == 561 and [row["low"] for row in rows] == sorted((row["low"] for row in rows), reverse=True)
    assert sorted(row["draw"] for row in rows if row["draw"] is not None) == list(range(240))
    place = next(i for i, row in enumerate(rows) if row["low"] and row["confidence"] is not None)
    entry = client.get(f"entry?place={place}")
    assert entry["id"] == rows[place]["id"] and entry["why"] and entry["diff"] and "why" not in rows[place]
    assert len(entry["times"]) == 2 * len(entry["words"])


def test_sound_is_the_utterances_own_and_spans_of_it(client):
    rows = client.get("rows")
    place = next(i for i, row in enumerate(rows) if row["seconds"] > 1 and client.ask(f"sound?place={i}")[0] == 200)
    whole, part = (client.ask(f"sound?place={place}{span}")[2] for span in ("", "&start_s=0.2&length_s=0.5"))
    with wave.open(io.BytesIO(whole)) as file, wave.open(io.BytesIO(part)) as span:
        assert (file.getframerate(), file.getnframes()) == (16000, 16000)
        assert span.readframes(8000) == file.readframes(11200)[2 * 3200 :]
    silent = next(i for i, row in enumerate(rows) if "failed" in row["kinds"])
    status, _, body = client.ask(f"sound?place={silent}")
    assert status == 422 and "could not be read" in json.loads(body)["error"]


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}"]
)
def test_a_foreign_name_for_this_address_is_refused(client, host):
    """A site whose name points at 127.0.0.1 (DNS rebinding) would read the page with the browser of a reviewer."""
    assert client.ask("rows", Host=host.format(port=client.address.port))[0] == 403
    assert client.ask("rows", Host=f"localhost:{client.address.port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/rows", "/{token}", "/{half}/rows", "/{token}x/rows", "/{token}/../recipe.yaml",
     "/{token}/%2e%2e/recipe.yaml", "/{token}/..%2f..%2fetc/passwd", "/{token}/audit/audit.html", "/{token}/answer",
     "/{token}//etc/passwd", "/{token}/rows/", "http://127.0.0.1/{token}/../rows"],
)  # fmt: skip
def test_without_the_token_and_beside_the_table_there_is_nothing(client, path):
    """No path names a file, and a guess learns nothing: every answer is the same."""
    token = client.address.token
    status, _, body = client.raw(path.format(token=token, half=token[:20]))
    assert (status, json.loads(body)) == (404, {"error": "there is nothing here"})


@pytest.mark.parametrize(
    "query",
    ["place=-1", "place=x", "place=9999999", "start_s=nan", "length_s=1e9", "file=/etc/passwd", "a=1&" * 20 + "b=1"],
)
def test_odd_questions_are_answered_with_a_sentence(client, query):
    status, _, body = client.ask(f"sound?{query}")
    assert status in (400, 422) and json.loads(body)["error"]


def test_what_is_posted_comes_from_the_page_itself_and_is_small(client):
    """Another site in the same browser can send forms and text, but neither JSON nor without its own origin."""
    row = client.get("rows")[0]
    body = json.dumps({"by": "x", "id": row["id"], "text": row["text"], "verdict": "good"}).encode()
    post = lambda **headers: client.ask("answer", method="POST", body=body, **{**JSON, **headers})[0]  # noqa: E731
    assert post(Origin="http://evil.example") == post(Origin="null") == post(Host="evil.example") == 403
    assert post(Content_Type="text/plain") == post(Content_Type="application/x-www-form-urlencoded") == 415
    assert post(Content_Length="x") == post(Content_Length="-1") == post(Content_Length="") == 411
    assert post(Content_Length=str(MAX_ANSWER_BYTES + 1)) == post(Content_Length="9" * 5000) == 413
    assert client.ask("answer", method="POST", body=body, token="x", **JSON)[0] == 404
    for wrong in (b"", b"{", b"[]", b"\xff", b'{"by": ""}', body.replace(b"good", b"fine"), b'{"a":' * 5000,
                  body.replace(b'"by": "x"', b'"by": "' + b"x" * 61 + b'"')):  # fmt: skip
        status, _, said = client.ask("answer", method="POST", body=wrong, **JSON)
        assert status == 422 and json.loads(said)["error"], wrong[:40]
    assert client.get("changes")["num"] == 0 == RunFolder(client.run).answers.stat().st_size


def test_an_answer_about_another_text_is_refused(client):
    """A page that was open while the data were mended must not judge what it does not show."""
    row = client.get("rows")[0]
    status, said = client.answer({**row, "text": "another"}, "anna", "good")
    assert status == 422 and "is no utterance of this audit with that text" in said["error"]
    assert client.answer({**row, "id": "../x"}, "anna", "good")[0] == 422


def test_two_people_at_once_lose_nothing_and_write_one_file_alone(run):
    """Each answer is in the file before it is acknowledged, whoever else writes at the time."""
    before = files_of(run)
    with serving(run) as client:
        rows = client.get("rows")[:40]

        def judge(by: str) -> None:
            for row in rows:
                status, _ = client.answer(row, by, "good" if by == "anna" or row["low"] else "bad")
                assert status == 200
                assert any((one.by, one.id) == (by, row["id"]) for one in read_answers(RunFolder(run).answers))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(judge, ("anna", "ben")))
        standing = client.get("standing")
        assert standing["people"] == {"anna": 40, "ben": 40} and client.get("changes?after=78")["num"] == 80
        [pair] = standing["pairs"]
        assert pair["names"] == ["anna", "ben"] and pair["num_both"] == 40
    after = files_of(run)
    assert after.keys() - before.keys() == {"audit/answers.jsonl"}
    assert {name for name in before if before[name] != after[name]} == set()


def test_what_people_answered_reaches_the_audit_and_a_correction_with_it(run):
    folder = RunFolder(run)
    with serving(run) as client:
        one, other = client.get("rows")[:2]
        client.answer(one, "anna", "good", corrected=one["text"], note="as it is")
        client.answer(other, "anna", "bad")
        client.answer(other, "ben", None, corrected="  מה   שנאמר ", accepted=True)
        assert client.get("standing")["num_corrected"] == 1
    settle_answers(folder)
    folder.intact("review")
    found = read_review(folder.review)
    assert found[one["id"]] == Answer(id=one["id"], verdict="good", text=one["text"])
    assert found[other["id"]].corrected == "מה שנאמר" and found[other["id"]].corrected_by == "ben"
    assert read_answers(folder.answers)[0].note == "as it is"
    stamp = folder.review.stat().st_mtime_ns
    settle_answers(folder)
    assert folder.review.stat().st_mtime_ns == stamp, "the same answers are the same input of later stages"


def test_what_comes_back_from_label_studio_overwrites_nothing_that_it_has_no_word_for(run):
    """Its annotations know neither acceptance nor decisions: taken for newer answers, they would take both back."""
    with serving(run) as client:
        one, other = client.get("rows")[:2]
        client.answer(one, "anna", "bad", corrected="what is said", accepted=True)
        client.answer(one, "anna", "bad", corrected="what is said", accepted=True, decides=True)
        client.answer(other, "anna", "good")
        tasks = [task_of(audited(row["id"], text=row["text"]), "x.flac", []) for row in (one, other)]
        verdict = {"from_name": "verdict", "value": {"choices": ["bad"]}}
        said = [verdict, *({"from_name": name, "value": {"text": [text]}} for name, text in
                           (("corrected", "what  is said "), ("reviewer", "anna")))]  # fmt: skip
        for task in tasks:
            task["annotations"] = [{"result": said, "updated_at": "2999-01-01T00:00:00Z"}]
        assert client.take_in(tasks) == {"new": 1, "old": 1, "unknown": 0}
        assert client.take_in(tasks) == {"new": 0, "old": 2, "unknown": 0}
        kept = latest(read_answers(RunFolder(run).answers))
    assert kept[one["id"], "anna"].accepted and kept[one["id"], "anna"].decides
    changed = kept[other["id"], "anna"]
    assert (changed.verdict, changed.corrected, changed.accepted) == ("bad", "what is said", False)


def test_an_older_export_of_the_answers_overwrites_no_newer_one(run):
    """Whoever imports last week's answers.jsonl must not undo this week."""
    with serving(run) as client:
        row = client.get("rows")[0]
        client.answer(row, "anna", "good", corrected="x y z", accepted=True)
        exported = client.ask("answers.jsonl")[2]
        older = json.dumps({**json.loads(exported), "note": "of another machine", "at": "2020-01-01"}).encode()
        client.answer(row, "anna", "bad")
        assert client.take_in(exported) == client.take_in(older) == {"new": 0, "old": 1, "unknown": 0}
        newer = [{**json.loads(exported), "accepted": False, "at": f"2999-01-0{day}"} for day in (1, 2)]
        assert client.take_in("\n".join(map(json.dumps, newer)).encode()) == {"new": 1, "old": 1, "unknown": 0}
        [found] = latest(read_answers(RunFolder(run).answers)).values()
    assert (found.verdict, found.accepted) == ("good", False), "what answers.jsonl says is said"


def test_a_text_that_is_saved_as_it_is_is_no_correction():
    """A double space in the data would make it one, and call the original bad."""
    given = Given(by="anna", id="a", text="a  b\tc ", corrected="a b c", accepted=True)
    assert _mended(given).corrected is None and not _mended(given).accepted


def test_an_earlier_review_is_where_a_new_one_begins(run, tmp_path):
    """Answers that came by 'audit --review' must not vanish once somebody opens the page; a later file decides."""
    folder = RunFolder(run)
    with serving(run) as client:
        one, other, third = client.get("rows")[:3]
    folder.answers.unlink()
    write_jsonl(folder.review, [Answer(id=one["id"], verdict="bad", text=one["text"]).to_json()])
    folder.seal("review")
    with serving(run) as client:
        [earlier] = client.get("changes")["answers"]
        assert (earlier["by"], earlier["id"]) == (EARLIER, one["id"])
        client.answer(other, "anna", "good")
        with pytest.raises(DataError, match="another 'shibolet review' has it open"):
            open_journal(folder)
    path = tmp_path / "saved.jsonl"
    write_jsonl(path, [{"id": row["id"], "verdict": "bad", "text": row["text"]} for row in (other, third)])
    said = take_in(folder, path, {row["id"]: row["text"] for row in (one, other, third)})
    assert said.startswith("review: 2 answers of saved.jsonl, which decide")
    assert {id: answer.verdict for id, answer in read_review(folder.review).items()} == {
        row["id"]: "bad" for row in (one, other, third)
    }


def test_the_answers_settle_the_gate_or_say_how_many_more_would(run):
    """A person wants to know when it is enough."""
    with serving(run) as client:
        drawn = sorted((row for row in client.get("rows") if row["draw"] is not None), key=lambda row: row["draw"])
        assert client.get("standing")["sentence"].startswith("No answers yet.")
        client.answer(drawn[0], "anna", "good")
        assert "1 utterances are judged good or bad, and 40 are needed" in client.get("standing")["sentence"]
        for row in drawn[1:60]:
            client.answer(row, "anna", "bad" if row["low"] else "good")
        found = client.get("standing")["sentence"]
    assert re.search(
        r"^By 60 answers \d+\.\d% of the data are bad \(\d+\.\d to \d+\.\d%\), which (settles|straddles)", found
    )
    assert "would settle it." in found or "by the corrected rate." in found


def test_the_address_stays_the_same_and_is_read_by_its_owner_alone(run, tmp_path):
    """A page that was open when the server was killed sends what it holds to the next one."""
    first = address_of(run)
    assert address_of(run) == first != address_of(tmp_path / "another")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{43}/", first.url)
    for path in (tmp_path / "cache" / "shibolet" / "review").iterdir():
        assert path.stat().st_mode & 0o077 == 0 == path.parent.stat().st_mode & 0o077
    with serving(run):
        other = address_of(run)
        assert other.port != first.port and other.token == first.token


def test_the_command_takes_in_files_and_writes_tasks_without_a_server(run, run_cli, tmp_path):
    """What others answered elsewhere is read with the same care, and one option at a time is meant."""
    rows = json.loads(Desk(RunFolder(run), load_recipe(run / "recipe.yaml"), open_journal(RunFolder(run))).rows_json)
    path = tmp_path / "theirs.jsonl"
    write_jsonl(path, [{"by": "eve", "id": row["id"], "text": row["text"], "verdict": "bad"} for row in rows[:3]])
    code, out, _ = run_cli("review", str(run), "--import", str(path))
    assert code == 0 and out.startswith("3 answers were taken in; 0 are about other utterances")
    code, out, _ = run_cli("review", str(run), "--export-label-studio", str(tmp_path / "tasks"))
    tasks = json.loads((tmp_path / "tasks" / "tasks.json").read_bytes())
    assert code == 0 and out.startswith(f"{len(tasks):,} tasks are in ") and len(tasks) > 200
    answered = [task for task in tasks if task["annotations"]]
    assert {task["data"]["id"] for task in answered} <= {row["id"] for row in rows[:3]} and len(answered) > 1
    code, out, _ = run_cli("review", str(run), "--import", str(tmp_path / "tasks" / "tasks.json"))
    assert code == 0 and out.startswith("0 answers were taken in; ") and "were here already" in out
    write_jsonl(path, [{"id": rows[0]["id"], "text": rows[0]["text"], "verdict": "good"}])
    assert run_cli("review", str(run), "--import", str(path), "--by", "Dana")[0] == 0
    assert read_answers(RunFolder(run).answers)[-1].by == "Dana"
    write_jsonl(path, [{"by": "eve", "id": "x", "text": "y", "verdict": "bad"}])
    assert "none of its 1 answers is about" in run_cli("review", str(run), "--import", str(path))[2]
    assert run_cli("review", str(run), "--import", str(path), "--port", "2000")[0] == 2
    assert run_cli("review", str(run), "--by", "Dana")[0] == 2
    assert run_cli("review", str(tmp_path))[0] == 2
    RunFolder(run).alignment_report().unlink()
    code, _, err = run_cli("review", str(run))
    assert code == 3 and "there is no audit to review" in err
