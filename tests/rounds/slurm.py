"""A Slurm of one machine with two nodes and pretended GPUs, for who tests batch scripts; needs Debian's slurm-wlm."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from getpass import getuser
from pathlib import Path

NODES, GPUS, CORES = 2, 8, 64
PROGRAMS = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("slurmctld", "slurmd")}
IS_HERE = all(PROGRAMS.values())


def free_ports(number: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def settings(root: Path) -> str:
    host, user, (control, *ports) = socket.gethostname().partition(".")[0], getuser(), free_ports(1 + NODES)
    lines = {
        "ClusterName": "one", "SlurmctldHost": f"{host}(127.0.0.1)", "AuthType": "auth/none", "CredType": "cred/none",
        "SlurmUser": user, "SlurmdUser": user, "SlurmctldPort": control, "StateSaveLocation": root / "state",
        "SlurmdSpoolDir": root / "spool-%n", "SlurmctldPidFile": root / "control.pid",
        "SlurmdPidFile": root / "%n.pid", "SlurmctldLogFile": root / "control.log", "SlurmdLogFile": root / "%n.log",
        "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none", "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core", "GresTypes": "gpu", "MpiDefault": "none", "ReturnToService": 2,
        "SlurmdParameters": "config_overrides",
    }  # fmt: skip
    return "\n".join([
        *(f"{key}={value}" for key, value in lines.items()),
        *(
            f"NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CORES} RealMemory=1000 "
            f"Gres=gpu:a100:{GPUS}"
            for node, port in enumerate(ports)
        ),
        "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP", "",
    ])  # fmt: skip


@contextmanager
def cluster(root: Path) -> Iterator[dict[str, str]]:
    """The environment in which its programs find it; nodes do not say which GPUs a job sees, as there are none."""
    for folder in ("state", *(f"spool-n{node}" for node in range(NODES))):
        (root / folder).mkdir(parents=True)
    for gpu in range(GPUS):
        (root / f"gpu{gpu}").touch()
    (root / "slurm.conf").write_text(settings(root))
    (root / "gres.conf").write_text(f"NodeName=n[0-{NODES - 1}] Name=gpu Type=a100 File={root}/gpu[0-{GPUS - 1}]\n")
    env = os.environ | {"SLURM_CONF": str(root / "slurm.conf")}
    commands = [[PROGRAMS["slurmctld"], "-D"], *([PROGRAMS["slurmd"], "-D", "-N", f"n{n}"] for n in range(NODES))]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = []
    try:
        for command in commands:
            running.append(subprocess.Popen(command, env=env, **quiet))
        deadline = time.monotonic() + 60
        while run(["sinfo", "-h", "-o", "%t %D"], env) != f"idle {NODES}":
            assert time.monotonic() < deadline, run(["scontrol", "show", "node"], env)
            time.sleep(0.5)
        yield env
    finally:
        subprocess.run(["scancel", "--full", "--signal=KILL", "--user", getuser()], env=env, timeout=30, **quiet)
        for process in reversed(running):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def run(command: list[str], env: dict[str, str]) -> str:
    """What a command prints, errors among it."""
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    return done.stdout.strip()
