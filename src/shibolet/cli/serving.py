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
        typer.Option(help="Where a client names none. Default: the language of the model's round."),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="0.0.0.0: other machines can connect.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free port.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar=KEY, metavar="KEY", help="A key that clients must send.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What clients call the model.")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Let this web page call the server; repeat.")
    ] = None,
    aligner: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Forced aligner, for word times and shorter cues.")
    ] = None,
    style: Style = None,
    context: Terms = None,
    loop_bias: Annotated[float, typer.Option(min=0, help="Write loops again with this bias, such as 4.")] = 0.0,
    batch: Annotated[int | None, typer.Option(min=1, help="The most pieces decoded at once.")] = None,
    max_upload_mib: Annotated[float, typer.Option(min=0.01, help="The largest request, in MiB.")] = 100.0,
    max_audio_s: Annotated[float, typer.Option(min=1, max=86400, help="The longest recording, in seconds.")] = 3600.0,
    max_requests: Annotated[int, typer.Option(min=1, help="The most requests at a time; others get status 503.")] = 64,
    upload_s: Annotated[float, typer.Option(min=1, help="The most seconds until a request is complete.")] = 60.0,
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
