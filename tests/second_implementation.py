"""The numbers of a finished run, computed again from what its folder stores, without any code of the project.

Error rates come from `hypotheses.jsonl`, differences and intervals from these, and the gate from the verdicts in
`utterances.parquet`. The rules are those of docs/decisions.md. Left out: the self-test behind an INVALID gate, a
corrected rate, the target `new_recordings`, MAPSSWE, Holm's p and the smallest difference.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet
import yaml
from scipy.stats import beta, binomtest, hypergeom
from scipy.stats import t as student
from second_scoring import (
    UNITS,
    Row,
    bootstrap,
    by_bucket,
    by_domain,
    groups_of,
    per_row,
    places_by,
    rates,
    read,
    read_rows,
)

SIDES = ("baseline", "candidate")
BUCKETS_S = (("short", 0.5, 5.0), ("medium", 5.0, 15.0), ("long", 15.0, 30.0), ("long-form", 30.0, 7200.0))
GATES = {"gate.json": "audit", "gate-prepared.json": "audit-prepared"}
EXACT = 1e-6  # of numbers without chance: percent, points, fractions of 1
WIDTH_FRAC = 0.03  # of an interval: what the ends of two bootstraps may differ by
BY_NAME = ("strata", "sets", "domains", "buckets", "by_domain", "by_bucket")  # keys under which names must be the same


def recompute(run: Path) -> dict[str, dict]:
    """Path of a JSON file in the run folder -> what this implementation gives for some of its keys.

    The key "freedom", of Student's t behind an interval, is in no file.
    """
    recipe = read_recipe(run)
    lines = {"proceed_below_pct": 10.0, "stop_above_pct": 15.0, "confidence_level": 0.95} | recipe.get("gate", {})
    again = {name: gate(run / audit, lines) for name, audit in GATES.items() if (run / name).exists()}
    buckets = recipe["evaluate"].get("buckets_s", BUCKETS_S)
    compared: dict[str, list[Row]] = {label: [] for label in labels_of(recipe)}
    for label in compared:
        for name in (one["name"] for one in recipe["evaluate"]["sets"]):
            if (folder := run / "evaluate" / label / name).is_dir():
                stored, rows = read(folder / "scores.json"), read_rows(folder, name)
                again[f"evaluate/{label}/{name}/scores.json"] = scores(rows, buckets)
                if stored["language"] == recipe["language"]:
                    compared[label] += rows
    again["compare.json"] = comparison(*compared.values(), buckets, recipe.get("compare", {}).get("loop_cost", 5.0))
    return again


def differences(run: Path) -> list[str]:
    """A sentence, with both numbers, for each place where the run folder says something else; empty: all agree."""
    found = []
    for name, mine in recompute(run).items():
        found += differing(name, mine, read(run / name))
    compared = read(run / "compare.json")
    verdict = "keep" if is_kept(compared, read_recipe(run).get("compare", {})) else "reject"
    found += differing("compare.json verdict", verdict, compared["verdict"])
    for path in sorted(run.glob("evaluate/*/*/listing.txt")):
        found += differing_texts(path)
    return found


def differing(place: str, mine: object, theirs: object) -> Iterator[str]:
    """Sentences on what differs between two JSON values, of which `theirs` may have more keys."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key, value in mine.items():
            if key in BY_NAME and set(value) != set(theirs.get(key, ())):
                yield f"{place} {key}: {sorted(theirs.get(key, ()))} there, {sorted(value)} here."
            elif key != "freedom":
                yield from differing(f"{place} {key}", value, theirs.get(key))
        if "freedom" in mine:
            yield from differing(place, follows(theirs, mine["freedom"]), theirs)
    elif isinstance(mine, list) and isinstance(theirs, list):
        limit = max(WIDTH_FRAC * (theirs[1] - theirs[0]), EXACT)
        if any(abs(end - other) > limit for end, other in zip(mine, theirs, strict=True)):
            yield f"{place}: {theirs} there, {mine} here."
    elif isinstance(mine, float) and isinstance(theirs, float):
        if not abs(mine - theirs) <= EXACT:
            yield f"{place}: {theirs} there, {mine} here."
    elif mine != theirs:
        yield f"{place}: {theirs} there, {mine} here."


