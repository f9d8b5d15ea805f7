"""The section on worse sound: WER by dose of noise, bit rate and lost packets, a picture a kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shibolet.records.documents.robustness import SAID, DosePoint, Robustness
from shibolet.records.runfolder import RunFolder
from shibolet.report.svg import Figure, Svg, for_both, scale, ticks

_TITLES = {
    "white": "White noise, SNR in dB", "pink": "Pink noise, SNR in dB", "babble": "Babble, SNR in dB",
    "opus": "Opus, kbps", "packet_loss": "Packets lost of Opus, %",
}  # fmt: skip
_PANEL_PX, _TOP_PX, _BOTTOM_PX = 250, 34, 200  # height of a picture, and where its plot begins and ends
_SIDE_BY_SIDE_PX = 5  # between the points of the two, so that their intervals do not cover each other


@dataclass(frozen=True, slots=True)
class Mark:
    """A system at a dose, in percent."""

    wer: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Panel:
    """A kind of dose: its amounts, clean first, and the marks of baseline and candidate."""

    title: str
    amounts: Sequence[str]
    sides: tuple[Sequence[Mark], Sequence[Mark]]

    @property
    def said(self) -> str:
        at = [f"{amount} {one.wer:.1f}% and {two.wer:.1f}%" for amount, one, two in zip(self.amounts, *self.sides)]
        return f"{self.title}: {', '.join(at)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRobustness:
    """The dose curves of a round."""

    made: Robustness
    figure: Figure | None  # None: the references have no words
    said: Mapping[str, str]  # what people call a kind


def robustness(run: RunFolder) -> ShownRobustness | None:
    """What `shibolet robustness` left; None where it has not run."""
    if not run.robustness.is_file():
        return None
    made = Robustness.read(run.robustness)
    panels = panels_of(made.points)
    return ShownRobustness(made=made, figure=draw_doses(panels, made.titles) if panels else None, said=SAID)


def panels_of(points: Sequence[DosePoint]) -> list[Panel]:
    """A picture a kind, in the order of the document; none where the references have no words."""
    clean, *dosed = points
    if clean.block.wer.delta_points is None:
        return []
    panels = []
    for kind in dict.fromkeys(point.kind for point in dosed):
        own = [clean, *(point for point in dosed if point.kind == kind)]
        amounts = ["clean", *(f"{point.amount:g}" for point in own[1:])]
        panels.append(Panel(_TITLES[kind], amounts, ([_mark(one, 0) for one in own], [_mark(one, 1) for one in own])))
    return panels


def _mark(point: DosePoint, side: int) -> Mark:
    return Mark(100 * point.block.wer.sides[side].rate, point.intervals_pct[side])


def draw_doses(panels: Sequence[Panel], titles: tuple[str, str]) -> Figure:
    """Two pictures beside each other on a screen and one on a phone, each from 0 on a scale of its own."""
    said = ". ".join(panel.said for panel in panels)

    def draw(width: float) -> Svg:
        columns = 1 if width < 600 else 2
        svg = Svg(width, _PANEL_PX * -(-len(panels) // columns), f"WER of {titles[0]} and {titles[1]}. {said}.")
        each = width / columns
        for i, panel in enumerate(panels):
            _draw(svg, panel, each * (i % columns), each - (24 if columns > 1 else 0), _PANEL_PX * (i // columns))
        return svg

    rows = [
        (panel.title, amount, title, mark.wer, *(mark.interval or (None, None)))
        for panel in panels
        for title, marks in zip(titles, panel.sides, strict=True)
        for amount, mark in zip(panel.amounts, marks, strict=True)
    ]
    return for_both(draw, header=("dose", "amount", "system", "wer_pct", "low_pct", "high_pct"), rows=rows)


def _draw(svg: Svg, panel: Panel, left: float, width: float, top: float) -> None:
    marks = [mark for side in panel.sides for mark in side]
    most = max(max(mark.wer, mark.interval[1] if mark.interval else 0.0) for mark in marks) * 1.08 or 1.0
    first, last, ground = left + 48, left + width - 12, top + _BOTTOM_PX
    y = scale(0, most, ground, top + _TOP_PX)
    x = scale(0, len(panel.amounts) - 1, first + 22, last - 22)
    svg.text(left + 6, top + 16, panel.title, "label")
    for tick in ticks(0, most, 5):
        svg.line(first, y(tick), last, y(tick), "grid")
        svg.text(first - 6, y(tick) + 4, f"{tick:g}%", "tick", "end")
    for place, amount in enumerate(panel.amounts):
        svg.text(x(place), ground + 20, amount, "tick", "middle")
    for marks, aside, cls, dot in zip(
        panel.sides, (-_SIDE_BY_SIDE_PX, _SIDE_BY_SIDE_PX), ("curve before", "curve"), ("ring", "point"), strict=True
    ):
        placed = [(x(place) + aside, y(mark.wer)) for place, mark in enumerate(marks)]
        svg.curve(placed, cls)
        for (at, height), mark in zip(placed, marks, strict=True):
            if mark.interval is not None:
                ends = [min(max(y(end), top + _TOP_PX), ground) for end in mark.interval]
                svg.line(at, ends[0], at, ends[1], "interval part" if dot == "ring" else "interval")
            svg.dot(at, height, 4.5, dot)
