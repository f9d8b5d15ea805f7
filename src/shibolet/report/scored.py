"""What the sections on scores show: the comparison, other systems, all scores, kinds of errors, listings, examples.

Chooses, sorts and lays out, as `sections` does; every rate comes from the files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shibolet.errors import DataError
from shibolet.records.candidate import named
from shibolet.records.documents.comparison import Block, Comparison, Named, SystemsComparison
from shibolet.records.documents.scores import FrequentError, Scores
from shibolet.records.hypotheses import HypothesisLine, read_hypothesis_lines
from shibolet.records.runfolder import RunFolder
from shibolet.report import figures
from shibolet.report.figures import Change, Difference
from shibolet.report.recipe import ShownRecipe
from shibolet.report.svg import Figure
from shibolet.scoring.counts import align_words
from shibolet.scoring.metrics import Column, shown
from shibolet.scoring.sclite import Aligned, Entry, align_weighted
from shibolet.speech.text.language import Language

TITLES = {
    "sets": "By set", "domains": "By domain", "buckets": "By duration", "lengths": "By words in the reference",
    "noise": "By signal over noise", "speakers": "By speaker",
}  # fmt: skip
FOLDED = ("lengths", "noise", "speakers")  # tables that open on demand
IN_FIGURE = ("sets", "domains", "buckets", "lengths", "noise")
KINDS = ("substitutions", "deletions", "insertions")
MAX_EACH_EXAMPLE, MAX_LISTED, MAX_FREQUENT = 3, 8, 12
MAX_SLICES = 40  # rows of a table: a set may have hundreds of speakers
MAX_EXAMPLE_WORDS = 60  # recordings of minutes are not shown


def sides(recipe: ShownRecipe) -> tuple[Named, Named] | None:
    """Baseline and candidate of a recipe; None where it only audits."""
    return recipe.models and (named(recipe.models.baseline_title), named(recipe.title))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A table of the comparison."""

    title: str
    blocks: Mapping[str, Block]
    num_left_out: int = 0  # smaller slices
    is_folded: bool = False
    published: Mapping[str, float]  # by set, WER in percent that the baseline is said to have
    with_p: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownComparison:
    """The comparison of a round."""

    made: Comparison
    groups: Sequence[Group]
    figure: Figure | None  # None: no slice of what leads has a rate of both
    difference_figure: Figure | None


def comparison(run: RunFolder, recipe: ShownRecipe) -> ShownComparison | None:
    """Baseline and candidate by slice, in the order in which they should be read."""
    if not run.compare.is_file():
        return None
    compared = Comparison.read(run.compare)
    published = {one.name: one.baseline_wer_pct for one in recipe.evaluate.sets if one.baseline_wer_pct}
    order = _breakdowns(compared)
    groups = [
        Group(
            title=TITLES[key],
            blocks=_largest(blocks := compared.breakdown(key)),
            num_left_out=max(0, len(blocks) - MAX_SLICES),
            is_folded=key in FOLDED,
            published=published if key == "sets" else {},
            with_p=key == "sets",
        )
        for key in order
    ]
    if compared.forgetting:
        title = "Other languages: forgotten?"
        groups.append(Group(title=title, blocks=compared.forgetting, published={}, with_p=True))
    changes = [
        Change(name, 100 * before, 100 * after)
        for name, block in compared.breakdown(compared.lead_with).items()
        for before, after in [[errors.rate for errors in block.wer.sides]]
        if before is not None and after is not None
    ]
    in_figure = {TITLES[key]: compared.breakdown(key) for key in order if key in IN_FIGURE}
    differences = _differences({"All": {"all sets": compared.overall}} | in_figure)
    target = compared.target.points
    return ShownComparison(
        made=compared,
        groups=groups,
        figure=figures.changes(changes, compared.titles) if changes else None,
        difference_figure=figures.differences(differences, target, compared.titles) if differences else None,
    )


def _largest(blocks: Mapping[str, Block]) -> dict[str, Block]:
    """The slices with most utterances, where there are very many, in their order."""
    by_size = sorted(blocks, key=lambda name: -blocks[name].utterances)
    return {name: block for name, block in blocks.items() if name in set(by_size[:MAX_SLICES])}


def _breakdowns(compared: Comparison) -> list[str]:
    """Names of the breakdowns, what leads first; domains that are the sets under the same names are shown once."""
    found: dict[str, dict[str, float | None]] = {}
    for key in sorted(TITLES, key=lambda key: key != compared.lead_with):
        numbers = {name: block.wer.delta_points for name, block in compared.breakdown(key).items()}
        if numbers and numbers not in found.values():
            found[key] = numbers
    return list(found)


