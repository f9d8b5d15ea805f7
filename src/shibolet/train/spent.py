"""What a training's seconds went to, by the messages of its main rank and its own records."""

import time
from collections import defaultdict
from collections.abc import Sequence

from shibolet.records.documents.timings import PhaseTime, TrainTime
from shibolet.records.documents.training import StepRow


class TrainClock:
    """From the start of a training to its end, as the process sees it that waits for the ranks."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._first: float | None = None  # when the first step was done
        self._last = self._started
        self._steps = 0

    def step_done(self) -> None:
        """A step was done, with its dev score where it has one."""
        self._steps += 1
        self._last = time.perf_counter()
        self._first = self._first or self._last

    def spent(self, rows: Sequence[StepRow], dev_utterances: int, gpus: int, parameters: int) -> TrainTime | None:
        """The seconds of a training that is over, and what they were for; None where it did not take all of its steps.

        `dev_utterances` are those of all scores after a step; the score before the first is a part of the start.
        Between the first step and the last, what is neither a step nor a checkpoint is taken for scoring.
        """
        if self._first is None or self._steps != len(rows):
            return None
        by_phase: dict[str, list[StepRow]] = defaultdict(list)
        for row in rows:
            by_phase[row.phase].append(row)
        checkpoints_s = sum(row.timing.checkpoint_s for row in rows)
        between_s = sum(row.timing.step_s for row in rows[1:]) + checkpoints_s
        return TrainTime(
            start_s=_ms(self._first - self._started - rows[0].timing.step_s),
            phases={
                name: PhaseTime(
                    seconds=_ms(sum(row.timing.step_s for row in own)), utterances=sum(row.utterances for row in own)
                )
                for name, own in by_phase.items()
            },
            checkpoints_s=_ms(checkpoints_s),
            checkpoints=sum(row.timing.checkpoint_s > 0 for row in rows),
            dev_s=_ms(self._last - self._first - between_s),
            dev_utterances=dev_utterances,
            end_s=_ms(time.perf_counter() - self._last),
            gpus=gpus,
            parameters=parameters,
        )


def _ms(seconds: float) -> float:
    """To the millisecond; steps are kept rounded, so a difference may fall below 0."""
    return max(0.0, round(seconds, 3))
