"""The page: all of a round on it, nothing run from data, nothing fetched, plain words where a stage is missing."""

import importlib.util
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from training_documents import phase_plan, training_plan

from shibolet.audit.probability import MIXTURE, sentence
from shibolet.errors import DataError
from shibolet.records.documents.alignment import AlignmentReport, Probability, Tally
from shibolet.records.documents.calibration import Reliability
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.scores import Scores
from shibolet.records.documents.training import DevScore, Event, TrainResult, write_lines
from shibolet.records.files import read_json, write_json
from shibolet.records.runfolder import RunFolder
from shibolet.report.audit_page import write_audit_page
from shibolet.report.export import export_figures
from shibolet.report.page import write_report
from shibolet.report.sections import expected_points

_spec = importlib.util.spec_from_file_location("a_run", Path(__file__).with_name("conftest.py"))
_a_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_a_run)
write_run = _a_run.write_run

VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """Tags, attributes and visible text; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self._open = [], [], [], []
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text.append(data)


@pytest.fixture(scope="module")
def html(run_dir) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


def test_every_section_of_a_finished_round_is_there(html):
    """A figure or table that silently drops out is a claim that cannot be checked."""
    page = Page(html)
    text = " ".join(page.text)
    ids = [value for tag, name, value in page.attributes if tag == "section" and name == "id"]
    assert ids == ["gate", "truth", "audit", "selftest", "worst", "prepare", "train", "compare", "systems", "scores",
                   "errors", "examples", "provenance"]  # fmt: skip
    assert "Synthetic" in text and "has not run" not in text
    for said in (
        "STOP",
        "PROCEED",
        "swapped",
        "low_quality:wrong_text",
        "encoder.layers[2:6]",
        "leaderboard-1",
        "9.2%",
        "this check is not independent",
        "no difference shown",
        "MAPSSWE",
        "Round 2 loops in 0 of 240 utterances, Round 1 in 1; Round 2 alone in 0, which is compatible with 1.5%",
        "The largest contribution of the 5 groups is",
        "Chosen as the best of 11 on dev: its WER there is too good by about 0.4 points.",
        "ends below 0 points",
        "wav2vec is better than whisper",
        "he-target-2",
        "By speaker",
        "over 5 groups of recordings and speakers",
        "3 of 120 utterances of set 'clean' are in the training data.",
        "Set 'whatsapp' shares names with the training data: 2 of 5 speakers.",
        "no set shares audio with the training data; without an interval: not kept",
        "evaluate/round2/whatsapp/listing.txt",
    ):
        assert said in text, said
    alts = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert len(alts) == 2 * 9 and all(len(alt) > 30 for alt in alts)
    players = [value for tag, name, value in page.attributes if tag == "audio" and name == "src"]
    assert 10 <= len(players) < 20 and all(src.startswith("data:audio/mpeg;base64,") for src in players)


def test_what_could_not_be_scored_is_said_in_words_apart_from_what_is_suspected(html):
    """A broken file is suspected of nothing, and a code is no reason for a person."""
    suspected = re.search(r"<p>Suspected: ([^<]*)</p>", html)[1]
    assert "another text " in suspected and "decoded" not in suspected and "_" not in suspected
    assert "<p>Not scored: cannot be decoded 1.</p>" in html


def test_text_from_data_stays_text(html):
    """A transcript with markup must not become markup, in a paragraph, an attribute or a figure."""
    page = Page(html)
    assert "script" not in page.tags and "b" not in page.tags
    assert "<script>alert('x')</script>" in "".join(page.text), (
        "the hostile transcript must be shown, or nothing is tested"
    )


def test_the_page_needs_nothing_beside_it(html):
    page = Page(html)
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    fetched = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "poster")]
    assert fetched and all(value.startswith(("data:audio/mpeg", "#")) for value in fetched)
    assert not re.findall(r"url\(|@import", html)
    assert any(value.startswith("default-src 'none'") for _, name, value in page.attributes if name == "content")


def test_hebrew_runs_from_right_to_left(html):
    page = Page(html)
    said = [(tag, name, value) for tag, name, value in page.attributes if tag == "p" and name in ("dir", "lang")]
    assert len(said) > 40 and {value for _, _, value in said} == {"rtl", "he"}


def test_differences_of_words_are_marked(html):
    section = html[html.index('<section id="examples"') :]
    assert section.count("<del>") > 5 and section.count("<ins>") > 5 and section.count('<span class="sub">') > 2
    assert "Better" in section and "Worse" in section


def test_the_same_folder_gives_the_same_bytes(run_dir, html):
    assert write_report(run_dir).read_text(encoding="utf-8") == html


SECTIONS = ("Round 2", "whatsapp"), ("Round 2", "clean"), ("Round 1", "whatsapp"), ("Round 1", "clean")


def test_errors_are_listed_word_by_word_from_right_to_left(html):
    """A listing whose columns run the wrong way round cannot be read by those who know the language."""
    section = html[html.index('<section id="errors"') : html.index('<section id="examples"')]
    assert section.count("<details") == 4 and section.count("<details open") == 1
    assert (
        section.index("Round 2 on whatsapp") < section.index("Round 2 on clean") < section.index("Round 1 on whatsapp")
    )
    assert section.count('<div class="columns" dir="rtl" lang="he">') == 4 * 8
    assert section.count('<td class="word" dir="rtl" lang="he">') > 40
    for operation, letter in (("sub", "S"), ("del", "D"), ("ins", "I")):
        assert re.search(
            f'<span class="{operation}"><span>[^<]+</span><span>[^<]+</span><small>{letter}</small></span>', section
        )


def test_figures_are_files_of_their_own(run_dir, tmp_path):
    """A paper needs the drawing and the numbers behind it, the same that the page shows."""
    written = export_figures(run_dir, tmp_path)
    names = [path.name for path in written if path.suffix == ".svg"]
    assert names == [
        "gate-overview.svg", "audit-coverage.svg", "audit-confidence.svg", "train-loss.svg", "train-lr.svg",
        "train-dev.svg", "train-dev_domains.svg", "compare-overview.svg", "compare-difference.svg",
    ]  # fmt: skip
    for path in written:
        if path.suffix == ".svg":
            drawing = ElementTree.fromstring(path.read_text(encoding="utf-8"))
            assert drawing.tag == "{http://www.w3.org/2000/svg}svg" and "--accent:" in "".join(drawing.itertext())
        else:
            assert len(path.read_text(encoding="utf-8").splitlines()) > 2
    header, first, *_ = (tmp_path / "compare-difference.csv").read_text(encoding="utf-8").splitlines()
    wer = read_json(run_dir / "compare.json")["overall"]["wer"]
    assert header == "group,name,delta_wer_points,low_points,high_points"
    assert first == ",".join(map(str, ["All", "all sets", wer["delta_points"], *wer["interval_points"]]))
    with pytest.raises(DataError, match="no stage that has a figure"):
        shutil.copy(run_dir / "recipe.yaml", tmp_path)
        export_figures(tmp_path, tmp_path)


STAGES = ("audit", "gate.json", "gate-prepared.json", "prepared", "train", "evaluate", "compare.json", "truth.json")


@pytest.mark.parametrize("missing", STAGES)
def test_any_stage_may_be_missing(run_dir, tmp_path, missing):
    """The page is wanted most when a round ended early."""
    copy = copy_run(run_dir, tmp_path)
    for path in copy.glob("gate*.json" if missing == "gate.json" else missing):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = " ".join(Page(write_report(copy).read_text(encoding="utf-8")).text)
    if missing not in ("gate-prepared.json", "truth.json"):
        assert "has not run in this folder" in text
    assert ("Synthetic." in text) == (missing != "truth.json")


def test_a_run_that_has_just_begun(run_dir, tmp_path):
    shutil.copy(run_dir / "recipe.yaml", tmp_path)
    text = " ".join(Page(write_report(tmp_path).read_text(encoding="utf-8")).text)
    assert "No verdict yet" in text and text.count("has not run in this folder") == 6
    with pytest.raises(DataError, match=r"no recipe\.yaml"):
        write_report(tmp_path / "nowhere")


def test_a_training_that_went_on_from_a_step_says_what_made_the_steps_before(run_dir, tmp_path):
    """The phases on the page are the recipe's, and it did not make this model alone."""
    copy = copy_run(run_dir, tmp_path)
    assert "other settings" not in write_report(copy).read_text(encoding="utf-8")
    said = _a_run.go_on_from_a_step(RunFolder(copy))
    assert said in " ".join(Page(write_report(copy).read_text(encoding="utf-8")).text)


