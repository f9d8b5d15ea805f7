"""Fifty clients at once, with the real command, the real tiny model and the real client."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf
from made_speech import sentences

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serving.py"


@pytest.mark.slow("serve", seconds=60)
def test_of_fifty_clients_none_is_lost_and_each_gets_its_own_text(tmp_path):
    """Texts of a batch must not be swapped, and a queue must not drop who waits in it."""
    spoken = sentences(12, seed=3)
    for number, speech in enumerate(spoken):
        sf.write(tmp_path / f"{number}.flac", speech.samples, 16000)
    command = [sys.executable, str(SCRIPT), *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert (found["clients"], found["lost"], found["differ"]) == (50, 0, 0) and found["distinct_texts"] > 8
