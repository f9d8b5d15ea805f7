"""Damage to what a teacher, replayed data and texts by machines leave: no command may use it, or end with a traceback.

The small round of `build_taught_round` has these files beside those of every round, which `test_artefacts.py` walks.
"""

from dataclasses import dataclass

import artefact_damage as damage
import pytest
from artefact_damage import WAYS, Change, json_value, line_value
from test_artefacts import walk

READERS = ("run", "prepare", "train", "report", "export-data", "plan", "publish")


@dataclass(frozen=True)
class Left:
    """A file of the round, and how it is made a valid other one."""

    example: str
    change: Change
    readers: tuple[str, ...] = READERS


LEFT = (
    Left("labelled/label.json", json_value("max_wer", value=0.4)),
    Left("labelled/manifest.jsonl", line_value("text")),
    Left("labelled/texts.jsonl", line_value("text")),
    Left("labelled/ledger.jsonl", damage.line_more("{}")),
    Left(".stages/label.json", damage.first_hash),
    Left("teach/hypotheses.jsonl", line_value("hypothesis")),
    Left("teach/scores.json", json_value("wer", "errors")),
    Left("teach/audited.parquet", damage.rows_less),
    Left("teach/texts.jsonl", damage.line_more('{"id": "a", "text": "x"}')),
    Left("teach/teach.json", json_value("kept")),
    Left(".stages/teach.json", damage.first_hash),
    Left("prepare-replay/other/train-00000.parquet", damage.texts_reversed),
    Left("prepare-replay/other/summary.json", json_value("utterances", "kept")),
    Left(".stages/prepare-replay/other.json", damage.first_hash),
    # Its round is whole, so nothing asks for these again: a start after a change would.
    Left("labelled/heard/*.jsonl", line_value("text"), ("run", "report")),
    Left("labelled/calibration/0000.flac", damage.bytes_more, ("run", "report")),
    Left("teacher_cache/*/ids.bin", damage.bytes_more, ("run", "report")),
    Left("teacher_cache/*/meta.json", json_value("boot", value="x"), ("run", "report")),
)


@pytest.mark.slow("artefacts", seconds=30)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("left", LEFT, ids=lambda left: left.example)
def test_no_command_uses_what_is_damaged(left: Left, way: str, taught_round):
    """Another text than the audit admitted, or than two hearers agreed on, would train and nobody would know."""
    assert walk(left, way, left.readers, taught_round) == []
