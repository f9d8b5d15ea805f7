"""Stage `prepare-replay/<source>`: what is replayed in training, made ready source by source and never audited.

Only what cannot be decoded, has no words or has an impossible length is dropped; nothing is held out.
"""

from typing import Any

from shibolet.errors import DataError
from shibolet.recipe import Recipe
from shibolet.records.documents.prepared import Prepared
from shibolet.records.documents.timings import Work
from shibolet.records.runpaths import RunPaths
from shibolet.rounds.shared import Round, named_apart
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language
from shibolet.train.config import Replay, ReplaySource

KIND = "prepare-replay"
_OF_A_SPLIT = {"seed", "dev_frac", "max_dev_utterances", "unheard", "drop_low_quality"}  # nothing is split or heard


def do_prepare_replay(current: Round) -> list[Prepared]:
    """What is left of each source of `data.replay`; sources that the recipe does not replay any more are put aside.

    DataError where one has audio of the dev split, which could not judge the training then.
    """
    sources, folder = current.recipe.data.replayed, current.folder
    stale = set(folder.replays()) - {_stage(source) for source in sources}
    current.retire(*sorted(stale), why="the recipe does not replay it")
    made = [_prepare(current, source) for source in sources]
    if sources:
        _require_unseen_dev(current)
    return made


def _require_unseen_dev(current: Round) -> None:
    from shibolet.evaluate.overlap import MAX_IDS, replayed_of_dev

    if (found := replayed_of_dev(current.folder.prepared)) is None:
        current.tell("replay: not compared with the dev split, since a part of it was prepared without hashes")
    elif found:
        more = ", ..." if len(found) > MAX_IDS else ""
        raise DataError(
            f"data.replay has the audio of {len(found):,} dev utterances ({', '.join(found[:MAX_IDS])}{more}), and dev "
            "cannot judge a training that hears it; leave that audio out of the replayed sources"
        )


def _prepare(current: Round, source: DataSource) -> Prepared:
    from shibolet.prepare.stage import SUMMARY, run_prepare
    from shibolet.speech.read import require_script

    recipe, language = current.recipe, _language(current.recipe, source)
    data = current.read(source)
    require_script(data.utterances, language, source.name)
    data = named_apart(data, source.name)
    config = recipe.prepare.model_copy(update={"unheard": "keep", "drop_low_quality": True})
    inputs = {
        "format": Prepared.FORMAT,
        "data": data.digest,
        "prepare": config.model_dump(mode="json", exclude=_OF_A_SPLIT),
        "language": language,
        "targets": get_language(language).target_version,
    }
    stage = current.begin(_stage(source), inputs)
    out_dir = current.folder.replay(source.name)
    if not stage.done:
        preparing = current.preparing(data.utterances)
        with current.track(f"prepare {source.name}, replayed") as progress, preparing as (decoders, executor):
            # Nothing is drawn here, and the summary names its seed: with the recipe's no two seeds had the same files.
            run_prepare(
                data.utterances, {}, config=config, language=language, seed=0, out_dir=out_dir,
                unread=data.ledger, on_progress=progress, decoders=decoders, executor=executor, holds_out=False,
            )  # fmt: skip
        made = Prepared.read(out_dir / SUMMARY)
        audio_s = round(3600 * made.hours.given, 3)
        current.finish(stage, Work(utterances=made.utterances.given, audio_s=audio_s, train=made.train.utterances))
    return Prepared.read(out_dir / SUMMARY)


def replay_of(recipe: Recipe, folder: RunPaths) -> Replay | None:
    """What a training replays, for its job; None: nothing."""
    if not recipe.data.replayed:
        return None
    sources = tuple(
        ReplaySource(
            prepared_dir=folder.replay(source.name), language=_language(recipe, source), style=source.style or ""
        )
        for source in recipe.data.replayed
    )
    return Replay(share=recipe.replay_share, sources=sources)


def replay_inputs(current: Round) -> dict[str, Any]:
    """What is replayed, among the inputs of a stage that trains; nothing where nothing is."""
    if not (replay := replay_of(current.recipe, current.folder)):
        return {}
    sources = [
        [source.name, current.folder.verified(_stage(source)), one.language, one.style]
        for source, one in zip(current.recipe.data.replayed, replay.sources, strict=True)
    ]
    return {"replay": {"share": replay.share, "sources": sources}}


def replay_reads(current: Round) -> tuple[str, ...]:
    """Stages whose files a stage that trains reads beside `prepare`."""
    return tuple(_stage(source) for source in current.recipe.data.replayed)


def _stage(source: DataSource) -> str:
    return f"{KIND}/{source.name}"


def _language(recipe: Recipe, source: DataSource) -> str:
    return get_language(source.language or recipe.language).name
