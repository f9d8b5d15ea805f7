"""The papers behind what a round did: of its model, and of the methods that its training used."""

from itertools import pairwise

from shibolet.model.papers import PAPERS
from shibolet.records.documents.plan import Plan
from shibolet.records.runfolder import RunFolder
from shibolet.records.settings import peek
from shibolet.report.recipe import ShownRecipe

ADAPTERS = "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv:2106.09685"
UNFREEZING = (
    "Howard and Ruder, Universal Language Model Fine-tuning for Text Classification, ACL 2018, arXiv:1801.06146"
)
MASKS = "Park et al., SpecAugment: A Simple Data Augmentation Method for ASR, Interspeech 2019, arXiv:1904.08779"
LORA = "lora"  # the part of a phase that adapters are


def references(run: RunFolder, recipe: ShownRecipe) -> list[tuple[str, str]]:
    """(what was used, its paper) of a training; empty before there is a plan of one."""
    if not run.plan.is_file():
        return []
    plan = Plan.read(run.plan)
    parts = [{part.part: part.peak_lr for part in phase.parts} for phase in plan.phases]
    used = []
    if paper := PAPERS.get(peek(run.final / "config.json", "model_type")):
        used.append(("the model", paper))
    if any(LORA in one for one in parts):
        used.append(("adapters", ADAPTERS))
    if any(len({rate for part, rate in one.items() if part != LORA}) > 1 for one in parts):
        used.append(("learning rates by layer", UNFREEZING))
    if any(later.keys() - earlier.keys() for earlier, later in pairwise(parts)):
        used.append(("gradual unfreezing", UNFREEZING))
    if recipe.train and recipe.train.augment and recipe.train.augment.spec_augment:
        used.append(("masks on features", MASKS))
    return used
