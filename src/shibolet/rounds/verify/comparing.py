"""Ours against another library's: logits of given texts in packs, layer by layer where they differ, and hypotheses."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shibolet.model.family import LoadedModel, family_of
from shibolet.model.protocols import Decoding, Prompt, Reference
from shibolet.rounds.verify.subject import Clip, Outcome, logits_of, outcome
from shibolet.scoring.counts import count_words
from shibolet.speech.text import get_language

# Of the logits' standard deviation. Float32 differs by about 1e-5 (docs/decisions.md).
MOST_DIFFERENCE = 5e-3
MOST_ROUNDING = 2.0  # times the library's own difference between its bfloat16 and its float32
LAYER_DIFFERENCE = 1e-2  # of a layer's root mean square: where the first difference is looked for
MOST_TOKENS_PER_S, FEWEST_TOKENS = 12.0, 16  # may be written: Hebrew has about 6 a second
FEWEST_EQUAL = 0.95  # of the hypotheses; a near tie may fall the other way


@contextmanager
def _exact() -> Iterator[None]:
    """Within it convolutions of float32 are computed in float32 on a GPU too."""
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        yield


@_exact()
def compare_logits(
    ours: LoadedModel, exact: Reference, language: str, clips: Sequence[Clip], rounded: Reference | None = None
) -> Outcome:
    """Ours against a library's in float32; one in 16 bits, against the `rounded` library's own rounding error."""
    ids = ours.family.targets(ours.tokenizer, Prompt(language)).encode([clip.text for clip in clips])
    theirs = [
        exact.logits(clip.samples, text).to(ours.model.device, torch.float32)
        for clip, text in zip(clips, ids, strict=True)
    ]
    samples = [clip.samples for clip in clips]
    found = [logits.float() for logits, _ in logits_of(ours, language, samples, ids)]
    means = [_mean_difference(a, b) for a, b in zip(found, theirs, strict=True)]
    scale = torch.cat(theirs).std().item()
    largest = max((a - b).abs().max().item() for a, b in zip(found, theirs, strict=True))
    numbers = {"max_difference": largest, "mean_difference": float(np.mean(means)), "std_of_logits": scale}
    if rounded is None:
        most, is_wrong = MOST_DIFFERENCE * scale, not largest <= MOST_DIFFERENCE * scale
        words = f"float32 logits differ by {largest:.2g} at most"
    else:
        own = [
            _mean_difference(rounded.logits(clip.samples, text).float(), right)
            for clip, text, right in zip(clips, ids, theirs, strict=True)
        ]
        rounding, mean = float(np.mean(own)), float(np.mean(means))
        most, is_wrong = MOST_ROUNDING * rounding, not mean <= MOST_ROUNDING * rounding
        numbers |= {"mean_rounding_of_library": rounding}
        words = f"{_name(ours)} logits differ by {mean:.2g} on average"
    against = f"{words} from those of {exact.title}, at a standard deviation of {scale:.2g}"
    if not is_wrong:
        return outcome([], [], against, numbers)
    worst = int(np.argmax(means))
    where = first_difference(ours, exact, language, samples[worst], ids[worst])
    return outcome([f"{against}; at most {most:.2g} is expected. {where}"], [], "", numbers)


def _mean_difference(found: Tensor, right: Tensor) -> float:
    return (found - right).abs().mean().item()


def _name(loaded: LoadedModel) -> str:
    return str(loaded.model.dtype).removeprefix("torch.")


def first_difference(ours: LoadedModel, theirs: Reference, language: str, clip: np.ndarray, ids: Sequence[int]) -> str:
    """In which layer the two begin to differ on one clip, in a sentence."""
    if theirs.model is None:
        return "Report it with this file"
    for names in (layers_of(ours.model), maps_in(ours.model)):
        with _outputs(ours.model, names) as found:
            list(logits_of(ours, language, [clip], [ids]))
        if found:  # a family may compute its layers from their parts
            break
    with _outputs(theirs.model, names) as expected:
        theirs.logits(clip, ids)
    both = [(name, found[name], right) for name, right in expected.items() if name in found]
    # The last layer of ours gives the rows alone that need a logit.
    both = [(name, own, right) for name, own, right in both if own.shape == right.shape]
    if not both:
        return "No layer could be compared by itself; report it with this file"
    for name, own, right in both:
        difference = ((own - right).abs().max() / right.square().mean().sqrt()).item()
        if not difference <= LAYER_DIFFERENCE:
            return (
                f"The first layer that differs is '{name}' (by {difference:.2g} of its size); report it with this file"
            )
    return "No layer differs by itself, so it is the last one, the last norm or the head; report it with this file"


def layers_of(model: nn.Module) -> list[str]:
    """The modules that are layers of encoder and decoder."""
    family, names = family_of(model.config), {}
    for parameter, _ in model.named_parameters():
        _, layer = family.part_of(parameter)
        if layer is not None:
            names[parameter[: parameter.index(f".{layer}.") + len(f".{layer}")]] = None
    return list(names)


def maps_in(model: nn.Module) -> list[str]:
    """The linear maps of those layers."""
    layers = tuple(f"{layer}." for layer in layers_of(model))
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.startswith(layers)]


@contextmanager
def _outputs(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs `[rows, dim]` of the modules of these names, in the order in which they are computed."""
    outputs, hooks = {}, []

    def keep(name: str):
        def hook(module, args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            outputs[name] = hidden.detach().float().reshape(-1, hidden.shape[-1])

        return hook

    try:
        for name in names:
            hooks.append(model.get_submodule(name).register_forward_hook(keep(name)))
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, slots=True)
class Said:
    """What was written for a clip."""

    ours: str
    theirs: str


