"""Words where nobody speaks the recipe's language, in a round: each model that is evaluated hears the same clips."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from shibolet.evaluate.config import ServersConfig
from shibolet.records.candidate import Candidate, Model
from shibolet.records.documents.non_speech import NonSpeech
from shibolet.records.documents.timings import Work
from shibolet.records.files import hash_json
from shibolet.records.manifest import manifest_hash
from shibolet.records.utterance import Utterance
from shibolet.rounds.scorers import language_of
from shibolet.rounds.shared import Round
from shibolet.speech.text import get_language


def non_speech_stage(label: str) -> str:
    return f"non-speech/{label}"


def do_non_speech(current: Round, candidate: Candidate) -> NonSpeech | None:
    """What a model writes in the clips of `evaluate.non_speech`; None where that is off, and of other hypotheses."""
    from shibolet.evaluate.non_speech import hear_non_speech, made_clips
    from shibolet.evaluate.stage import NOT_OF_A_SET

    recipe, folder, named = current.recipe, current.folder, candidate.named
    config = recipe.evaluate.non_speech
    if config is None or not isinstance(candidate.source, Model):
        return None
    name, model = non_speech_stage(named.label), candidate.source.name
    given, foreign = _recorded(current), _foreign(current)
    is_served = current.server(named.label) is not None
    context = _context(current)
    identity = current.transcriber(model, named.label, recipe.language).identity if is_served else None
    identity = identity or current.identity(model)
    inputs = {
        "format": NonSpeech.FORMAT,
        "model": current.identity(model),
        "identity": identity,
        "title": named.title,
        "non_speech": config.model_dump(mode="json", exclude={"sources"}),
        "data": manifest_hash([*given, *foreign], whole=True),
        "context": context,
        "language": recipe.language,
        "normaliser": get_language(recipe.language).scoring_version,
        "evaluate": recipe.evaluate.identity(NOT_OF_A_SET | {"context"}),
    }
    stage = current.begin(name, inputs)
    path = folder.non_speech(named.label)
    if not stage.done:
        with TemporaryDirectory() as scratch, current.track(f"{named.title} where nobody speaks", "clips") as progress:
            clips = [*made_clips(config, Path(scratch)), *given, *foreign]
            hear_non_speech(
                lambda told: current.transcriber(model, named.label, recipe.language, told),
                clips,
                is_speech=list(dict.fromkeys(clip.source for clip in foreign)),
                context=context,
                language=recipe.language,
                config=recipe.evaluate_in(recipe.language),
                named=named,
                identity=identity,
                on_progress=progress,
            ).write(path)
        passes = 2 if context else 1
        audio_s = passes * sum(clip.duration_s for clip in clips)
        current.finish(stage, Work(utterances=passes * len(clips), audio_s=round(audio_s, 3)))
    return NonSpeech.read(path)


def read_non_speech(current: Round, labels: Sequence[str]) -> tuple[NonSpeech, NonSpeech] | None:
    """What baseline and candidate wrote; None where one of them was not asked."""
    if current.recipe.evaluate.non_speech is None:
        return None
    if not all(current.folder.finished(non_speech_stage(label)) for label in labels):
        return None
    first, second = (NonSpeech.read(current.folder.non_speech(label)) for label in labels)
    return first, second


def _recorded(current: Round) -> list[Utterance]:
    """Clips of the recipe's recordings without speech; the name of each source is a kind."""
    sources = current.recipe.evaluate.non_speech.sources
    return [
        replace(one, id=f"{source.name}/{one.id}", source=source.name, text="")
        for source in sources
        for one in current.read(source).utterances
    ]


def _foreign(current: Round) -> list[Utterance]:
    """Some utterances of each set in another language, always the same."""
    num, own = current.recipe.evaluate.non_speech.foreign_clips, get_language(current.recipe.language)
    longest_s = current.recipe.evaluate.max_piece_s
    found = []
    for source in current.sets if num else ():
        if get_language(language_of(current, source)) is not own:
            short = [one for one in current.read(source).utterances if one.duration_s <= longest_s]
            drawn = sorted(short, key=lambda one: hash_json(one.id))[:num]
            found += [replace(u, id=f"speech: {source.name}/{u.id}", source=f"speech: {source.name}") for u in drawn]
    return found


def _context(current: Round) -> tuple[str, ...]:
    """The words that the second pass is told: those of `evaluate.context`, else some that the sets have once.

    None where a server has one of the two models: it cannot be told, and what both wrote is compared.
    """
    evaluate, own = current.recipe.evaluate, get_language(current.recipe.language)
    if evaluate.servers != ServersConfig():
        return ()
    if evaluate.context is not None:
        return evaluate.context.terms()
    if not evaluate.non_speech.num_terms:
        return ()
    from collections import Counter

    sets = [source for source in current.sets if get_language(language_of(current, source)) is own]
    texts = (own.to_scoring(one.text) for source in sets for one in current.read(source).utterances)
    times = Counter(word for text in texts for word in text.split())
    rare = sorted((word for word in times if word.isalpha()), key=lambda word: (times[word], hash_json(word)))
    return tuple(sorted(rare[: evaluate.non_speech.num_terms]))