def test_a_comparison_of_another_version_is_told_from_a_defect(run_dir, tmp_path):
    copy = copy_run(run_dir, tmp_path)
    old = read_json(copy / "compare.json")
    del old["format"]
    write_json(copy / "compare.json", old)
    with pytest.raises(
        DataError, match=r"compare\.json was written as a version that did not say so .*'shibolet compare .*' makes"
    ):
        write_report(copy)


def test_a_stop_leads_the_page(run_dir, tmp_path):
    copy = copy_run(run_dir, tmp_path)
    for name in ("compare.json", "gate-prepared.json"):
        (copy / name).unlink()
    assert "<h1>The data are not fit to train on</h1>" in write_report(copy).read_text(encoding="utf-8")


def test_what_the_self_test_did_not_test_is_said_beside_its_table(run_dir, tmp_path):
    """A table of what was found, without what nobody tried, reads as if all were found."""
    copy = copy_run(run_dir, tmp_path)
    page = write_report(copy).read_text(encoding="utf-8")
    assert "This domain has too few clips for a test of its own: phone (7)." in page and "Text side only" not in page
    assert all(f"untouched, {domain}" in page for domain in ("clean", "whatsapp"))
    path = copy / "audit" / "alignment_report.json"
    report = AlignmentReport.read(path)
    damaged = report.self_test.damaged | {"silent": Tally(hits=0, total=0)}
    tested = report.self_test.model_copy(update={"damaged": damaged})
    report.model_copy(update={"self_test": tested, "judged_by": "text side only"}).write(path)
    page = write_report(copy).read_text(encoding="utf-8")
    assert "Text side only:" in page and "silent (damage)" not in page and "swapped (damage)" in page


