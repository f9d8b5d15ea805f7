"""Commands for what a round has made, and for models and text on their own."""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from shibolet.cli.next_steps import EXPORTED, advise, after_converting, after_transcribing, of_run
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
    to: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Repository. Default: publish.to of the recipe.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="Layout of the model. Default: publish.layout.")
    ] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Default: publish.private.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Publish although the round was not kept.")] = False,
    upload: Annotated[bool, typer.Option(help="--no-upload: export, check and describe only.")] = True,
):
    """Export a kept round, run the code of its model card, and upload it. The same command continues."""
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
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with a finished training.")],
    out: NewFolder,
):
    """Export the adapters for peft, with the parts that were trained whole. train/final has them merged."""
    from shibolet.rounds.publish import export_adapter as export

    with finished_round(run_dir) as current:
        export(current, out)
    typer.echo(out)
    advise(f"run the code in {out / 'README.md'}, which opens the base with the adapters")


def average(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; its dev split judges.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model goes to RUN/average/NAME/model.")],
    best: Annotated[
        int | None, typer.Option(min=2, metavar="K", help="Average the K best checkpoints of this run by dev WER.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Average this model; repeat. With --alpha: the tuned one.")
    ] = None,
    soup: Annotated[
        Literal["uniform", "greedy"] | None,
        typer.Option(metavar="NAME", help="uniform: all models. greedy: add models while dev WER does not rise."),
    ] = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(metavar="A", help="Weight of the tuned model, 0 to 1; its base has the rest. Repeat."),
    ] = None,
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="Base for --alpha. Default: models.base.")] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="SET", help="Also score on this set; repeat. With --alpha: the sets in other languages."),
    ] = None,
    json_: AsJson = False,
):  # fmt: skip
    """Average checkpoints, models, or a model and its base. Ends with 40 if no alpha holds a limit."""
    from shibolet.rounds import averaging

    if (best is not None) + bool(model and not alpha) + bool(alpha) != 1:
        raise RecipeError("average takes one of --best K, --model MODEL twice or more, and --alpha A")
    if alpha and (soup or len(model or []) > 1):
        raise RecipeError("average --alpha: a base and one --model (else the run's own), and no --soup")
    if base and not alpha:
        raise RecipeError("average: --base has no effect without --alpha")
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
        model_dir = run_dir / "average" / name / "model"
        advise("compare it with the baseline", "compare", *of_run(run_dir), "--candidate", str(model_dir))
    raise typer.Exit(0 if made.chosen else EXIT_REJECT)


def export_data(
    run_dir: FinishedRun,
    out: NewFolder,
    format_: Annotated[
        Literal["datasets", "lhotse", "nemo", "verdicts"],
        typer.Option(
            "--format", metavar="NAME",
            help="datasets, lhotse or nemo: the prepared data. verdicts: the audit, as Parquet.",
        ),
    ] = "datasets",
):  # fmt: skip
    """Export the prepared data for other programs, or the verdicts of the audit."""
    from shibolet.publish.data import export_data as export

    with finished_round(run_dir) as current:
        current.folder.verified("audit" if format_ == "verdicts" else "prepare")
        current.folder.intact("label")  # it names who wrote texts, where somebody did
        counts = export(current.folder, out, format_)
    say(f"{out}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    advise(EXPORTED[format_].format(out=out))


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Folder, Hub id or builtin:NAME, in any layout.")],
    out: NewFolder,
    layout: Annotated[
        str,
        typer.Option(metavar="NAME", help="native: transformers; or another layout of the family, such as legacy."),
    ],
    language: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Add this language to the list in the layout, if it has one."),
    ] = None,
):
    """Convert a model or its forced aligner to another layout of its family."""
    from shibolet.model.family import convert as convert_model
    from shibolet.model.outline import outline_named

    quiet()
    convert_model(source, out, layout, language or [])
    typer.echo(out)
    after_converting(out, outline_named(source).exports.get(layout))


