"""Imports go down only: protects the layers of pyproject.toml, and that stages stay strangers to each other."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "shibolet"


def test_the_layers_of_pyproject_hold():
    # In a process of its own: import-linter configures logging and with that disables every logger there is.
    command = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def test_every_module_is_in_a_layer():
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    outside = {"__init__"}
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert len(modules) > 15
    assert not [name for name in modules - outside if not re.search(rf"shibolet\.{name}\b", contract)]
