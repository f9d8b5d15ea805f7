"""Figures: well-formed, inside their frame, and true to the numbers they were given."""

from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from shibolet.report import curves, figures
from shibolet.report.curves import Phase
from shibolet.report.figures import Change, Difference, Rate
from shibolet.report.svg import NARROW_PX, WIDE_PX, thin_out, ticks
from shibolet.report.waterfall import Step, draw_steps

PHASES = [Phase("B", 1, 40), Phase("A", 41, 100)]
STEPS = [(step, 1 / step) for step in range(1, 101)]


def drawings(markup: Markup) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(f"<div>{markup}</div>").iter("svg"))


TITLES = "Round 1", "Round 2"
EXAMPLES = {
    "gate": lambda: figures.gate([Rate("raw", 22, 20, 25), Rate("<b>", 100, 100, 100, is_part=True)], 10, 15),
    "gate without width": lambda: figures.gate([Rate("all heard", 0, 0, 0)], 10, 15),
    "histograms": lambda: figures.histograms({"clean": [0, 0.2, 1.0, 1.0], "<b>": [0.5]}, 0.6, "coverage"),
    "losses": lambda: curves.losses(STEPS, PHASES),
    "one loss": lambda: curves.losses([(1, 0.0)], [Phase("B", 1, 1)]),
    "dev": lambda: curves.dev_scores([(20, 30.0), (60, 12.0), (100, 14.0)], PHASES),
    "dev as expected": lambda: curves.dev_scores([(0, 60.0), (40, 0.0)], PHASES, [(0, 80.0), (40, 0.0), (120, 10.5)]),
    "dev before training": lambda: curves.dev_scores([(0, 0.0)], [Phase("B", 1, 1)]),
    "dev by domain": lambda: curves.dev_domains({"kan": [(0, 30.0), (100, 0.0)], "<b>": [(40, 120.0)]}, PHASES),
    "no errors by domain": lambda: curves.dev_domains({"kan": [(0, 0.0)]}, PHASES),
    "rates": lambda: curves.rates({"projector": STEPS, "<b>": STEPS[40:]}, PHASES),
    "changes": lambda: figures.changes([Change("clean", 9, 8, "by set"), Change("<b>", 0, 140)], TITLES),
    "differences": lambda: figures.differences(
        [Difference("a", -9.2, -12, -5.6, "all"), Difference("<b>", -20, -90, 55), Difference("c", 0.2, None, None)],
        1,
        TITLES,
    ),
    "no differences": lambda: figures.differences([Difference("a", 0, 0, 0)], 0, TITLES),
    "steps": lambda: draw_steps("a", [Step("b", 9.0, 5.0, (-6, -2)), Step("<b>", 5, 5.5, None)]),
    "steps of nothing": lambda: draw_steps("a", [Step("b", 0.0, 0.0, (-3, 3))]),
    "no errors": lambda: figures.changes([Change("clean", 0, 0)], TITLES),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_figures_are_whole_and_inside_their_frame(name):
    """A mark outside the frame is a number that nobody sees."""
    found = drawings(EXAMPLES[name]())
    assert len(found) == 2 and float(found[1].get("viewBox").split()[2]) == NARROW_PX
    for svg in found:
        _, _, width, height = map(float, svg.get("viewBox").split())
        assert svg.get("aria-label")
        marks = 0
        for shape in svg.iter():
            for key, limit in (
                ("cx", width),
                ("cy", height),
                ("x1", width),
                ("x2", width),
                ("y1", height),
                ("y2", height),
            ):
                if shape.get(key):
                    marks += 1
                    assert -0.5 <= float(shape.get(key)) <= limit + 0.5, (shape.tag, key, shape.get(key))
        assert marks > 2


def test_a_gate_interval_stands_where_its_numbers_are():
    """On the wide drawing, 15 of 20% must lie at three quarters of the axis, and a wider interval must look wider."""
    svg = drawings(figures.gate([Rate("a", 15, 10, 20)], 10, 15))[0]
    low, high = next(
        (float(line.get("x1")), float(line.get("x2"))) for line in svg.iter("line") if line.get("class") == "interval"
    )
    dot = next(float(dot.get("cx")) for dot in svg.iter("circle"))
    limits = [float(line.get("x1")) for line in svg.iter("line") if line.get("class") == "limit"]
    assert low == limits[0] and dot == limits[1] and dot - low == pytest.approx(high - dot, abs=0.2)
    assert svg.get("viewBox").split()[2] == str(WIDE_PX)


def test_a_high_score_before_training_stands_on_the_scale_and_is_never_the_best():
    """A curve that is cut above would hide the gain; a best mark at step 0 would promise a checkpoint."""
    svg = drawings(curves.dev_scores([(0, 60.0), (40, 70.0), (100, 12.0)], PHASES))[0]
    ring = next(dot for dot in svg.iter("circle") if dot.get("class") == "ring")
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in svg.iter("circle") if dot.get("class") == "point"]
    assert dots[0][1] > dots[1][1] and dots[2] == (float(ring.get("cx")), float(ring.get("cy")))
    assert "best 70.0%" in curves.dev_scores([(0, 60.0), (40, 70.0)], PHASES)


