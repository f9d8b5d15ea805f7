"""What tests in several folders share: the command line, run in the process of the test."""

import sys

import pytest

from shibolet import cli


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Runs `shibolet` with these arguments; gives (exit code, standard output, error output)."""

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["shibolet", *args])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
