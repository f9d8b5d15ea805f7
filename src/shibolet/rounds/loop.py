"""Data that get better with the model: a round, then rounds in which the model before hears the data again.

<out_dir>/turn1/            the recipe's own round
          turn1-seed1/ ...  the same prepared data, trained with other seeds
          turn2/            the same data, in which the model of turn 1 and the audit's recogniser heard again what was
                            flagged (and what has no text), trained from the same base
          loop.json         what each turn came to; written last

Every turn starts from the recipe's base and trains as long: what differs from the turn before is the data. It has
gained where the interval of the difference, with the variance between seeds, lies below compare.keep_below_points, 0.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shibolet.errors import DataError, RecipeError
from shibolet.label.config import clips_needed
from shibolet.recipe import Recipe
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.labelled import Labelled
from shibolet.records.documents.loop import Loop, Turn
from shibolet.records.documents.prepared import Prepared
from shibolet.records.files import make_folder
from shibolet.records.machine_texts import written_by_machines
from shibolet.records.runfolder import RunFolder
from shibolet.records.shards import read_shard
from shibolet.rounds import auditing, labelling, publish, scoring, stages
from shibolet.rounds.fit import require_fit, writer_and_listener
from shibolet.rounds.flow import run_stages
from shibolet.rounds.judged import judged
from shibolet.rounds.known_texts import passed_audit
from shibolet.rounds.mirroring import mirrored
from shibolet.rounds.reviewing.settling import settle_answers, take_in
from shibolet.rounds.scoring import by_language
from shibolet.rounds.shared import Round, Tell, Track, open_round, untracked
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.seeds import MIN_SEEDS, SeedsEstimate, seeds_difference

DOCUMENT = "loop.json"


@dataclass(frozen=True, slots=True)
class _Done:
    """A turn that came to a model, with what each seed wrote on the sets."""

    folder: RunFolder
    title: str
    counts: list[list[EditCounts]]  # [S][U]
    clusters: list[str]  # [U]


def do_loop(
    recipe: Recipe, out_dir: Path, *, turns: int, seeds: int, tell: Tell, track: Track = untracked, gpus: int = 1,
    mirror: str | None = None,
) -> Loop:  # fmt: skip
    """Turn after turn until one is not shown to gain; the same again goes on where it was cut off.

    `mirror` is where a store has the copy of the folder, all turns in it.
    """
    if not recipe.evaluate.sets:
        raise RecipeError("loop: the recipe names no evaluate.sets, and nothing else tells whether a turn gained")
    if seeds < MIN_SEEDS:
        raise RecipeError(f"loop: --seeds {MIN_SEEDS} is the least: of fewer nobody knows how much is the seed's")
    publish.require_publishable(recipe)
    require_fit(recipe)
    if turns > 1:  # the writer is a model that is not there yet
        writer_and_listener(_heard_again(recipe, "the model of turn 1"))
    make_folder(out_dir)
    split = recipe.seed if recipe.prepare.seed is None else recipe.prepare.seed
    recipe = recipe.model_copy(update={"prepare": recipe.prepare.model_copy(update={"seed": split})})
    with mirrored(out_dir, mirror, tell) as send:
        loop = _loop(recipe, out_dir, turns, seeds, tell, track, gpus, send)
        loop.write(out_dir / DOCUMENT)
    return loop


def _loop(
    recipe: Recipe, out_dir: Path, turns: int, seeds: int, tell: Tell, track: Track, gpus: int, send: Callable[[], None]
) -> Loop:
    """`send` is called when a stage of a turn is done."""
    level = 1 - 0.05 / turns
    found: list[Turn] = []
    best: _Done | None = None
    for number in range(1, turns + 1):
        folder = out_dir / f"turn{number}"
        own = recipe if best is None else recipe_after(recipe, best.folder, best.title, number)
        tell(f"loop: turn {number} of at most {turns}, {own.title}")
        with open_round(own, folder, "loop", tell, track) as current:
            current.gpus, current.when_kept = gpus, send
            current.require_sets()
            if best is not None:
                _keep_answers(current, best.folder)
            if number < turns:
                _require_clips(current)
            turn, done = _turn(current, best, seeds, level, gpus)
        found.append(turn)
        tell(f"loop: {turn.sentence}")
        if turn.ended != "gained":
            break
        best = done
        if GateVerdict.read(best.folder.gate()).decision == "INVALID":  # `label` would refuse it
            break
    return Loop(
        max_turns=turns, seeds=seeds, level_pct=100 * level, turns=tuple(found),
        best=best.folder.path.name if best else None, sentence=_sentence(found, turns),
    )  # fmt: skip


def _keep_answers(current: Round, before: RunFolder) -> None:
    """Take over what people answered in the turn before, once: verdicts and corrected texts are about the same data."""
    settle_answers(before)
    own = current.folder
    if before.review.is_file() and not (own.review.is_file() or own.answers.is_file()):
        before.intact("review")
        said = take_in(own, before.review, {u.id: u.text for u in current.data.utterances})
        current.tell(f"loop: of {before.path.name}, {said}")


def recipe_after(recipe: Recipe, before: RunFolder, title: str, number: int) -> Recipe:
    """The turn after one that gained: its model writes what it hears in the data, and is what this one has to beat."""
    final = str(before.final.absolute())
    models = recipe.models.model_copy(
        update={
            "baseline": final,
            "baseline_title": title,
            "baseline_trained_on": tuple(source.name for source in recipe.data.train),
        }
    )
    label = _heard_again(recipe, final).label
    compare = recipe.compare.model_copy(update={"baseline_seeds": (), "candidate_seeds": ()})  # of the first round
    named = {"name": f"{recipe.name}-turn{number}", "title": f"{recipe.title} turn {number}"}
    return recipe.model_copy(
        update={**named, "parent": before.path, "models": models, "label": label, "compare": compare}
    )


def _heard_again(recipe: Recipe, writer: str) -> Recipe:
    """The recipe with a writer that hears again what is flagged and what is long."""
    label = recipe.label.model_copy(update={"writer": writer, "flagged": True, "recut": True})
    return recipe.model_copy(update={"label": label})


def _require_clips(current: Round) -> None:
    """DataError where the round holds out too few clips to calibrate the next turn on: before anything is trained."""
    auditing.do_audit(current)
    verdict = auditing.do_gate(current)
    if verdict.next == "stop" or verdict.decision == "INVALID":  # there is no next turn
        return
    stages.do_prepare(current)
    folder = current.folder
    shards = sorted(folder.prepared.glob("dev-*.parquet"))
    held_out = {id for shard in shards for (id,) in read_shard(shard, "origin_id")}
    held_out &= {u.id for u in passed_audit(current, judged(current).rows())}
    most, longest_s = current.recipe.label.max_false_accept_pct, current.recipe.label.max_piece_s
    if len(held_out) < (needed := clips_needed(most)):
        raise DataError(
            f"loop: {current.recipe.title} holds out {len(held_out):,} utterances for dev that the audit let pass, of "
            f"at most label.max_piece_s={longest_s:g} s, and the limits of the next turn are calibrated on these, "
            f"since its writer learns the others; label.max_false_accept_pct={most:g} takes {needed:,} at least. "
            "Raise prepare.dev_frac"
        )


def _turn(current: Round, best: _Done | None, seeds: int, level: float, gpus: int) -> tuple[Turn, _Done | None]:
    """One round, its further seeds, and whether it gained."""
    run_stages(current)
    folder = current.folder
    if not folder.compare.is_file() or not folder.finished("compare"):
        stages.do_report(current)
        verdict = GateVerdict.read(folder.gate())
        sentence = f"{current.recipe.title} ends at the gate: {verdict.recommendation}"
        return _described(current, "gate", sentence, None, None), None
    auditing.do_audit(current, prepared=True)
    auditing.do_gate(current, prepared=True)
    stages.do_report(current)
    baseline, candidate = current.names
    own_sets = list(by_language(current)[0])
    clusters, own = _counts(current, candidate.label, own_sets)
    counts = [own]
    for seed in range(1, seeds):
        with _other_seed(current, seed) as other:
            other.gpus, other.when_kept = gpus, current.when_kept
            stages.do_train(other)
            scoring.do_evaluate(other, scoring.candidates_of(other))
            counts.append(_counts(other, candidate.label, own_sets)[1])
    before = best.counts if best else [_counts(current, baseline.label, own_sets)[1]]  # one model, as it is
    done = _Done(folder, current.recipe.title, counts, clusters)
    return _judged(current, before, done, level), done


@contextmanager
def _other_seed(current: Round, seed: int) -> Iterator[Round]:
    """The same round, trained on the same prepared data with another seed, in a folder beside it."""
    recipe = current.recipe.model_copy(
        update={
            "seed": current.recipe.seed + seed,
            "parent": current.folder.path,
            "evaluate": current.recipe.evaluate.model_copy(update={"audit_sets": False}),
        }
    )
    path = current.folder.path.with_name(f"{current.folder.path.name}-seed{seed}")
    with open_round(recipe, path, "loop", current.tell, current.track) as other:
        other.begin("prepare", current.folder.inputs("prepare"))  # taken over: its inputs are the same
        yield other


def _counts(current: Round, label: str, sets: Sequence[str]) -> tuple[list[str], list[EditCounts]]:
    """Groups and word errors of every utterance of the sets in the recipe's language."""
    from shibolet.evaluate.stage import read_rows
    from shibolet.scoring.rows import groups_of

    for name in sets:
        current.folder.verified(f"evaluate/{label}/{name}")
    rows = [row for name in sets for row in read_rows(current.folder.evaluation(label, name))]
    return list(groups_of(rows)), [row.words for row in rows]


