"""What tests in several folders share: the command line, run in the process of the test; slow tests by topic."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch, before it is imported: two processes share the cores
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as of the command line
os.environ["WANDB_MODE"] = "offline"  # whoever is logged in here

import pytest

from shibolet import cli


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--topic", default="", help="Of the slow tests, those of one topic.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not (topic := config.getoption("--topic")):
        return
    of_topic = [item for item in items if (mark := item.get_closest_marker("slow")) and mark.args[0] == topic]
    if not of_topic:
        topics = sorted({mark.args[0] for item in items if (mark := item.get_closest_marker("slow"))})
        raise pytest.UsageError(f"no slow test is of topic '{topic}'; topics are {', '.join(topics)}")
    config.hook.pytest_deselected(items=[item for item in items if item not in of_topic])
    items[:] = of_topic


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Before slow tests begin: how long each takes (on two cores, as measured) and what it claims."""
    if config.getoption("markexpr") != "slow":
        return []
    lines, total_s = [], 0
    for item in items:
        mark = item.get_closest_marker("slow")
        total_s += mark.kwargs["seconds"]
        claim = item.name.removeprefix("test_").replace("_", " ")
        lines.append(f"{mark.args[0]:>8} {mark.kwargs['seconds']:>4} s  {claim}")
    return [*sorted(lines), f"{len(items)} slow tests, about {total_s / 60:.0f} min"]


@pytest.fixture(scope="session")
def _store_server():
    from object_store import ObjectStore  # moto takes half a second, and few tests need it

    with ObjectStore() as store:
        yield store


@pytest.fixture
def object_store(_store_server, monkeypatch, tmp_path):
    """An empty bucket `speech` behind S3's protocol, and an empty cache of what is fetched from it."""
    for name, value in _store_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _store_server.reset()
    return _store_server


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
