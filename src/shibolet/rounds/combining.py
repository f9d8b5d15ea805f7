"""Hypotheses of several systems put to a vote word by word, on a recipe's sets or on one manifest."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.imported import HypothesisFile, read_hypotheses
from shibolet.evaluate.stage import HYPOTHESES
from shibolet.records.candidate import Candidate, Hypotheses
from shibolet.records.documents.combined import Combined, CombinedSet
from shibolet.records.documents.scores import Scores
from shibolet.records.files import cache_dir, make_folder, write_jsonl
from shibolet.records.hypotheses import read_hypothesis_lines
from shibolet.records.manifest import write_manifest
from shibolet.records.utterance import Utterance
from shibolet.rounds.scorers import language_of
from shibolet.rounds.shared import Round, Tell
from shibolet.scoring.rover import Vote, transcript, vote
from shibolet.speech.sources import manifest_at
from shibolet.speech.text import Language, get_language

Texts = Mapping[str, str]  # hypothesis by utterance id
Sure = Mapping[str, Sequence[float]]  # confidences of its words


@dataclass(frozen=True, kw_only=True, slots=True)
class Ballot:
    """How a vote is counted."""

    alpha: float = 1.0
    null_confidence: float = 0.0

    def __post_init__(self) -> None:
        for name in ("alpha", "null_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"combine: {name} is from 0 to 1, not {getattr(self, name):g}")
        if self.null_confidence and self.alpha == 1:
            raise RecipeError("combine: null_confidence has no effect if alpha is 1; give an alpha below 1")

    def require(self, systems: Sequence[str]) -> None:
        """RecipeError where these systems cannot be put to a vote."""
        if len(systems) < 2:
            raise RecipeError("combine: name two systems or more, each with --system")
        if len(systems) == 2 and self.alpha == 1:
            raise RecipeError(
                "combine: of two systems the first wins every tie, so nothing would change; name a third, or give an "
                "--alpha below 1 where they have confidences"
            )


@dataclass(frozen=True, slots=True)
class _System:
    """What one system has, by set."""

    label: str
    texts: dict[str, Texts] = field(default_factory=dict)
    sure: dict[str, Sure] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """A line of the file, fields in its order."""

    id: str
    set: str
    hypothesis: str
    agreement: float | None  # mean share of systems behind each word, or none, that won


def combine_sets(current: Round, systems: Sequence[Candidate | str], ballot: Ballot, out: Path) -> Combined:
    """The vote on every set that a system has, written to `out` with the set in each line.

    A system is a label that `evaluate` has scored in the run folder, or files; the first named wins at a tie.
    """
    ballot.require([_label(system) for system in systems])
    read = {source.name: current.read(source).utterances for source in current.sets}
    languages = {source.name: get_language(language_of(current, source)) for source in current.sets}
    found = [
        _scored(current, system) if isinstance(system, str) else _imported(system, read, languages, current.tell)
        for system in systems
    ]
    return _combine(found, read, languages, ballot, out)[0]


def combine_manifest(
    manifest: str | Path,
    language: str,
    systems: Sequence[Candidate],
    ballot: Ballot,
    out: Path,
    tell: Tell,
    transcripts: Path | None = None,
) -> Combined:
    """The vote on the utterances of a manifest, path or URL; `transcripts` is one with what won as their text."""
    from shibolet.speech.read import read_source

    ballot.require([system.label for system in systems])
    source, spoken = manifest_at(manifest), get_language(language)
    name, (utterances, _) = source.name, read_source(source, cache_dir(), language=language)
    read, languages = {name: utterances}, {name: spoken}
    found = [_imported(system, read, languages, tell) for system in systems]
    combined, lines = _combine(found, read, languages, ballot, out)
    if transcripts:
        heard = {line.id: line.hypothesis for line in lines}
        make_folder(transcripts.parent)
        kept = [replace(one, text=heard[one.id], timed_text=None) for one in utterances if heard.get(one.id)]
        write_manifest(transcripts, kept)
        if empty := sum(not text for text in heard.values()):
            tell(f"{transcripts}: {empty:,} utterances in which the vote found no word are not in it")
    return combined


def _label(system: Candidate | str) -> str:
    return system if isinstance(system, str) else system.label


def _scored(current: Round, label: str) -> _System:
    """What was heard under a label in the run folder; what failed there is no vote for silence.

    DataError where a set is another one since.
    """
    system, folder = _System(label), current.folder
    for source in current.sets:
        name = source.name
        if folder.finished(stage := f"evaluate/{label}/{name}"):
            folder.verified(stage)
            now = {"data": current.read(source).digest, "language": language_of(current, source)}
            if not now.items() <= folder.inputs(stage).items():
                raise DataError(
                    f"combine: '{label}' was scored on set '{name}' as it was before its utterances or its language "
                    "changed; 'shibolet evaluate' scores it anew"
                )
            failed = {failure.id for failure in Scores.read(folder.scores(label, name)).failures}
            lines = read_hypothesis_lines(folder.evaluation(label, name) / HYPOTHESES)
            system.texts[name] = {line.id: line.hypothesis for line in lines if line.id not in failed}
    if not system.texts:
        raise DataError(
            f"'{label}' has no scores in {folder.path}; 'shibolet evaluate' makes them, or name a file of hypotheses: "
            f"--system {label}=FILE"
        )
    return system


def _imported(
    candidate: Candidate, read: Mapping[str, Sequence[Utterance]], languages: Mapping[str, Language], tell: Tell
) -> _System:
    """What another system's files have."""
    assert isinstance(candidate.source, Hypotheses)
    system, label = _System(candidate.label), candidate.label
    opened = [(own, read_hypotheses(path)) for own, path in candidate.source.files]
    if strange := [own for own, _ in opened if own not in (None, *read)]:
        raise RecipeError(f"combine: --system {label}/{strange[0]}=...: the sets are {', '.join(read)}")
    for name, utterances in read.items():
        for own, file in opened:
            if own in (None, name) and (texts := file.of_set(name, utterances, languages[name].to_scoring)):
                if twice := sorted(texts.keys() & system.texts.get(name, {}).keys()):
                    raise DataError(f"combine: {label}: two files have a hypothesis for utterance '{twice[0]}'")
                system.texts[name] = {**system.texts.get(name, {}), **texts}
                system.sure[name] = {**system.sure.get(name, {}), **_sure(file, name)}
    if not system.texts:
        raise DataError(
            f"combine: no hypothesis of {', '.join(str(file.path) for _, file in opened)} belongs to an utterance of "
            f"{', '.join(read)}"
        )
    if unused := [entry for _, file in opened for entry in file.unused]:
        tell(f"{label}: {len(unused):,} entries belong to no utterance of {', '.join(read)}: the first is {unused[0]}")
    return system