def _judged(current: Round, before: list[list[EditCounts]], done: _Done, level: float) -> Turn:
    """Whether the turn gained: by the interval over seeds and speech, and by the verdict on its first seed."""
    config, compared = current.recipe.compare, Comparison.read(current.folder.compare)
    found = seeds_difference(
        before, done.counts, done.clusters, samples=config.bootstrap_samples, seed=config.seed, level=level
    )
    value, low, high = found.estimate.value, found.estimate.low, found.estimate.high
    interval = None if low is None else (100 * low, 100 * high)
    gained = interval is not None and interval[1] < config.keep_below_points
    said = f"{done.title} against {compared.baseline.title}: "
    said += "no reference words" if value is None else f"{100 * value:+.2f} points of WER"
    said += " (too few groups for an interval)" if interval is None else " ({:+.2f} to {:+.2f})".format(*interval)
    said += f", over {len(done.counts)} seeds; "
    least = config.keep_below_points
    said += "shown to gain" if gained else "no gain shown"
    said += f" (the interval has to end below {least:g})" if least else ""
    if gained and not compared.is_kept:
        said += f", but its first seed is not kept: {compared.refusals[0].sentence}"
    ended = "not_gained" if not gained else "gained" if compared.is_kept else "refused"
    return _described(current, ended, f"{said}." if not said.endswith(".") else said, found, interval)


