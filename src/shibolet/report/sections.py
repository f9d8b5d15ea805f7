"""What each section of the page shows, from the files of a run folder; None where its stage has not run.

Chooses, sorts and lays out; rates and verdicts come from the stages that wrote the files.
"""

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shibolet.errors import AudioError, DataError
from shibolet.records.documents.alignment import AlignmentReport, SelfTest, Tally
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.plan import PhasePlan, Plan
from shibolet.records.documents.prepared import Amount, Prepared, Split
from shibolet.records.documents.provenance import Provenance
from shibolet.records.documents.training import DevScore, Event, StepRow, TrainResult
from shibolet.records.documents.truth import Found, Truth
from shibolet.records.ledger import LedgerLine, read_ledger
from shibolet.records.runfolder import RunFolder
from shibolet.report import curves, figures
from shibolet.report.curves import Phase
from shibolet.report.figures import Rate
from shibolet.report.recipe import ShownRecipe
from shibolet.report.svg import Figure

if TYPE_CHECKING:
    from shibolet.records.audited import Audited

MAX_WORST = 20
PLAYER_S, PLAYER_BPS = 15.0, 24_000  # length and bitrate of a player: about 45 kB


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """The verdicts of a round's gates."""

    verdicts: Mapping[str, GateVerdict]  # by name, one or two
    accepted: bool
    figure: Figure
    same_judges: bool  # both judged by the same models

    @property
    def last(self) -> GateVerdict:
        return list(self.verdicts.values())[-1]


