"""What `shibolet check` and `shibolet fetch` print: what a recipe needs, whether it is there, and what was got."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from shibolet.records.documents.base import Document


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a recipe needs."""

    what: str
    state: Literal["ok", "missing", "note"]
    found: str  # and what to do where it is missing


class Checked(Document):
    """A finding for each thing that a recipe needs; `missing` ones stop a run."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet check RECIPE' looks again"

    findings: tuple[Finding, ...]

    @property
    def is_ready(self) -> bool:
        return all(finding.state != "missing" for finding in self.findings)


class Fetched(Document):
    """Models and data sets of a recipe, by what became of them."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet fetch RECIPE' goes on"

    fetched: tuple[str, ...]  # here now
    local: tuple[str, ...]  # on this machine: they need no fetching
    missing: dict[str, str]  # name -> why it cannot be had
