"""The command that serves a model to other programs."""

import os
from importlib.util import find_spec
from typing import Annotated

import typer

from shibolet.cli.options import Style, Terms, language_told, quiet
from shibolet.errors import RecipeError

LOCAL = ("127.0.0.1", "::1", "localhost")
KEY = "SHIBOLET_API_KEY"


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder, Hub id or builtin:NAME.")],
    language: Annotated[
        str | None,
        typer.Option(help="Where a client names none; else that of the round that trained the model."),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="0.0.0.0: reached from other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    api_key: Annotated[str | None, typer.Option(envvar=KEY, metavar="KEY", help="Clients have to send it.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Of the model, as clients say it.")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A page that may call from a browser; repeat for several.")
    ] = None,
    aligner: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A forced aligner: times of words, shorter cues.")
    ] = None,
    style: Style = None,
    context: Terms = None,
    loop_bias: Annotated[float, typer.Option(min=0, help="Write loops again with this repeat bias, as 4.")] = 0.0,
    batch: Annotated[int | None, typer.Option(min=1, help="Pieces decoded at once, at most.")] = None,
    max_upload_mib: Annotated[float, typer.Option(min=0.01, help="Of a request.")] = 100.0,
    max_audio_s: Annotated[float, typer.Option(min=1, max=86400, help="Of a recording.")] = 3600.0,
    max_requests: Annotated[int, typer.Option(min=1, help="In hand at a time; more are told to come again.")] = 64,
    upload_s: Annotated[float, typer.Option(min=1, help="For a request to come in whole.")] = 60.0,
):
    """Transcribe for other programs, over HTTP as OpenAI's API does."""
    if missing := [one for one in ("starlette", "uvicorn", "python_multipart") if find_spec(one) is None]:
        raise RecipeError(f"serve needs packages more ({', '.join(missing)}): pip install 'shibolet[serve]'")
    key = os.environ.get(KEY) if api_key is None else api_key  # an empty variable is none to the parser of options
    if key is not None and not key.strip():
        raise RecipeError(f"serve: --api-key or {KEY} is empty; give a key, or leave the option out and {KEY} unset")
    from shibolet.cli.terminal import tell, warn
    from shibolet.serve.app import Served
    from shibolet.serve.config import Limits
    from shibolet.serve.desk import Told
    from shibolet.serve.run import serve as run
    from shibolet.serve.run import served_name
    from shibolet.speech.text import get_language
    from shibolet.speech.text.terms import as_context, read_terms

    quiet()
    spoken = get_language(language_told(language, model)).name
    if api_key is None and host not in LOCAL:
        warn(f"anybody who reaches {host} may use this server; --api-key KEY asks for one")
    run(
        model,
        Served(
            name=name or served_name(model), usual=Told(spoken, as_context(read_terms(context)) if context else ""),
            aligned=spoken if aligner else None, key=api_key, origins=tuple(allow_origin or ()),
        ),
        Limits(
            max_upload_mib=max_upload_mib, max_audio_s=max_audio_s, max_requests=max_requests, upload_s=upload_s,
            max_waiting_s=2 * max_audio_s,
        ),
        host=host, port=port, aligner=aligner, tell=tell, style=style or "", loop_bias=loop_bias,
        batch_utterances=batch,
    )  # fmt: skip
