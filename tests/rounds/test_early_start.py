"""What hears on several GPUs starts at once: protects from a round that first imports torch in its own process."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
from shibolet.listen.executor import Processes
from shibolet.model import gpus
from shibolet.recipe import load_recipe
from shibolet.rounds.flow import require_gpus
from shibolet.rounds.shared import open_round

gpus._by_driver = lambda visible: 2
Processes.begin = lambda self, work: print(self.num_processes, self.has_gpus, "torch" in sys.modules)
with open_round(load_recipe("demo", []), Path(sys.argv[1]), "run", print) as current:
    print(require_gpus(2))
    current.start_processes("builtin:round1")
    current.executor.close = lambda: None
"""


def test_processes_of_gpus_start_before_torch_is_imported(tmp_path: Path) -> None:
    """It takes two to four seconds, and those that hear need it themselves: one import after the other, all wait."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "run"], capture_output=True, text=True)
    assert done.stdout == "2\n2 True False\n", done.stderr
