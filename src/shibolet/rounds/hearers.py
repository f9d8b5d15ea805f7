"""Two hearers of the same audio: one writes its text, the other hears by itself and is laid beside that text.

What either heard is kept, so that a run that was cut off goes on: the listener's as an audit keeps it, by content, and
the writer's in `labelled/heard/`, so many utterances together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from shibolet.audit.clip import clip_of
from shibolet.audit.hearing import Listener
from shibolet.errors import DataError
from shibolet.label.authors import as_trained
from shibolet.records.audited import Audited
from shibolet.records.documents.labelled import Author
from shibolet.records.files import hash_json, make_folder, write_jsonl
from shibolet.records.reading import read_lines
from shibolet.records.utterance import Utterance
from shibolet.rounds.auditing import tell_lost
from shibolet.rounds.shared import Round
from shibolet.speech.audio import load
from shibolet.speech.text import get_language

TOGETHER = 256  # utterances of which the texts are put on disk at once


@dataclass(frozen=True, slots=True)
class Written:
    """A line of `labelled/heard/`."""

    id: str
    text: str  # empty where nothing could be heard
    failure: str | None  # then why
    sha256: str  # of the rest, so that a line that was changed is noticed

    @classmethod
    def of(cls, id: str, text: str, failure: str | None) -> "Written":
        return cls(id, text, failure, hash_json([id, text, failure]))


class Hearers:
    """The writer and the listener of a round's label stage."""

    def __init__(self, current: Round, writer: str, listener: str) -> None:
        self._current, self._writer = current, writer
        self.writer_identity = current.identity(writer)
        self._listener = self._listening(listener)

    def _listening(self, model: str) -> Listener:
        current = self._current
        return Listener(
            None, current.recogniser(model), current.folder.audit() / "heard", load, current.recipe.audit,
            current.recipe.language, current.executor,
        )  # fmt: skip

    @property
    def identities(self) -> list[str]:
        return [self.writer_identity, *self._listener.identities]

    @property
    def decoding(self) -> dict[str, Any]:
        """How the writer transcribes: as the recipe evaluates, and told no terms."""
        from shibolet.evaluate.stage import NOT_OF_A_SET

        config = self._current.recipe.evaluate_in(self._current.recipe.language)
        return config.identity(exclude=NOT_OF_A_SET | {"servers", "context"})

    def hear(self, utterances: Sequence[Utterance], digest: str, title: str) -> list[Audited]:
        """Of each utterance the writer's text and, as its hypothesis, what the listener heard; `cer` is between them,
        and `text_score` how much less likely the listener finds the text.

        `digest` is a hash of all that the utterances are. A text without a word that could be checked is a failure.
        """
        if not utterances:
            return []
        found = self._write(utterances, digest, title)
        written = [replace(utterance, text=one.text) for utterance, one in zip(utterances, found, strict=True)]
        rules = get_language(self._current.recipe.language)
        clips = {u.id: clip for u in written if (clip := clip_of(u, rules))}
        with self._current.track(f"{title}: listen") as progress:
            heard = self._listener.hear(list(clips.values()), progress)
        tell_lost(self._current, self._listener)
        rows = []
        for utterance, one in zip(written, found, strict=True):
            evidence = heard[utterance.id] if utterance.id in clips else None
            failure = one.failure or ("no_words" if evidence is None else evidence.failure)
            rows.append(
                Audited(
                    id=utterance.id, source=utterance.source, recording=utterance.recording, speaker=utterance.speaker,
                    domain=utterance.domain or "unknown", text=utterance.text, duration_s=utterance.duration_s,
                    failure=failure, is_low_quality=failure is not None,
                    words=rules.to_words(utterance.text).tokens,
                    hypothesis=evidence.hypothesis if evidence else "",
                    cer=evidence.signals.cer if evidence and evidence.signals else None,
                    text_score=evidence.signals.text_score if evidence and evidence.signals else None,
                )
            )  # fmt: skip
        return rows

    def in_turn(
        self, utterances: Sequence[Utterance], rows: Sequence[Audited], authors: Mapping[str, Author], title: str
    ) -> list[Audited]:
        """The rows of `hear` with the texts that train; to those that are the listener's the writer listens in turn."""
        current, rules = self._current, get_language(self._current.recipe.language)
        found = [as_trained(row, authors.get(row.domain), rules) for row in rows]
        clips = {}
        for utterance, row in zip(utterances, found, strict=True):
            is_turned = row.domain in authors and authors[row.domain].by == "listener" and row.failure is None
            if is_turned and (clip := clip_of(replace(utterance, text=row.text), rules)):
                clips[row.id] = clip
        if not clips:
            return found
        back = self._listening(self._writer)
        with current.track(f"{title}: listen in turn") as progress:
            heard = back.hear(list(clips.values()), progress)
        tell_lost(current, back)
        return [
            replace(row, text_score=signals.text_score)
            if row.id in clips and (signals := heard[row.id].signals) else row
            for row in found
        ]  # fmt: skip

    def _write(self, utterances: Sequence[Utterance], digest: str, title: str) -> list[Written]:
        """What is written of each; the writer is not loaded where all texts are on disk."""
        from shibolet.evaluate.hear import hear

        current, recipe = self._current, self._current.recipe
        config = recipe.evaluate_in(recipe.language)
        folder, found = current.folder.labelled / "heard", []
        make_folder(folder)
        with current.track(f"{title}: write") as progress:
            for first in range(0, len(utterances), TOGETHER):
                some = utterances[first : first + TOGETHER]
                key = [self.writer_identity, recipe.language, self.decoding, digest, [one.id for one in some]]
                path = folder / f"{hash_json(key)}.jsonl"
                if not path.is_file():
                    transcriber = current.transcriber(self._writer, "", recipe.language)
                    heard = hear(transcriber, some, config, None)
                    why = {failure.id: failure.reason for failure in heard.failures}
                    pairs = zip(some, heard.hypotheses, strict=True)
                    write_jsonl(path, (asdict(Written.of(u.id, text, why.get(u.id))) for u, text in pairs))
                found += _read(path, [one.id for one in some])
                progress(len(found), len(utterances))
        return found


def _read(path: Path, ids: Sequence[str]) -> list[Written]:
    """What was written of these utterances; DataError where the file is not as it was written."""
    remedy = "delete it, and it is heard again"
    lines = read_lines(path, Written, remedy)
    is_whole = all(one == Written.of(one.id, one.text, one.failure) for one in lines)
    if not is_whole or [one.id for one in lines] != list(ids):
        raise DataError(f"{path}: not as it was written; {remedy}")
    return lines
