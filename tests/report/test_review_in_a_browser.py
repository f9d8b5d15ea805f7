"""The page of a review in a real browser: no answer and no typed text is lost, and nobody is told what others think.

pip install playwright, and a Chromium: `chromium` on the PATH, or `playwright install chromium`
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from review_client import serving

from shibolet.records.answers import latest, read_answers
from shibolet.records.files import write_jsonl
from shibolet.records.review import Answer
from shibolet.records.runfolder import RunFolder
from shibolet.report.audit_page import write_audit_page

pytestmark = pytest.mark.slow("report", seconds=3)
SAVED = "() => document.getElementById('saved').textContent === 'saved'"


@pytest.fixture
def run(run_dir, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


@contextmanager
def opened(browser, url: str, name: str, told: Mapping[str, Any] | None = None):
    """The page on which this person has begun; `told`: by pattern of an address what it answers instead."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page, errors = context.new_page(), []
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script("{ const Own = Audio; window.Audio = function () { return (window.player = new Own()); }; }")
    for pattern, value in (told or {}).items():
        page.route(pattern, telling(value))
    page.goto(url)
    page.wait_for_selector("#who[open]")
    call(page, name)
    page.wait_for_selector("#list .line[aria-selected=true]")
    page.uncheck("#following")
    page.focus("#list")
    yield page
    context.close()
    assert not errors


def telling(value: Any):
    return lambda route: route.fulfill(json=value)


def call(page, name: str) -> None:
    page.fill("#name", name)
    page.keyboard.press("Enter")


def given(run: Path) -> dict:
    return latest(read_answers(RunFolder(run).answers))


def test_answers_that_wait_under_a_name_are_sent_once_the_name_is_taken_again(browser, run):
    """Ben answered while the server was away and closed the page; Anna opens it and hands over to Ben."""
    with serving(run) as client:
        row, other = client.get("rows")[:2]
        waiting = {"by": "ben", "id": row["id"], "text": row["text"], "verdict": "bad", "note": "", "corrected": None,
                   "accepted": False, "decides": False}  # fmt: skip
        with opened(browser, client.address.url, "anna") as page:
            key = f"shibolet-unsent-/{client.address.token}/-ben"
            page.evaluate("([key, value]) => localStorage.setItem(key, value)", [key, json.dumps([waiting])])
            page.click("#me")
            call(page, "ben")
            page.wait_for_function("(key) => localStorage.getItem(key) === '[]'", arg=key)
            page.keyboard.press("ArrowDown")
            page.keyboard.press("1")
            page.wait_for_function(SAVED)
            page.wait_for_function("() => document.querySelectorAll('#list .answer').length === 2")
        assert {key: one.verdict for key, one in given(run).items()} == {
            (row["id"], "ben"): "bad", (other["id"], "ben"): "good",
        }  # fmt: skip


def test_a_click_on_another_row_while_a_text_is_corrected_shows_that_row_and_keeps_the_text(browser, run):
    """The next key would judge an utterance that nobody sees."""
    with serving(run) as client:
        first, second = client.get("rows")[:2]
        with opened(browser, client.address.url, "anna") as page:
            page.keyboard.press("e")
            page.keyboard.press("Control+A")
            page.keyboard.type("half a sentence")
            page.click("#row-1")
            assert page.inner_text("#detail .meta code") == second["id"]
            page.keyboard.press("1")
            page.keyboard.press("ArrowUp")
            page.keyboard.press("e")
            assert page.input_value("#detail textarea") == "half a sentence"
            page.keyboard.press("Enter")
            page.wait_for_function(SAVED)
            page.keyboard.press("e")
            page.keyboard.type(" more")
            page.keyboard.press("Escape")
            page.keyboard.press("e")
            assert page.input_value("#detail textarea") == "half a sentence", "what was left is gone"
        found = given(run)
    assert found[second["id"], "anna"].verdict == "good" and found[second["id"], "anna"].corrected is None
    assert found[first["id"], "anna"].corrected == "half a sentence" and found[first["id"], "anna"].verdict is None


