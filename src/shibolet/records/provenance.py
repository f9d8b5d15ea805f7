"""With what a run was made: versions, platform, commit."""

import platform
import subprocess
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from shibolet.records.cores import usable_cores
from shibolet.records.documents.provenance import Start
from shibolet.records.files import hash_file, hash_json

PACKAGES = "shibolet torch transformers accelerate peft datasets numpy scipy soundfile soxr av".split()


def this_start(command: str, num_threads: int | None) -> Start:
    """This process, about to carry out a command."""
    return Start(
        command=command,
        num_threads=num_threads,
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        python=platform.python_version(),
        platform=platform.platform(),
        cpus=usable_cores(),
        packages=package_versions(),
        git=_git_commit(),
    )


def package_versions() -> dict[str, str | None]:
    """Of the packages that decide what comes out."""
    return {name: _version(name) for name in PACKAGES}


@cache
def versions() -> dict[str, str | None]:
    """What decides the bytes of a result: versions of packages and of the library that encodes, the kind of processor,
    and a hash of our own code.
    """
    import soundfile

    root = Path(__file__).parents[1]
    code = {str(path.relative_to(root)): hash_file(path) for path in sorted(root.rglob("*.py"))}
    return package_versions() | {
        "libsndfile": soundfile.__libsndfile_version__,
        "processor": platform.machine(),
        "the code of shibolet": hash_json(code)[:12],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the checkout that this file is tracked in, with `+` when it has changes; None outside of one."""
    here = Path(__file__)

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", *args], cwd=here.parent, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
