"""Text of data where people read it: protects from lines that read as another, from formulas, markup and escapes."""

import csv
import io
import re
from importlib.resources import files

import pytest

from shibolet.cli import terminal
from shibolet.errors import DataError
from shibolet.publish.card import _environment
from shibolet.report.audit_page import script_of
from shibolet.report.page import environment, write_report
from shibolet.report.review_page import SCRIPTS
from shibolet.report.svg import Svg, for_both
from shibolet.report.wording import visible

TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
MARKS = "\u200e\u200f\u061c\u200d\u200c"  # of ordinary Hebrew, Arabic and Persian: they turn nothing around them


def test_characters_that_turn_or_control_are_named_and_marks_stay():
    assert visible("a\u202eb\x1b[2J\x85") == "a[U+202E]b[U+001B][2J[U+0085]"
    assert visible(f"שלום\t{MARKS}\nעולם") == f"שלום\t{MARKS}\nעולם"
    assert all(visible(char) == f"[U+{ord(char):04X}]" for char in TURNING)


def test_no_template_shows_text_that_turns_the_rest():
    """One place for all of them: the environment, not each template's author."""
    shown = environment().from_string('<p title="{{ x }}">{{ x }}{{ x | capital }}</p>').render(x=f"<b>{TURNING}\x00")
    assert not re.search(f"[{TURNING}\x00]", shown) and shown.count("&lt;b&gt;[U+202A]") == 3


def test_a_whole_page_with_names_that_turn(run_with_titles):
    page = write_report(run_with_titles("Round \u202e1", "Round \u20662")).read_text(encoding="utf-8")
    assert "Round [U+202E]1" in page and not re.search(f"[{TURNING}]", page)


def test_figures_name_them_too():
    drawing = Svg(10, 10, f"about {TURNING}")
    drawing.text(0, 0, f"set\u202e{TURNING}<b>")
    assert not re.search(f"[{TURNING}]", drawing.render()) and "[U+202E]" in drawing.render()


@pytest.mark.parametrize("scripts", [("utterance.js", "audit.js"), SCRIPTS])
def test_pages_on_which_people_judge_name_them_in_every_text_node(scripts):
    """Their text comes from JSON, which stays as the data are: verdicts are matched by it."""
    script = script_of(*scripts)
    assert len(re.findall(r"\.append\(|replaceChildren\(", script)) > 3
    pattern = re.search(r"const unseen = /\[(.*)\]/g", script)[1]
    python = re.search(r"\[(.*)\]", (files("shibolet.report") / "wording.py").read_text().split("_UNSEEN = ")[1])[1]
    assert re.sub(r"\\u00", r"\\x", pattern) == python


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\n=1", '=HYPERLINK("http://x")'])
def test_a_name_in_a_csv_is_no_formula(name: str):
    """A spreadsheet runs what a cell begins with."""
    figure = for_both(lambda px: Svg(px, 1, "x"), header=("set", "points"), rows=[(name, -0.5), ("clean", None)])
    rows = list(csv.reader(io.StringIO(figure.csv(), newline="")))
    assert rows == [["set", "points"], [f"'{name}", "-0.5"], ["clean", ""]]
    turned = for_both(lambda px: Svg(px, 1, "x"), header=("set",), rows=[("\r=1",), ("a\u202e",)])
    assert turned.csv() == "set\n[U+000D]=1\na[U+202E]\n"


def test_a_cell_of_a_model_card_stays_a_cell():
    card = _environment().from_string("| {{ x }} | {{ code | safe }} |")
    said = card.render(x="a|b\n\n# <script>x</script>\u202e 1 < 2", code="a\nb")
    assert said == "| a\\|b  # &lt;script>x&lt;/script>[U+202E] 1 < 2 | a\nb |"


def test_a_terminal_obeys_nothing_of_the_data(capsys, run_cli, monkeypatch):
    """An escape in a domain's name cleared the screen; a bracket was an error of rich's."""
    terminal.table("domains\x1b[2J", ["domain", " n"], [["[/] [red]x\x1b[2J\u202e", "1"]])
    terminal.facts([("[/]", "\x1b]0;x\x07 [bold]")])
    terminal.tell("\x1b[31m [/]")
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\u202e" not in out and "[/] [red]x[U+001B][2J[U+202E]" in out

    def fail(*_, **__):
        raise DataError("row '\x1b[2J\u202e' of the manifest\nis none")

    monkeypatch.setattr("shibolet.cli.app", fail)
    code, _, said = run_cli("rounds")
    assert code == 3 and said == "shibolet: row '[U+001B][2J[U+202E]' of the manifest\nis none\n"