def test_the_random_draw_shows_nobodys_correction_but_ones_own(browser, run):
    """A draw that is judged after a look at what others wrote estimates what others think."""
    with serving(run) as client:
        drawn = next(row for row in client.get("rows") if row["draw"] == 0)
        client.answer(drawn, "ben", "bad", corrected="what ben heard", accepted=True)
        with opened(browser, client.address.url, "anna") as page:
            page.keyboard.press("r")
            assert page.inner_text("#detail .meta code") == drawn["id"]
            assert "what ben heard" not in page.inner_text("#list") + page.inner_text("#detail")
            page.keyboard.press("a")
            page.keyboard.press("e")
            assert page.input_value("#detail textarea") == drawn["text"]
            page.keyboard.press("Escape")
            assert page.is_disabled("#undo"), "nothing was there to accept"
            page.keyboard.press("c")
            page.wait_for_function("() => document.getElementById('list').innerText.includes('what ben heard')")
    assert given(run).keys() == {(drawn["id"], "ben")}


def test_a_text_that_is_saved_as_it_is_and_a_note_correct_nothing(browser, run):
    """A double space in the data would make the same words another text, and a note an old text the newest."""
    with serving(run) as client:
        row = client.get("rows")[0]
        double = {**row, "text": row["text"].replace(" ", "  ") + " "}
        entry = {**client.get("entry?place=0"), "text": double["text"]}
        with opened(browser, client.address.url, "anna", {"**/rows": [double], "**/entry*": entry}) as page:
            sent = []
            page.route("**/answer", lambda route: (sent.append(route.request.post_data_json), route.fulfill(json={})))
            page.keyboard.press("e")
            page.keyboard.press("Control+Enter")
            page.wait_for_function(SAVED)
            assert [(one["corrected"], one["accepted"]) for one in sent] == [(None, False)]
        for name, text in (("anna", "one text"), ("ben", "another text")):
            client.answer(row, name, "bad", corrected=text, accepted=True)
        client.answer(row, "anna", "bad", corrected="one text", accepted=True, note="hums")
        with opened(browser, client.address.url, "carl") as page:
            assert "another text" in page.inner_text("#list .line[aria-selected=true]")


def test_space_after_the_end_plays_from_the_beginning(browser, run):
    """It went back only to where it had gone on after a pause."""
    with serving(run) as client:
        place = next(i for i in range(1, 9) if client.ask(f"sound?place={i}")[0] == 200)
        with opened(browser, client.address.url, "anna") as page:
            page.click(f"#row-{place}")
            page.wait_for_function("() => player.readyState > 0")
            page.evaluate("() => { player.currentTime = 0.5; }")
            page.keyboard.press(" ")
            page.wait_for_function("() => player.ended")
            page.evaluate("() => { player.onplaying = () => { player.begun = player.currentTime; }; }")
            page.keyboard.press(" ")
            page.wait_for_function("() => player.begun !== undefined")
            assert page.evaluate("() => player.begun") < 0.2


def test_an_answer_that_the_server_refuses_does_not_stand_on_the_page(browser, run):
    """Another window went on with other data: the page would go on to show a verdict that nobody has."""
    with serving(run) as client, opened(browser, client.address.url, "anna") as page:
        page.route("**/answer", lambda route: route.fulfill(status=422, json={"error": "no such text"}))
        page.keyboard.press("1")
        page.wait_for_function("() => document.getElementById('warning').textContent === 'no such text'")
        page.wait_for_function("() => !document.querySelector('#list .answer')")


def test_the_page_that_is_sent_saves_only_what_was_answered_on_it(browser, run, tmp_path):
    """Everybody's verdicts would come back as those of one person, and decide."""
    folder = RunFolder(run)
    with serving(run) as client:
        row = client.get("rows")[0]
    write_jsonl(folder.review, [Answer(id=row["id"], verdict="bad", text=row["text"]).to_json()])
    page = browser.new_page()
    page.goto(write_audit_page(run).as_uri())
    assert page.is_disabled("#save") and page.inner_text("#list .answer") == "bad"
    page.locator("#list tbody tr").nth(1).click()
    shown = page.inner_text("#detail .meta code")
    page.keyboard.press("1")
    assert page.inner_text("#save") == "Save 1"
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "saved.jsonl")
    [saved] = [json.loads(line) for line in (tmp_path / "saved.jsonl").read_text().splitlines()]
    assert (saved["id"], saved["verdict"]) == (shown, "good") and shown != row["id"]
    page.close()
