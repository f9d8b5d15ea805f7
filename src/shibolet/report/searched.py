"""What the page shows of a search: how the loss follows the rate of each part, all trials, what was confirmed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shibolet.errors import DataError
from shibolet.records.documents.search import SearchedTrial, SearchTable
from shibolet.records.runfolder import RunFolder
from shibolet.report.figures import short
from shibolet.report.svg import Figure, Svg, for_both, scale, ticks

_BESIDE_PX = 190  # for names of dimensions, on a screen
_STRIP_PX = 92


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A finished search."""

    table: SearchTable
    figure: Figure | None  # None: no trial has a difference
    ordered: Sequence[SearchedTrial]  # those that came furthest first, of these the lowest loss

    def rates(self, trial: SearchedTrial) -> str:
        """As people write them."""
        rank = [f"rank {trial.lora_rank}"] if "rank" in trial.factors else []
        return ", ".join([f"{part} {short(rate)}" for part, rate in trial.lr_by_part.items()] + rank)


def searched(run: RunFolder) -> Searched | None:
    """The search of a run folder; None where there is none, or where it read other data than what is there."""
    if not run.search.is_file() or not run.finished("search"):
        return None
    try:
        run.verified("search")
    except DataError:
        return None
    table = SearchTable.read(run.search)
    return Searched(table=table, figure=_figure(table), ordered=in_order(table))


def in_order(table: SearchTable) -> list[SearchedTrial]:
    """Those that came furthest first, of these the lowest loss; what diverged last."""
    return sorted(table.trials, key=lambda one: (-len(one.losses), one.losses[-1] is None, one.losses[-1] or 0.0))


def _figure(table: SearchTable) -> Figure | None:
    known = [trial for trial in table.trials if trial.difference is not None]
    return responses(list(table.dimensions), known, table.most) if known else None


def responses(dimensions: Sequence[str], trials: Sequence[SearchedTrial], most: float) -> Figure:
    """The loss a label against the recipe's own over the factor, a strip a dimension.

    Dots with intervals are trials that change this dimension alone, rings those that change others too. A strip has a
    scale of its own, that of its dots; what lies beyond it is at its edge.
    """
    rows = [(name, one.factors[name], one.difference, *(one.interval or (None, None)), _is_alone(one, name))
            for name in dimensions for one in trials]  # fmt: skip
    said = "; ".join(
        f"{name} times {factor:g}: {change:+.4f}" for name, factor, change, _, _, alone in rows if alone
    )  # fmt: skip

    def draw(width: float) -> Svg:
        svg = Svg(
            width, 0, f"Change of the loss a label by factor of the rate: {said or 'no trial of one part alone'}."
        )
        left, above = (6, 22) if svg.is_narrow else (_BESIDE_PX, 0)
        bottom = 10 + (_STRIP_PX + above) * len(dimensions)
        svg.height = bottom + 26
        x = scale(-1, 1, left + 12, width - 60)
        for number, name in enumerate(dimensions):
            top = 10 + (_STRIP_PX + above) * number + above
            svg.text(6, top - 8 if svg.is_narrow else top + _STRIP_PX / 2, name, "label")
            _strip(svg, x, top, [row for row in rows if row[0] == name], most)
        svg.line(left, bottom, width - 10, bottom, "axis")
        for power in (-1.0, -0.5, 0.0, 0.5, 1.0):
            svg.text(x(power), bottom + 18, f"\u00d7{most**power:.2g}", "tick", "middle")
        return svg

    header = ("dimension", "factor", "change_of_loss", "low", "high", "alone")
    return for_both(draw, header=header, rows=[(*row[:5], str(row[5])) for row in rows])


def _strip(svg: Svg, x, top: float, rows: Sequence[tuple], most: float) -> None:
    shown = [row for row in rows if row[5]] or rows
    ends = [abs(value) for row in shown for value in row[2:5] if value is not None]
    limit = 1.1 * max(ends, default=0.0) or 1.0
    y = scale(-limit, limit, top + _STRIP_PX - 10, top + 4)
    at = lambda value: y(min(limit, max(-limit, value)))  # noqa: E731
    svg.line(x(-1), y(0), x(1), y(0), "limit")
    for tick in ticks(-limit, limit, 3):
        svg.text(x(1) + 8, y(tick) + 4, f"{tick:+g}".replace("-", "\u2212") if tick else "0", "tick")
    for _, factor, change, low, high, alone in sorted(rows, key=lambda row: row[5]):
        place = x(max(-1.0, min(1.0, math.log(factor, most))))
        if alone and low is not None:
            svg.line(place, at(low), place, at(high), "interval" if low > 0 or high < 0 else "interval part")
        svg.dot(place, at(change), 5 if alone else 3, "point" if alone else "ring")
    svg.dot(x(0), y(0), 3, "point part")


def _is_alone(trial: SearchedTrial, name: str) -> bool:
    return trial.factors[name] != 1 and all(factor == 1 for other, factor in trial.factors.items() if other != name)
