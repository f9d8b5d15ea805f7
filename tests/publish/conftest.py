import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from local_hub import LocalHub

TOKEN = "hf_" + "Qx7" * 11

# hf_xet reads these once in a process: it would wait out a Hub that is gone for minutes.
os.environ |= {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "HF_XET_CLIENT_RETRY_BASE_DELAY": "1ms"}


class NoWaiting:
    """The `time` module without sleep."""

    def sleep(self, seconds: float) -> None:
        pass

    def __getattr__(self, name: str):
        return getattr(time, name)


@pytest.fixture(params=["lfs", "xet"])
def hub(request, tmp_path: Path, monkeypatch):
    """A Hub on this machine that huggingface_hub talks to, by either way of sending large files."""
    hub = LocalHub(tmp_path / "cas")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", request.param == "lfs")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time", NoWaiting())
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.way = request.param
    yield hub
    hub.close()