def gates(run: RunFolder) -> Gates | None:
    """The verdict on the raw data and, after a repair, on what was kept, by name; one figure for both."""
    named = {"Raw data": run.gate(), "After repair": run.gate(prepared=True)}
    verdicts = {name: GateVerdict.read(path) for name, path in named.items() if path.is_file()}
    if not verdicts:
        return None
    rows = []
    for title, verdict in verdicts.items():
        strata = verdict.strata if len(verdict.strata) > 1 else {}
        for name, rate in [(title, verdict.low_quality_pct), *strata.items()]:
            rows.append(Rate(name, rate.rate, rate.lower, rate.upper, is_part=name in strata))
    first = next(iter(verdicts.values()))
    reports = [run.alignment_report(prepared=prepared) for prepared in (False, True)]
    models = [AlignmentReport.read(path).calibration.models for path in reports if path.is_file()]
    return Gates(
        verdicts=verdicts,
        accepted=first.accepted,
        figure=figures.gate(rows, first.config.proceed_below_pct, first.config.stop_above_pct),
        same_judges=len(models) == 2 and models[0] == models[1],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """An utterance to listen to."""

    row: "Audited"
    sound: str | None  # a data: URI
    no_sound: str = ""  # the reason why there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAudit:
    """What an audit heard."""

    report: AlignmentReport
    coverage_figure: Figure | None  # None: nobody measured it
    confidence_figure: Figure
    self_test: Sequence[tuple[str, Tally]] | None  # None: it did not run
    num_flagged: int
    worst: Sequence[Player]


def audit(run: RunFolder, recipe: ShownRecipe) -> ShownAudit | None:
    """Distributions, domains, the self-test and the least credible utterances."""
    if not run.alignment_report().is_file():
        return None
    from shibolet.records.audited import read_audited

    report = AlignmentReport.read(run.alignment_report())
    rows = list(read_audited(run.audited_utterances(), short=True))
    confidence: dict[str, list[float]] = defaultdict(list)
    coverage: dict[str, list[float]] = defaultdict(list)  # nobody measures it without an aligner
    for row in sorted(rows, key=lambda row: row.domain):
        if row.confidence is not None:
            confidence[row.domain].append(row.confidence)
            if row.coverage is not None:
                coverage[row.domain].append(row.coverage)
    flagged = [row for row in rows if row.is_low_quality]
    worst = [row.id for row in _worst(flagged)]
    whole = {row.id: row for row in read_audited(run.audited_utterances(), only=set(worst))}
    return ShownAudit(
        report=report,
        coverage_figure=figures.histograms(coverage, recipe.audit.min_coverage, "coverage") if coverage else None,
        confidence_figure=figures.histograms(confidence, recipe.audit.min_confidence, "confidence"),
        self_test=report.self_test and _self_test(report.self_test),
        num_flagged=len(flagged),
        worst=[player_of(whole[id], run.path) for id in worst],
    )


def _self_test(result: SelfTest) -> list[tuple[str, Tally]]:
    named = {
        **{f"{kind.replace('_', ' ')} (damage)": tally for kind, tally in result.damaged.items()},
        **{f"{kind.replace('_', ' ')} (mild damage)": tally for kind, tally in result.mild.items()},
        "untouched": result.untouched,
        "harmless copies with another verdict": result.harmless,
        **{f"untouched, {name}": own.untouched for name, own in result.domains.items() if len(result.domains) > 1},
    }
    return [(name, tally) for name, tally in named.items() if tally.total]


def _worst(flagged: "Sequence[Audited]") -> "list[Audited]":
    """The least credible utterance of each suspect type in turn, so that one kind does not hide the others."""
    kind = lambda row: row.suspect or row.failure  # noqa: E731
    order = sorted(flagged, key=lambda row: (kind(row), row.confidence or 0, row.coverage or 0, row.id))
    kinds = [list(members) for _, members in groupby(order, key=kind)]
    return [row for row in chain.from_iterable(zip_longest(*kinds)) if row is not None][:MAX_WORST]


def player_of(row: "Audited", run_dir: Path) -> Player:
    """Its beginning as MP3, or why there is none."""
    if row.audio is None:
        return Player(row=row, sound=None, no_sound="the row could not be read")
    from shibolet.speech import audio
    from shibolet.speech.augment import encode

    try:
        samples = audio.load(row.audio.in_folder(run_dir))
    except AudioError as error:
        return Player(row=row, sound=None, no_sound=str(error))
    mp3 = encode(samples[: int(PLAYER_S * audio.SAMPLE_RATE_HZ)], "mp3", PLAYER_BPS)
    return Player(row=row, sound="data:audio/mpeg;base64," + base64.b64encode(mp3).decode())


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownKind:
    """What was found of one kind of damage, in the order of the domains."""

    kind: str
    cells: Sequence[Found | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTruth:
    """What was dealt against what was found."""

    made: Truth
    domains: Sequence[str]
    rows: Sequence[ShownKind]


def truth(run: RunFolder) -> ShownTruth | None:
    """What the audit found of the damage that was dealt on purpose: a row a kind, a column a domain."""
    path = run.path / "truth.json"
    if not path.is_file():
        return None
    found = Truth.read(path)
    domains = list(dict.fromkeys(row.domain for row in found.rows))
    cells = {(row.kind, row.domain): row for row in found.rows}
    rows = [
        ShownKind(kind="nothing" if kind == "clean" else kind, cells=[cells.get((kind, domain)) for domain in domains])
        for kind in dict.fromkeys(row.kind for row in found.rows)
    ]
    return ShownTruth(made=found, domains=domains, rows=rows)


WRITING = {
    "words_per_text": "words a text", "marks_per_word": "marks a word", "ends_in_mark": "texts that end in a mark",
    "words_with_digits": "words with digits", "capitals": "capitals", "latin_letters": "Latin letters",
    "pointed_words": "words with niqqud", "own_geresh": "own signs for geresh",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPrepared:
    """What is left to train on."""

    summary: Prepared
    splits: Mapping[str, Split]
    rules: Sequence[tuple[str, str, Amount, LedgerLine]]  # rule, what it did, how much, an example
    writing: Mapping[str, str]  # what there is to say of the style of some source: name -> title


def prepare(run: RunFolder) -> ShownPrepared | None:
    """What is left to train on, and by which rule the rest went, with an example of each."""
    path = run.prepared / "summary.json"
    if not path.is_file():
        return None
    prepared = Prepared.read(path)
    ledger = run.prepared / "ledger.jsonl"
    example = {line.rule: line for line in reversed(read_ledger(ledger))}
    if lacking := [rule for rule in (*prepared.dropped_by_rule, *prepared.changed_by_rule) if rule not in example]:
        raise DataError(
            f"{ledger} has no line of rule '{lacking[0]}', which {path} counts; 'shibolet prepare RECIPE' makes both "
            "again"
        )
    rules = [
        (rule, effect, amount, example[rule])
        for effect, amounts in (("dropped", prepared.dropped_by_rule), ("changed", prepared.changed_by_rule))
        for rule, amount in amounts.items()
    ]
    styles = prepared.writing.styles
    is_known = lambda name: any(getattr(style, name).rate not in (None, 0, 1) for style in styles)  # noqa: E731
    writing = {name: title for name, title in WRITING.items() if is_known(name)}
    return ShownPrepared(
        summary=prepared, splits={"train": prepared.train, "dev": prepared.dev}, rules=rules, writing=writing
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedPoint:
    """The WER on dev in percent that a recipe expects after so many epochs, and the one that was measured there."""

    epochs: int
    step: int
    expected_pct: float
    measured_pct: float | None  # None: dev was not scored after that step

    @property
    def difference_points(self) -> float | None:
        """Measured minus expected."""
        return None if self.measured_pct is None else self.measured_pct - self.expected_pct


def expected_points(wer_pct: Mapping[int, float], plan: Plan, dev: Sequence[DevScore]) -> list[ExpectedPoint]:
    """What is expected by finished epochs, as far as the plan goes."""
    measured = {score.step: 100 * score.wer for score in dev}
    at = {epochs: epochs * (plan.step.steps_per_epoch or 0) for epochs in sorted(wer_pct)}
    return [
        ExpectedPoint(epochs=epochs, step=step, expected_pct=wer_pct[epochs], measured_pct=measured.get(step))
        for epochs, step in at.items()
        if step <= (plan.steps or 0)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTraining:
    """The plan of a training and, once there are steps, what became of it."""

    phases: Sequence[PhasePlan]
    notes: Sequence[str]
    loss_figure: Figure | None = None
    lr_figure: Figure | None = None
    has_dev_loss: bool = False
    dev_figure: Figure | None = None
    dev_domains_figure: Figure | None = None  # None: dev is of one domain
    expected: Sequence[ExpectedPoint] = ()
    loss_expected: tuple[float, float] | None = None  # before and after the switch
    optimism: str | None = None
    warning: str | None = None
    switches: Sequence[str] = ()
    events: Sequence[Event] = ()


def train(run: RunFolder, recipe: ShownRecipe) -> ShownTraining | None:
    """Phases, and once there are steps their losses, rates and dev scores."""
    if not run.plan.is_file():
        return None
    plan = Plan.read(run.plan)
    shown = ShownTraining(phases=plan.phases, notes=[plan.step.arithmetic, *plan.notes])
    rows = StepRow.read_all(run.metrics)
    if not rows:
        return shown
    steps: dict[str, list[int]] = defaultdict(list)
    lr_by_part: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        steps[row.phase].append(row.step)
        for part, lr in row.lr.items():
            lr_by_part[part].append((row.step, lr))
    phases = [Phase(name, min(at), max(at)) for name, at in steps.items()]
    loss = {row.step: row.loss for row in rows if row.loss is not None}  # skipped steps have none
    dev = DevScore.read_all(run.dev_scores)
    by_domain: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for score in dev:
        for name, own in score.by_domain.items():
            if own.rate is not None:
                by_domain[name].append((score.step, 100 * own.rate))
    dev_loss = [(score.step, score.loss) for score in dev if score.loss is not None]
    expected = expected_points(recipe.train.expected.wer_pct, plan, dev) if recipe.train else []
    result = TrainResult.read(run.train_result) if run.train_result.is_file() else None
    return replace(
        shown,
        notes=[*shown.notes, *(part.sentence for part in (result.earlier if result else ()))],
        optimism=result and result.optimism and result.optimism.sentence,
        warning=result and result.warning,
        expected=expected,
        loss_expected=recipe.train and recipe.train.expected.loss_at_switch,
        has_dev_loss=bool(dev_loss),
        loss_figure=curves.losses(list(loss.items()), phases, dev_loss),
        lr_figure=curves.rates(lr_by_part, phases),
        dev_figure=curves.dev_scores(
            [(score.step, 100 * score.wer) for score in dev], phases, [(one.step, one.expected_pct) for one in expected]
        )
        if dev
        else None,
        dev_domains_figure=curves.dev_domains(by_domain, phases) if len(by_domain) > 1 else None,
        events=Event.read_all(run.events),
        switches=[
            f"loss {loss[old.last]:.3f} before and {loss[new.first]:.3f} after the switch from {old.name} to {new.name}"
            for old, new in pairwise(phases)
            if {old.last, new.first} <= loss.keys()
        ],
    )


def provenance(run: RunFolder) -> list[tuple[str, Any]]:
    """What the last start of the run was made with."""
    if not run.provenance.is_file():
        return []
    starts = Provenance.read(run.provenance).starts
    last = starts[-1]
    packages = ", ".join(f"{name} {version}" for name, version in last.packages.items() if version)
    return [
        ("Commit", last.git or "not a checkout"), ("Starts", len(starts)), ("Python", last.python),
        ("Platform", last.platform), ("Threads", last.num_threads or last.cpus), ("Packages", packages),
    ]  # fmt: skip
