"""The section on which part gave what: systems in a chain, and the change of each step with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shibolet.records.documents.comparison import Block, Waterfall
from shibolet.records.runfolder import RunFolder
from shibolet.report.svg import Figure, Svg, axis, for_both, row_label, scale, ticks


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the picture: the WER in percent before and after, and the change with its interval in points."""

    name: str
    before: float
    after: float
    interval: tuple[float, float] | None
    is_whole: bool = False  # all steps together

    @property
    def points(self) -> float:
        return self.after - self.before

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def ends(self) -> tuple[float, ...]:
        """WER that the picture has to have room for: before, after, and the ends of the interval where it may end."""
        return self.before, self.after, *(self.before + end for end in self.interval or ())

    @property
    def said(self) -> str:
        within = "" if self.interval is None else " ({:+.1f} to {:+.1f})".format(*self.interval)
        return f"{self.points:+.1f}{within}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownWaterfall:
    """A chain of systems."""

    made: Waterfall
    figure: Figure | None  # None: the references have no words


def waterfall(run: RunFolder) -> ShownWaterfall | None:
    """What `shibolet compare --chain` left; None where it has not run."""
    if not run.waterfall.is_file():
        return None
    made = Waterfall.read(run.waterfall)
    if made.whole.overall.wer.delta_points is None:
        return ShownWaterfall(made=made, figure=None)
    steps = [_step(one.candidate.title, one.overall) for one in made.steps]
    steps.append(replace(_step("All steps", made.whole.overall), is_whole=True))
    return ShownWaterfall(made=made, figure=draw_steps(made.whole.baseline.title, steps))


def _step(name: str, block: Block) -> Step:
    before, after = (100 * errors.rate for errors in block.wer.sides)
    return Step(name, before, after, block.wer.interval_points)


def draw_steps(first: str, steps: Sequence[Step]) -> Figure:
    """From the first system's WER downwards, a row a step, each beginning where the one before ended.

    The whisker of a step is the interval of its change, laid out from where the step begins. The scale does not begin
    at 0: what is compared are lengths of steps.
    """
    start = steps[0].before
    said = "; ".join(f"{step.name} {step.said} points, {step.after:.1f}%" for step in steps)
    ends = [end for step in steps for end in step.ends]
    low, high = min(ends), max(ends)
    room = 0.06 * max(high - low, 0.1)
    low, high = max(0.0, low - room), high + room

    def draw(width: float) -> Svg:
        svg = Svg(width, 0, f"WER by step: {first} {start:.1f}%; {said}.")
        left, right, each = (16, 10, 50) if svg.is_narrow else (190, 190, 34)
        svg.height = (bottom := 14 + each * (len(steps) + 1)) + 26
        x = scale(low, high, left, width - right)
        marks = ticks(low, high, 4 if svg.is_narrow else 8)
        for mark in marks:
            svg.line(x(mark), 8, x(mark), bottom, "grid")
        rows = [14 + each * i + (32 if svg.is_narrow else 17) for i in range(len(steps) + 1)]

        def value(text: str, at: float) -> None:
            shown = text.replace("-", "\u2212")
            svg.text(width - 10, at - 14 if svg.is_narrow else at + 5, shown, "value", "end")

        row_label(svg, first, rows[0])
        svg.dot(x(start), rows[0], 5.5, "point")
        value(f"{start:.1f}%", rows[0])
        for step, at, above in zip(steps, rows[1:], rows, strict=False):
            row_label(svg, step.name, at)
            if not (step.is_whole or svg.is_narrow):  # on a phone the line would cross the words of the row
                svg.line(x(step.before), above, x(step.before), at, "limit")
            kind = "bar" if step.points <= 0 else "bar low"
            svg.rect(min(x(step.before), x(step.after)), at - 7, abs(x(step.after) - x(step.before)), 14, kind)
            if step.interval is not None:
                one, other = (step.before + end for end in step.interval)
                svg.line(x(max(low, one)), at, x(max(low, other)), at, "whisker")
                for end in (one, other):
                    if end >= low:  # no WER is under 0: there the whisker is cut
                        svg.line(x(end), at - 5, x(end), at + 5, "whisker")
            svg.dot(x(step.after), at, 5, "point" if step.is_shown else "ring")
            value(step.said, at)
        axis(svg, x, left, marks, bottom, "%")
        return svg

    header = ("step", "before_wer_pct", "after_wer_pct", "delta_wer_points", "low_points", "high_points")
    rows = [(s.name, s.before, s.after, s.points, *(s.interval or (None, None))) for s in steps]
    return for_both(draw, header=header, rows=rows)
