"""Ways to decode that are added to the one that is admitted, as long as each shows that it adds something.

Forward addition: of all that may be added, one half of dev chooses the setting of lowest WER, and the other half, other
recordings and speakers, decides by the interval of its difference to the setting before. So each step is one test, on
data that did not choose what is tested.
"""

from collections.abc import Callable, Mapping, Sequence

from shibolet.records.documents.decoding import JoinedSetting, MeasuredSetting, Setting
from shibolet.records.groups import halves
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.rows import ScoredRow, groups_of

Rows = Sequence[ScoredRow]


def additions(base: Setting, greedy: Setting, singles: Sequence[Setting]) -> list[Setting]:
    """What `base` may become by one of the ways in `singles` that it lacks; a way that it has keeps its value.

    Beams take an n-gram and a length penalty, samples of minimum Bayes risk a repeat bias; no other two go together.
    """
    found = []
    for single in singles:
        lacks = {name: value for name, value in single if value != getattr(greedy, name) == getattr(base, name)}
        joined = base.model_copy(update=lacks)
        is_possible = joined.beam_size == 1 or not (joined.mbr_samples or joined.repeat_bias)
        if is_possible and joined not in (base, *singles, *found):
            found.append(joined)
    return found


def measure_joined(
    base: Setting,
    scored: Mapping[Setting, Rows],
    measure: Callable[[Setting], tuple[MeasuredSetting, Rows]],
    seed: int,
) -> list[JoinedSetting]:
    """Every addition that was measured: none to greedy decoding, which comes first in `scored`.

    `scored` has the dev utterances of each setting that was measured alone, all in one order.
    """
    singles, known, made = list(scored), dict(scored), []
    while base != singles[0]:
        for setting in additions(base, singles[0], singles):
            row, known[setting] = measure(setting)
            made.append(_joined(row, base, known[base], known[setting], seed))
        if (best := best_added(base, made)) is None or not best.is_admitted:
            break
        base = _setting(best)
    return made


def best_added(base: Setting, joined: Sequence[JoinedSetting]) -> JoinedSetting | None:
    """Of what was added to `base` the one of lowest WER on the half that chooses; of equal ones the cheapest."""
    own = [row for row in joined if row.base == base and row.chosen_by_wer_pct is not None]
    return min(own, key=lambda row: (row.chosen_by_wer_pct, row.texts_at_once), default=None)


def with_added(base: Setting, joined: Sequence[JoinedSetting]) -> tuple[Setting, str]:
    """The setting with all that is admitted to it, and sentences on each step."""
    said = ""
    while (best := best_added(base, joined)) is not None:
        low, high = best.added_interval
        within = "" if low is None else f" ({low:+.2f} to {high:+.2f})"
        changed = "" if best.added_points is None else f" by {best.added_points:+.2f} points{within}"
        half = "on the half of dev that did not choose it"
        if not best.is_admitted:
            num = sum(row.base == base for row in joined)
            return base, (
                f"{said} Of {num} settings that add to it, {best} is best on one half of dev; it changes WER{changed} "
                f"{half}. That is not shown to add anything, so nothing is added."
            )
        said += f" Added to that, {best} changes WER{changed} {half} and takes {best.times_greedy:g} times as long."
        base = _setting(best)
    return base, said


def _setting(row: Setting) -> Setting:
    return Setting(**{name: getattr(row, name) for name in Setting.model_fields})


def _joined(row: MeasuredSetting, base: Setting, before: Rows, after: Rows, seed: int) -> JoinedSetting:
    groups = groups_of(after)
    parts = halves(groups, [own.duration_s for own in after], seed)
    choosing = [own.words for own, part in zip(after, parts, strict=True) if part == 0]
    tested = [place for place, part in enumerate(parts) if part == 1]
    words = sum(one.reference_length for one in choosing)
    sides = ([rows[place].words for place in tested] for rows in (before, after))
    change = difference_interval(*sides, [groups[place] for place in tested])
    pct = lambda rate: None if rate is None else 100 * rate  # noqa: E731
    return JoinedSetting(
        **dict(row),
        base=base,
        chosen_by_wer_pct=100 * sum(one.errors for one in choosing) / words if words else None,
        added_points=pct(change.value),
        added_interval=(pct(change.low), pct(change.high)),
    )
