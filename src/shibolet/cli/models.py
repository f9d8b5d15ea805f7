"""Commands for what a round has made, and for models and text on their own."""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from shibolet.cli.next_steps import advise, same
from shibolet.cli.options import (
    AsJson,
    FinishedRun,
    NewFolder,
    On,
    Style,
    Terms,
    answer,
    finished_round,
    language_told,
    quiet,
    say,
)
from shibolet.errors import EXIT_REJECT, RecipeError


def publish(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with a comparison.")],
    to: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="Else publish.to of the recipe.")] = None,
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the model family's; else publish.layout.")
    ] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Else publish.private.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Although the comparison does not keep the round.")] = False,
    upload: Annotated[bool, typer.Option(help="--no-upload: export, check and describe only.")] = True,
):
    """Export a kept round, run the code of its card, upload it; the same command goes on."""
    from shibolet.publish.config import REPOSITORY, PublishConfig
    from shibolet.rounds.publish import do_publish

    with finished_round(run_dir) as current:
        given = {"to": to, "layout": layout, "private": private}
        given = {key: value for key, value in given.items() if value is not None}
        settings = current.recipe.publish.model_dump() if current.recipe.publish else {}
        if "to" not in settings | given:
            raise RecipeError("publish: name a repository with --to org/name, or publish.to in the recipe")
        if to is not None and not re.fullmatch(REPOSITORY, to):
            raise RecipeError(f"--to {to}: write it as org/name")
        say(do_publish(current, PublishConfig(**settings | given), force=force, upload=upload))
    advise("write the recipe of the next round", "next", str(run_dir), "-o", "NEXT.yaml")


def export_adapter(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that has trained.")],
    out: NewFolder,
):
    """The adapters alone, for peft on the base; what was trained whole comes with them. train/final has them merged."""
    from shibolet.rounds.publish import export_adapter as export

    with finished_round(run_dir) as current:
        export(current, out)
    typer.echo(out)


def average(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; its dev split judges.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model goes to RUN/average/NAME/model.")],
    best: Annotated[
        int | None, typer.Option(min=2, metavar="K", help="The best checkpoints of this run by dev WER.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Repeat for several; with --alpha: the tuned one.")
    ] = None,
    soup: Annotated[
        Literal["uniform", "greedy"] | None,
        typer.Option(help="Mean of all (default), or each added while dev WER does not rise."),
    ] = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(metavar="A", help="Share of the tuned model, the rest is of its base: 0 to 1; repeat."),
    ] = None,
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="With --alpha; else models.base.")] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="SET", help="Score on these evaluate.sets too; with --alpha else other languages'."),
    ] = None,
    json_: AsJson = False,
):  # fmt: skip
    """Average checkpoints, models, or a model and its base, scored on dev. Ends with 40 if no alpha holds a limit."""
    from shibolet.rounds import averaging

    if (best is not None) + bool(model and not alpha) + bool(alpha) != 1:
        raise RecipeError("average takes one of --best K, --model MODEL twice or more, and --alpha A")
    if alpha and (soup or len(model or []) > 1):
        raise RecipeError("average --alpha: a base and one --model (else the run's own), and no --soup")
    if base and not alpha:
        raise RecipeError("average --base does nothing without --alpha")
    with finished_round(run_dir) as current:
        if alpha:
            current.recipe.require("average", "models")
            if not model:
                current.folder.verified("train")
            sources = averaging.models(
                current, [base or current.recipe.models.base, *(model or [str(current.folder.final.absolute())])]
            )
        else:
            sources = averaging.best_checkpoints(current, best) if best else averaging.models(current, model)
        sets = averaging.sets_between(current, on or []) if alpha else averaging.sets_named(current, on or [])
        how = averaging.Averaging(
            sources=sources, method="interpolation" if alpha else soup or "uniform", alphas=alpha or (), sets=sets
        )
        made = averaging.do_average(current, name, how)
    answer(json_, made)
    if made.chosen and not json_:
        where = same(str(run_dir / "recipe.yaml"), run_dir, None)
        model_dir = run_dir / "average" / name / "model"
        advise("compare it with the baseline", "compare", *where, "--candidate", str(model_dir))
    raise typer.Exit(0 if made.chosen else EXIT_REJECT)