def _differences(groups: Mapping[str, Mapping[str, Block]]) -> list[Difference]:
    rows = []
    for title, blocks in groups.items():
        heading = title
        for name, block in blocks.items():
            wer = block.wer
            if wer.delta_points is not None:  # a slice of empty references has no rate
                rows.append(Difference(name, wer.delta_points, *(wer.interval_points or (None, None)), heading))
                heading = ""
    return rows


def systems(run: RunFolder) -> SystemsComparison | None:
    """Any systems that were compared each with each."""
    return SystemsComparison.read(run.systems) if run.systems.is_file() else None


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Every score in the folder."""

    scores: Sequence[Scores]
    columns: Sequence[Column]
    notes: Sequence[str]

    @property
    def intervals(self) -> list[tuple[str, str, str | None]]:
        """(set, what its intervals are over, caveat), each once."""
        return list(dict.fromkeys((one.set, one.counted, one.caveat) for one in self.scores))


def scores(run: RunFolder) -> ScoreTable | None:
    """Every `scores.json`, by label and set."""
    found = _read_scores(run)
    return ScoreTable(found, *shown(found)) if found else None


def _read_scores(run: RunFolder) -> list[Scores]:
    return [Scores.read(path) for path in sorted(run.path.glob("evaluate/*/*/scores.json"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownErrors:
    """What a system got wrong on one set."""

    made: Scores
    frequent: Mapping[str, Sequence[FrequentError]]  # by kind
    listed: Sequence[Entry]  # those with most errors
    num_wrong: int  # utterances with errors


def errors(run: RunFolder, language: Language, candidate: Named | None) -> list[ShownErrors]:
    """Of each system and set with errors: its most frequent ones, and the utterances with most, word by word."""
    found = []
    for made in _read_scores(run):
        if not made.wer.errors or made.language != language.name:
            continue
        frequent = {kind: getattr(made.frequent_errors, kind)[:MAX_FREQUENT] for kind in KINDS}
        entries = []
        for line in read_hypothesis_lines(run.hypotheses(made.label, made.set)):
            said, heard = (language.to_scoring(text).split() for text in (line.reference, line.hypothesis))
            if said != heard and len(said) <= MAX_EXAMPLE_WORDS:
                entries.append(Entry(line.id, align_weighted(said, heard)))
        entries.sort(key=lambda entry: (-entry.counts.errors, entry.id))
        found.append(ShownErrors(made=made, frequent=frequent, listed=entries[:MAX_LISTED], num_wrong=len(entries)))
    first = candidate.label if candidate else None
    return sorted(found, key=lambda one: (one.made.label != first, one.made.label, -one.made.wer.errors))


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An utterance as both wrote it."""

    set: str
    line: HypothesisLine  # the candidate's
    heard: tuple[Aligned, Aligned]  # baseline, candidate
    why: str = ""

    @property
    def errors(self) -> tuple[int, int]:
        before, after = (sum(operation != "hit" for operation, _, _ in words) for words in self.heard)
        return before, after

    @property
    def gained(self) -> int:
        """Errors fewer in the candidate's."""
        before, after = self.errors
        return before - after

    @property
    def id(self) -> str:
        return self.line.id


def examples(run: RunFolder, language: Language, pair: tuple[Named, Named] | None) -> list[Example]:
    """Utterances that the candidate gained and lost most on, of each set that both have."""
    chosen: list[Example] = []
    if pair is None:
        return chosen
    baseline, candidate = pair
    for path in sorted((run.path / "evaluate" / candidate.label).glob("*/hypotheses.jsonl")):
        set_name = path.parent.name
        before_path = run.hypotheses(baseline.label, set_name)
        if not before_path.is_file():
            continue
        before = {line.id: line for line in read_hypothesis_lines(before_path)}
        after = read_hypothesis_lines(path)
        if lacking := [line.id for line in after if line.id not in before]:
            raise DataError(
                f"{path} has utterance '{lacking[0]}', and {before_path} has not: they are of different data; "
                "'shibolet evaluate RECIPE' makes them again"
            )
        rows = [_example(set_name, before[line.id], line, language) for line in after]
        rows = [row for row in rows if len(row.heard[0]) <= MAX_EXAMPLE_WORDS]
        rows.sort(key=lambda row: (-row.gained, row.id))
        better = [replace(row, why="Better") for row in rows if row.gained > 0]
        worse = [replace(row, why="Worse") for row in reversed(rows) if row.gained < 0]
        chosen += better[:MAX_EACH_EXAMPLE] + worse[:MAX_EACH_EXAMPLE]
    return chosen


def _example(set_name: str, before: HypothesisLine, after: HypothesisLine, language: Language) -> Example:
    reference = language.to_scoring(after.reference)
    first, second = (align_words(reference, language.to_scoring(line.hypothesis)) for line in (before, after))
    return Example(set=set_name, line=after, heard=(first, second))
