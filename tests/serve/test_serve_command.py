"""`shibolet serve` as a command: what it needs, where it listens, and how it ends."""

import socket
import subprocess
import sys

import httpx
import pytest

from shibolet.cli import serving


def test_a_missing_extra_is_named_before_a_model_is_loaded(run_cli, monkeypatch):
    """The core installs without a server."""
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "uvicorn" else name)
    code, out, err = run_cli("serve", "no/such", "--language", "he")
    assert (code, out) == (2, "") and "(uvicorn): pip install 'shibolet[serve]'" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["builtin:round1"], "name the language"),
        (["builtin:round1", "--language", "Klingon"], "language 'Klingon' is not known"),
        (["builtin:round1", "--language", "he", "--api-key", "two words"], "the API key has a space"),
        (["builtin:round1", "--language", "he", "--api-key", ""], "--api-key or SHIBOLET_API_KEY is empty"),
        (["builtin:round1", "--language", "he", "--api-key", "  "], "--api-key or SHIBOLET_API_KEY is empty"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(run_cli, args, said):
    code, _, err = run_cli("serve", *args)
    assert code == 2 and said in err and err.count("\n") == 1


def test_an_empty_key_of_the_environment_is_no_open_server(run_cli, monkeypatch):
    """A secret that a container failed to fill in must not serve anybody who asks."""
    monkeypatch.setenv("SHIBOLET_API_KEY", "")
    code, _, err = run_cli("serve", "builtin:round1", "--language", "he")
    assert code == 2 and "SHIBOLET_API_KEY is empty" in err and err.count("\n") == 1


def test_a_port_in_use_is_one_sentence(run_cli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = run_cli("serve", "builtin:round1", "--language", "he", "--port", str(port))
    assert code == 2 and f"port {port}" in err and "another --port" in err


def test_a_server_for_other_machines_without_a_key_says_so(run_cli, monkeypatch):
    from shibolet.serve import run

    monkeypatch.setattr(run, "serve", lambda *args, **settings: None)
    assert "--api-key" in run_cli("serve", "builtin:round1", "--language", "he", "--host", "0.0.0.0")[2]
    assert "--api-key" not in run_cli("serve", "builtin:round1", "--language", "he")[2]


@pytest.mark.slow("serve", seconds=15)
def test_a_model_that_is_not_there_ends_the_command_and_a_signal_the_server():
    command = [sys.executable, "-m", "shibolet.cli", "serve", "--language", "he", "--port", "0"]
    done = subprocess.run([*command, "no-such-folder/x/y"], capture_output=True, text=True, timeout=120)
    assert done.returncode in (2, 3) and done.stderr.startswith("shibolet: ")
    process = subprocess.Popen([*command, "builtin:round1"], stderr=subprocess.PIPE, text=True)
    line = next(line for line in process.stderr if " answers at " in line)
    address = line.split(" answers at ")[1].partition("/v1/")[0]
    assert httpx.get(f"{address}/health", trust_env=False).json() == {"status": "ok", "requests": 0, "waiting_s": 0}
    process.terminate()
    process.wait(30)
    assert "Traceback" not in process.stderr.read()
