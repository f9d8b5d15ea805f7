"""`shibolet review` in a real browser: two people, a server that is killed, 32,500 utterances, the keyboard.

    python benchmarks/review_by_browser.py RUN --chromium /usr/bin/chromium [--axe axe.min.js] [--shots DIR]

RUN is a finished round, of which copies are reviewed; playwright has to be installed. It drives the browser, and may
lie in an environment of its own: then `--python` names the one that has shibolet. Prints a JSON line for each part:

people    two people judge 150 utterances of the random draw each and correct 10 texts each, by keys alone. Meanwhile
          the server is killed (SIGKILL) and started again. Every answer has to be in the file as it was given;
          `saved_s` is the time from a key to the line in the file.
many      32,500 utterances: seconds until they are listed, milliseconds of each filter, search, sort and jump, until
          the list is laid out.
keyboard  a whole review without a mouse, and whether what has the focus is seen to have it.
axe       violations in each state of the page, light and dark, at 1,400 and 390 pixels.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_MANY, NUM_EACH, NUM_CORRECTED, KILLED_AT = 32_500, 150, 10, 70
SAVED = "() => document.getElementById('saved').textContent === 'saved'"
KEY_OF = {"good": "1", "bad": "2", "unsure": "3"}


class Server:
    """`shibolet review` of a run folder, as a process that can be killed."""

    def __init__(self, python: str, run: Path) -> None:
        self.python, self.run = python, run
        self.start()

    def start(self) -> None:
        command = [self.python, "-m", "shibolet.cli", "review", str(self.run)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[-1]

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.kill()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def lines(self) -> list[dict]:
        content = (self.run / "audit" / "answers.jsonl").read_bytes()
        return [json.loads(line) for line in content.split(b"\n")[:-1]]


def make_many(source: Path, target: Path) -> None:
    """The run with as many utterances as NUM_MANY, each a copy of one of its own under a name of its own."""
    from dataclasses import replace

    from shibolet.records.audited import read_audited, write_audited
    from shibolet.records.documents.alignment import AlignmentReport
    from shibolet.records.runfolder import RunFolder

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("audit.html", "sounds.jsonl", "checkpoints"))
    run = RunFolder(target)
    rows = list(read_audited(run.audited_utterances()))
    many = [replace(rows[i % len(rows)], id=f"{rows[i % len(rows)].id}-{i // len(rows)}") for i in range(NUM_MANY)]
    for row in range(0, NUM_MANY, 3):  # not one histogram bar for all
        one = many[row]
        many[row] = replace(one, confidence=one.confidence and round((one.confidence * 7919 * (row + 1)) % 1, 4))
    write_audited(run.audited_utterances(), many)
    run.audited_rest.unlink(missing_ok=True)
    report = AlignmentReport.read(run.alignment_report())
    strata = {name: one.model_copy(update={"num_utterances": NUM_MANY}) for name, one in report.strata.items()}
    draw = tuple(row.id for row in many[:: NUM_MANY // 240][:240])
    review = report.review.model_copy(update={"draw": draw})
    report.model_copy(update={"strata": strata, "review": review}).write(run.alignment_report())
    for name in ("audit", "hear-rest"):
        (target / ".stages" / f"{name}.json").unlink(missing_ok=True)


def opened(browser, url: str, name: str, **context):
    """A page on which this person has begun."""
    page = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **context}).new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#who[open]")
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.wait_for_selector("#list .line[aria-selected=true]")
    return page


def shown_id(page) -> str:
    return page.inner_text("#detail .meta code")


def people(browser, server: Server) -> dict:
    pages = {name: opened(browser, server.url, name) for name in ("anna", "ben")}
    given, waited, num_killed = {}, [], 0
    for page in pages.values():
        page.uncheck("#following")
        page.focus("#list")
        page.keyboard.press("r")
    for number in range(NUM_EACH):
        for name, page in pages.items():
            differs = name == "ben" and number % 5 == 0
            verdict = "unsure" if number % 17 == 0 else "bad" if (number + differs) % 3 else "good"
            page.wait_for_function(
                "n => document.querySelector('#detail .meta')?.textContent.startsWith(`${n} of`)", arg=number + 1
            )
            id, corrected = shown_id(page), None
            if number % 15 == (3 if name == "anna" else 8) and number // 15 < NUM_CORRECTED:
                page.keyboard.press("e")
                page.keyboard.type(f" {name} {number}")
                page.keyboard.press("Control+Enter")
                corrected = f"{name} {number}"
            before = time.perf_counter()
            page.keyboard.press(KEY_OF[verdict])
            given[name, id] = verdict, corrected
            if server.process.poll() is None:
                while not any(
                    (one["by"], one["id"], one["verdict"]) == (name, id, verdict) for one in server.lines()[-4:]
                ):
                    time.sleep(0.002)
                waited.append(time.perf_counter() - before)
        if number == KILLED_AT:
            server.kill()
        elif number == KILLED_AT + 8:
            num_killed = [int(page.inner_text("#saved").split()[0]) for page in pages.values()]
            server.start()
            for page in pages.values():
                page.wait_for_function(SAVED, timeout=20_000)
    for page in pages.values():
        page.wait_for_function(SAVED, timeout=20_000)
    last = {(one["by"], one["id"]): one for one in server.lines()}
    lost = [
        key for key, (verdict, corrected) in given.items()
        if key not in last or last[key]["verdict"] != verdict
        or (corrected and not (last[key]["accepted"] and last[key]["corrected"].endswith(corrected)))
    ]  # fmt: skip
    time.sleep(2.5)
    found = {
        "people": len(pages), "verdicts": len(given), "corrected": sum(bool(c) for _, c in given.values()),
        "answers_while_killed": num_killed, "lost": len(lost), "saved_s_max": round(max(waited), 3),
        "saved_s_median": round(sorted(waited)[len(waited) // 2], 3), "standing": pages["anna"].inner_text("#rate"),
        "agreement": pages["anna"].inner_text("#people"), "page_errors": [e for p in pages.values() for e in p.errors],
    }  # fmt: skip
    return found


TIMED = """async (act) => {
  const frame = () => new Promise(requestAnimationFrame), list = document.getElementById("list"), times = [];
  const targets = act === "filter" ? [...document.querySelectorAll(".facet button")].slice(0, 40) : [0, 1, 2, 3];
  for (const target of targets) {
    await frame();
    const before = performance.now();
    if (act === "filter") target.click();
    if (act === "search") {
      const box = document.getElementById("search");
      box.value = ["\\u05d4", "train-00", "qqqq", ""][target];
      box.oninput();
    }
    if (act === "sort") {
      document.getElementById("sort").selectedIndex = target + 1;
      document.getElementById("sort").onchange();
    }
    if (act === "scroll") list.scrollTop = (target + 1) * list.scrollHeight / 5;
    if (act === "scroll") await frame();
    list.getBoundingClientRect();
    document.querySelectorAll("#list .line").length;
    times.push(performance.now() - before);
    if (act === "filter" && target.getAttribute("aria-pressed") === "true") target.click();
  }
  const rows = document.querySelectorAll("#list .line").length;
  return { most_ms: Math.round(Math.max(...times)), num: times.length, rows };
}"""


def many(browser, server: Server) -> dict:
    before = time.perf_counter()
    page = opened(browser, server.url, "anna")
    found = {
        "utterances": NUM_MANY,
        "listed_s": round(time.perf_counter() - before, 2),
        "count": page.inner_text("#count"),
    }
    found |= {act: page.evaluate(TIMED, act) for act in ("filter", "search", "sort", "scroll")}
    page.focus("#list")
    before = time.perf_counter()
    page.keyboard.press("1")
    while not server.lines():
        time.sleep(0.002)
    found["saved_s"] = round(time.perf_counter() - before, 3)
    return found


FOCUS = """() => {
  const one = document.activeElement, { outlineStyle, outlineWidth } = getComputedStyle(one);
  const name = one === document.body ? "" : one.id || one.dataset.do || one.textContent.slice(0, 30);
  return [name, outlineStyle !== "none" && parseFloat(outlineWidth) > 0];
}"""


def keyboard(browser, server: Server) -> dict:
    """Everything by keys: `done` names what was seen to have worked."""
    page = opened(browser, server.url, "carl")
    press, done = page.keyboard.press, []

    def check(what: str, holds: str) -> None:
        page.wait_for_function(f"() => {holds}", timeout=5000)
        done.append(what)

    press("?")
    check("keys", "document.getElementById('keys').open")
    press("Escape")
    press("ArrowDown")
    check("arrows", "document.querySelector('[aria-selected=true]').id === 'row-1'")
    press("g")
    check("spectrogram", "document.querySelector('canvas')")
    press("+")
    check("speed", "document.getElementById('speed').value === '1.25×'")
    press("l")
    check("loop", "document.getElementById('loop').getAttribute('aria-pressed') === 'true'")
    press(" ")
    press("ArrowRight")
    press("]")
    check("next span", "/span 2 of/.test(document.getElementById('detail').textContent)")
    press("2")
    check("verdict", "document.querySelector('[data-answer=bad]').getAttribute('aria-pressed') === 'true'")
    press("u")
    check("undo", "document.querySelector('[data-answer=bad]').getAttribute('aria-pressed') === 'false'")
    press("n")
    page.keyboard.type("hums")
    press("Enter")
    press("e")
    page.keyboard.type(" more")
    press("Enter")
    check("proposed", "/proposes this text/.test(document.getElementById('answers').textContent)")
    press("a")
    check("accepted", "/it is accepted/.test(document.getElementById('answers').textContent)")
    press("/")
    page.keyboard.type("train-00")
    press("Escape")
    check("search", "document.getElementById('count').textContent !== ''")
    press("f")
    for _ in range(3):
        press("Tab")
    press("Enter")
    check("filter", "document.querySelector('.facet [aria-pressed=true]')")
    press("Escape")
    check("back to the list", "document.activeElement.id === 'list'")
    seen = []
    for _ in range(60):
        press("Tab")
        seen.append(page.evaluate(FOCUS))
    page.wait_for_timeout(500)
    kept = [one for one in server.lines() if one["by"] == "carl"]
    return {
        "done": done, "stops": len({name for name, _ in seen}),
        "without_focus_ring": [name for name, has_ring in seen if name and not has_ring],
        "note": kept[-1]["note"], "corrected": kept[-1]["corrected"], "page_errors": page.errors,
    }  # fmt: skip


def axe(browser, server: Server, script: Path | None, shots: Path | None) -> dict:
    found = {}
    for scheme in ("light", "dark"):
        for width, height in ((1400, 900), (390, 844)):
            page = opened(
                browser,
                server.url,
                "dora",
                color_scheme=scheme,
                bypass_csp=True,
                viewport={"width": width, "height": height},
            )
            for state, keys in {"worst": ["g", "ArrowDown"], "judged": ["2"], "edit": ["e"], "filters": ["Escape", "f"],
                                "keys": ["Escape", "?"], "draw": ["Escape", "r"]}.items():  # fmt: skip
                for key in keys:
                    page.keyboard.press(key)
                page.wait_for_timeout(1200)
                name = f"{scheme}-{width}-{state}"
                if shots:
                    page.screenshot(path=shots / f"{name}.png")
                if script:
                    page.evaluate(script.read_text(encoding="utf-8"))
                    violations = page.evaluate("async () => (await axe.run()).violations.map((v) => v.id)")
                    found |= {name: violations} if violations else {}
    return {"ran": script is not None, "states": 24, "violations": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--chromium", default=None, help="else playwright's own")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--shots", type=Path)
    parser.add_argument("--parts", nargs="+", default=["people", "many", "keyboard", "axe"])
    parser.add_argument("--make-many", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make_many:
        return make_many(given.run, given.make_many)
    from playwright.sync_api import sync_playwright

    if given.shots:
        given.shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        for part in given.parts:
            run = Path(folder) / part
            if part == "many":
                subprocess.run([given.python, __file__, str(given.run), "--make-many", str(run)], check=True)
            else:
                shutil.copytree(given.run, run, ignore=shutil.ignore_patterns("checkpoints"))
            more = (given.axe, given.shots) if part == "axe" else ()
            with Server(given.python, run) as server:
                found = {"people": people, "many": many, "keyboard": keyboard, "axe": axe}[part](browser, server, *more)
            print(json.dumps({"part": part, **found}, ensure_ascii=False), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
