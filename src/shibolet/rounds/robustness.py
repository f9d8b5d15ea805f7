"""Dose curves in a round: baseline and result on copies of the test sets with noise, lower bit rates, lost packets."""

from collections.abc import Mapping
from pathlib import Path

from shibolet.compare.robustness import robustness
from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.doses import RobustnessConfig, chosen
from shibolet.records.candidate import Candidate
from shibolet.records.documents.robustness import Robustness
from shibolet.records.documents.timings import Work, read_times
from shibolet.records.files import hash_json
from shibolet.records.manifest import manifest_hash
from shibolet.records.utterance import Utterance
from shibolet.rounds.scorers import language_of
from shibolet.rounds.scoring import by_language, candidates_of, compared_with
from shibolet.rounds.shared import Round
from shibolet.speech.doses import Dose

STAGE = "robustness"


def do_robustness(current: Round) -> Robustness:
    """The curves of the recipe's `robustness`, or of its defaults; what was heard before it was cut off is kept."""
    from shibolet.evaluate.stage import NOT_OF_A_SET

    recipe, folder = current.recipe, current.folder
    config = recipe.robustness or RobustnessConfig()
    data = _data(current, config)
    candidates = candidates_of(current)
    inputs = {
        "models": [_identity(current, one) for one in candidates],
        "names": [one.named.model_dump(mode="json") for one in candidates],
        "data": {name: manifest_hash(own, whole=True) for name, own in data.items()},
        "language": recipe.language,
        "evaluate": recipe.evaluate.identity(NOT_OF_A_SET),
        "robustness": config.model_dump(mode="json"),
        **compared_with(current, Robustness.FORMAT),
    }
    stage = current.begin(STAGE, inputs)
    if not stage.done:
        num, audio_s = (times * len(config.doses) * len(candidates) for times in _size(data))
        current.tell(_cost(current, config, data))
        heard = {one.label: _hear(current, one, config, data) for one in candidates}
        _curves(current, config, candidates, heard).write(folder.robustness)
        current.finish(stage, Work(utterances=num, audio_s=round(audio_s, 3)))
    return Robustness.read(folder.robustness)


def _data(current: Round, config: RobustnessConfig) -> dict[str, list[Utterance]]:
    """By set in the recipe's language, the utterances that are heard at every dose."""
    own, _ = by_language(current)
    if not own:
        raise RecipeError(f"robustness: name one or more evaluate.sets in {current.recipe.language}")
    limit_s = current.recipe.evaluate.max_piece_s
    found = {
        source.name: chosen(current.read(source).utterances, config, limit_s)
        for source in current.sets
        if source.name in own
    }
    if empty := [name for name, utterances in found.items() if not utterances]:
        current.warn(f"robustness: left out, since no utterance is of {limit_s:g} s or less: {', '.join(empty)}")
    if not any(found.values()):
        raise DataError(f"robustness: no utterance of evaluate.sets is of {limit_s:g} s (evaluate.max_piece_s) or less")
    return {name: utterances for name, utterances in found.items() if utterances}


def _size(data: Mapping[str, list[Utterance]]) -> tuple[int, float]:
    """Utterances, and seconds of audio in them."""
    every = [utterance for utterances in data.values() for utterance in utterances]
    return len(every), sum(utterance.duration_s for utterance in every)


def _cost(current: Round, config: RobustnessConfig, data: Mapping[str, list[Utterance]]) -> str:
    """What is to be heard, and how long that takes at the speed of this round's own scores."""
    num, audio_s = _size(data)
    hours = 2 * len(config.doses) * audio_s / 3600
    said = f"robustness: {len(config.doses)} doses x {num:,} utterances x 2 models = {hours:.2f} h of audio to hear"
    path = current.folder.timings
    scored = [line for line in read_times(path) if line.stage.startswith("evaluate/")] if path.is_file() else []
    timed = [line for line in scored if line.is_whole and line.done.audio_s and line.seconds]
    if not timed:
        return f"{said}; how fast these models are is not known in this folder"
    speed = sum(line.done.audio_s for line in timed) / sum(line.seconds for line in timed)
    minutes = 60 * hours / speed
    return f"{said}, about {minutes:.1f} min at the {speed:.3g} audio seconds a second of this round's scores"


def _identity(current: Round, candidate: Candidate) -> str:
    """What a model is, by content; of one on a server what the server says."""
    if current.server(candidate.label):
        engine = current.transcriber(candidate.source.name, candidate.label, current.recipe.language)
        return engine.identity
    return current.identity(candidate.source.name)


def _hear(
    current: Round, candidate: Candidate, config: RobustnessConfig, data: Mapping[str, list[Utterance]]
) -> dict[Dose, list[Path]]:
    """Score one model on every copy of every set, or find that done; the folders by dose."""
    from shibolet.evaluate.stage import evaluate_set

    folders: dict[Dose, list[Path]] = {}
    sources = {source.name: source for source in current.sets}
    identity = _identity(current, candidate)
    num, _ = _size(data)
    with current.track(f"{candidate.title}, {len(config.doses)} doses") as progress:
        for before, dose in enumerate(config.doses):
            folders[dose] = [current.folder.path / STAGE / candidate.label / dose.name / name for name in data]
            heard = before * num
            for (name, utterances), out_dir in zip(data.items(), folders[dose], strict=True):
                language = language_of(current, sources[name])
                evaluate_set(
                    current.transcriber(candidate.source.name, candidate.label, language),
                    utterances,
                    set_name=name,
                    language=language,
                    config=current.recipe.evaluate,
                    out_dir=out_dir,
                    named=candidate.named,
                    identity=hash_json([identity, repr(dose)]),
                    change=dose,
                )
                progress(heard := heard + len(utterances), num * len(config.doses))
    return folders


def _curves(
    current: Round,
    config: RobustnessConfig,
    candidates: tuple[Candidate, Candidate],
    heard: Mapping[str, Mapping[Dose, list[Path]]],
) -> Robustness:
    from shibolet.evaluate.stage import read_rows

    rows = {
        dose: tuple([row for path in heard[one.label][dose] for row in read_rows(path)] for one in candidates)
        for dose in config.doses
    }
    return robustness(rows, (candidates[0].named, candidates[1].named), current.recipe.compare)
