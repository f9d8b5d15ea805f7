"""Stage: drop what the audit found wrong, split, cut what is long, trim, and write what may train.

<out_dir>/train-00000.parquet ...  the columns of `shards.SCHEMA`
          dev-00000.parquet ...
          manifest.jsonl           the rows of all shards, as utterances that can be audited again
          ledger.jsonl             what left; `part:...`, `cut` and `trimmed` are of utterances that stay in part
          summary.json             counts and hours: kept + dropped = in; written last
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from shibolet.errors import DataError
from shibolet.listen.decoders import Decoders, Share
from shibolet.listen.executor import Executor
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.corrected import CorrectedTexts
from shibolet.prepare.machine import MachineTexts
from shibolet.prepare.pieces import Outcome, drop, refuse
from shibolet.prepare.processes import FindVerdicts, MakePieces, outcomes_of
from shibolet.prepare.shards import ShardWriter
from shibolet.prepare.split import Part, split, undivided
from shibolet.prepare.tally import Tally
from shibolet.prepare.verdicts import Reviewed, ReviewedRows
from shibolet.prepare.writing import writing_of
from shibolet.records.audited import Audited
from shibolet.records.documents.prepared import Prepared
from shibolet.records.files import make_folder
from shibolet.records.ledger import LedgerLine, count_by_rule, write_ledger
from shibolet.records.machine_texts import MachineText
from shibolet.records.manifest import write_manifest
from shibolet.records.review import Answer
from shibolet.records.runs import MANIFEST
from shibolet.records.spilled import SpilledDict, SpilledList
from shibolet.records.utterance import Utterance
from shibolet.speech.text import Language, get_language

LEDGER, SUMMARY = "ledger.jsonl", "summary.json"
SPLITS = ("train", "dev")
PROGRESS_UTTERANCES = 32  # between two calls
READ_TOGETHER = 1024  # verdicts
BESIDE = {"timed_text": "timestamps", "previous": "a previous text"}  # fields that stand beside a text, and their names

Progress = Callable[[int, int], None]  # utterances done, utterances in all


def run_prepare(
    utterances: Sequence[Utterance],
    verdicts: Mapping[str, Reviewed],
    *,
    config: PrepareConfig,
    language: str,
    seed: int,
    out_dir: Path,
    unread: Sequence[LedgerLine] = (),
    on_progress: Progress | None = None,
    decoders: Decoders | Share | None = None,
    executor: Executor | None = None,
    machine_texts: Sequence[tuple[Utterance, MachineText]] = (),
    corrected: Mapping[str, Answer] = MappingProxyType({}),
    holds_out: bool = True,
    recut: Mapping[str, Audited] = MappingProxyType({}),
) -> Prepared:
    """Write `out_dir` and return its summary; the same input gives the same bytes, whoever decodes it.

    Ids of utterances differ. `verdicts` are the audit's by id; an utterance without one was not heard.
    `unread` are lines of what left the sources before it became an utterance: first in the ledger, counted apart.
    `decoders` do the work, None: two threads of this process; with an `executor`, its nodes do, and this one writes.
    `machine_texts` are utterances with texts of machines, or taken back: they train, and are never dev. `corrected` are
    texts by a person; by the rows of `recut` other utterances that train are cut. Without `holds_out` there is no dev.
    DataError when the audit left some unheard and the configuration wants none, or when nothing is left to train on.
    """
    spoken, tally, by_person = get_language(language), Tally(), CorrectedTexts(corrected, utterances)
    by_machine = MachineTexts([one for one in machine_texts if one[0].id not in by_person])
    utterances = by_person.applied(by_machine.others(utterances))
    find = by_person.finder(by_machine.finder(_finder(verdicts, config)))
    notes = [*_notes_on_hearing(utterances, verdicts, config), *by_person.notes]
    with ExitStack() as stack:
        work = MakePieces(decoders or stack.enter_context(closing(Decoders(0))), language, config)
        work.begin() if executor is None else executor.begin(work)
        fit = _not_refused(utterances, find, spoken, config, tally)
        dealt = split(fit, config, seed) if holds_out else undivided(fit)
        beside = by_machine.not_beside([u for u, part in zip(fit, dealt.parts) if part != "train"], tally)
        added = _not_refused(beside, find, spoken, config, tally)
        num_given = by_machine.num_texts + len(utterances)
        progress = on_progress and (lambda done: on_progress(num_given - len(fit) - len(added) + done, num_given))
        find, cut = _cut_by(find, (u for u, part in zip(fit, dealt.parts) if part == "train"), recut, by_person)
        whole, parts = SpilledList.joined([fit, added]), [*dealt.parts, *(["train"] * len(added))]
        decoded = (utterance for utterance, part in zip(whole, parts, strict=True) if part != "surplus")
        outcomes = stack.enter_context(closing(outcomes_of(decoded, find, work, executor)))
        outcomes = (by_person.marked(by_machine.marked(o)) for o in _with_surplus(whole, parts, outcomes, config))
        kept, splits = _write_shards(outcomes, parts, tally, out_dir, config.shard_utterances, progress)
    write_ledger(out_dir / LEDGER, chain(unread, tally.lines))
    if "train" not in splits:
        raise _nothing_left(num_given, tally, out_dir)
    write_manifest(out_dir / MANIFEST, kept)
    if holds_out and "dev" not in splits:
        notes.append("nothing is held out: there is no dev set to choose a checkpoint by")
    groups = {name: len({own for own, part in zip(dealt.groups, dealt.parts) if part == name}) for name in SPLITS}
    prepared = tally.prepared(
        num_given, groups, unread=count_by_rule(unread), writing=writing_of(utterances),
        language=spoken.name, normaliser=spoken.target_version, seed=seed, split_by=dealt.by,
        notes=(*notes, *cut, *by_machine.notes, *dealt.notes, *_notes_on_beside(utterances, kept)),
    )  # fmt: skip
    prepared.write(out_dir / SUMMARY)
    return prepared


def _not_refused(
    utterances: Sequence[Utterance], find: FindVerdicts, spoken: Language, config: PrepareConfig, tally: Tally
) -> SpilledList[Utterance]:
    """Those against which nothing speaks that is known without their audio; `tally` learns of the others."""
    fit: SpilledList[Utterance] = SpilledList()
    for first in range(0, len(utterances), READ_TOGETHER):
        some = utterances[first : first + READ_TOGETHER]
        for utterance, verdict in zip(some, find(some), strict=True):
            if refused := refuse(utterance, verdict, spoken, config):
                tally.add(refused)
            else:
                fit.append(utterance)
    return fit


def _nothing_left(num_given: int, tally: Tally, out_dir: Path) -> DataError:
    reasons = "; ".join(f"'{line.id}': {line.rule}, {line.detail}" for line in tally.lines[:3])
    return DataError(f"nothing is left to train on of {num_given:,} utterances ({reasons}); see {out_dir / LEDGER}")


def _with_surplus(
    fit: Sequence[Utterance], parts: Sequence[Part], outcomes: Iterator[Outcome], config: PrepareConfig
) -> Iterator[Outcome]:
    """What becomes of each utterance, of the surplus too, which nobody decodes."""
    for utterance, part in zip(fit, parts, strict=True):
        if part == "surplus":
            detail = f"of a group held out for dev, which has its {config.max_dev_utterances:,} utterances without it"
            yield drop(utterance, "dev_surplus", detail)
        else:
            yield next(outcomes)


def _write_shards(
    outcomes: Iterator[Outcome],
    parts: Sequence[Part],
    tally: Tally,
    out_dir: Path,
    shard_utterances: int,
    on_progress: Callable[[int], None] | None,
) -> tuple[SpilledList[Utterance], set[str]]:
    """What was kept, with its audio in the shards, and the splits that have any; `tally` learns what became of each."""
    make_folder(out_dir)
    (out_dir / SUMMARY).unlink(missing_ok=True)
    writers = {name: ShardWriter(out_dir, name, shard_utterances) for name in SPLITS}
    kept, ids = SpilledList(), SpilledDict()
    try:
        for number, (part, outcome) in enumerate(zip(parts, outcomes, strict=True), 1):
            tally.add(outcome, part)
            for piece, flac in zip(outcome.pieces, outcome.flacs, strict=True):
                if not ids.add(piece.utterance.id, ""):
                    raise DataError(f"two prepared utterances would have the id '{piece.utterance.id}'; rename one")
                kept.append(writers[part].add(piece, flac))
            if on_progress and (number % PROGRESS_UTTERANCES == 0 or number == len(parts)):
                on_progress(number)
        for writer in writers.values():
            writer.close()
    finally:
        for writer in writers.values():
            writer.abort()
    _remove_others(out_dir, [path for writer in writers.values() for path in writer.paths])
    return kept, {name for name, writer in writers.items() if writer.paths}


def _finder(verdicts: Mapping[str, Reviewed], config: PrepareConfig) -> FindVerdicts:
    """The verdict on each utterance, or None; where the audit is not believed, only what a person found bad."""

    def find(utterances: Sequence[Utterance]) -> list[Reviewed | None]:
        ids = [utterance.id for utterance in utterances]
        found = verdicts.among(ids) if isinstance(verdicts, ReviewedRows) else verdicts
        return [
            verdict if (verdict := found.get(id)) and (config.drop_low_quality or verdict.review == "bad") else None
            for id in ids
        ]

    return find


def _cut_by(
    find: FindVerdicts, train: Iterable[Utterance], recut: Mapping[str, Audited], by_person: CorrectedTexts
) -> tuple[FindVerdicts, list[str]]:
    """The verdicts, of which some have another row (what was heard, and where), and what the summary says of them.

    A text that a person corrected keeps its own: the row is of another one.
    """
    rows = {u.id: recut[u.id] for u in train if u.id in recut and u.id not in by_person}
    if not rows:
        return find, []

    def found(utterances: Sequence[Utterance]) -> list[Reviewed | None]:
        return [
            replace(verdict, row=rows[u.id]) if verdict and u.id in rows else verdict
            for u, verdict in zip(utterances, find(utterances), strict=True)
        ]

    return found, [f"{len(rows):,} long utterances are cut by what label.writer heard; dev is not"]


def _notes_on_hearing(
    utterances: Sequence[Utterance], verdicts: Mapping[str, Reviewed], config: PrepareConfig
) -> list[str]:
    """What the summary says of utterances that nobody heard, or that nobody could judge."""
    if not config.drop_low_quality:
        return [
            "the audit was not believed (drop_low_quality: false): nothing was dropped for its quality, trimmed or cut"
        ]
    unheard = [utterance.id for utterance in utterances if utterance.id not in verdicts]
    if not unheard:
        return []
    if config.unheard == "audit":
        raise DataError(
            f"{len(unheard):,} of {len(utterances):,} utterances were not heard by the audit, the first is "
            f"'{unheard[0]}': audit all of them first, or set prepare.unheard=keep to train on them unheard"
        )
    return [f"{len(unheard):,} utterances were not heard: of these only text and length were checked"]


def _notes_on_beside(given: Sequence[Utterance], kept: Sequence[Utterance]) -> list[str]:
    """How many utterances have timestamps and a previous text; pieces and texts that were trimmed may lose theirs."""
    notes, before, left = [], _sources_by_field(given), _sources_by_field(kept)
    for field, what in BESIDE.items():
        if before[field]:
            num_left, num_before = left[field].total(), before[field].total()
            notes.append(f"{num_left:,} of {len(kept):,} utterances have {what}, as {num_before:,} of the given had")
        notes += [
            f"source '{source}': none of its utterances has {what} after cutting, trimming and dropping, so training "
            "with it has none of them"
            for source in before[field]
            if source not in left[field]
        ]
    return notes


def _sources_by_field(utterances: Iterable[Utterance]) -> dict[str, Counter[str]]:
    """How many utterances of each source have a field of `BESIDE`."""
    found: dict[str, Counter[str]] = {field: Counter() for field in BESIDE}
    for utterance in utterances:
        for field, counts in found.items():
            if getattr(utterance, field) is not None:
                counts[utterance.source] += 1
    return found


def _remove_others(out_dir: Path, written: Sequence[Path]) -> None:
    """Remove shards of an earlier run that had more of them, and what it left when it was killed."""
    for name in SPLITS:
        for path in {*out_dir.glob(f"{name}-*.parquet"), *out_dir.glob(f".{name}-*.partial")} - set(written):
            path.unlink()
