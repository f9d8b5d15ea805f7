"""How far two people agree beyond chance: Cohen, A coefficient of agreement for nominal scales, 1960."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two people on the utterances that both judged."""

    num_both: int
    agreed_frac: float | None  # None: there are none
    kappa: float | None  # 1: always; 0: as often as chance; None: no two answers could have differed


def agreement(pairs: Sequence[tuple[str, str]]) -> Agreement:
    """Cohen's kappa of two people's answers to the same questions, one pair a question."""
    num = len(pairs)
    if not num:
        return Agreement(0, None, None)
    agreed = sum(one == other for one, other in pairs) / num
    first, second = (Counter(pair[side] for pair in pairs) for side in (0, 1))
    by_chance = sum(first[name] * second[name] for name in first) / num**2
    kappa = None if by_chance >= 1 else (agreed - by_chance) / (1 - by_chance)
    return Agreement(num, agreed, kappa)
