"""What a point of the search does to a training: factors of its rates by part, and of its warm-up."""

from collections.abc import Mapping, Sequence

from shibolet.errors import RecipeError, did_you_mean
from shibolet.rounds.search.halving import Point
from shibolet.train.config import PhaseConfig, TrainConfig

WARMUP = "warmup"
Dimensions = Mapping[str, tuple[str, ...]]  # name -> parts


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


def phase_at(phase: PhaseConfig, dimensions: Dimensions, point: Point) -> PhaseConfig:
    """The phase with the factors of a point; a factor of 1 leaves a rate as it was written."""
    factor_of = {part: point[name] for name, parts in dimensions.items() for part in parts}

    def scaled(rates: Mapping[str, float]) -> dict[str, float]:
        return {part: min(1.0, _times(rate, factor_of.get(part, 1.0))) for part, rate in rates.items()}

    warmup = round(phase.warmup_steps * point.get(WARMUP, 1.0))
    return phase.model_copy(
        update={
            "lr_by_part": scaled(phase.lr_by_part),
            "lr_if_diverged": scaled(phase.lr_if_diverged),
            "warmup_steps": max(1, warmup) if phase.warmup_steps else 0,
        }
    )


def training_at(train: TrainConfig, index: int, dimensions: Dimensions, point: Point) -> TrainConfig:
    """The training whose phase `index` has the factors of a point."""
    phases = list(train.phases)
    phases[index] = phase_at(phases[index], dimensions, point)
    return train.model_copy(update={"phases": tuple(phases)})


def _times(rate: float, factor: float) -> float:
    return rate if factor == 1 else float(f"{rate * factor:.3g}")


def _tower(part: str) -> str:
    return part.partition(".")[0]