def cut(
    source: Annotated[str, typer.Argument(metavar="IN", help="Folder, Hub id or builtin:NAME.")],
    out: NewFolder,
    decoder: Annotated[int | None, typer.Option(min=1, metavar="N", help="Decoder layers. Default: all.")] = None,
    encoder: Annotated[int | None, typer.Option(min=1, metavar="N", help="Encoder layers. Default: all.")] = None,
):
    """Make a smaller model from evenly spaced layers. It can learn from the larger one (models.teacher)."""
    from shibolet.model.cut import cut as cut_model

    quiet()
    made = cut_model(source, out, encoder=encoder, decoder=decoder)
    layers = [", ".join(map(str, kept)) for kept in (made.encoder_layers, made.decoder_layers)]
    size, before = (f"{num / 1e6:.4g} M" for num in (made.parameters, made.source_parameters))
    say(f"{out}: encoder layers {layers[0]}; decoder layers {layers[1]}; {size} of {before} weights")
    say("It has to be trained before it writes anything of use.")


def transcribe(
    files: Annotated[
        list[str], typer.Argument(metavar="FILES...", help="Audio files, folders or patterns, also as s3:// URLs.")
    ],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Folder, Hub id or builtin:NAME; with --server: its name there.")
    ] = None,
    format_: Annotated[
        Literal["txt", "json", "jsonl", "srt", "vtt"],
        typer.Option("--format", metavar="NAME", help="txt or jsonl: a line for each piece. json, srt or vtt."),
    ] = "txt",
    language: Annotated[
        str | None, typer.Option(help="Name or ISO code. Default: the language of the model's round.")
    ] = None,
    aligner: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Forced aligner, for word times in json and subtitles.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a file for each recording into DIR.")] = None,
    beam_size: Annotated[int, typer.Option(min=1, help="Number of beams; 1 is greedy decoding.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="For beams; a higher value prefers longer texts.")] = 1.0,
    style: Style = None,
    context: Terms = None,
    mbr_samples: Annotated[
        int | None, typer.Option(min=2, help="Draw N texts and write the one with minimum Bayes risk.")
    ] = None,
    mbr_temperature: Annotated[float | None, typer.Option(help="Temperature of the samples. Default: 0.7.")] = None,
    repeat_bias: Annotated[float, typer.Option(min=0, help="Lower the logit of a fourth repetition.")] = 0.0,
    loop_bias: Annotated[float, typer.Option(min=0, help="Write loops again with this bias, such as 4.")] = 0.0,
    batch: Annotated[int | None, typer.Option(min=1, help="The most pieces decoded at once.")] = None,
    max_piece_s: Annotated[float, typer.Option(min=1, max=30, help="The longest piece, in seconds.")] = 30.0,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A server with OpenAI's transcription API, such as vLLM.")
    ] = None,
    server_language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Language for the server, such as 'he'. Default: it detects.")
    ] = None,
    on: On = None,
):
    """Transcribe recordings of any length. Ends with 3 if one of them could not be read."""
    from shibolet.cli.terminal import tell, track, warn
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
        aligner=aligner, out_dir=out, max_piece_s=max_piece_s, tell=tell, warn=warn, track=track,
    )  # fmt: skip
    if server is None and not failed:
        after_transcribing(model, {"--language": language, "--style": style, "--context": context})
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
        raise RecipeError("--server-language needs --server; for a model on this machine use --language")


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
            "machine; a server has its own settings"
        )
    if length_penalty != 1.0 and beam_size == 1:
        raise RecipeError("--length-penalty has no effect without --beam-size")
    if beam_size > 1 and (mbr_samples or repeat_bias):
        raise RecipeError("--mbr-samples and --repeat-bias have no effect with beams; leave out --beam-size")
    if mbr_temperature is not None and (mbr_samples is None or mbr_temperature <= 0):
        raise RecipeError("--mbr-temperature needs --mbr-samples, and must be over 0")
    given = {} if mbr_temperature is None else {"mbr_temperature": mbr_temperature}
    return given | ({"style": style} if style else {}) | {
        "batch_utterances": batch, "beam_size": beam_size, "length_penalty": length_penalty,
        "mbr_samples": mbr_samples, "repeat_bias": repeat_bias, "loop_bias": loop_bias,
    }  # fmt: skip


def _told(context: Path, server: str | None) -> dict[str, str]:
    """The terms of a file as a setting of a transcriber."""
    from shibolet.speech.text.terms import as_context, read_terms

    if server is not None:
        raise RecipeError("--context is for a model on this machine; a server does not take names")
    return {"context": as_context(read_terms(context))}


def normalize(
    as_: Annotated[
        Literal["target", "leaderboard"],
        typer.Option("--as", metavar="NAME", help="target: what a model writes. leaderboard: what scores compare."),
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