def test_rates_are_written_as_people_write_them():
    assert [figures.short(rate) for rate in (5e-4, 1.5e-5, 1e-3, 2e-4)] == ["5e-4", "1.5e-5", "1e-3", "2e-4"]


def test_ticks_are_round_and_within():
    assert ticks(0, 20.6, 6) == [0, 5, 10, 15, 20]
    assert ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 286, 8) == [0, 50, 100, 150, 200, 250]


def test_thinning_a_curve_keeps_its_spikes():
    points = [(float(x), 100.0 if x == 4321 else 0.0) for x in range(10_000)]
    kept = thin_out(points, 100)
    assert len(kept) <= 102 and (4321.0, 100.0) in kept
    assert kept == sorted(kept)


def test_only_a_shown_difference_has_a_full_dot():
    """Whoever looks at the figure alone must not take noise for a gain."""
    rows = [Difference("a", -9, -12, -6), Difference("b", -9, -20, 2), Difference("c", -9, None, None)]
    svg = drawings(figures.differences(rows, 1, TITLES))[0]
    assert [dot.get("class") for dot in svg.iter("circle")] == ["point", "ring", "ring"]
    zero, target = (next(float(line.get("x1")) for line in svg.iter("line") if line.get("class") == name)
                    for name in ("axis", "limit"))  # fmt: skip
    ends = [float(line.get("x2")) for line in svg.iter("line") if line.get("class") == "interval"]
    assert target < zero and max(ends) < zero


def test_a_curve_has_its_values_as_a_table_and_under_a_pointer():
    """On a picture of 5,000 steps nobody reads a loss: the table has the first, the last and steps between."""
    points = [(step, 1000.0 / step) for step in range(1, 5001)]
    figure = curves.losses(points, [Phase("B", 1, 5000)])
    header, rows = figure.values
    assert header == ("Step", "Loss", "Running mean") and len(rows) == 40
    assert rows[0][:2] == ("1", "1000.0000") and rows[-1][:2] == ("5,000", "0.2000")
    for svg, most in zip(drawings(figure), (100, 40), strict=True):
        held = [group for group in svg.iter("g") if group.get("class") == "reading"]
        assert len(held) == most
        assert held[0].find("text").text == "step 1: 1000.000, running mean 1000.000"
        edges = [(float(one.find("rect").get("x")), float(one.find("rect").get("width"))) for one in held]
        gaps = [x + width - after for (x, width), (after, _) in zip(edges, edges[1:])]  # noqa: RUF007
        assert max(map(abs, gaps)) < 0.21  # no place of the frame is without a value


def test_a_table_by_domain_has_a_blank_where_a_step_was_not_scored():
    figure = curves.dev_domains({"kan": [(0, 30.0), (100, 10.0)], "noise": [(100, 20.0)]}, PHASES)
    assert figure.values == (("Step", "kan", "noise"), [("0", "30.00%", ""), ("100", "10.00%", "20.00%")])


def test_the_loss_on_dev_stands_in_the_figure_and_in_its_table():
    """Every step at which dev was scored has a row, also between those that are spread."""
    dev = [(0, 4.0), (37, 2.0), (100, 3.0)]
    figure = curves.losses(STEPS, PHASES, dev)
    header, rows = figure.values
    assert header == ("Step", "Loss", "Running mean", "On dev")
    assert [(row[0], row[3]) for row in rows if row[3]] == [("0", "4.0000"), ("37", "2.0000"), ("100", "3.0000")]
    assert rows[0] == ("0", "", "", "4.0000") and 40 <= len(rows) <= 43
    assert "On dev: 4.000 at step 0, 3.000 at step 100." in figure
    for svg in drawings(figure):
        assert len([path for path in svg.iter("path") if path.get("class") == "dev"]) == 1
