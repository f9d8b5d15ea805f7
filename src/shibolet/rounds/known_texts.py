"""Clips whose text is known, as they are and damaged: what a limit on the disagreement of two hearers lets pass."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shibolet.audit.audio_changes import Babble, Clipping, Noise, NoSpeech, Reverb, TelephoneBand
from shibolet.audit.clip import AudioChange, clip_of
from shibolet.audit.damage import BABBLE_VOICES, Original, Pool, Row, copies, cut_text, swapped
from shibolet.errors import AudioError, DataError
from shibolet.label.agreement import Tried, is_false_accept, letters_apart, surprise
from shibolet.label.authors import Scored, choose_authors, lacking, without
from shibolet.label.config import clips_needed
from shibolet.prepare.writing import ways_apart
from shibolet.records.audited import Audited
from shibolet.records.documents.labelled import Author
from shibolet.records.files import hash_json, make_folder, write_bytes
from shibolet.records.groups import connected, keys_of
from shibolet.records.manifest import manifest_hash
from shibolet.records.runfolder import RunFolder
from shibolet.records.runs import prepared_of
from shibolet.records.shards import read_shard
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.report.recipe import ShownRecipe
from shibolet.rounds.shared import Round
from shibolet.speech.audio import encode_flac, load
from shibolet.speech.text import get_language

if TYPE_CHECKING:
    from shibolet.prepare.verdicts import Reviewed, ReviewedRows
    from shibolet.rounds.hearers import Hearers

SILENT = NoSpeech("noise")  # nobody speaks: any text is a false accept
TEXT_DAMAGE = (
    Row(kind="swapped", change=swapped("random")),
    Row(kind="text_halved", change=cut_text(0.5, "either")),
    Row(kind="text_quarter_cut", change=cut_text(0.25, "either")),
)


@dataclass(frozen=True, slots=True)
class Known:
    """Clips that the limits are calibrated on, and how much of the training data has a text that passed the audit."""

    utterances: list[Utterance]
    flagged: list[Utterance]  # that the audit flagged among them; whose texts train is chosen on both together
    hours_with_text: float
    digest: str
    notes: tuple[str, ...]  # sentences


@dataclass(frozen=True, slots=True)
class TriedOn:
    """What the hearers made of them."""

    authors: list[Author]  # whose texts train
    texts: list[Tried]  # these texts against the truth
    damaged_texts: list[Tried]  # wrong texts of the data against the writer's; all wrong
    against_truth: list[Audited]  # the texts that train, with the truth as what was heard


def known_texts(current: Round, verdicts: "ReviewedRows", hearers: Sequence[str]) -> Known:
    """Utterances that the audit let pass and that no hearer was trained on, as far as run folders say.

    DataError where these are too few to show what the recipe asks for: before anything is heard.
    """
    recipe = current.recipe
    passed, flagged = passed_audit(current, verdicts), _flagged_by_audit(current, verdicts)
    for own in (passed, flagged):
        own.sort(key=lambda u: _place(u, recipe.seed))
    trainings = {name: found for name in dict.fromkeys(hearers) if (found := _trainings(name))}
    is_known = _is_known([one for found in trainings.values() for one in found])
    chosen = list(islice((u for u in passed if not is_known(u)), recipe.label.calibration_clips))
    among: list[Utterance] = []
    if chosen and recipe.label.texts_of == "better":
        last = _place(chosen[-1], recipe.seed)
        among = [u for u in takewhile(lambda u: _place(u, recipe.seed) < last, flagged) if not is_known(u)]
    if len(chosen) < (needed := clips_needed(recipe.label.max_false_accept_pct)):
        trained = f", and {' and '.join(trainings)} learned the others" if len(chosen) < len(passed) else ""
        raise DataError(
            f"label: the limit is calibrated on utterances that passed the audit and that no hearer was trained on; "
            f"label.max_false_accept_pct={recipe.label.max_false_accept_pct:g} takes {needed:,} of them, and there are "
            f"{len(chosen):,} of {len(passed):,}{trained}. Hold out more for dev in the round that trained the hearer "
            "(prepare.dev_frac), add utterances with texts, or raise label.max_false_accept_pct"
        )
    notes = [f"The limits are from {len(chosen):,} utterances of data.train that passed the audit."]
    if trainings:
        notes.append(f"{' and '.join(trainings)} trained on none of them.")
    if unknown := [name for name in dict.fromkeys(hearers) if name not in trainings]:
        notes.append(
            f"What {' and '.join(unknown)} learned is not known here. If it was trained on them, it errs less there "
            "than on new audio: more false texts pass than the bound says, and its texts may train where the other "
            "one's are better."
        )
    hours = sum(u.duration_s for u in passed) / 3600
    digest = hash_json([manifest_hash(chosen), round(hours, 5), *([manifest_hash(among)] if among else [])])
    return Known(chosen, among, hours, digest, tuple(notes))


def _place(utterance: Utterance, seed: int) -> bytes:
    """In an order that is random, and the same of every subset."""
    return hashlib.sha256(f"{seed}/{utterance.id}".encode()).digest()


def passed_audit(current: Round, verdicts: "ReviewedRows") -> list[Utterance]:
    """Utterances whose own text counts as the truth: the audit let it pass, no person gave another, and it is short."""
    return [u for u, one in _judged(current, verdicts) if not one.is_low_quality and one.review != "bad"]


def _flagged_by_audit(current: Round, verdicts: "ReviewedRows") -> list[Utterance]:
    """As short, and flagged by the audit and by no person.

    The audit's recogniser is most often the listener: where it mishears, it flags. Among the rest alone it would seem
    to hear better than it does.
    """
    return [u for u, one in _judged(current, verdicts) if one.is_low_quality and one.review is None]


def _judged(current: Round, verdicts: "ReviewedRows") -> list[tuple[Utterance, "Reviewed"]]:
    """Short utterances with a text of their own that the audit could judge."""
    language, most_s = get_language(current.recipe.language), current.recipe.label.max_piece_s
    found, corrected = verdicts.among([u.id for u in current.data.utterances]), verdicts.corrected
    return [
        (u, one) for u in current.data.utterances
        if (one := found.get(u.id)) and not one.row.failure
        and u.id not in corrected and u.duration_s <= most_s and clip_of(u, language)
    ]  # fmt: skip


def _trainings(model: str) -> list[Path]:
    """The prepared data of a model, and of the models that it was trained from; none: not known."""
    found: list[Path] = []
    while (prepared := prepared_of(model)) is not None and prepared not in found:
        found.append(prepared)
        run = RunFolder(prepared.parent)
        run.intact("prepare")
        if (models := ShownRecipe.read(run.recipe).models) is None or models.base is None:
            break
        model = str((run.path / models.base).resolve()) if models.base.startswith(".") else models.base
    return found


def _is_known(trainings: Sequence[Path]) -> Callable[[Utterance], bool]:
    """Whether an utterance trained in one of them: by its id, which costs nothing, or by its audio."""
    from shibolet.evaluate.overlap import knows, read_trained_on

    ids = {
        row
        for prepared in trainings
        for shard in sorted(prepared.glob("train-*.parquet"))
        for row in read_shard(shard, "source", "origin_id")
    }
    by_audio = [knows(trained) for prepared in trainings if (trained := read_trained_on(prepared))]
    return lambda utterance: (utterance.source, utterance.id) in ids or any(known(utterance) for known in by_audio)


def try_on(current: Round, hearers: "Hearers", known: Known) -> TriedOn:
    """Hear each clip as it is and once damaged, and compare with what is known."""
    language, config = get_language(current.recipe.language), current.recipe.label
    truths = known.utterances
    copies_of = damaged(current, truths)
    both = [*(replace(u, text="") for u in truths), *(copy for copy, _ in copies_of)]
    both += [replace(u, text="") for u in known.flagged]
    said = [*(u.text for u in truths), *(text for _, text in copies_of)]
    origin = [*truths, *(u for u, (copy, _) in zip(truths, copies_of))]
    heard = hearers.hear(both, hash_json([known.digest, "copies"]), "label: known texts")
    flagged = heard[len(said) :]
    authors = _authors(current, [*truths, *known.flagged], [*heard[: len(truths)], *flagged])
    by_domain = {one.domain: one for one in authors}
    rows = hearers.in_turn(both[: len(said)], heard[: len(said)], by_domain, "label: known texts")
    # One clip that nobody could score must not forbid to count by scores.
    is_scored = any(surprise(row) is not None for row in rows)
    texts = [
        Tried(
            clip=u.id,
            group=u.cluster,
            disagreement=inf if row.failure or row.cer is None else row.cer,
            surprise=(inf if row.failure or surprise(row) is None else surprise(row)) if is_scored else None,
            is_wrong=is_false_accept(truth, row.text, config.max_wer, language),
        )
        for u, truth, row in zip(origin, said, rows, strict=True)
    ]
    against = [
        replace(row, hypothesis=u.text, cer=letters_apart(row.words, u.text, language))
        for u, row in zip(truths, rows)
        if not row.failure
    ]
    return TriedOn(authors, texts, _wrong_texts(current, truths, heard[: len(truths)]), against)


def _authors(current: Round, truths: Sequence[Utterance], rows: Sequence[Audited]) -> list[Author]:
    """Whose text trains in each domain; the listener's nowhere where it writes otherwise than the data do.

    What only one of the two was asked about, or could hear, says nothing of them.
    """
    if current.recipe.label.texts_of == "writer":
        return []
    pairs = [(u, row) for u, row in zip(truths, rows, strict=True) if row.failure is None]
    groups = connected([keys_of(f"id {u.id}", u.recording, u.speaker) for u, _ in pairs])
    clips = [
        Scored(domain=row.domain, group=group, truth=u.text, written=row.text, heard=row.hypothesis)
        for group, (u, row) in zip(groups, pairs, strict=True)
    ]
    found = []
    for author in choose_authors(clips, get_language(current.recipe.language)):
        if author.by == "listener":
            own = [(u, row) for u, row in pairs if row.domain == author.domain]
            unwritten = lacking([u.text for u, _ in own])
            data = [replace(u, source="the data") for u, _ in own]
            said = [replace(u, source="the listener", text=without(row.hypothesis, unwritten)) for u, row in own]
            author = author.model_copy(update={"unwritten": unwritten})
            if apart := ways_apart([*data, *said]):
                author = author.model_copy(update={"by": "writer", "refusal": "; ".join(apart)})
        found.append(author)
    return found


def _wrong_texts(current: Round, truths: Sequence[Utterance], rows: Sequence[Audited]) -> list[Tried]:
    """Damaged texts of the clips, against what the writer reads: it costs no hearing."""
    language, written = get_language(current.recipe.language), {row.id: row for row in rows if not row.failure}
    clips = {u.id: clip_of(u, language) for u in truths}
    originals = [Original(clip=clips[u.id], recording=u.cluster, speaker=u.speaker) for u in truths]
    groups = {u.id: u.cluster for u in truths}
    made = copies(TEXT_DAMAGE, originals, Pool(originals, language.name), current.recipe.seed)
    return [
        Tried(
            clip=copy.utterance, group=groups[copy.utterance], is_wrong=True,
            disagreement=letters_apart(copy.words, written[copy.utterance].text, language)
            if copy.utterance in written else inf,
        )
        for own in made.values()
        for copy in own
    ]  # fmt: skip


def damaged(current: Round, truths: Sequence[Utterance]) -> list[tuple[Utterance, str]]:
    """A damaged copy of each clip as a file that both hear, and what is said in it."""
    folder = current.folder.labelled / "calibration"
    make_folder(folder)
    found = []
    for number, utterance in enumerate(truths):
        change = _change(number, utterance, truths, current.recipe.seed)
        rng = np.random.default_rng([current.recipe.seed, number])
        try:
            samples = change(load(utterance.audio), rng)
        except AudioError:
            samples = np.zeros(16000, np.float32)  # nothing is heard in it, as in the clip itself
        path = folder / f"{number:04d}.flac"
        write_bytes(path, encode_flac(samples))
        copy = replace(utterance, id=f"copy/{utterance.id}", text="", audio=AudioRef(path=str(path)))
        found.append((copy, "" if change is SILENT else utterance.text))
    return found


def _change(number: int, utterance: Utterance, truths: Sequence[Utterance], seed: int) -> AudioChange:
    """One kind of damage after the other."""
    others = [one for one in truths if one.cluster != utterance.cluster] or list(truths)
    drawn = random.Random(f"{seed}/{utterance.id}").sample(others, min(BABBLE_VOICES, len(others)))
    changes: tuple[AudioChange, ...] = (
        Noise("pink", 10.0),
        Babble(tuple(one.id for one in drawn), 5.0, tuple(one.audio for one in drawn)),
        TelephoneBand(),
        Noise("pink", 0.0),
        Reverb(0.6),
        Clipping(0.05),
        Noise("white", 5.0),
        SILENT,
    )
    return changes[number % len(changes)]
