"""`publish/reproduced.json`: what the code of the model card repeated from an export, in a process of its own."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part


class Differing(Part):
    """An utterance whose hypothesis is not word for word that of the evaluation."""

    id: str
    evaluation: str
    export: str


class Reproduced(Document):
    """Hypotheses of the evaluation against those of the export."""

    FORMAT: ClassVar[int] = 3
    REMEDY: ClassVar[str] = "'shibolet publish RUN' exports anew"

    ids: tuple[str, ...]  # of the utterances, those of one set after the other
    differing: tuple[Differing, ...]
    words: int  # of all hypotheses in the evaluation
    differing_words: int  # substitutions, deletions and insertions that lead to the export's
    looped: tuple[str, ...]  # others, in which the export loops; `evaluate.loop_bias` may have written them again

    @property
    def same(self) -> int:
        """Hypotheses that came out word for word."""
        return len(self.ids) - len(self.differing)
