"""What makes two trainings the same one, setting by setting, and which settings decide up to which step."""

import json
import re

from shibolet.model.family import LoadedModel
from shibolet.records.differences import differing, flat
from shibolet.records.documents.training import Earlier
from shibolet.records.files import hash_json
from shibolet.train.config import TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.replay import Replayed
from shibolet.train.state import TrainState

_OF_PHASE = re.compile(r"train\.phases\.(\d+)\.")


def fingerprint_of(
    loaded: LoadedModel, examples: list[TrainExample], config: TrainConfig, language: str, seed: int,
    replayed: Replayed | None = None, teacher: str | None = None,
) -> dict[str, str]:  # fmt: skip
    """What decides a weight while nothing goes wrong (not ranks, packs, intervals).

    `examples` are not replayed, `teacher` is its identity.
    """
    return {
        "base model": loaded.identity,
        "training data": hash_json([_data_of(example) for example in examples]),
        "language": language,
        "seed": str(seed),
        **(replayed.fingerprint() if replayed else {}),
        **({"teacher": teacher} if teacher else {}),
        **settings_of(config),
    }


def _data_of(example: TrainExample) -> list:
    """What decides a weight of an utterance; what it has not is left out, as in trainings before there was that."""
    beside = [example.forms.identity] if example.forms else []
    return [example.id, example.text, example.num_frames, *([example.style] if example.style else []), *beside]


def settings_of(config: TrainConfig) -> dict[str, str]:
    """The settings that a fingerprint has, by path in the recipe, as JSON."""
    values = flat({"train": config.identity()})
    return {path: json.dumps(value, ensure_ascii=False) for path, value in values.items()}


def with_settings(fingerprint: dict[str, str], settings: dict[str, str]) -> dict[str, str]:
    """A fingerprint with other settings of training."""
    return {name: value for name, value in fingerprint.items() if not name.startswith("train.")} | settings


def earlier_than(state: TrainState, settings: dict[str, str]) -> list[Earlier]:
    """The steps up to a checkpoint that other settings made than these; none where these would have made it.

    Up to the end of a phase that phase decides, those before it, and what all phases share.
    """
    found, begun = [], 0
    for last, then in _stretches(state):
        phase = sum(end < last for end in state.phase_end_steps)
        if names := [name for name in differing(then, settings) if (_phase_of(name) or 0) <= phase]:
            of_phases = [_phase_of(name) for name in names]
            starts = [state.phase_end_steps[index - 1] if index else 0 for index in of_phases]
            first = max(begun, min(starts)) + 1
            found.append(Earlier(first_step=first, last_step=last, settings={name: then.get(name) for name in names}))
        begun = last
    return found


def _stretches(state: TrainState) -> list[tuple[int, dict[str, str]]]:
    """Last steps and settings of the trainings that made a checkpoint, one going on from the other."""
    now = {name: value for name, value in state.fingerprint.items() if name.startswith("train.")}
    before = [
        (part.last_step, {name: value for name, value in (now | part.settings).items() if value is not None})
        for part in state.earlier
    ]
    return before if before and before[-1][0] == state.step else [*before, (state.step, now)]


def _phase_of(name: str) -> int | None:
    """The index of the phase that a setting is of; None for one that all phases share."""
    found = _OF_PHASE.match(name)
    return int(found[1]) if found else None
