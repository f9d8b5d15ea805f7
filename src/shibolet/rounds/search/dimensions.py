"""What a point of the search does to a training: factors of rates by part, warm-up, rank and layers that are thawed."""

from collections.abc import Mapping, Sequence
from math import gcd

from shibolet.errors import RecipeError, did_you_mean
from shibolet.model.spans import LayerSpan
from shibolet.rounds.search.halving import Point
from shibolet.train.config import PhaseConfig, TrainConfig

WARMUP, RANK = "warmup", "rank"
LAYERS = " layers"  # ends the name of a dimension of layers; no part has a space in its name
Dimensions = Mapping[str, tuple[str, ...]]  # name -> parts
Choices = dict[str, tuple[float, ...]]  # dimension of whole numbers -> factors that it may have, 1 among them


def dimensions_of(phase: PhaseConfig, parts: Sequence[str], *, warmup: bool) -> dict[str, tuple[str, ...]]:
    """The dimensions of a search: the parts that were named, or one for each tower (encoder, decoder, ...).

    A name stands for that part, or for all parts of a tower: `encoder` for `encoder.conv` and `encoder.layers[0:6]`.
    """
    trained = list(phase.lr_by_part)
    names = list(parts) or list(dict.fromkeys(_tower(part) for part in trained))
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        own = (name,) if name in trained else tuple(part for part in trained if _tower(part) == name)
        if not own:
            known = [*trained, *dict.fromkeys(map(_tower, trained))]
            raise RecipeError(
                f"--part {name}: phase '{phase.name}' trains no such part{did_you_mean(name, known)}; it trains "
                f"{', '.join(trained)}"
            )
        if shared := [part for others in found.values() for part in others if part in own]:
            raise RecipeError(f"--part {name}: '{shared[0]}' is in two of the parts that are named")
        found[name] = own
    if warmup:
        if not phase.warmup_steps:
            raise RecipeError(f"--warmup: phase '{phase.name}' has no warmup_steps that could be multiplied")
        found[WARMUP] = ()
    return found


def rank_choices(train: TrainConfig, index: int, ranks: Sequence[int]) -> Choices:
    """Ranks of adapters as factors of the recipe's; RecipeError where a trial cannot have another one."""
    if not ranks:
        return {}
    if train.lora is None:
        raise RecipeError("--rank: the recipe trains no adapters; give it a train.lora")
    if index:
        first = train.phases[0].name
        raise RecipeError(
            f"--rank: adapters have their rank from the first phase on, and trials of phase "
            f"'{train.phases[index].name}' begin after it; search the rank with --phase {first}"
        )
    lora = train.lora
    for rank in ranks:
        if rank * lora.alpha % lora.rank:
            raise RecipeError(
                f"--rank {rank}: with the recipe's scale of alpha {lora.alpha} / rank {lora.rank} alpha would be "
                f"{rank * lora.alpha / lora.rank:g}, and it is a whole number; give multiples of "
                f"{lora.rank // gcd(lora.rank, lora.alpha)}"
            )
    return {RANK: _with_own([rank / train.lora.rank for rank in ranks])}


def layer_choices(train: TrainConfig, index: int, asked: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], Choices]:
    """Dimensions of layers, each with the part that it changes, and their factors; one that is asked is `encoder=4`.

    As many layers are thawed, below the same last one. RecipeError where that is no span of the phase, or would reach
    below the first layer or into layers that another part of the phase or an adapter has.
    """
    found: dict[str, tuple[str, ...]] = {}
    factors: dict[str, list[float]] = {}
    for one in asked:
        name, _, count = one.partition("=")
        part, span = _span_of(train.phases[index], name, one)
        if not count.isdecimal() or not 1 <= int(count) <= span.last:
            raise RecipeError(f"--layers {one}: give a number from 1 to {span.last}, as in {name}={span.last}")
        new = _topmost(span, int(count))
        adapted = [train.lora.part] if train.lora else []
        for other in (*train.phases[index].lr_by_part, *adapted):
            if other != part and (taken := LayerSpan.parse(other)) and new.shared_with(taken) is not None:
                raise RecipeError(f"--layers {one}: {new} would share layers with {other}, which has them already")
        found[f"{name}{LAYERS}"] = (part,)
        factors.setdefault(f"{name}{LAYERS}", []).append(int(count) / (span.last - span.first))
    if len({part for (part,) in found.values()}) < len(found):
        raise RecipeError(f"--layers: {', '.join(found)} are the same layers; name them once")
    return found, {name: _with_own(own) for name, own in factors.items()}


def _span_of(phase: PhaseConfig, name: str, asked: str) -> tuple[str, LayerSpan]:
    """The one span of a phase that has this name or is of this tower."""
    spans = [(part, span) for part in phase.lr_by_part if (span := LayerSpan.parse(part))]
    own = [one for one in spans if name in (one[0], one[1].tower)]
    if len(own) != 1:
        known = ", ".join(part for part, _ in spans) or "none"
        raise RecipeError(f"--layers {asked}: name one span of layers of phase '{phase.name}' (spans: {known})")
    if own[0][1].last is None:
        raise RecipeError(f"--layers {asked}: write the last layer of '{own[0][0]}' into the recipe, as in [0:24]")
    return own[0]


def _topmost(span: LayerSpan, count: int) -> LayerSpan:
    return LayerSpan(span.tower, span.last - count, span.last)


def _with_own(factors: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted({1.0, *factors}))


def phase_at(phase: PhaseConfig, dimensions: Dimensions, point: Point) -> PhaseConfig:
    """The phase with the factors of a point; a factor of 1 leaves a rate as it was written."""
    factor_of = {part: point[name] for name, parts in dimensions.items() for part in parts if not name.endswith(LAYERS)}
    layers_of = {part: point[name] for name, parts in dimensions.items() for part in parts if name.endswith(LAYERS)}

    def thawed(part: str) -> str:
        if (times := layers_of.get(part, 1.0)) == 1:
            return part
        span = LayerSpan.parse(part)
        return str(_topmost(span, round(times * (span.last - span.first))))

    def scaled(rates: Mapping[str, float]) -> dict[str, float]:
        return {thawed(part): min(1.0, _times(rate, factor_of.get(part, 1.0))) for part, rate in rates.items()}

    warmup = round(phase.warmup_steps * point.get(WARMUP, 1.0))
    return phase.model_copy(
        update={
            "lr_by_part": scaled(phase.lr_by_part),
            "lr_if_diverged": scaled(phase.lr_if_diverged),
            "warmup_steps": max(1, warmup) if phase.warmup_steps else 0,
        }
    )


def training_at(train: TrainConfig, index: int, dimensions: Dimensions, point: Point) -> TrainConfig:
    """The training whose phase `index` has the factors of a point, and whose adapters have its rank.

    Adapters are scaled by alpha/rank, so alpha follows the rank: else a rank would change their rate too.
    """
    phases = list(train.phases)
    phases[index] = phase_at(phases[index], dimensions, point)
    lora, times = train.lora, point.get(RANK, 1.0)
    if lora and times != 1:
        lora = lora.model_copy(
            update={"rank": max(1, round(times * lora.rank)), "alpha": max(1, round(times * lora.alpha))}
        )
    return train.model_copy(update={"phases": tuple(phases), "lora": lora})


def _times(rate: float, factor: float) -> float:
    return rate if factor == 1 else float(f"{rate * factor:.3g}")


def _tower(part: str) -> str:
    return part.partition(".")[0]