def _sure(file: HypothesisFile, set_name: str) -> Sure:
    return {id: sure for (name, id), sure in file.confidences.items() if name == set_name}


def _combine(
    systems: Sequence[_System],
    read: Mapping[str, Sequence[Utterance]],
    languages: Mapping[str, Language],
    ballot: Ballot,
    out: Path,
) -> tuple[Combined, list[_Line]]:
    """Write the file; what it came to and its lines come back."""
    counted: dict[str, CombinedSet] = {}
    lines = list(_lines(systems, read, languages, ballot, counted))
    make_folder(out.parent)
    write_jsonl(out, map(asdict, lines))
    labels = [system.label for system in systems]
    settings = {"alpha": ballot.alpha, "null_confidence": ballot.null_confidence}
    return Combined(systems=labels, **settings, sets=counted, out=str(out)), lines


def _lines(
    systems: Sequence[_System],
    read: Mapping[str, Sequence[Utterance]],
    languages: Mapping[str, Language],
    ballot: Ballot,
    counted: dict[str, CombinedSet],
) -> Iterator[_Line]:
    """A line of each utterance in the sets' order; `counted` learns what each set came to."""
    for name, utterances in read.items():
        language, votes, of_fewer, changed = languages[name], [], 0, 0
        for utterance in utterances:
            have = [system for system in systems if utterance.id in system.texts.get(name, {})]
            if not have:
                continue
            found = _vote(have, name, utterance.id, language, ballot)
            votes.append(found)
            of_fewer += len(have) < len(systems)
            first = have[0].texts[name][utterance.id]
            changed += language.to_scoring(found.text).split() != language.to_scoring(first).split()
            agreement = None if found.agreement is None else round(found.agreement, 4)
            yield _Line(id=utterance.id, set=name, hypothesis=found.text, agreement=agreement)
        if votes:
            counted[name] = CombinedSet(
                utterances=len(votes), left_out=len(utterances) - len(votes), of_fewer=of_fewer,
                slots=sum(one.num_slots for one in votes), unanimous=sum(one.num_unanimous for one in votes),
                changed=changed,
            )  # fmt: skip


def _vote(systems: Sequence[_System], set_name: str, id: str, language: Language, ballot: Ballot) -> Vote:
    words = []
    for system in systems:
        text, sure = system.texts[set_name][id], system.sure.get(set_name, {}).get(id)
        if ballot.alpha < 1 and sure is None and text.split():
            raise DataError(
                f"combine: alpha {ballot.alpha:g} weighs confidences, and '{system.label}' has none for utterance "
                f"'{id}' of set '{set_name}': a JSONL has them as 'confidences', from 0 to 1, one for each word, a CTM "
                "in its sixth field; or leave --alpha out"
            )
        words.append(transcript(text, language, sure if ballot.alpha < 1 else None))
    return vote(words, alpha=ballot.alpha, null_confidence=ballot.null_confidence)