def export_data(
    run_dir: FinishedRun,
    out: NewFolder,
    format_: Annotated[
        Literal["datasets", "lhotse", "nemo", "verdicts"],
        typer.Option("--format", help="What prepare kept, for these programs; or the audit's verdicts as Parquet."),
    ] = "datasets",
):
    """The audited, repaired data for other programs, or what the audit said of each utterance."""
    from shibolet.publish.data import export_data as export

    with finished_round(run_dir) as current:
        current.folder.verified("audit" if format_ == "verdicts" else "prepare")
        current.folder.intact("label")  # it names who wrote texts, where somebody did
        counts = export(current.folder, out, format_)
    say(f"{out}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Folder, Hub id or builtin:NAME, in any layout.")],
    out: NewFolder,
    layout: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="native: transformers' own; another of its family, such as legacy or ctranslate2."
        ),
    ],
    language: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Added to the layout's list of languages, if it has one.")
    ] = None,
):
    """Rewrite a model or its forced aligner in another layout of its family, complete."""
    from shibolet.model.family import convert as convert_model

    quiet()
    convert_model(source, out, layout, language or [])
    typer.echo(out)


def cut(
    source: Annotated[str, typer.Argument(metavar="IN", help="Folder, Hub id or builtin:NAME.")],
    out: NewFolder,
    decoder: Annotated[int | None, typer.Option(min=1, metavar="N", help="Decoder layers to keep; else all.")] = None,
    encoder: Annotated[int | None, typer.Option(min=1, metavar="N", help="Encoder layers to keep; else all.")] = None,
):
    """A smaller model: evenly spaced layers of a larger one, which it can learn from (models.teacher)."""
    from shibolet.model.cut import cut as cut_model

    quiet()
    made = cut_model(source, out, encoder=encoder, decoder=decoder)
    layers = [", ".join(map(str, kept)) for kept in (made.encoder_layers, made.decoder_layers)]
    size, before = (f"{num / 1e6:.4g} M" for num in (made.parameters, made.source_parameters))
    say(f"{out}: encoder layers {layers[0]}; decoder layers {layers[1]}; {size} of {before} weights")
    say("It has to be trained before it writes anything of use.")


def transcribe(
    files: Annotated[list[str], typer.Argument(metavar="FILES...", help="Audio files, folders of them, or patterns.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Folder, Hub id or builtin:NAME; a server's name for its model.")
    ] = None,
    format_: Annotated[
        Literal["txt", "json", "jsonl", "srt", "vtt"], typer.Option("--format", help="txt and jsonl: a line a piece.")
    ] = "txt",
    language: Annotated[
        str | None, typer.Option(help="Name or ISO code; else that of the round that trained the model.")
    ] = None,
    aligner: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A forced aligner: word times in json and subtitles.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A file for each recording, not standard output.")
    ] = None,
    beam_size: Annotated[int, typer.Option(min=1, help="1: greedy.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="Of beams: over 0, the higher the longer the text.")] = 1.0,
    style: Style = None,
    context: Terms = None,
    mbr_samples: Annotated[
        int | None, typer.Option(min=2, help="Draw so many texts, write the one of minimum Bayes risk.")
    ] = None,
    mbr_temperature: Annotated[float | None, typer.Option(help="Of these; else 0.7.")] = None,
    repeat_bias: Annotated[float, typer.Option(min=0, help="Against repetitions: off the logit of a fourth.")] = 0.0,
    loop_bias: Annotated[float, typer.Option(min=0, help="Write loops again with this repeat bias, as 4.")] = 0.0,
    batch: Annotated[int | None, typer.Option(min=1, help="Pieces decoded at once, at most.")] = None,
    max_piece_s: Annotated[float, typer.Option(min=1, max=30, help="Seconds of audio between two cuts.")] = 30.0,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A server that transcribes as OpenAI's does, such as vLLM's.")
    ] = None,
    server_language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Told to the server, as 'he'; else its model guesses.")
    ] = None,
    on: On = None,
):
    """What is said in recordings of any length. Ends with 3 when one of them could not be read."""
    from shibolet.cli.terminal import tell, track
    from shibolet.rounds.transcribe import find_recordings, open_engine, transcribe_files

    _require_engine(model, server, server_language, on)
    settings = _decoding(
        server, batch, beam_size, length_penalty, mbr_samples, mbr_temperature, repeat_bias, loop_bias, style
    )
    settings |= _told(context, server) if context is not None else {}
    language = _spoken(language, model, server, aligner)
    quiet()
    failed = transcribe_files(
        find_recordings(files),
        lambda: open_engine(model, server, language, server_language, on, **settings),
        language,
        format_,
        aligner=aligner,
        out_dir=out,
        max_piece_s=max_piece_s,
        tell=tell,
        track=track,
    )
    raise typer.Exit(3 if failed else 0)


