"""Damage to what a teacher, replayed data and texts by machines leave: no command may use it, or end with a traceback.

The small round of `build_taught_round` has these files beside those of every round, which `test_artefacts.py` walks.
"""

from dataclasses import dataclass

import artefact_damage as damage
import pytest
from artefact_damage import WAYS, Change, json_value, line_value
from test_artefacts import walk

OF_LABEL = ("run", "prepare", "report", "export-data", "publish")
OF_TEACHER = ("run", "train", "report", "publish")
OF_REPLAY = ("run", "prepare", "train", "report", "publish")


@dataclass(frozen=True)
class Left:
    """A file of the round, and how it is made a valid other one."""

    example: str
    change: Change
    readers: tuple[str, ...]


LEFT = (
    Left("labelled/label.json", json_value("max_wer", value=0.4), OF_LABEL),
    Left("labelled/manifest.jsonl", line_value("text"), OF_LABEL),
    Left("labelled/texts.jsonl", line_value("text"), OF_LABEL),
    Left("labelled/ledger.jsonl", damage.line_more("{}"), OF_LABEL),
    Left(".stages/label.json", damage.first_hash, OF_LABEL),
    Left("teach/hypotheses.jsonl", line_value("hypothesis"), OF_TEACHER),
    Left("teach/scores.json", json_value("wer", "errors"), OF_TEACHER),
    Left("teach/audited.parquet", damage.rows_less, OF_TEACHER),
    Left("teach/texts.jsonl", damage.line_more('{"id": "a", "text": "x"}'), OF_TEACHER),
    Left("teach/teach.json", json_value("kept"), OF_TEACHER),
    Left(".stages/teach.json", damage.first_hash, OF_TEACHER),
    Left("prepare-replay/other/train-00000.parquet", damage.texts_reversed, OF_REPLAY),
    Left("prepare-replay/other/summary.json", json_value("utterances", "kept"), OF_REPLAY),
    Left(".stages/prepare-replay/other.json", damage.first_hash, OF_REPLAY),
    # Of a whole round nobody reads these: a start after a change would.
    Left("labelled/heard/*.jsonl", line_value("text"), ()),
    Left("labelled/calibration/0000.flac", damage.bytes_more, ()),
    Left("teacher_cache/*/ids.bin", damage.bytes_more, ()),
    Left("teacher_cache/*/meta.json", json_value("boot", value="x"), ()),
)


@pytest.mark.slow("artefacts", seconds=20)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("left", LEFT, ids=lambda left: left.example)
def test_no_command_uses_what_is_damaged(left: Left, way: str, taught_round):
    """Another text than the audit admitted, or than two hearers agreed on, would train and nobody would know."""
    assert walk(left, way, left.readers or ("run", "report"), taught_round) == []
