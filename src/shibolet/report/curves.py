"""Figures of training over its steps: loss, learning rates, and WER on dev, each with its values to read."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shibolet.report.figures import short
from shibolet.report.svg import Figure, Point, Svg, axis, for_both, row_label, scale, thin_out, ticks

_MOST_POINTS = 700  # of a curve
_MOST_VALUES = 40  # rows of a table under a curve
_READINGS = {True: 40, False: 100}  # values that a pointer finds on a curve, by whether the drawing is narrow
_TOP_PX = 26  # of the curves' frame


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps `first` to `last` of training."""

    name: str
    first: int
    last: int


def losses(points: Sequence[Point], phases: Sequence[Phase], dev: Sequence[Point] = ()) -> Figure:
    """Training loss at each step and its running mean, and the loss on dev where it was measured."""
    smooth, mean = [], points[0][1]
    for step, loss in points:
        mean += 0.1 * (loss - mean)
        smooth.append((step, mean))
    ends = {phase.name: smooth[min(phase.last, len(smooth)) - 1][1] for phase in phases}
    said = ", ".join(f"{loss:.3f} at the end of phase {name}" for name, loss in ends.items())
    rows = [(step, loss, mean) for (step, loss), (_, mean) in zip(points, smooth, strict=True)]
    said = f"Training loss: {points[0][1]:.3f} at first, {said}."
    if dev:
        said += f" On dev: {dev[0][1]:.3f} at step {dev[0][0]:,}, {dev[-1][1]:.3f} at step {dev[-1][0]:,}."
    figure = _curves(
        [(points, "raw"), (smooth, "curve"), (dev, "dev")], phases, said, first=0 if dev and dev[0][0] == 0 else 1,
        readings=[(step, mean, f"step {step:,.0f}: {loss:.3f}, running mean {mean:.3f}") for step, loss, mean in rows],
    )  # fmt: skip
    by_name = {"Loss": points, "Running mean": smooth} | ({"On dev": dev} if dev else {})
    return figure.with_values(("Step", *by_name), _by_step(by_name, lambda loss: f"{loss:.4f}", also=dict(dev)))


def dev_scores(points: Sequence[Point], phases: Sequence[Phase], expected: Sequence[Point] = ()) -> Figure:
    """WER on dev in percent at each scored step, from 0, the best one after a step marked, and what was expected."""
    trained = [point for point in points if point[0]] or points
    step, wer = min(trained, key=lambda point: (point[1], -point[0]))
    said = f"WER on dev: {points[0][1]:.1f}% at step {points[0][0]:,}, best {wer:.1f}% at step {step:,}."
    if expected:
        said += " Expected: " + ", ".join(f"{wer:g}% at step {step:,}" for step, wer in expected) + "."
    figure = _curves(
        [(points, "curve")], phases, said, unit="%", marks=points, best=(step, wer), expected=expected, first=0,
        readings=[(at, value, f"step {at:,.0f}: {value:.1f}%") for at, value in points],
    )  # fmt: skip
    shown = [(f"{at:,.0f}", f"{value:.2f}%") for at, value in _spread(points, _MOST_VALUES)]
    return figure.with_values(("Step", "WER"), shown)


def dev_domains(wer_by_domain: Mapping[str, Sequence[Point]], phases: Sequence[Phase]) -> Figure:
    """WER on dev in percent of each domain, a strip a domain, all on one scale; its first and last are written."""
    last = max(phase.last for phase in phases)
    most = max(wer for points in wer_by_domain.values() for _, wer in points) or 1.0
    said = "; ".join(
        f"{name} {points[0][1]:.1f}% at step {points[0][0]:,}, {points[-1][1]:.1f}% at step {points[-1][0]:,}"
        for name, points in wer_by_domain.items()
    )

    def draw(width: float) -> Svg:
        svg = Svg(width, 0, f"WER on dev by domain: {said}.")
        left, step, above = (40, 132, 86) if svg.is_narrow else (190, 104, 10)
        x, bases, bottom = _strips(svg, list(wer_by_domain), phases, left, step, above, first=0)
        for base, points in zip(bases, wer_by_domain.values(), strict=True):
            y = scale(0, most, base, base - 72)
            _values_axis(svg, ticks(0, most, 3), y, left, "%")
            placed = [(x(at), y(wer)) for at, wer in points]
            svg.curve(thin_out(placed, _MOST_POINTS), "curve")
            for at in placed:
                svg.dot(*at, 2.5, "point")
            ends = ((points[0], placed[0], "start"), (points[-1], placed[-1], "end"))
            for (_, wer), (at, height), side in ends[: len(points)]:
                svg.text(at, height - 8, f"{wer:.1f}%", "value", side)
            held = [(x(at), y(wer), f"step {at:,.0f}: {wer:.1f}%") for at, wer in points]
            _read(svg, held, left, base - 86, base)
        _steps_axis(svg, x, left, ticks(0, last, 4 if svg.is_narrow else 8), bottom)
        return svg

    rows = [(name, *point) for name, points in wer_by_domain.items() for point in points]
    figure = for_both(draw, header=("domain", "step", "wer_pct"), rows=rows)
    return figure.with_values(("Step", *wer_by_domain), _by_step(wer_by_domain, lambda wer: f"{wer:.2f}%"))


