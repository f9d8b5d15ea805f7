"""What the page shows of references in doubt: by set, each system with and without them, and the references."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from shibolet.errors import DataError
from shibolet.records.documents.doubtful import DoubtfulReference, DoubtfulScores
from shibolet.records.runfolder import RunFolder
from shibolet.report.sections import Player, player_of
from shibolet.scoring.doubtful import ADVICE

MAX_PLAYERS = 8  # of each set
MAX_ROWS = 100  # of each set


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtfulOfSet:
    """The references of one set that are in doubt."""

    set: str
    systems: Sequence[DoubtfulScores]  # with the same references; none: the set or its scores were made anew since
    players: Sequence[Player]  # the least credible ones, to listen to
    others: Sequence[DoubtfulReference]  # those after them
    num_left_out: int  # that are in the file alone
    advice: str = ADVICE

    @property
    def first(self) -> DoubtfulScores:
        return self.systems[0]


def doubtful(run: RunFolder) -> list[DoubtfulOfSet]:
    """Every set that was audited, by name; without systems whose file speaks of another audit or of other scores."""
    from shibolet.records.audited import AuditedRows

    by_set: dict[str, list[DoubtfulScores]] = defaultdict(list)
    for path in sorted(run.path.glob("doubtful/*/*/doubtful.json")):
        systems = by_set[path.parent.name]
        if _holds(run, path.parent.relative_to(run.path).as_posix()):
            systems.append(DoubtfulScores.read(path))
    found = []
    for name, systems in sorted(by_set.items()):
        references = systems[0].references if systems else ()
        audited = AuditedRows([run.audited_set(name)]) if references else {}
        players = [player_of(audited[one.id], run.path) for one in references[:MAX_PLAYERS]]
        others = references[MAX_PLAYERS:MAX_ROWS]
        left_out = max(0, len(references) - MAX_ROWS)
        found.append(DoubtfulOfSet(set=name, systems=systems, players=players, others=others, num_left_out=left_out))
    return found


def _holds(run: RunFolder, stage: str) -> bool:
    """Whether what a stage read is still what is there: a start that was cut off may have left it behind."""
    try:
        run.verified(stage)
    except DataError:
        return False
    return True
