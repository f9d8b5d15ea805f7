"""Texts that machines wrote, by the utterance that has one: what `label` hands to `prepare`."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from shibolet.records.documents.prepared import Amount
from shibolet.records.files import write_jsonl
from shibolet.records.reading import read_lines
from shibolet.records.shards import has_columns, read_shard

Kind = Literal["labelled", "corrected", "taken_back"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineText:
    """What two hearers say of an utterance.

    labelled    it had no text, and has that of one of them
    corrected   its text is not what both heard, and it has that of one of them
    taken_back  the audit flagged its text, the writer reads the same, and the text stays
    """

    id: str
    kind: Kind
    text: str  # that it has now
    written: str  # by the writer
    heard: str  # by the listener
    disagreement: float  # letters that differ, of the text's
    by: Literal["writer", "listener"] | None = "writer"  # whose text it has now; None: the one that it came with
    given: str | None = None  # the text that it came with

    @property
    def detail(self) -> str:
        """For the ledger."""
        if self.kind == "taken_back":
            return f"the writer reads '{self.written[:80]}': {self.disagreement:.1%} of the letters differ"
        was = f"; the text was '{self.given[:80]}'" if self.given is not None else ""
        return f"two hearers agree but for {self.disagreement:.1%} of the letters{was}"


def write_texts(path: Path, texts: Iterable[MachineText]) -> None:
    write_jsonl(path, map(asdict, texts))


def read_texts(path: Path) -> list[MachineText]:
    """DataError names the line that is none."""
    return read_lines(path, MachineText, "'shibolet label RECIPE' makes it anew")


def written_by_machines(prepared: Path) -> dict[str, Amount]:
    """Training rows whose text a machine wrote, by the kind of the text; shards of an older version have none."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for shard in sorted(prepared.glob("train-*.parquet")):
        for duration_s, kind in read_shard(shard, "duration_s", "text_by") if has_columns(shard, "text_by") else ():
            if kind is not None:
                seconds[kind].append(duration_s)
    return {kind: Amount.of(own) for kind, own in sorted(seconds.items())}
