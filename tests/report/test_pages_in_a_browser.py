"""The pages in a real browser: axe-core finds nothing, the list is used by keyboard, curves are read with a pointer.

    pip install axe-playwright-python      and a Chromium: `chromium` on the PATH, or `playwright install chromium`

SHIBOLET_PAGES may name the folder of a finished run: its pages are checked too.
"""

import os
import shutil
from pathlib import Path

import pytest

from shibolet.report.audit_page import write_audit_page
from shibolet.report.page import write_report

RUN = "SHIBOLET_PAGES"
WIDTHS = (390, 1400)
NAMES = ("report.html", "audit/audit.html")
pytestmark = pytest.mark.slow("report", seconds=15)


@pytest.fixture(scope="module")
def axe() -> str:
    package = pytest.importorskip("axe_playwright_python", reason="needs 'pip install axe-playwright-python'")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folders(run_dir, tmp_path_factory) -> list[Path]:
    """The folder of a small round, and of a real one where it is named."""
    made = tmp_path_factory.mktemp("pages") / "run"
    shutil.copytree(run_dir, made)
    write_audit_page(made)
    write_report(made)
    return [made, *([Path(os.environ[RUN]).resolve()] if RUN in os.environ else [])]


def opened(browser, path: Path, width: int = 1400, scheme: str = "light"):
    """The page as a screen of that width shows it; axe may run in it, which its own policy would forbid."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(browser, axe, folders, name, scheme, width):
    """A header without a name, text without contrast and what only a mouse can scroll shut people out."""
    for folder in folders:
        if not (folder / name).is_file():  # two models are compared without an audit
            continue
        page = opened(browser, folder / name, width, scheme)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.evaluate(axe)
        found = page.evaluate("axe.run()")
        assert len(found["passes"]) > 20  # it looked at something
        faults = [f"{one['id']}: {node['target']} {node['html'][:80]}" for one in found["violations"]
                  for node in one["nodes"]]  # fmt: skip
        assert not faults, "\n".join([str(folder / name), *faults])
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{folder / name} is {wide} px wide on a screen of {width}"


@pytest.mark.parametrize("name", NAMES)
def test_long_names_do_not_widen_a_page(browser, folders, name):
    """The id of a clip is often its path: a phone then shows a page that is wider than itself."""
    page = opened(browser, folders[0] / name, 390)
    long = "/srv/recordings/of/last/year/session-0001-speaker-0001.flac"
    page.evaluate("(long) => { for (const one of document.querySelectorAll('code')) one.textContent = long; }", long)
    assert page.evaluate("document.querySelectorAll('code').length") > 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_list_is_used_by_keyboard_alone(browser, folders):
    """Rows that only a click selects, or that stand behind every control, cannot be judged without a mouse."""
    page = opened(browser, folders[0] / "audit" / "audit.html")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    place = "[...document.querySelector('#list tbody').children].indexOf(document.activeElement)"
    assert page.evaluate(place) == 0
    places = []
    for key in ("ArrowDown", "ArrowDown", "ArrowUp", "End", "Home"):
        page.keyboard.press(key)
        places.append(page.evaluate(place))
    last = page.evaluate("document.querySelector('#list tbody').children.length") - 1
    assert last > 2 and places == [1, 2, 1, last, 0]
    page.keyboard.press("2")
    assert page.evaluate("document.activeElement.querySelector('.answer').textContent") == "bad"
    assert page.evaluate("document.querySelectorAll('#list tr[tabindex=\"0\"]').length") == 1


@pytest.mark.parametrize("width", [*WIDTHS, 768])
def test_the_filters_stand_on_the_line_of_the_search(browser, folders, width):
    page = opened(browser, folders[0] / "audit" / "audit.html", width)
    search, filters = (page.locator(one).bounding_box() for one in ("#search", "#filters > summary"))
    assert filters["y"] == pytest.approx(search["y"], abs=1.5)
    assert filters["height"] == pytest.approx(search["height"], abs=1.5)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_curve_tells_its_values_to_a_pointer_and_without_one(browser, folders, width):
    """A curve without values is a shape: nobody can say what the loss was at step 50."""
    page = opened(browser, folders[0] / "report.html", width)
    seen = "[...document.querySelectorAll('.reading text')].filter((one) => getComputedStyle(one).visibility === 'visible').map((one) => one.textContent)"  # noqa: E501
    assert page.evaluate(seen) == []
    curve = page.locator("#train .figure svg:visible").first
    curve.scroll_into_view_if_needed()
    box = curve.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    (said,) = page.evaluate(seen)
    assert said.startswith("step ") and "running mean" in said
    text = page.locator(".reading:hover text").bounding_box()
    assert box["x"] - 1 <= text["x"] and text["x"] + text["width"] <= box["x"] + box["width"] + 1
    page.locator("#train details.values summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#train details.values table").first.is_visible()
