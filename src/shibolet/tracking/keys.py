"""The type of every key: number, text or table, the same in every process and in every round.

about/     texts: the recipe, the plan
examples/  tables of utterances
test/      WER of the result and of the baseline, and the verdict: the same keys in every round
<stage>/   numbers, but for the keys below
"""

from collections.abc import Iterable
from typing import Literal

Kind = Literal["number", "text", "table"]
_HEADS: dict[str, Kind] = {"about": "text", "examples": "table"}
_KEYS: dict[str, Kind] = {
    "training/strategy": "text",  # the phase's name, as the specification has it; its number is training/phase_index
    "training/trains": "text",  # parameters by part
    "training/events": "text",
    "audit/decision": "text",
    "gate/decision": "text",
    "gate/recommendation": "text",
    "audit_prepared/decision": "text",
    "gate_prepared/decision": "text",
    "gate_prepared/recommendation": "text",
    "test/verdict": "text",
    "compare/verdict": "text",
    "compare/sentence": "text",
    "compare/slices": "table",
}


def kind_of(key: str) -> Kind:
    """The type of what is shown under a key."""
    return _KEYS.get(key) or _HEADS.get(key.partition("/")[0], "number")


def require(kind: Kind, keys: Iterable[str]) -> None:
    """ValueError for a key of another type: a chart of it would be lost."""
    for key in keys:
        if kind_of(key) != kind:
            raise ValueError(f"tracker key '{key}' is a {kind_of(key)}, not a {kind}; see tracking/keys.py")
