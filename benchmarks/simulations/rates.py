"""The gate's interval: how often it covers the truth, how wide it is, how often it opens or closes the gate wrongly.

Every figure goes through `draw_sample`'s allocation, `estimate_rate` and `verdict_on`. Utterances are drawn at random
within a stratum, so the number of bad ones is hypergeometric whatever recordings share; one part draws real samples
from populations of recordings to show that.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache

import numpy as np

from shibolet.gate.config import GateConfig
from shibolet.gate.lines import pct, verdict_on
from shibolet.scoring.allocation import turns
from shibolet.scoring.rates import GateRecord, Rate, RateEstimate, StratumSize, clopper_pearson, estimate_rate

COVERAGE, WRONG, WIDTH = 0.94, 0.03, 1.15
DECIDED_BY = 20_000  # runs of a cell that misses
CONFIG = GateConfig()
SPECIFICATION = {"a": 0.4, "b": 0.4, "c": 0.2}


@lru_cache(maxsize=10_000)
def estimate(sizes: tuple[int, ...], heard: tuple[int, ...], bad: tuple[int, ...], level: float = 0.95) -> RateEstimate:
    """Of strata a, b, c, ... from counts alone."""
    names = "abcdefgh"[: len(sizes)]
    records = []
    for name, num, low in zip(names, heard, bad, strict=True):
        records += [_record(name, True)] * low + [_record(name, False)] * (num - low)
    population = {n: StratumSize(num_utterances=s, hours=1.0) for n, s in zip(names, sizes, strict=True)}
    return estimate_rate(records, population, level)


@cache
def _record(stratum: str, is_low_quality: bool) -> GateRecord:
    return GateRecord(stratum=stratum, cluster=None, is_low_quality=is_low_quality, duration_s=1.0)


def places(sizes: Sequence[int], num: int, shares: Mapping[str, float] | None) -> tuple[int, ...]:
    names = "abcdefgh"[: len(sizes)]
    order = list(turns(dict(zip(names, sizes, strict=True)), num, shares))
    return tuple(order.count(name) for name in names)


def draws(sizes, bad, heard, runs: int, seed: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Numbers of bad ones heard, and how often each came."""
    rng = np.random.default_rng(seed)
    found = np.stack([rng.hypergeometric(b, s - b, n, runs) for s, b, n in zip(sizes, bad, heard, strict=True)], axis=1)
    for row, count in zip(*np.unique(found, axis=0, return_counts=True), strict=True):
        yield tuple(map(int, row)), int(count)


def one_look(sizes, bad, heard, runs: int, seed: int) -> dict[str, float]:
    """Coverage, and shares of wrong verdicts."""
    truth = sum(bad) / sum(sizes)
    tally = {"coverage": 0, "wrong_proceed": 0, "wrong_stop": 0}
    for low, count in draws(sizes, bad, heard, runs, seed):
        total = estimate(tuple(sizes), tuple(heard), low).total
        verdict = verdict_on(pct(total.lower), pct(total.upper), CONFIG)
        tally["coverage"] += count * (total.lower - 1e-12 <= truth <= total.upper + 1e-12)
        tally["wrong_proceed"] += count * (verdict == "PROCEED" and truth >= 0.10)
        tally["wrong_stop"] += count * (verdict == "STOP" and truth <= 0.15)
    return {name: num / runs for name, num in tally.items()}