def limit_of(clip: Clip) -> int:
    """Tokens that may be written for a clip."""
    return FEWEST_TOKENS + math.ceil(MOST_TOKENS_PER_S * clip.seconds)


@_exact()
def compare_hypotheses(
    ours: LoadedModel, theirs: Reference, language: str, clips: Sequence[Clip]
) -> tuple[Outcome, list[Said]]:
    """Our greedy decoding against the library's, token by token; and WER against the references."""
    decoder = ours.family.decoder(ours, Decoding(prompt=Prompt(language)))
    order = sorted(range(len(clips)), key=lambda i: -len(clips[i].samples))
    limits = list(map(limit_of, clips))
    written = {
        order[one.place]: one.ids
        for one in decoder.decode(
            [clips[i].samples for i in order], [limits[i] for i in order], lambda place, ids: False
        )
    }
    expected = [theirs.write(clip.samples, limit) for clip, limit in zip(clips, limits, strict=True)]
    num_equal = sum(written[i] == ids for i, ids in enumerate(expected))
    said = [Said(decoder.text(written[i]), decoder.text(ids)) for i, ids in enumerate(expected)]
    wer_pct = _wer_pct(language, [clip.text for clip in clips], [one.ours for one in said])
    sentence = f"{num_equal} of {len(clips)} hypotheses are those of {theirs.title}, token by token"
    faults, notes = [], []
    is_exact = ours.model.dtype == torch.float32
    is_other = num_equal < (FEWEST_EQUAL * len(clips) if is_exact else len(clips) / 2)
    if is_other and wer_pct > 100 and not is_exact:
        notes.append(f"{sentence}: of a model that writes noise, near equal tokens fall either way in bfloat16")
    elif is_other:
        faults.append(f"{sentence}: our decoder or the library's computes something else; report it with this file")
    if wer_pct > 100:
        notes.append(f"WER {wer_pct:.0f}%: the model writes more wrong words than the references have words")
    numbers = {"equal": num_equal, "clips": len(clips), "wer_pct": round(wer_pct, 2)}
    return outcome(faults, notes, f"{sentence}; WER {wer_pct:.1f}% against the references", numbers), said


def _wer_pct(language: str, references: Sequence[str], texts: Sequence[str]) -> float:
    norm = get_language(language).to_scoring
    counts = [count_words(norm(reference), norm(text)) for reference, text in zip(references, texts, strict=True)]
    return 100 * sum(one.errors for one in counts) / sum(one.reference_length for one in counts)
