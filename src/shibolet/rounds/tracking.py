"""What a round shows its trackers, from the documents that its stages have left."""

import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from heapq import nsmallest
from typing import TypeVar

from shibolet.errors import DataError, ShiboletError
from shibolet.recipe import name_of
from shibolet.records.audited import Audited, read_audited
from shibolet.records.documents.alignment import AlignmentReport
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.scores import Scores
from shibolet.records.documents.training import TrainResult
from shibolet.report.lineage import folders_of
from shibolet.rounds.shared import Round
from shibolet.tracking.config import Shown, Tracking
from shibolet.tracking.documents import (
    audit_shown,
    comparison_shown,
    examples_shown,
    gate_shown,
    low_quality_shown,
    scores_shown,
)

T = TypeVar("T")
NUM_WORST = NUM_RANDOM = 20  # utterances of a set


def tracking_of(current: Round) -> Tracking:
    """The round's trackers, with the audit and the gate as far as they have come."""
    recipe, path = current.recipe, current.folder.path.absolute()
    verdict = _made(current, "compare", lambda: [Comparison.read(current.folder.compare).verdict])
    return Tracking(
        settings=recipe.tracking,
        folder=current.folder.tracking.absolute(),
        name=f"{recipe.title}, {path.name}",
        group=_chain_of(current),
        tags=(recipe.title, recipe.language, *verdict),
        documents=tuple(_of_the_data(current)),
    )


def _chain_of(current: Round) -> str:
    """The name of all rounds that followed each other: that of the first of their recipes."""
    try:
        (first, *_), _ = folders_of(current.folder.path)
        return name_of(first.recipe) or current.recipe.name
    except ShiboletError as error:  # trackers never end a round
        current.tell(f"trackers show this round apart from those before it: {error}")
        return current.recipe.name


def about(current: Round) -> dict:
    """What describes the run."""
    return {"recipe": current.recipe.model_dump(mode="json")}


def do_track(current: Round) -> None:
    """Show what this round has come to; what was shown before is not shown again."""
    from shibolet.tracking.start import show

    tracking = tracking_of(current)
    documents = (*tracking.documents, *_of_the_result(current))
    show(tracking.model_copy(update={"documents": documents}), about(current))


def _of_the_data(current: Round) -> Iterator[Shown]:
    folder = current.folder

    def audit(prepared: bool) -> Iterator[Shown]:
        yield audit_shown(AlignmentReport.read(folder.alignment_report(prepared=prepared)), prepared=prepared)
        if not prepared:
            yield low_quality_shown(_low_quality(current))

    def gate(prepared: bool) -> Iterator[Shown]:
        yield gate_shown(GateVerdict.read(folder.gate(prepared=prepared)), prepared=prepared)

    for prepared in (False, True):
        suffix = "-prepared" if prepared else ""
        yield from _made(current, f"audit{suffix}", partial(audit, prepared))
        yield from _made(current, f"gate{suffix}", partial(gate, prepared))


def _made(current: Round, stage: str, read: Callable[[], Iterable[T]]) -> list[T]:
    """What is read of a finished stage; where that cannot be, a sentence says so, as trackers never end a round."""
    if not current.folder.finished(stage):
        return []
    try:
        current.folder.intact(stage, records=False)
        return [*read()]
    except DataError as error:
        current.tell(f"trackers are not shown '{stage}': {error}")
        return []


def _low_quality(current: Round) -> list[Audited]:
    """The least trusted of the sample, those that could not be scored first."""
    path = current.folder.audited_utterances()
    low = [(-1.0 if row.confidence is None else row.confidence, row.id) for row in read_audited(path, short=True)
           if row.is_low_quality]  # fmt: skip
    places = {id: place for place, (_, id) in enumerate(nsmallest(NUM_WORST, low))}
    return sorted(read_audited(path, only=places.keys()), key=lambda row: places[row.id])


def _of_the_result(current: Round) -> Iterator[Shown]:
    folder = current.folder
    if current.recipe.models is None:
        return
    last = _made(current, "train", lambda: [TrainResult.read(folder.train_result).steps])
    if not last:
        return
    (step,) = last

    def scores(stage: str) -> Iterator[Shown]:
        yield scores_shown(Scores.read(folder.path / stage / "scores.json"), step)

    stages = [stage for named in current.names for stage in folder.evaluated(named.label)]
    scored = {stage: _made(current, stage, partial(scores, stage)) for stage in stages}
    for documents in scored.values():
        yield from documents
    yield from _made(current, "compare", lambda: [comparison_shown(Comparison.read(folder.compare), step)])
    if folder.finished("compare"):
        for source in current.sets:
            before, after = (f"evaluate/{named.label}/{source.name}" for named in current.names)
            if scored.get(before) and scored.get(after):
                yield from _made(current, after, lambda name=source.name: [_examples(current, name, step)])


def _examples(current: Round, set_name: str, step: int) -> Shown:
    """The candidate's worst utterances of a set, and some at random, the same in every process."""
    from shibolet.evaluate.stage import read_rows

    ours, theirs = (read_rows(current.folder.evaluation(named.label, set_name)) for named in reversed(current.names))
    before = {row.id: row for row in theirs}
    rows = [row for row in ours if row.id in before]
    worst = sorted(rows, key=lambda row: (-row.words.errors, row.id))[:NUM_WORST]
    drawn = random.Random(f"{current.recipe.seed} {set_name}").sample(rows, min(NUM_RANDOM, len(rows)))
    columns = (
        "drawn", "id", "domain", "duration_s", "reference", "baseline", "candidate", "words", "baseline_errors",
        "candidate_errors",
    )  # fmt: skip
    found = [
        (kind, row.id, row.domain, row.duration_s, row.reference, before[row.id].hypothesis, row.hypothesis,
         row.words.reference_length, before[row.id].words.errors, row.words.errors)
        for kind, chosen in (("worst", worst), ("random", drawn))
        for row in chosen
    ]  # fmt: skip
    return examples_shown(set_name, columns, found, step)