def follows(measure: dict, freedom: float | None) -> dict:
    """What the stored interval of a difference says of its p value and the rest; ends are compared apart from this."""
    if measure["interval_points"] is None or freedom is None:
        return {"p": None, "probability_of_improvement": None, "shown": "no difference shown"}
    low, high = measure["interval_points"]
    error = (high - low) / 2 / student.ppf(0.975, freedom)
    value = measure["delta_points"]
    t = value / error if error else math.copysign(math.inf, value) if value else 0.0
    shown = "better" if high < 0 else "worse" if low > 0 else "no difference shown"
    p, improved = float(2 * student.sf(abs(t), freedom)), float(student.cdf(-t, freedom))
    return {"p": p, "probability_of_improvement": improved, "shown": shown}


def read_recipe(run: Path) -> dict:
    return yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))


def labels_of(recipe: dict) -> list[str]:
    """The folders of baseline and candidate: their titles in small letters without blanks."""
    return [title.lower().replace(" ", "") for title in (recipe["models"]["baseline_title"], recipe["title"])]


def gate(audit_dir: Path, lines: dict) -> dict:
    """Rates in percent with their intervals and verdicts, in all and by stratum."""
    report = read(audit_dir / "alignment_report.json")
    columns = ["domain", "is_low_quality", "duration_s"]
    rows = pyarrow.parquet.read_table(audit_dir / "utterances.parquet", columns=columns).to_pylist()
    level = 1 - (1 - lines["confidence_level"]) / 2 ** (report.get("num_looks", 1) - 1)
    size = sum(stratum["num_utterances"] for stratum in report["strata"].values())
    strata, expected, below, above, hours, parts = {}, 0.0, 0.0, 0.0, 0.0, []
    for name, stratum in report["strata"].items():
        heard = [row for row in rows if row["domain"] == name]
        low = [row for row in heard if row["is_low_quality"]]
        num, of = stratum["num_utterances"], len(heard)
        count = num * len(low) / of  # low-quality utterances in the stratum, and those that it may have
        least, most = possible_counts(len(low), of, num, level)
        strata[name] = rate(count, least, most, num) | {"num_heard": of, "num_low_quality": len(low)}
        strata[name]["decision"] = verdict(strata[name], lines)
        parts += [(num, of, len(low))] if of < num else []
        expected, below, above = expected + count, below + (count - least) ** 2, above + (most - count) ** 2
        if stratum["hours"]:
            seconds = [sum(row["duration_s"] for row in some) for some in (low, heard)]
            hours += stratum["hours"] * (seconds[0] / seconds[1] if seconds[1] else math.nan)
    below, above = np.maximum((below**0.5, above**0.5), one_sample(parts, level))
    least, most = math.floor(expected - below + EXACT), math.ceil(expected + above - EXACT)
    least, most = (
        max(least, sum(n["num_low_quality"] for n in strata.values())),
        min(most, size - sum(n["num_heard"] - n["num_low_quality"] for n in strata.values())),
    )
    num_low = sum(row["is_low_quality"] for row in rows)
    total = rate(expected, min(least, expected), max(most, expected), size)
    total |= {"num_heard": len(rows), "num_low_quality": num_low}
    sample = 100 * num_low / len(rows)
    total_hours = sum(stratum["hours"] for stratum in report["strata"].values())
    return {
        "decision": verdict(total, lines),
        "literal_point_verdict": verdict({"lower": sample, "upper": sample}, lines),
        "level_pct": 100 * level,
        "low_quality_pct": total,
        "sample_low_quality_pct": sample,
        "hours_low_quality_pct": 100 * hours / total_hours if total_hours and not math.isnan(hours) else None,
        "strata": strata,
    }


def one_sample(parts: list[tuple[int, int, int]], level: float) -> tuple[float, float]:
    """How far, in utterances, the ends of one binomial sample lie that has the variance of these strata together."""
    if len(parts) < 2:
        return 0.0, 0.0
    size, num, low = np.array(parts, dtype=float).T
    share, p = low / num, float((size * low / num).sum() / size.sum())
    own = (size / size.sum()) ** 2 * share * (1 - share) / np.maximum(num - 1, 1)
    if not own.sum():
        return 0.0, 0.0
    n = 1 + p * (1 - p) / own.sum()
    ends = beta.ppf([(1 - level) / 2, (1 + level) / 2], [p * n, p * n + 1], [n - p * n + 1, n - p * n])
    reach = size.sum() * math.sqrt((own * (1 - num / size)).sum() / own.sum())
    return reach * (p - ends[0]), reach * (ends[1] - p)