def test_a_probability_stands_with_its_mixture_and_its_table(run_dir, tmp_path):
    """A number without either would be believed for any data."""
    copy = copy_run(run_dir, tmp_path)
    path = copy / "audit" / "alignment_report.json"
    line = Reliability(lower=0.9, upper=1.0, num_clips=1234, share=0.77, probability=0.986, good=0.978)
    num_clips = {"good": 1000, "gross": 900, "mild": 800}
    found = Probability(sentence=sentence(**MIXTURE), num_clips=num_clips, table=(line,), expected_error=0.0123)
    for made, is_there in ((None, False), (found, True)):
        AlignmentReport.read(path).model_copy(update={"probability": made}).write(path)
        for page in (write_report(copy), write_audit_page(copy)):
            text = page.read_text(encoding="utf-8")
            for part in ("If 80% of the clips are right", "1,234", "calibration error 0.012", "77.0%</td>"):
                assert (part in text) == is_there, (page.name, part)


@pytest.mark.parametrize("name", ["audit/alignment_report.json", "gate.json", "prepared/summary.json"])
def test_a_document_of_an_earlier_version_is_told_in_a_sentence(run_dir, tmp_path, name):
    """Months later the page is made again, and the audit is not: a traceback would be taken for a defect."""
    copy = copy_run(run_dir, tmp_path)
    old = read_json(copy / name)
    del old["format"]
    write_json(copy / name, old)
    with pytest.raises(DataError, match=rf"{name} was written as a version .*; 'shibolet \w+ RECIPE' makes it anew"):
        write_report(copy)


def test_files_that_do_not_fit_each_other_are_named(run_dir, tmp_path):
    """Each is whole; one was copied from another folder, or lost lines."""
    copy = copy_run(run_dir, tmp_path)
    for name, said in (
        (
            "evaluate/round1/clean/hypotheses.jsonl",
            r"round2/clean/hypotheses\.jsonl has utterance .test-0100.",
        ),
        ("prepared/ledger.jsonl", r"ledger\.jsonl has no line of rule 'too_short', which .*summary\.json counts"),
    ):
        content = (copy / name).read_bytes()
        lines = content.splitlines(keepends=True)
        (copy / name).write_bytes(b"".join(lines[: 100 if len(lines) > 100 else 60]))
        with pytest.raises(DataError, match=rf"{said}.*; 'shibolet \w+ RECIPE' makes"):
            write_report(copy)
        (copy / name).write_bytes(content)
    write_report(copy)


def test_a_third_round_is_called_by_its_own_title(tmp_path):
    """Its page once said Round 2 in the verdict, the tables, the figures and the examples."""
    write_run(tmp_path, ("Round 2", "Round 3"))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    text = " ".join(Page(page).text)
    for said in ("Do not keep Round 3", "Round 2 against Round 3", "Round 3 on whatsapp", "Round 3 loops in 0 of 240"):
        assert said in text, said
    assert "Change in WER, Round 3 minus Round 2" in page and "WER of Round 2 and Round 3" in page
    assert "evaluate/round3/whatsapp/listing.txt" in page and "Round 1" not in page
    assert "round1" not in page.replace("builtin:round1", "")  # the demo's base is called that in the recipe's text


