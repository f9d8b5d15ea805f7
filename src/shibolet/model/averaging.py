"""The weighted mean of models of one shape, in float32; what models are averaged, and why, is for others to say."""

from collections.abc import Callable, Sequence

import torch

from shibolet.errors import ModelError
from shibolet.model.family import LoadedModel
from shibolet.records.differences import differing, first, flat

_OF_ARCHITECTURE = ("heads", "head_dim", "theta")  # settings that change what weights mean, and not their shapes


def weighted_mean(loads: Sequence[tuple[Callable[[], LoadedModel], float]]) -> LoadedModel:
    """The mean of models by their weights (at least one above 0), in float32 and with what else the first one has.

    They are loaded one after the other: two are in memory at most. A model of weight 0 is not loaded, and a single one
    is that model bit for bit. Where some heads are tied to the embeddings and others are not, the tied ones are untied
    first, which changes no output: the mean then has a head of its own. ModelError where two are not alike.
    """
    mean, total = None, 0.0
    for load, weight in loads:
        if not weight:
            continue
        loaded, total = load(), total + weight
        loaded.model.float()
        if mean is None:
            mean = loaded
            continue
        _untie_alike(mean, loaded)
        require_alike(mean, loaded)
        added = dict(loaded.model.named_parameters())
        with torch.no_grad():
            for name, parameter in mean.model.named_parameters():
                parameter.lerp_(added[name], weight / total)
        del loaded, added  # before the next one is read
    if mean is None:
        raise ValueError("no model has a weight above 0")
    return mean


def _untie_alike(one: LoadedModel, other: LoadedModel) -> None:
    if one.model.config.model_type == other.model.config.model_type:
        tied = [loaded.family.is_tied(loaded.model) for loaded in (one, other)]
        if tied[0] != tied[1]:
            loaded = one if tied[0] else other
            loaded.family.untie_head(loaded.model)


def require_alike(one: LoadedModel, other: LoadedModel) -> None:
    """ModelError where two models differ in family, in shapes, in heads of attention, or in the tokens they write."""
    where = f"models '{one.path}' and '{other.path}' cannot be averaged"
    families = [loaded.model.config.model_type for loaded in (one, other)]
    if families[0] != families[1]:
        raise ModelError(f"{where}: one is a '{families[0]}', the other a '{families[1]}'")
    shapes = [{name: str(list(w.shape)) for name, w in m.model.named_parameters()} for m in (one, other)]
    if names := differing(*shapes):
        found = " and ".join(shape.get(names[0], "not there") for shape in shapes)
        raise ModelError(f"{where}: {first(names)} differ, {names[0]} is {found}; take models of one size")
    settings = [
        {key: value for key, value in flat(loaded.model.config.to_dict()).items() if key.endswith(_OF_ARCHITECTURE)}
        for loaded in (one, other)
    ]
    if names := differing(*settings):
        raise ModelError(f"{where}: {first(names)} differ in their configurations, so equal weights mean other things")
    vocabularies = [loaded.tokenizer.get_vocab() for loaded in (one, other)]
    if names := differing(*vocabularies):
        raise ModelError(
            f"{where}: {len(names):,} entries of their tokenizers differ, the first is {names[0]!r}; take models that "
            "were trained from one base"
        )
