"""A trained model saved, opened and converted: the same logits bit by bit."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from shibolet.model.family import LoadedModel, convert, load_recogniser
from shibolet.model.protocols import Prompt
from shibolet.rounds.verify.subject import Clip, Outcome, logits_of, outcome


def check_saving(final: Path, language: str, clips: Sequence[Clip], device: str, work_dir: Path) -> Outcome:
    """`final` against a copy that `save` writes, and against it in each of the family's layouts that are read here."""
    trained = load_recogniser(str(final), dtype=torch.bfloat16, device=device)
    family, expected = trained.family, _logits(trained, language, clips)
    saved = work_dir / "saved"
    family.save(trained, saved)
    copies = {"saved": saved}
    for layout in [one for one in family.layouts[1:] if one not in family.exports]:
        there, back = work_dir / layout, work_dir / f"{layout}-and-back"
        convert(str(final), there, layout, [language])
        convert(str(there), back, family.layouts[0])
        copies |= {f"in the {layout} layout": there, f"in the {layout} layout and back": back}
    del trained
    faults = [
        f"the trained model, {what}, gives other logits; report it with this file"
        for what, path in copies.items()
        if not _equal(
            expected, _logits(load_recogniser(str(path), dtype=torch.bfloat16, device=device), language, clips)
        )
    ]
    return outcome(faults, [], f"the same logits bit by bit: {', '.join(copies)}", {"copies": len(copies)})


def _logits(loaded: LoadedModel, language: str, clips: Sequence[Clip]) -> list[Tensor]:
    ids = loaded.family.targets(loaded.tokenizer, Prompt(language)).encode([clip.text for clip in clips])
    return [logits for logits, _ in logits_of(loaded, language, [clip.samples for clip in clips], ids)]


def _equal(expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
