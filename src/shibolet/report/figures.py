"""The page's figures: plain numbers in, a drawing for a screen and one for a phone out, with its content in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shibolet.report.svg import CHAR_PX, HALF_PX, Figure, Svg, axis, for_both, row_label, scale, ticks


@dataclass(frozen=True, slots=True)
class Rate:
    """A share in percent with its interval; `is_part` rows are drawn lighter, under the row that they belong to."""

    name: str
    value: float
    low: float
    high: float
    is_part: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """An error rate in percent, before and after."""

    name: str
    before: float
    after: float
    heading: str = ""  # written above the row


@dataclass(frozen=True, slots=True)
class Difference:
    """A change of an error rate in points, negative is better, with its interval where there is one."""

    name: str
    points: float
    low: float | None
    high: float | None
    heading: str = ""  # written above the row

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def gate(rows: Sequence[Rate], proceed_below: float, stop_above: float) -> Figure:
    """Rates of low quality with their intervals against the two lines of the gate."""
    most = max(stop_above * 4 / 3, *(row.high for row in rows)) * 1.03
    said = "; ".join(f"{r.name} {r.value:.1f}%, interval {r.low:.1f} to {r.high:.1f}%" for r in rows)

    def draw(width: float) -> Svg:
        svg = Svg(width, 0, f"Share of low quality. Lines at {proceed_below:g} and {stop_above:g}%. {said}.")
        left, step = (6, 46) if svg.is_narrow else (190, 36)
        bottom = 36 + step * len(rows)
        svg.height = bottom + 26
        x = scale(0, most, left, width - 10)
        bounds = (("proceed", 0.0, proceed_below), ("caution", proceed_below, stop_above), ("stop", stop_above, most))
        for name, low, high in bounds:
            svg.rect(x(low), 22, x(high) - x(low), bottom - 22, f"zone {name}")
            if x(high) - x(low) > CHAR_PX * len(name):
                svg.text((x(low) + x(high)) / 2, 14, name.upper(), "zone-name", "middle")
        limits = (proceed_below, stop_above)
        are_close = x(stop_above) - x(proceed_below) < 5 * CHAR_PX  # then one stands before its line, one behind it
        room = (0.16 if are_close else 0.08) * most
        apart = [t for t in ticks(0, most, 6) if all(abs(t - limit) > room for limit in limits)]
        axis(svg, x, x(0), apart, bottom, "%")
        for line, side in zip(limits, ("end", "start"), strict=True):
            svg.line(x(line), 22, x(line), bottom, "limit")
            svg.text(x(line), bottom + 18, f"{line:g}%", "tick", side if are_close else "middle")
        for i, row in enumerate(rows):
            y = 36 + step * i + (30 if svg.is_narrow else 14)
            part = " part" if row.is_part else ""
            row_label(svg, row.name, y, part)
            svg.line(x(row.low), y, x(row.high), y, f"interval{part}")
            for end in (row.low, row.high) if row.low < row.high else ():
                svg.line(x(end), y - 5, x(end), y + 5, f"interval{part}")
            svg.dot(x(row.value), y, 4 if row.is_part else 6, f"point{part}")
            value = f"{row.value:.1f}%"
            if x(row.high) + 10 + CHAR_PX * len(value) < width:
                svg.text(x(row.high) + 10, y + 5, value, "value")
            else:
                svg.text(x(row.low) - 10, y + 5, value, "value", "end")
        return svg

    header = ("name", "low_quality_pct", "low_pct", "high_pct")
    return for_both(draw, header=header, rows=[(row.name, row.value, row.low, row.high) for row in rows])


def histograms(values: Mapping[str, Sequence[float]], limit: float, what: str, bins: int = 20) -> Figure:
    """A histogram over [0, 1] for each domain, above one another; what lies under `limit` is marked."""
    under = {name: sum(value < limit for value in rows) / len(rows) for name, rows in values.items()}
    said = "; ".join(f"{name} {under[name]:.0%} of {len(rows)} under {limit:g}" for name, rows in values.items())

    def draw(width: float) -> Svg:
        svg = Svg(width, 0, f"Distribution of {what} by domain: {said}.")
        step, bar_px = 84, 48
        bottom = step * len(values)
        svg.height = bottom + 26
        x = scale(0, 1, 6, width - 10)
        for i, (name, rows) in enumerate(values.items()):
            base = step * (i + 1)
            counts = [0] * bins
            for value in rows:
                counts[min(int(value * bins), bins - 1)] += 1
            for b, count in enumerate(counts):
                height = max(bar_px * count / max(counts), 1.5) if count else 0.0
                low = " low" if (b + 0.5) / bins < limit else ""
                svg.rect(x(b / bins) + 1, base - height, x(1 / bins) - x(0) - 2, height, f"bar{low}")
            svg.line(x(0), base, x(1), base, "axis")
            svg.line(x(limit), base - bar_px - 4, x(limit), base, "limit")
            svg.text(x(0), base - bar_px - 14, name, "label")
            svg.text(x(1), base - bar_px - 14, f"{under[name]:.0%} under {limit:g}", "value", "end")
        axis(svg, x, x(0), ticks(0, 1, 5), bottom, "")
        return svg

    return for_both(draw, HALF_PX, ("domain", what), [(name, value) for name, rows in values.items() for value in rows])


def changes(rows: Sequence[Change], titles: tuple[str, str]) -> Figure:
    """Error rates of a baseline (ring) and a candidate (dot), a row each."""
    most = max(max(row.before, row.after) for row in rows) * 1.05 or 1.0
    said = "; ".join(f"{row.name} {row.before:.1f} to {row.after:.1f}%" for row in rows)

    def draw(width: float) -> Svg:
        svg = Svg(width, 0, f"WER of {titles[0]} and {titles[1]}: {said}.")
        left, right, step = (6, 10, 50) if svg.is_narrow else (190, 110, 34)
        y, placed = 8.0, []
        for row in rows:
            y += 26 if row.heading else 0
            placed.append(y + (30 if svg.is_narrow else 14))
            y += step
        svg.height = y + 26
        x = scale(0, most, left, width - right)
        marks = ticks(0, most, 4 if svg.is_narrow else 8)
        for mark in marks:
            svg.line(x(mark), 8, x(mark), y, "grid")
        for row, at in zip(rows, placed, strict=True):
            if row.heading:
                svg.text(
                    left if svg.is_narrow else 6, at - (38 if svg.is_narrow else 20), row.heading.upper(), "zone-name"
                )
            row_label(svg, row.name, at)
            svg.line(x(row.before), at, x(row.after), at, "better" if row.after < row.before else "worse")
            svg.dot(x(row.before), at, 5, "ring")
            svg.dot(x(row.after), at, 5.5, "point")
            value = f"{row.before:.1f} \u2192 {row.after:.1f}"
            svg.text(width - 10, at - 14 if svg.is_narrow else at + 5, value, "value", "end")
        axis(svg, x, x(0), marks, y, "%")
        return svg

    header = ("name", "baseline_wer_pct", "candidate_wer_pct")
    return for_both(draw, header=header, rows=[(row.name, row.before, row.after) for row in rows])


def differences(rows: Sequence[Difference], target_points: float, titles: tuple[str, str]) -> Figure:
    """What changed in WER, with its interval, against no change and against the target; to the left is better."""
    said = "; ".join(
        f"{row.name} {row.points:+.1f} points" + ("" if row.low is None else f", {row.low:+.1f} to {row.high:+.1f}")
        for row in rows
    )
    # A slice of few recordings may have an interval wider than all others together: what shows nothing is cut.
    sure = [end for row in rows if row.is_shown for end in (row.low, row.high)]
    widest = 1.5 * max(abs(value) for value in (*sure, *(row.points for row in rows), target_points, 1.0))
    ends = [end for row in rows for end in (row.low, row.high, row.points) if end is not None]
    low, high = max(min(*ends, -target_points), -widest), min(max(*ends, 0.0), widest)
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)

    def draw(width: float) -> Svg:
        svg = Svg(width, 0, f"Change in WER, {titles[1]} minus {titles[0]}: {said}.")
        left, right, step = (6, 10, 46) if svg.is_narrow else (190, 170, 30)
        y, placed = 26.0, []
        for row in rows:
            y += 26 if row.heading else 0
            placed.append(y + (28 if svg.is_narrow else 12))
            y += step
        svg.height = y + 26
        x = scale(low, high, left, width - right)
        svg.rect(x(low), 20, x(0) - x(low), y - 20, "zone gain")
        marks = [mark for mark in ticks(low, high, 4 if svg.is_narrow else 8) if low <= mark <= high]
        for mark in marks:
            svg.line(x(mark), 20, x(mark), y, "grid")
        svg.line(x(0), 20, x(0), y, "axis")
        if target_points:
            svg.line(x(-target_points), 20, x(-target_points), y, "limit")
        svg.text(x(0) - 6, 13, "BETTER", "zone-name", "end")
        svg.text(x(0) + 6, 13, "WORSE", "zone-name")
        for row, at in zip(rows, placed, strict=True):
            if row.heading:
                svg.text(
                    left if svg.is_narrow else 6, at - (36 if svg.is_narrow else 18), row.heading.upper(), "zone-name"
                )
            row_label(svg, row.name, at)
            value = f"{row.points:+.1f}"
            if row.low is not None and row.high is not None:
                kind = "interval" if row.low > 0 or row.high < 0 else "interval part"
                svg.line(x(max(row.low, low)), at, x(min(row.high, high)), at, kind)
                for end in (row.low, row.high):
                    if low <= end <= high:
                        svg.line(x(end), at - 5, x(end), at + 5, kind)
                value += f" ({row.low:+.1f} to {row.high:+.1f})"
            svg.dot(x(row.points), at, 5, "point" if row.is_shown else "ring")
            svg.text(width - 10, at - 14 if svg.is_narrow else at + 5, value.replace("-", "\u2212"), "value", "end")
        axis(svg, x, left, marks, y, "")
        return svg

    header = ("group", "name", "delta_wer_points", "low_points", "high_points")
    groups, table = "", []
    for row in rows:
        groups = row.heading or groups
        table.append((groups, row.name, row.points, row.low, row.high))
    return for_both(draw, header=header, rows=table)


def short(rate: float) -> str:
    """A learning rate as people write it: 5e-4, 1.5e-5."""
    digits, power = f"{rate:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
