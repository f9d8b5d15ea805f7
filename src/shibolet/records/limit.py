"""What a verdict asks for: a list of limits that a case has to keep, each with its test and its words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Case = TypeVar("Case")  # what is judged, and by which settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit(Generic[Case]):
    """One thing that must hold."""

    name: str
    broken: Callable[[Case], list[str]]  # sentences on why it does not hold; none: it holds
