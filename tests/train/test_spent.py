"""What a training's time went to: protects from a plan that calls dev scores steps."""

import pytest
from training_documents import step_row

from shibolet.train import spent


def test_every_second_has_one_name(monkeypatch):
    """Started at 0; two steps of B, a score, a checkpoint, two of A, a score, and 3 s of writing."""
    clock = iter([0.0, 5.4, 5.8, 14.2, 14.6, 17.6])
    monkeypatch.setattr(spent.time, "perf_counter", lambda: next(clock))
    watch = spent.TrainClock()
    for _ in range(4):
        watch.step_done()
    rows = [step_row(i, phase="B" if i < 3 else "A") for i in range(1, 5)]
    rows[2] = rows[2].model_copy(update={"timing": rows[2].timing.model_copy(update={"checkpoint_s": 1.0})})
    spent_on = watch.spent(rows, 60, 0, 9)
    assert {name: phase.seconds for name, phase in spent_on.phases.items()} == {"B": 0.8, "A": 0.8}
    assert {name: phase.utterances for name, phase in spent_on.phases.items()} == {"B": 32, "A": 32}
    others = spent_on.start_s, spent_on.checkpoints_s, spent_on.dev_s, spent_on.end_s
    assert others == (5.0, 1.0, 7.0, 3.0) and sum(others) + 1.6 == pytest.approx(17.6)
    assert (spent_on.checkpoints, spent_on.dev_utterances, spent_on.gpus) == (1, 60, 0)


def test_a_training_that_did_not_take_all_of_its_steps_says_nothing():
    """Of one that goes on from another's checkpoint, or was rolled back, the seconds are of other steps."""
    watch = spent.TrainClock()
    assert watch.spent([], 0, 0, 9) is None
    watch.step_done()
    assert watch.spent([step_row(1), step_row(2)], 0, 0, 9) is None and watch.spent([step_row(1)], 0, 0, 9) is not None