def test_numbers_as_they_are_said_have_a_column_where_one_has_them(run_dir, tmp_path):
    """A rate without a word on what it is would be taken for the leaderboard's."""
    copy = copy_run(run_dir, tmp_path)
    page = write_report(copy).read_text(encoding="utf-8")
    assert page.count("Number-aware</th>") == 1 and "Number-aware WER compares numbers as they are said" in page
    paths = sorted(copy.glob("evaluate/*/*/scores.json"))
    assert len(paths) == 4
    for number, path in enumerate(paths):
        Scores.read(path).model_copy(update={"number_aware": None}).write(path)
        page = write_report(copy).read_text(encoding="utf-8")
        assert ("Number-aware" in page) == (number < 3), "shown as long as one has it"


def test_a_recipe_that_only_audits_waits_for_no_training(run_dir, tmp_path):
    copy = copy_run(run_dir, tmp_path)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    (copy / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "models": None, "train": None}))
    RunFolder(copy).seal("start")
    assert 'id="train"' in write_report(copy).read_text(encoding="utf-8"), "what has run is shown"
    for name in ("prepared", "train", "evaluate"):
        shutil.rmtree(copy / name)
    for name in ("compare.json", "systems.json"):
        (copy / name).unlink()
    page = write_report(copy).read_text(encoding="utf-8")
    Page(page)
    assert "has not run in this folder" not in page and "#train" not in page and 'id="audit"' in page


def test_a_recipe_that_waits_for_its_base_has_its_pages(run_dir, tmp_path):
    """hebrew-round3 can be audited before there is a round whose model it starts from."""
    copy = copy_run(run_dir, tmp_path)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    waiting = recipe["models"] | {"base": None, "baseline": None}
    (copy / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "models": waiting}))
    RunFolder(copy).seal("start")
    assert 'id="audit"' in write_report(copy).read_text(encoding="utf-8")


def test_an_audit_without_an_aligner_has_a_page_without_coverage(run_dir, tmp_path):
    """Nobody measured coverage: neither an empty figure nor a full one may stand there."""
    copy = copy_run(run_dir, tmp_path)
    path, table = copy / "audit" / "alignment_report.json", copy / "audit" / "utterances.parquet"
    rows = pq.read_table(table)
    nothing = pa.nulls(len(rows), pa.float64())
    pq.write_table(rows.set_column(rows.schema.get_field_index("coverage"), "coverage", nothing), table)
    report, none = AlignmentReport.read(path), {"mean_coverage": None, "median_coverage": None}
    statistics = {name: own.model_copy(update=none) for name, own in report.domain_statistics.items()}
    report.model_copy(update={"coverage_distribution": {}, "domain_statistics": statistics}).write(path)
    page = write_report(copy).read_text(encoding="utf-8")
    Page(page)
    assert "swapped (damage)" in page and "nan" not in " ".join(Page(page).text).lower().split()
    histograms = write_report(run_dir).read_text(encoding="utf-8").count("<svg") - page.count("<svg")
    assert histograms == 2, "one for each domain"
    assert ">Coverage<" in write_report(run_dir).read_text(encoding="utf-8") and ">Coverage<" not in page


def test_an_accepted_invalid_is_said_at_the_top(run_dir, tmp_path):
    copy = copy_run(run_dir, tmp_path)
    verdict = GateVerdict.read(copy / "gate.json")
    verdict.model_copy(update={"decision": "INVALID", "accepted": True}).write(copy / "gate.json")
    text = write_report(copy).read_text(encoding="utf-8")
    assert text.index("Accepted in spite of INVALID") < text.index("<main>")


