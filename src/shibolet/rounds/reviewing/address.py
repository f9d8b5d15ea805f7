"""Where a review is served: a port of this machine and a token, each time the same, so that open pages find it."""

import os
import secrets
import socket
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from shibolet.records.files import cache_dir, hash_json, make_folder, write_json
from shibolet.records.reading import read_cached

HOST = "127.0.0.1"


class Address(BaseModel):
    """Of one run folder's review."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(ge=1, le=65535)
    token: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$")  # 256 bits: who knows it may read and answer

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/{self.token}/"


def address_of(run_dir: Path, port: int | None = None) -> Address:
    """The address that this run folder had before, as far as its port is free; else a new one.

    It is kept in a folder that only this account reads.
    """
    folder = cache_dir() / "review"
    make_folder(folder)
    os.chmod(folder, 0o700)
    path = folder / f"{hash_json(str(run_dir.resolve()))}.json"
    before = read_cached(path, Address)
    token = before.token if before else secrets.token_urlsafe(32)
    wanted = port or (before.port if before and _is_free(before.port) else _any_port())
    found = Address(port=wanted, token=token)
    if found != before:
        write_json(path, found.model_dump())
        os.chmod(path, 0o600)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