def _described(
    current: Round, ended: str, sentence: str, found: SeedsEstimate | None, interval: tuple[float, float] | None
) -> Turn:
    """A turn with what is on disk of it."""
    folder = current.folder
    rate = lambda prepared: (  # noqa: E731
        GateVerdict.read(folder.gate(prepared=prepared)).low_quality_pct.rate
        if folder.gate(prepared=prepared).is_file() else None
    )  # fmt: skip
    labelled = Labelled.read(folder.labelled / labelling.DOCUMENT) if folder.finished(labelling.STAGE) else None
    has_prepared = folder.finished("prepare")
    return Turn(
        title=current.recipe.title,
        folder=folder.path.name,
        ended=ended,
        low_quality_pct=rate(False),
        low_quality_prepared_pct=rate(True),
        train_hours=Prepared.read(folder.prepared / "summary.json").train.hours if has_prepared else None,
        machine_hours=_machine_hours(folder) if has_prepared else None,
        flagged=labelled.flagged if labelled else None,
        habits=len(labelled.habits) if labelled else 0,
        points=None if found is None or found.estimate.value is None else 100 * found.estimate.value,
        points_by_seed=_points_by_seed(found) if found else (),
        interval_points=interval,
        sentence=sentence,
    )


def _points_by_seed(found: SeedsEstimate) -> tuple[float, ...]:
    """Points of each seed against the mean of the round before; nothing without reference words."""
    before, own = found.rates
    return () if found.estimate.value is None else tuple(100 * (rate - sum(before) / len(before)) for rate in own)


def _machine_hours(folder: RunFolder) -> float:
    """Hours of training rows whose text a machine wrote."""
    return round(sum(one.hours for one in written_by_machines(folder.prepared).values()), 5)


def _sentence(turns: Sequence[Turn], at_most: int) -> str:
    """What the loop came to, and why it ended."""
    gained = [turn for turn in turns if turn.ended == "gained"]
    kept = f"{gained[-1].title} is the round to keep" if gained else "No round gained, so none is kept"
    if turns[-1].ended == "gained" and len(turns) < at_most:
        return f"{kept}; the loop ended since the gate says INVALID, so nothing tells which texts are right."
    if turns[-1].ended == "gained":
        return f"{kept}; the loop ended after the {at_most} turns that were asked for, and the last one gained."
    why = {
        "not_gained": "is not shown to gain", "refused": "is not kept by its first seed", "gate": "ends at the gate",
    }  # fmt: skip
    return f"{kept}; the loop ended since {turns[-1].title} {why[turns[-1].ended]}."