def populations() -> dict[str, tuple[list[int], list[int]]]:
    """By name sizes of strata and numbers of bad ones in them; strata of which all are bad, and heard, are known."""
    found = {}
    for shares in ((40, 40, 20), (1, 90, 9), (5, 90, 5)):
        for size in (2_000, 6_000, 45_000):
            sizes = [size * share // 100 for share in shares]
            for truth in (0.099, 0.100, 0.103, 0.147, 0.150, 0.152):
                for kind, rates in {
                    "equal rates": (truth,) * 3,
                    "bad in the small": (0.9, None, 0.9),
                    "bad in the large": (0.002, None, 0.002),
                    "all in one": (0.0, None, 0.0),
                }.items():
                    outer = [round(s * r) if r is not None else None for s, r in zip(sizes, rates, strict=True)]
                    rest = round(truth * sum(sizes)) - sum(b for b in outer if b is not None)
                    bad = [rest if b is None else b for b in outer]
                    if 0 <= bad[1] <= sizes[1]:
                        name = f"{shares[0]}/{shares[1]}/{shares[2]} of {size:,}, truth {truth:.1%}, {kind}"
                        found[name] = (sizes, bad)
    return found


def coverage_cells(runs: int, seed: int) -> Iterator[tuple[str, dict]]:
    for name, (sizes, bad) in populations().items():
        nearly_all = int(0.97 * sum(sizes)) if sum(sizes) < 10_000 else 0
        for num in (50, 300, 2_500, nearly_all):
            if not 0 < num < sum(sizes):
                continue
            for design, shares in (("specification's shares", SPECIFICATION), ("in proportion", None)):
                heard = places(sizes, num, shares)
                yield (
                    f"{name}; {num:,} heard, {design}",
                    decided(lambda r, s=sizes, b=bad, h=heard: one_look(s, b, h, r, seed), runs, is_good),
                )
    for known in (0.05, 0.08, 0.095):
        for truth in (0.100, 0.103, 0.150, 0.152):
            size, num = 6_000, 300
            gone = round(known * size)
            sizes, bad = [gone, size - gone], [gone, round(truth * size) - gone]
            yield (
                f"{known:.1%} of 6,000 known to be bad, truth {truth:.1%}; 300 of the rest heard",
                decided(lambda r, s=sizes, b=bad, h=(gone, num): one_look(s, b, h, r, seed), runs, is_good),
            )


def is_good(measured: Mapping[str, float]) -> bool:
    return measured["coverage"] >= COVERAGE and measured["wrong_proceed"] <= WRONG and measured["wrong_stop"] <= WRONG


def decided(measure: Callable[[int], dict], runs: int, is_good: Callable[[dict], bool], bar: str = "") -> dict:
    """A cell; one that misses is measured once more with `DECIDED_BY` runs, and these decide."""
    bar = bar or f"coverage >= {COVERAGE}, wrong PROCEED and wrong STOP <= {WRONG}"
    measured = measure(runs)
    if not is_good(measured) and runs < DECIDED_BY:
        runs, measured = DECIDED_BY, measure(DECIDED_BY)
    return {
        "measured": {k: round(v, 4) for k, v in measured.items()},
        "bar": bar,
        "ok": is_good(measured),
        "runs": runs,
    }


def recordings_cells(runs: int, seed: int) -> Iterator[tuple[str, dict]]:
    """Real draws by `draw_sample` from a population whose utterances lie in recordings that share their fate."""
    from shibolet.audit.sampling import SampleConfig, draw_sample
    from shibolet.records.utterance import AudioRef, Utterance

    size, num = 1_500, 300
    for kind, lengths in {
        "equal": [15] * 100,
        "Zipf": np.maximum(1, (600 / np.arange(1, 200))).astype(int).tolist(),
        "five in all": [300] * 5,
    }.items():
        for icc in (0.0, 0.5, 0.9):
            rng, truth = np.random.default_rng(seed), 0.10
            recording = np.repeat(np.arange(len(lengths)), lengths)[:size]
            size_here = len(recording)
            a = max(truth * (1 - icc) / max(icc, 1e-9), 1e-9)
            b = a * (1 - truth) / truth
            rates = rng.beta(a, b, len(lengths)) if icc else np.full(len(lengths), truth)
            flags = rng.random(size_here) < rates[recording]
            bad = {f"u{i}": bool(flag) for i, flag in enumerate(flags)}
            everyone = [
                Utterance(id=id, audio=AudioRef(path="a.wav"), text="x", duration_s=1.0, source="s", domain="a",
                          recording=f"r{recording[i]}")
                for i, id in enumerate(bad)
            ]  # fmt: skip

            def measure(r: int, everyone=everyone, bad=bad) -> dict[str, float]:
                true, covered = sum(bad.values()) / len(bad), 0
                for i in range(r):
                    config = SampleConfig(sample_frac=0.01, min_utterances=num, seed=seed + i)
                    ids = [everyone[place].id for place in draw_sample(everyone, config).in_order]
                    total = estimate((len(bad),), (num,), (sum(bad[id] for id in ids),)).total
                    covered += total.lower - 1e-12 <= true <= total.upper + 1e-12
                return {"coverage": covered / r}

            own, measured = runs, measure(runs)
            yield f"draws of 300 from {kind} recordings, intraclass correlation {icc}", {
                "measured": measured, "bar": f"coverage >= {COVERAGE}", "ok": measured["coverage"] >= COVERAGE,
                "runs": own,
            }  # fmt: skip


def width_cells() -> Iterator[tuple[str, dict]]:
    for size, num in ((1_000, 300), (6_000, 300), (45_000, 2_500), (120, 50)):
        worst = 0.0
        for low in range(5, num - 4):
            total = estimate((size,), (num,), (low,)).total
            lower, upper = clopper_pearson(low / num, num, 0.95)
            worst = max(worst, (total.upper - total.lower) / (upper - lower))
        yield f"width against Clopper-Pearson's, {num} of {size:,}, 5 events to all but 5", {
            "measured": round(worst, 4), "bar": f"<= {WIDTH}", "ok": worst <= WIDTH, "runs": 1,
        }  # fmt: skip


def example_cells() -> Iterator[tuple[str, dict]]:
    def line(total: Rate, ok: bool, bar: str) -> dict:
        measured = [round(100 * x, 2) for x in (total.rate, total.lower, total.upper)]
        return {"measured": measured, "bar": bar, "ok": ok, "runs": 1}

    total = estimate((570, 5_430), (570, 300), (570, 0)).total
    yield "570 of 6,000 known to be bad, 0 of 300 in the rest", line(total, total.upper >= 0.104, "upper >= 10.4")
    total = estimate((300, 5_400, 300), (120, 120, 60), (108, 0, 54)).total
    yield "108/120 of 300, 0/120 of 5,400, 54/60 of 300", line(total, total.upper > 0.10, "upper > 10")
    total = estimate((6_000,), (300,), (18,)).total
    yield "18 bad of 300", line(total, total.upper < 0.10, "PROCEED")
    records = [
        GateRecord(stratum="a", cluster=f"r{i // 10}", is_low_quality=i < 18, duration_s=1.0) for i in range(300)
    ]
    same = estimate_rate(records, {"a": StratumSize(num_utterances=6_000, hours=1.0)}).total
    yield (
        "... in 2 of 30 recordings, which are known",
        line(same, (same.lower, same.upper) == (total.lower, total.upper), "the same"),
    )


def new_recordings_cells(runs: int, seed: int) -> Iterator[tuple[str, dict]]:
    for num_recordings in (30, 100):
        for icc in (0.05, 0.2, 0.6):
            for truth in (0.05, 0.10, 0.15):
                for kind in ("equal", "Zipf"):
                    yield (
                        f"new recordings: {num_recordings} {kind}, intraclass correlation {icc}, truth {truth:.0%}",
                        decided(
                            lambda r, m=num_recordings, i=icc, t=truth, k=kind: new_recordings(m, i, t, k, r, seed),
                            min(runs, 2_000),
                            lambda measured: measured["coverage"] >= 0.93,
                            "coverage >= 0.93",
                        ),
                    )


def new_recordings(num_recordings: int, icc: float, truth: float, kind: str, runs: int, seed: int) -> dict[str, float]:
    """Recordings are drawn from those to come; each has its own rate, of mean `truth`."""
    rng = np.random.default_rng(seed)
    if kind == "equal":
        lengths = np.full(num_recordings, 10)
    else:
        lengths = np.maximum(1, np.round(10 * num_recordings / np.arange(1, num_recordings + 1) ** 0.7 / (
            np.mean(1 / np.arange(1, num_recordings + 1) ** 0.7) * num_recordings))).astype(int)  # fmt: skip
    scale = (1 - icc) / icc
    population = {"a": StratumSize(num_utterances=100 * int(lengths.sum()), hours=1.0)}
    covered = wrong = 0
    for _ in range(runs):
        low = rng.binomial(lengths, rng.beta(truth * scale, (1 - truth) * scale, num_recordings))
        records = [
            GateRecord(stratum="a", cluster=str(r), is_low_quality=i < low[r], duration_s=1.0)
            for r in range(num_recordings)
            for i in range(lengths[r])
        ]
        total = estimate_rate(records, population, target="new_recordings").total
        covered += total.lower <= truth <= total.upper
        wrong += total.upper < 0.10 <= truth
    return {"coverage": covered / runs, "wrong_proceed": wrong / runs}


def cells(runs: int, seed: int) -> dict[str, dict]:
    return dict(
        [
            *example_cells(),
            *width_cells(),
            *coverage_cells(runs, seed),
            *recordings_cells(runs, seed),
            *new_recordings_cells(runs, seed),
        ]
    )
