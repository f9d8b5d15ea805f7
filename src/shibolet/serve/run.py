"""Starting the server: an address, a model on the best device of this machine, workers that decode uploads."""

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import uvicorn

from shibolet.errors import RecipeError
from shibolet.listen.decoders import Decoders, num_decoders
from shibolet.listen.http_client import check_key
from shibolet.listen.lazy import LazyListener
from shibolet.listen.open import listener_identity, open_aligner, open_transcriber
from shibolet.listen.transcribe import Transcriber
from shibolet.records.runs import run_of
from shibolet.serve.app import Served, Service
from shibolet.serve.config import Limits
from shibolet.serve.desk import MAX_ENGINES, Desk, Told

LEAVE_S = 10  # for requests in hand, after a signal to end
MORE_CONNECTIONS = 64  # than requests: some ask for health, some are being refused


def served_name(model: str) -> str:
    """What clients call a model: as it was given, or of a folder the last of its path, or the run that trained it."""
    path = Path(model)
    if (run := run_of(path)) is not None:
        return run.path.resolve().name
    return path.resolve().name if path.is_dir() else model


def serve(
    model: str,
    served: Served,
    limits: Limits,
    *,
    host: str,
    port: int,
    aligner: str | None,
    tell: Callable[[str], None],
    **settings,
) -> None:
    """Answer requests until a signal ends it; `settings` are those of a `Transcriber`."""
    check_key("the API key", served.key)
    with listen_at(host, port) as listening:
        decoders = Decoders(num_decoders(None))
        decoders.start()
        open_it = aligner and partial(open_aligner, aligner, served.usual.language, device=None)
        desk = Desk(
            partial(_engine, model, settings), served.usual, max_waiting_s=limits.max_waiting_s,
            aligner=LazyListener(listener_identity(aligner), open_it) if aligner else None,
        )  # fmt: skip
        desk.start()
        config = uvicorn.Config(
            Service(served, limits, desk, decoders, tell).app(), http="h11", loop="asyncio", lifespan="off",
            log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=LEAVE_S,
            limit_concurrency=limits.max_requests + MORE_CONNECTIONS,
        )  # fmt: skip
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        tell(f"{served.name} answers at {address}/v1/audio/transcriptions; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
        decoders.close()


def listen_at(host: str, port: int) -> socket.socket:
    """A socket that listens there; RecipeError where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise RecipeError(
            f"serve: nothing can listen at {host}, port {port} ({error.strerror or error}); "
            "give another --port or --host"
        ) from error
    # asyncio does it only for sockets that name their protocol; without it each answer waits 40 ms for a packet.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _engine(model: str, settings: dict, told: Told) -> Transcriber:
    return open_transcriber(model, told.language, context=told.context, share=1 / MAX_ENGINES, **settings)
