"""Just enough SVG for the page's figures: shapes with a class, scales, ticks. Colours are the style sheet's."""

import csv
import io
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

from shibolet.report.wording import visible

WIDE_PX, HALF_PX, NARROW_PX = (
    1000,
    480,
    350,
)  # text keeps its size: every figure is drawn once for a screen, once for a phone
CHAR_PX = 7.2  # width of a character in a figure, about
Point = tuple[float, float]


class Svg:
    """A drawing of `width` x `height` px; each call adds a shape."""

    def __init__(self, width: float, height: float, alt: str) -> None:
        self.width, self.height, self._alt, self._shapes = width, height, alt, []

    @property
    def is_narrow(self) -> bool:
        return self.width == NARROW_PX

    def line(self, x1: float, y1: float, x2: float, y2: float, cls: str) -> None:
        self._add("line", cls, x1=x1, y1=y1, x2=x2, y2=y2)

    def rect(self, x: float, y: float, width: float, height: float, cls: str) -> None:
        self._add("rect", cls, x=x, y=y, width=max(width, 0.0), height=max(height, 0.0))

    def dot(self, x: float, y: float, radius: float, cls: str) -> None:
        self._add("circle", cls, cx=x, cy=y, r=radius)

    def curve(self, points: Sequence[Point], cls: str) -> None:
        """A line through the points."""
        if points:
            self._shapes.append(f'<path class="{cls}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>')

    def text(self, x: float, y: float, content: str, cls: str = "", anchor: str = "start") -> None:
        self._shapes.append(
            f'<text class="{cls}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(visible(content))}</text>'
        )

    def reading(self, across: Point, down: Point, at: Point, said: str) -> None:
        """A part of the drawing, `across` from left to right and `down` from top to bottom, that tells what is at a
        point while a pointer is over it."""
        shapes, self._shapes = self._shapes, []
        self.rect(across[0], down[0], across[1] - across[0], down[1] - down[0], "hit")
        self.line(at[0], down[0], at[0], down[1], "hair")
        self.dot(*at, 4, "point")
        self.text(max(min(at[0] + 8, self.width - CHAR_PX * len(said)), 0), max(at[1] - 8, down[0] + 10), said)
        self._shapes = [*shapes, f'<g class="reading">{"".join(self._shapes)}</g>']

    def render(self) -> str:
        alt = escape(visible(self._alt))
        return (
            f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" role="img" aria-label="{alt}">'
            f"{''.join(self._shapes)}</svg>"
        )

    def _add(self, tag: str, cls: str, **numbers: float) -> None:
        placed = " ".join(f'{name}="{value:.1f}"' for name, value in numbers.items())
        self._shapes.append(f'<{tag} class="{cls}" {placed}/>')


class Figure(Markup):
    """A figure as the page shows it, with what a file of its own needs: the drawing for a screen, and its numbers."""

    wide: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    values: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None  # a table to read it from: header, rows

    def with_values(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> "Figure":
        """The same figure with a table of its values, for whoever has no pointer."""
        self.values = header, rows
        return self

    def svg(self, style: str) -> str:
        """A file of its own: the drawing for a screen with the style sheet inside."""
        start, end = self.wide.split(">", 1)
        return f'{start} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{end}'

    def csv(self) -> str:
        """Its numbers, a header first."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([_as_text(cell) for cell in row] for row in self.rows)
        return text.getvalue()


def _as_text(cell: str | float | None) -> str | float | None:
    """A cell that a spreadsheet does not take for a formula: a name that looks like one gets an apostrophe in front."""
    if not isinstance(cell, str):
        return cell
    text = visible(cell)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\n")) else text


def for_both(
    draw: Callable[[float], Svg],
    wide_px: float = WIDE_PX,
    header: Sequence[str] = (),
    rows: Sequence[Sequence[str | float | None]] = (),
) -> Figure:
    """The figure as a screen and as a phone shows it; the style sheet hides one of them. `rows` are its numbers."""
    wide = draw(wide_px).render()
    figure = Figure(
        f'<div class="figure"><div class="wide">{wide}</div><div class="narrow">{draw(NARROW_PX).render()}</div></div>'
    )
    figure.wide, figure.header, figure.rows = wide, header, rows
    return figure


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The linear map from [low, high] to pixels [start, end]."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within [low, high], about `most` of them."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= most + 1e-9)
    return [round(i * step, 10) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def thin_out(points: Sequence[Point], most: int) -> list[Point]:
    """The points, or of more than `most` the lowest and highest of each stretch, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    stretches = (points[first : first + size] for first in range(0, len(points), size))
    return [p for s in stretches for p in sorted({min(s, key=lambda p: p[1]), max(s, key=lambda p: p[1])})]


def row_label(svg: Svg, name: str, y: float, part: str = "") -> None:
    """Beside the row on a screen, above it on a phone."""
    svg.text(22 if part else 6, y - 14 if svg.is_narrow else y + 5, name, f"label{part}")


def axis(svg: Svg, x: Callable[[float], float], start_px: float, marks: Sequence[float], y: float, unit: str) -> None:
    """A line from `start_px` to the right with a number at each mark."""
    svg.line(start_px, y, svg.width - 10, y, "axis")
    for mark in marks:
        svg.text(
            x(mark),
            y + 18,
            f"{mark:,g}{unit}".replace("-", "\u2212"),
            "tick",
            "middle" if x(mark) < svg.width - 24 else "end",
        )