def possible_counts(hits: int, drawn: int, size: int, level: float) -> tuple[int, int]:
    """The least and the most bad utterances of `size` of which `hits` among `drawn` are no surprise in either tail."""
    bad = np.arange(hits, size - (drawn - hits) + 1)
    tail = (1 - level) / 2
    possible = bad[(hypergeom.sf(hits - 1, size, bad, drawn) > tail) & (hypergeom.cdf(hits, size, bad, drawn) > tail)]
    return int(possible[0]), int(possible[-1])


def rate(count: float, least: float, most: float, size: int) -> dict:
    """Percent of a population; ends at a line of the gate without rounding errors."""
    ends = {"rate": count, "lower": least, "upper": most}
    return {name: round(100 * value / size, 9) for name, value in ends.items()} | {"num_population": size}


def verdict(interval: dict, lines: dict) -> str:
    if interval["upper"] < lines["proceed_below_pct"]:
        return "PROCEED"
    return "STOP" if interval["lower"] > lines["stop_above_pct"] else "CAUTION"


def differing_texts(listing: Path) -> Iterator[str]:
    """Sentences on utterances whose words in an alignment listing are not those of the normaliser here."""
    shown: dict[str, dict[str, list[str]]] = {}
    for line in listing.read_text(encoding="utf-8").split("\n"):
        if found := re.match(r"id: \((.*)\)$", line):
            shown[found[1]] = own = {"REF": [], "HYP": []}
        elif found := re.match(r"(?:>> )?(REF|HYP): (.*)", line):
            own[found[1]] += [word for word in found[2].split() if word.strip("*")]
    for row in read_rows(listing.parent, ""):
        for side, text in (("REF", row.said), ("HYP", row.heard)):
            place = f"{'/'.join(listing.parts[-4:])} {row.id} {side}"  # evaluate/<model>/<set>/listing.txt
            yield from differing(place, text, " ".join(shown.get(row.id, {}).get(side, ())))


def scores(rows: list[Row], buckets: Sequence) -> dict:
    """What `scores.json` says of one candidate on one set."""
    own, groups = {}, groups_of(rows)
    for measure in UNITS:
        errors, lengths = per_row(rows, measure)
        found = bootstrap(errors, lengths, groups)
        interval = None if found is None else [max(0.0, found.low), found.high]
        own[measure] = rates(rows, measure) | {"interval": interval, "groups": len(set(groups))}
    return {
        "num_utterances": len(rows),
        "num_empty_hypotheses": sum(not row.hypothesis.strip() for row in rows),
        "loops": {"utterances": sum(row.loops for row in rows)},
        **own,
        **{
            f"by_{name}": {
                key: {"utterances": len(places)} | {m: rates([rows[i] for i in places], m) for m in UNITS}
                for key, places in slices.items()
            }
            for name, slices in (("domain", by_domain(rows)), ("bucket", by_bucket(rows, buckets)))
        },
    }


def comparison(baseline: list[Row], candidate: list[Row], buckets: Sequence, loop_cost: float) -> dict:
    """What `compare.json` says: differences are the candidate less the baseline, in points."""
    by_place = {(row.set, row.id): row for row in candidate}
    pairs = [(row, by_place.pop((row.set, row.id))) for row in baseline]
    assert not by_place, f"without a partner in the baseline: {list(by_place)[:3]}"
    groups = groups_of(baseline)
    slices = {
        "sets": places_by([row.set for row in baseline]), "domains": by_domain(baseline),
        "buckets": by_bucket(baseline, buckets),
    }  # fmt: skip
    return {
        "overall": block(pairs, groups),
        **{
            name: {key: block([pairs[i] for i in places], groups[places]) for key, places in some.items()}
            for name, some in slices.items()
        },
        "losses": losses(pairs, loop_cost),
        "largest_group": largest_group(pairs, groups),
    }


def block(pairs: Sequence[tuple[Row, Row]], groups: np.ndarray) -> dict:
    """Both on some utterances."""
    made: dict = {"utterances": len(pairs), "groups": len(set(groups))}
    for measure in UNITS:
        before, after = (rates(side, measure) for side in zip(*pairs))
        made[measure] = {
            "baseline": before, "candidate": after,
            "delta_relative_pct": 100 * (after["errors"] / before["errors"] - 1) if before["errors"] else None,
            **difference(pairs, groups, measure),
        }  # fmt: skip
    return made


