"""`audit --extend`: what a second look asks for, how often it settles the verdict, and how often looking again errs."""

import numpy as np

from shibolet.gate.lines import clips_to_settle, level_of_look, pct, straddled, verdict_on
from shibolet.scoring.allocation import turns
from shibolet.scoring.rates import Rate
from simulations.rates import CONFIG, SPECIFICATION, estimate, places

FIRST = 300


def is_settled(total: Rate) -> bool:
    return not straddled(pct(total.lower), pct(total.upper), CONFIG)


def extended(sizes: tuple[int, ...], heard: tuple[int, ...], total: int) -> tuple[int, ...]:
    names = "abcdefgh"[: len(sizes)]
    given = dict(zip(names, heard, strict=True))
    order = list(turns(dict(zip(names, sizes, strict=True)), total, given=given))
    return tuple(given[name] + order.count(name) for name in names)


def draw_more(rng, sizes, bad, heard, low, more_heard) -> tuple[int, ...]:
    return tuple(
        k + (int(rng.hypergeometric(b - k, s - n - b + k, m - n)) if m > n else 0)
        for s, b, n, k, m in zip(sizes, bad, heard, low, more_heard, strict=True)
    )


def half_settle_at(sizes, bad, level: float, shares, seed: int, runs: int = 2_000) -> int:
    """The smallest sample of which half of all draws settle, drawn in proportion at the level of the second look."""
    rng = np.random.default_rng(seed)
    low, high = FIRST, sum(sizes)
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        heard = extended(sizes, places(sizes, FIRST, shares), middle)
        none = (0,) * len(sizes)
        draws = [draw_more(rng, sizes, bad, none, none, heard) for _ in range(runs)]
        settled = np.mean([is_settled(estimate(sizes, heard, draw, level).total) for draw in draws])
        low, high = (low, middle) if settled >= 0.5 else (middle, high)
    return high


def looks(sizes, bad, shares, num_looks: int, runs: int, seed: int) -> dict[str, float]:
    """Of data that are extended while the verdict is CAUTION with a line inside of the interval."""
    rng, truth = np.random.default_rng(seed), sum(bad) / sum(sizes)
    first = places(sizes, FIRST, shares)
    asked, settled, wrong = [], [], 0
    for _ in range(runs):
        heard = first
        low = draw_more(rng, sizes, bad, (0,) * len(sizes), (0,) * len(sizes), first)
        found = estimate(sizes, heard, low, level_of_look(CONFIG, 1))
        for look in range(2, num_looks + 1):
            if is_settled(found.total):
                break
            more = clips_to_settle(found.strata, level_of_look(CONFIG, look), CONFIG)
            heard_more = extended(sizes, heard, sum(heard) + more)
            low = draw_more(rng, sizes, bad, heard, low, heard_more)
            heard = heard_more
            found = estimate(sizes, heard, low, level_of_look(CONFIG, look))
            if look == 2:
                asked.append(sum(heard))
                settled.append(is_settled(found.total))
        verdict = verdict_on(pct(found.total.lower), pct(found.total.upper), CONFIG)
        wrong += (verdict == "PROCEED" and truth >= 0.10) or (verdict == "STOP" and truth <= 0.15)
    return {
        "asked_median": float(np.median(asked)) if asked else 0.0,
        "asked_mean": float(np.mean(asked)) if asked else 0.0,
        "settled": float(np.mean(settled)) if settled else 1.0,
        "extended": len(asked) / runs,
        "wrong": wrong / runs,
    }


def cells(runs: int, seed: int) -> dict[str, dict]:
    """At truths of 7 and 8% what the first extension does; at 10 and 15% how often three looks err."""
    found, shapes = {}, {"one stratum": ((45_000,), None), "1/90/9": ((450, 40_500, 4_050), SPECIFICATION)}
    for shape, (sizes, shares) in shapes.items():
        for truth in (0.07, 0.08):
            bad = tuple(round(truth * size) for size in sizes)
            need = half_settle_at(sizes, bad, level_of_look(CONFIG, 2), shares, seed)
            measured = looks(sizes, bad, shares, 2, min(runs, 1_000), seed) | {"half_settle_at": need}
            ok = measured["settled"] >= 0.5 and measured["asked_median"] <= 1.3 * need
            found[f"{shape}, truth {truth:.0%}: the first extension"] = {
                "measured": {k: round(v, 3) for k, v in measured.items()},
                "bar": "settled >= 0.5, asked (median, in all) <= 1.3 * half_settle_at", "ok": ok,
                "runs": min(runs, 1_000),
            }  # fmt: skip
        for truth in (0.10, 0.15):
            bad = tuple(round(truth * size) for size in sizes)
            measured = looks(sizes, bad, shares, 3, runs, seed)
            found[f"{shape}, truth {truth:.0%}: three looks"] = {
                "measured": {k: round(v, 4) for k, v in measured.items()}, "bar": "wrong <= 0.05",
                "ok": measured["wrong"] <= 0.05, "runs": runs,
            }  # fmt: skip
    return found