def rates(lr_by_part: Mapping[str, Sequence[Point]], phases: Sequence[Phase]) -> Figure:
    """Learning rate of each part, one strip a part on a scale of its own; blank where the part is frozen."""
    last = max(phase.last for phase in phases)
    said = "; ".join(f"{part} up to {short(max(lr for _, lr in points))}" for part, points in lr_by_part.items())

    def draw(width: float) -> Svg:
        svg = Svg(width, 0, f"Learning rate by part: {said}.")
        left, step, above = (6, 72, 30) if svg.is_narrow else (190, 48, 10)
        x, bases, bottom = _strips(svg, list(lr_by_part), phases, left, step, above, first=1)
        for base, points in zip(bases, lr_by_part.values(), strict=True):
            y = scale(0, max(lr for _, lr in points), base, base - 22)
            for phase in phases:
                held = [(x(at), y(lr)) for at, lr in points if phase.first <= at <= phase.last]
                if held:
                    svg.curve(thin_out(held, 200), "curve")
                    peak = max(lr for at, lr in points if phase.first <= at <= phase.last)
                    svg.text(held[-1][0] - 2, min(y for _, y in held) - 5, short(peak), "value", "end")
        _steps_axis(svg, x, left, [t for t in ticks(0, last, 6) if t >= 1], bottom)
        return svg

    rows = [(part, *point) for part, points in lr_by_part.items() for point in points]
    figure = for_both(draw, header=("part", "step", "lr"), rows=rows)
    return figure.with_values(("Step", *lr_by_part), _by_step(lr_by_part, lambda lr: f"{lr:.2e}"))


def _curves(
    curves: Sequence[tuple[Sequence[Point], str]],
    phases: Sequence[Phase],
    alt: str,
    unit: str = "",
    marks: Sequence[Point] = (),
    best: Point | None = None,
    expected: Sequence[Point] = (),
    first: int = 1,
    readings: Sequence[tuple[float, float, str]] = (),
) -> Figure:
    """Lines over steps from `first`, values from 0; `curves` are points and the class to draw them with.

    `readings` are a step, a value and what a pointer reads there.
    """
    last = max(*(phase.last for phase in phases), *(step for step, _ in expected), first)
    values = sorted(value for points in (*(points for points, _ in curves), expected) for _, value in points)
    # Half a dozen first losses may lie far above all others: the scale is that of the rest, and what is above is cut.
    highest = values[-1] if marks else min(values[-1], 1.6 * values[int(0.97 * (len(values) - 1))])
    most = highest * 1.06 or 1.0

    def draw(width: float) -> Svg:
        svg = Svg(width, 250, alt)
        left, bottom = 40, 224
        x, y = scale(first, max(last, 2), left, width - 10), scale(0, most, bottom, _TOP_PX)
        _phases(svg, phases, x, bottom)
        _values_axis(svg, ticks(0, most, 6), y, left, unit)
        for points, cls in curves:
            svg.curve(thin_out([(x(step), max(y(value), _TOP_PX)) for step, value in points], _MOST_POINTS), cls)
        for step, value in marks:
            svg.dot(x(step), max(y(value), _TOP_PX), 2.5, "point")
        for step, value in expected:
            svg.rect(x(step) - 5, y(value) - 5, 10, 10, "expected")
            at = min(max(x(step), left + 22), width - 24)
            svg.text(at, min(y(value) + 20, bottom - 4), f"{value:g}{unit}", "tick", "middle")
        if best:
            at = min(max(x(best[0]), left + 40), width - 50)
            svg.dot(x(best[0]), y(best[1]), 6, "ring")
            under = y(best[1]) + 22  # where the curve is not, as this is its lowest point
            height = under if under < bottom - 4 else y(best[1]) - 12
            svg.text(at, height, f"best {best[1]:.1f}{unit}", "value", "middle")
        _steps_axis(svg, x, left, [t for t in ticks(0, last, 4 if svg.is_narrow else 8) if t >= first], bottom)
        _read(svg, [(x(step), max(y(value), _TOP_PX), said) for step, value, said in readings], left, _TOP_PX, bottom)
        return svg

    return for_both(draw, header=("step", "value"), rows=curves[0][0])