def difference(pairs: Sequence[tuple[Row, Row]], groups: np.ndarray, measure: str = "wer") -> dict:
    (first, length), (second, _) = (per_row(side, measure) for side in zip(*pairs))
    delta = 100 * float((second - first).sum() / length.sum()) if length.sum() else None
    found = bootstrap(second - first, length, groups)
    return {
        "delta_points": delta,
        "interval_points": found and [100 * found.low, 100 * found.high],
        "freedom": found and found.freedom,
    }


def losses(pairs: Sequence[tuple[Row, Row]], loop_cost: float) -> dict:
    """Loops and failures, and what loops of the candidate that were not seen may cost in points."""
    made: dict = {"with_words": sum(bool(one.said) for one, _ in pairs)}
    for what in ("loops", "fails"):
        seen = np.array([[getattr(row, what) for row in pair] for pair in pairs])
        one, two = (int((seen[:, i] & ~seen[:, 1 - i]).sum()) for i in (0, 1))
        chance = float(binomtest(two, one + two, 0.5, "greater").pvalue) if two else 1.0
        made["loops" if what == "loops" else "failures"] = {
            **dict(zip(SIDES, map(int, seen.sum(axis=0)))), "baseline_alone": one, "candidate_alone": two,
            "p_more": chance,
        }  # fmt: skip
    pieces = sum(max(1, math.ceil(one.duration_s / 30)) for one, _ in pairs)
    alone = made["loops"]["candidate_alone"]
    upper = float(beta.ppf(0.975, alone + 1, pieces - alone)) if alone < pieces else 1.0
    in_loops = [row.errors("wer") for pair in pairs for row in pair if row.loops]
    mean_words = sum(one.length("wer") for one, _ in pairs) / pieces
    seen_cost = sum(in_loops) / len(in_loops) / mean_words if in_loops and mean_words else 0.0
    cost = float(max(seen_cost, loop_cost)) if loop_cost else 0.0
    return made | {
        "upper_pct": 100 * upper, "loop_cost": cost, "unseen_points": 100 * cost * (upper - alone / pieces),
    }  # fmt: skip


def largest_group(pairs: Sequence[tuple[Row, Row]], groups: np.ndarray) -> dict | None:
    """The group that contributes most to the difference in WER, and the difference without it."""
    changes = np.array([two.errors("wer") - one.errors("wer") for one, two in pairs])
    words = sum(one.length("wer") for one, _ in pairs)
    own = np.bincount(groups, changes)
    if not changes.sum() or not words or len(own) < 2:
        return None
    most = int(np.argmax(own * np.sign(changes.sum())))
    rest = np.flatnonzero(groups != most)
    without = difference([pairs[i] for i in rest], groups[rest])
    del without["freedom"]
    return {"points": float(100 * own[most] / words), "without": without}


def is_kept(compared: dict, config: dict) -> bool:
    """The verdict that follows from the numbers in `compare.json`."""
    wer, lost, line = compared["overall"]["wer"], compared["losses"], config.get("keep_below_points", 0.0)
    if wer["interval_points"] is None or wer["interval_points"][1] >= line:
        return False
    delta, high = wer["delta_points"], wer["interval_points"][1]
    largest, limits = compared["largest_group"], config.get("limits", {})
    others = compared["forgetting"].values()
    without = largest and largest["without"]["interval_points"]
    return not (
        math.hypot(high - delta, lost["unseen_points"]) >= line - delta
        or any(lost[what]["p_more"] < 0.05 for what in ("loops", "failures"))
        or any((wer[r]["substitutions"] + wer[r]["deletions"]) / wer[r]["words"] > 0.9 for r in SIDES)
        or min(wer[label]["rate"] for label in SIDES) >= 1
        or (largest and (without is None or (largest["points"] / delta >= 0.25 and without[1] >= line)))
        or any(
            overlap["utterances"] and name in compared["sets"] and name not in config.get("accept_overlap", ())
            for name, overlap in compared["overlaps"].items()
        )
        or any(
            not own["wer"]["interval_points"] or own["wer"]["interval_points"][1] >= limits[own["language"]]
            for own in others
            if own["language"] in limits
        )
        or set(limits) - {own["language"] for own in others}
    )
