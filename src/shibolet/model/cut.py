"""A smaller model cut from a larger one: some layers with their weights, all else as it is. It has to be trained.

Layers are kept evenly, the first and the last among them (Gandhi et al. 2023, "Distil-Whisper", section 4; Shleifer and
Rush 2020, "Pre-trained summarization distillation").
"""

import os
import shutil
from pathlib import Path

from shibolet.errors import ModelError, RecipeError
from shibolet.model.family import load_recogniser
from shibolet.model.spans import spread
from shibolet.records.documents.cut import CutModel

LINEAGE = "cut.json"


def cut(source: str, path: Path, *, encoder: int | None = None, decoder: int | None = None) -> CutModel:
    """Write a recogniser with so many layers of each tower into the new folder `path`, whole or not at all.

    None keeps all layers of a tower.
    """
    if path.exists():
        raise ModelError(f"'{path}' exists; name a new folder for the cut model")
    loaded = load_recogniser(source)
    family, model = loaded.family, loaded.model
    before, asked = family.num_layers(model), {"encoder": encoder, "decoder": decoder}
    for tower, num in before.items():
        if not 1 <= (asked[tower] or num) <= num:
            raise RecipeError(f"cut: the {tower} of '{source}' has {num} layers, and {asked[tower]} cannot be kept")
    kept = {tower: spread(asked[tower] or num, num) for tower, num in before.items()}
    if all(len(layers) == before[tower] for tower, layers in kept.items()):
        raise RecipeError(f"cut: all layers of '{source}' would be kept; give fewer with --encoder or --decoder")
    weights = sum(weight.numel() for weight in model.parameters())
    family.keep_layers(
        model, **{tower: None if len(layers) == before[tower] else layers for tower, layers in kept.items()}
    )
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    family.save(loaded, partial)
    made = CutModel(
        source=source, identity=loaded.identity, **{f"{tower}_layers": layers for tower, layers in kept.items()},
        parameters=sum(weight.numel() for weight in model.parameters()), source_parameters=weights,
    )  # fmt: skip
    made.write(partial / LINEAGE)
    os.replace(partial, path)
    return made