def _read(svg: Svg, points: Sequence[tuple[float, float, str]], left: float, top: float, bottom: float) -> None:
    """Strips of the frame, each from the middle between two points to the next, that show the value of their point."""
    held = _spread(points, _READINGS[svg.is_narrow])
    middles = [(one[0] + two[0]) / 2 for one, two in pairwise(held)]
    for start, end, (x, y, said) in zip([left, *middles], [*middles, svg.width - 10], held, strict=True):
        svg.reading((start, end), (top, bottom), (x, y), said)


def _spread(rows: Sequence, most: int) -> list:
    """At most so many of the rows, from the first to the last with about equal gaps."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _by_step(
    points_by_name: Mapping[str, Sequence[Point]], said: Callable[[float], str], also: Collection[float] = ()
) -> list[tuple[str, ...]]:
    """A row a step with a cell a name, blank where there is no value: of steps spread over all of them, and `also`."""
    found = {name: dict(points) for name, points in points_by_name.items()}
    steps = sorted({step for points in found.values() for step in points})
    cells = lambda step: (said(points[step]) if step in points else "" for points in found.values())  # noqa: E731
    shown = sorted({*_spread(steps, _MOST_VALUES), *_spread(sorted(also), _MOST_VALUES)})
    return [(f"{step:,.0f}", *cells(step)) for step in shown]


def _values_axis(svg: Svg, marks: Sequence[float], y: Callable[[float], float], left: float, unit: str) -> None:
    """A line across the frame and a number at each mark."""
    for mark in marks:
        svg.line(left, y(mark), svg.width - 10, y(mark), "grid")
        svg.text(left - 7, y(mark) + 4, f"{mark:g}{unit}", "tick", "end")


def _steps_axis(svg: Svg, x: Callable[[float], float], left: float, marks: Sequence[float], y: float) -> None:
    """The axis of steps, with its name before the first number."""
    if left > 30:
        svg.text(left - 12, y + 18, "step", "tick", "end")
    axis(svg, x, left, marks, y, "")


def _phases(svg: Svg, phases: Sequence[Phase], x: Callable[[float], float], bottom: float) -> None:
    """The name of each phase where it begins, and a line at each switch."""
    for i, phase in enumerate(phases):
        if i:
            svg.line(x(phase.first - 0.5), 4, x(phase.first - 0.5), bottom, "limit")
        svg.text(x(phase.first) + (6 if i else 0), 14, f"PHASE {phase.name}", "zone-name")


def _strips(
    svg: Svg, names: Sequence[str], phases: Sequence[Phase], left: float, step: float, above: float, *, first: int
) -> tuple[Callable[[float], float], list[float], float]:
    """A strip a name, `step` px each, over the steps from `first`: the scale of steps, ground lines, lower edge."""
    last, bottom = max(phase.last for phase in phases), 24 + step * len(names)
    svg.height = bottom + 26
    x = scale(first, max(last, 2), left, svg.width - 10)
    _phases(svg, phases, x, bottom)
    bases = [24 + step * (i + 1) - 6 for i in range(len(names))]
    for name, base in zip(names, bases, strict=True):
        row_label(svg, name, base - above)
        svg.line(x(first), base, x(last), base, "grid")
    return x, bases, bottom
