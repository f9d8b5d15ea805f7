"""`publish/reproduced.json`: what a fresh process repeated from an export."""

from typing import ClassVar

from shibolet.records.documents.base import Document


class Reproduced(Document):
    """Hypotheses of the evaluation that came out word for word."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet publish RUN' exports anew"

    hypotheses: int
    ids: dict[str, tuple[str, ...]]  # by set