def _spoken(language: str | None, model: str | None, server: str | None, aligner: str | None) -> str | None:
    """The language of the audio; a server's model may find it by itself, and an aligner may not."""
    if server is None:
        return language_told(language, model)
    if aligner is not None and language is None:
        raise RecipeError("transcribe: --aligner beside --server needs --language: it reads the words of one language")
    return language


def _require_engine(model: str | None, server: str | None, server_language: str | None, on: str | None) -> None:
    """RecipeError where nothing is named that transcribes, a server's language without one, or a cluster beside one."""
    if server is not None and on is not None:
        raise RecipeError("transcribe: --server transcribes by itself, and --on is for a model: leave one of them out")
    if model is None and server is None:
        raise RecipeError("transcribe needs --model, or --server with a model of its own")
    if server_language is not None and server is None:
        raise RecipeError("--server-language is told to a server, and there is no --server; --language is the model's")


def _decoding(
    server: str | None,
    batch: int | None,
    beam_size: int,
    length_penalty: float,
    mbr_samples: int | None,
    mbr_temperature: float | None,
    repeat_bias: float,
    loop_bias: float,
    style: str | None,
) -> dict[str, int | float | str | None]:
    """Settings of a transcriber; RecipeError for options that would do nothing together."""
    if server is not None and (beam_size > 1 or batch is not None or mbr_samples or repeat_bias or loop_bias or style):
        raise RecipeError(
            "--beam-size, --mbr-samples, --repeat-bias, --loop-bias, --batch and --style are for a model on this "
            "machine: a server decides on its own"
        )
    if length_penalty != 1.0 and beam_size == 1:
        raise RecipeError("--length-penalty does nothing without --beam-size")
    if beam_size > 1 and (mbr_samples or repeat_bias):
        raise RecipeError("--mbr-samples and --repeat-bias do nothing with beams; leave out --beam-size")
    if mbr_temperature is not None and (mbr_samples is None or mbr_temperature <= 0):
        raise RecipeError("--mbr-temperature goes with --mbr-samples, and is over 0")
    given = {} if mbr_temperature is None else {"mbr_temperature": mbr_temperature}
    return given | ({"style": style} if style else {}) | {
        "batch_utterances": batch, "beam_size": beam_size, "length_penalty": length_penalty,
        "mbr_samples": mbr_samples, "repeat_bias": repeat_bias, "loop_bias": loop_bias,
    }  # fmt: skip


def _told(context: Path, server: str | None) -> dict[str, str]:
    """The terms of a file as a setting of a transcriber."""
    from shibolet.speech.text.terms import as_context, read_terms

    if server is not None:
        raise RecipeError("--context is for a model on this machine: a server is told no names")
    return {"context": as_context(read_terms(context))}


def normalize(
    as_: Annotated[
        Literal["target", "leaderboard"], typer.Option("--as", help="What a model writes, or what scores compare.")
    ],
    language: Annotated[str, typer.Option(help="Name or ISO code.")] = "Hebrew",
):
    """Normalise the lines of standard input."""
    from shibolet.speech.text import normalise

    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise RecipeError(f"line {number} of standard input is not UTF-8: {error.reason}") from error
        sys.stdout.buffer.write(f"{normalise(text.rstrip(chr(10)), as_, language)}\n".encode())
