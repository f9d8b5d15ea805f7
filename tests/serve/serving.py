"""A server in this process, over an engine that needs no model."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import httpx
import numpy as np
import uvicorn

from shibolet.errors import RecipeError
from shibolet.listen.decoders import Decoders
from shibolet.listen.engine import Engine, Written
from shibolet.serve.app import Served, Service
from shibolet.serve.config import Limits
from shibolet.serve.desk import Desk, Told
from shibolet.serve.run import listen_at
from shibolet.speech.audio import SAMPLE_RATE_HZ


class Lengths(Engine):
    """Writes how many hundredths of a second a clip has, and in which language; waits until it may."""

    identity, clips_at_once = "lengths", 4

    def __init__(self, told: Told, server: "Running") -> None:
        if told.context == "too long":
            raise RecipeError("the context is too long")
        self._told, self._server = told, server

    def write(self, clips: Sequence[np.ndarray]) -> list[Written]:
        self._server.writes.set()
        assert self._server.may_write.wait(30)
        texts = [f"{self._told.language} {len(clip) * 100 // SAMPLE_RATE_HZ}{self._told.context}" for clip in clips]
        if any(len(clip) == 1234 for clip in clips):
            raise RuntimeError("a defect")
        self._server.batches.append(texts)
        return [Written(text, "end") for text in texts]


@dataclass
class Running:
    """A server that answers."""

    port: int
    told: list[str] = field(default_factory=list)  # its lines
    batches: list[list[str]] = field(default_factory=list)  # that the engine wrote
    may_write: threading.Event = field(default_factory=threading.Event)
    writes: threading.Event = field(default_factory=threading.Event)  # it has begun
    client: httpx.Client = field(default_factory=partial(httpx.Client, timeout=30, trust_env=False))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, what: str, value: float) -> None:
        """Until its health says so."""
        end = time.monotonic() + 20
        while (found := self.client.get(f"{self.address}/health").json()[what]) != value:
            assert time.monotonic() < end, f"{what} is {found}"
            time.sleep(0.01)


@contextmanager
def running(limits: Limits = Limits(), desk_s: float = 7200.0, **served: object) -> Iterator[Running]:  # noqa: B008
    """A server of the model 'org/asr' in Hebrew."""
    listening = listen_at("127.0.0.1", 0)
    one = Running(listening.getsockname()[1])
    one.may_write.set()
    usual = Told("Hebrew")
    desk = Desk(lambda told: Lengths(told, one), usual, max_waiting_s=desk_s)
    desk.start()
    decoders = Decoders(0)
    service = Service(Served(name="org/asr", usual=usual, **served), limits, desk, decoders, one.told.append)
    server = uvicorn.Server(uvicorn.Config(service.app(), http="h11", lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield one
    finally:
        one.may_write.set()
        server.should_exit = server.force_exit = True
        thread.join(10)
        decoders.close()