def test_training_cut_off_before_the_first_step_and_in_the_first_phase(run_dir, tmp_path):
    copy = copy_run(run_dir, tmp_path)
    lines = (copy / "train/metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "train/dev.jsonl").unlink()
    (copy / "train/metrics.jsonl").write_text("".join(lines[:1]))
    assert json.loads(lines[0])["step"] == 1
    assert "Learning rate by part" in write_report(copy).read_text(encoding="utf-8")
    (copy / "train/metrics.jsonl").write_text("")
    page = write_report(copy).read_text(encoding="utf-8")
    assert "Phases" in page and "Learning rate by part" not in page


def test_the_round_that_expects_a_curve_shows_it_beside_the_measured_one(tmp_path, html):
    """The author's 22, 16, 13 and 10.5 on the figure and in a table; a round that expects nothing has neither."""
    write_run(tmp_path, recipe="hebrew-round2")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count('class="expected"') == 2 * 4, "on the screen's drawing and on the phone's"
    cells = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    assert [row for row in cells if len(row) == 5 and row[2] in ("22.0%", "16.0%", "13.0%", "10.5%")] == [
        ["0", "0", "22.0%", "47.0%", "+25.0"], ["1", "32", "16.0%", "34.2%", "+18.2"],
        ["2", "64", "13.0%", "26.0%", "+13.0"], ["5", "160", "10.5%", "15.6%", "+5.1"],
    ]  # fmt: skip
    assert "which names no\nset for them" in page and "Expected: 0.20 before and 0.30 after." in page
    (at,) = [float(at) for at in re.findall(r'class="expected" x="([\d.]+)"', page)][3:4]
    assert at + 5 == pytest.approx(40 + 950 * 160 / 286, abs=0.1), "five epochs of 32 steps on an axis from 0 to 286"
    assert "Finished epochs" not in html and 'class="expected"' not in html and "Expected:" not in html


def test_expected_points_end_with_the_plan_and_need_a_score_of_their_step():
    plan = training_plan(phase_plan("B", epochs=2, steps=64, lr_by_part={}))
    dev = [DevScore(step=step, phase="B", wer=0.2, cer=0.1) for step in (0, 30)]
    points = expected_points({2: 13.0, 0: 22.0, 5: 10.5}, plan, dev)
    assert [(one.epochs, one.step, one.measured_pct) for one in points] == [(0, 0, 20.0), (2, 64, None)]
    assert [one.difference_points for one in points] == [-2.0, None]


def test_dev_by_domain_is_on_the_page_where_there_are_two(run_dir, tmp_path, html):
    """A CAUTION promises that somebody can watch it."""
    assert "WER on dev by domain" in html and "whatsapp 65.8% at step 0, 18.0% at step 264" in html
    copy = copy_run(run_dir, tmp_path)
    scores = DevScore.read_all(copy / "train/dev.jsonl")
    write_lines(
        copy / "train/dev.jsonl",
        [one.model_copy(update={"by_domain": {"clean": one.by_domain["clean"]}}) for one in scores],
    )
    assert "WER on dev by domain" not in write_report(copy).read_text(encoding="utf-8")


def test_a_training_that_made_it_worse_is_told_on_the_page(run_dir, tmp_path):
    copy = copy_run(run_dir, tmp_path)
    path = copy / "train" / "result.json"
    TrainResult.read(path).model_copy(update={"warning": "on dev the model was better"}).write(path)
    assert "On dev the model was better." in write_report(copy).read_text(encoding="utf-8")


def copy_run(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def test_what_did_not_go_as_planned_is_on_the_page(run_dir: Path, tmp_path: Path):
    """Such as the alarm of memory: a terminal is closed by the time that the page is read."""
    shutil.copytree(run_dir, tmp_path / "run")
    event = Event(step=9, event="memory_full", detail="38.1 GiB of the fullest GPU are in use, 95.2%")
    write_lines(tmp_path / "run" / "train" / "events.jsonl", [event])
    page = write_report(tmp_path / "run").read_text()
    assert "<td>memory full</td><td>38.1 GiB of the fullest GPU are in use, 95.2%</td>" in page


def test_how_sources_write_is_there_with_its_warning(html):
    """Protects from a style that is measured and stands nowhere; what no source has has no column."""
    text = " ".join(" ".join(Page(html).text).split())
    assert "How each source writes" in text and "Sources differ. 'calls' and 'crowd' write differently." in text
    assert "Marks a word crowd all 280 0.150 calls all 280 0.020" in text and "Words with digits" not in text


def test_words_where_nobody_speaks_have_a_table_by_kind(html):
    """Protects from a verdict by clips that the page does not show, and from speech that counts as invented words."""
    row = re.search(r"<tr><td>silence</td>.*?</tr>", html, re.S)[0]
    cells = re.findall(r">([^<>]+)</td>", row)
    assert cells == "silence|0.7|24.0|12.0|8 of 8|8 of 8|0 of 8|1 of 8".split("|")
    assert "<td>speech: english</td>" in html and "words count for no limit" in html
    assert "Told 1 term, " in html and "<bdi>dana</bdi>" in html
