"""`report.html`: one page that needs nothing beside it, no network and no script."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shibolet.errors import DataError
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.files import write_bytes
from shibolet.records.runfolder import RunFolder
from shibolet.report import lineage, scored, sections
from shibolet.report.doubtful import doubtful
from shibolet.report.figures import short
from shibolet.report.recipe import ShownRecipe
from shibolet.report.references import references
from shibolet.report.robustness import robustness
from shibolet.report.searched import searched
from shibolet.report.waterfall import waterfall
from shibolet.report.wording import in_words, p_value, sentence, visible
from shibolet.scoring.wording import shown_pct
from shibolet.speech.text import get_language
from shibolet.speech.text.language import Language

_RIGHT_TO_LEFT = ("ar", "fa", "he", "ur", "yi")
_CONTENTS = {
    "gate": "Gate", "truth": "Found against damaged", "audit": "Audit", "selftest": "Self-test", "worst": "Worst",
    "prepare": "What trains", "search": "Rates searched", "train": "Training", "compare": "Comparison",
    "waterfall": "Part by part", "robustness": "Worse sound", "chain": "Rounds",
    "systems": "Other systems", "scores": "Scores", "doubtful": "References in doubt", "errors": "Errors",
    "examples": "Examples", "provenance": "How it was made",
}  # fmt: skip
_ON_DEMAND = ("truth", "search", "waterfall", "robustness", "chain", "systems", "doubtful", "errors", "examples")
_OF_AN_AUDIT = ("gate", "audit")
_OF_A_ROUND = ("prepare", "train", "compare", "scores")


def write_report(run_dir: Path) -> Path:
    """Lay out what the run folder holds so far and return the page's path; DataError when it is no run folder."""
    run = RunFolder(run_dir)
    if not run.recipe.is_file():
        raise DataError(
            f"{run_dir}: no {run.recipe.name}, so this is not a run folder; give the folder of a 'shibolet run'"
        )
    run.intact()
    recipe = ShownRecipe.read(run.recipe)
    language, pair = get_language(recipe.language), scored.sides(recipe)
    gate, audit, compared = sections.gates(run), sections.audit(run, recipe), scored.comparison(run, recipe)
    shown = {
        "gate": gate,
        "truth": sections.truth(run),
        "audit": audit,
        "prepare": sections.prepare(run),
        "search": searched(run),
        "train": sections.train(run, recipe),
        "compare": compared,
        "waterfall": waterfall(run),
        "robustness": robustness(run),
        "chain": lineage.chain_of(run_dir) if recipe.parent else None,
        "systems": scored.systems(run),
        "scores": scored.scores(run),
        "doubtful": doubtful(run),
        "errors": scored.errors(run, language, pair and pair[1]),
        "examples": scored.examples(run, language, pair),
        "provenance": sections.provenance(run),
    }
    left_out = {name for name in _ON_DEMAND if not shown[name]}
    left_out |= set() if audit else {"selftest", "worst"}
    # There are no such stages to wait for.
    never = (*(_OF_A_ROUND if recipe.trains_nothing else ()), *(() if recipe.data.train else _OF_AN_AUDIT))
    left_out |= {name for name in never if not shown[name]}
    page = environment().get_template("report.html.jinja").render(
        recipe=recipe,
        recipe_text=run.recipe.read_text(encoding="utf-8"),
        code=language.code,
        direction=direction_of(language),
        headline=_headline(gate, compared and compared.made, is_round=not recipe.trains_nothing),
        titles=[one.title for one in pair or ()],
        references=references(run, recipe),
        contents={id: title for id, title in _CONTENTS.items() if id not in left_out},
        **shown,
    )  # fmt: skip
    write_bytes(run.report, page.encode())
    return run.report


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A number of the headline."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What the page says first."""

    title: str
    sentence: str
    tiles: Sequence[Tile] = ()


def _headline(gate: sections.Gates | None, compared: Comparison | None, is_round: bool) -> Headline:
    """The verdict of the last stage that gave one, and the numbers behind it."""
    tiles = []
    for name, verdict in gate.verdicts.items() if gate else []:
        rate = verdict.low_quality_pct
        within = f"{rate.lower:.1f} to {rate.upper:.1f}" if rate.lower < rate.upper else "all heard"
        note = f"{rate.rate:.1f}% low quality, {within}"
        tiles.append(Tile(name=f"Gate, {name.lower()}", value=verdict.decision, note=note))
    blocks = compared.breakdown(compared.lead_with) if compared else {}
    for name, block in sorted(blocks.items(), key=lambda item: item[0] != compared.target.domain):
        wer = block.wer
        if wer.delta_points is None:
            continue
        note = f"{_signed(wer.delta_points)} points"
        if wer.interval_points:
            note += " ({} to {})".format(*map(_signed, wer.interval_points))
        value = f"{_pct(wer.baseline.rate)} \u2192 {_pct(wer.candidate.rate)}"
        tiles.append(Tile(name=f"WER, {name}", value=value, note=note))
    if compared:
        name = compared.candidate.title
        title = f"{'Keep' if compared.is_kept else 'Do not keep'} {name}"
        if not is_round:
            title = f"{name} is{'' if compared.is_kept else ' not'} shown to be better"
        return Headline(title=title, sentence=compared.sentence, tiles=tiles)
    if gate:
        return Headline(title=verdict_title(gate.last), sentence=gate.last.recommendation, tiles=tiles)
    return Headline(title=verdict_title(None), sentence="Neither the gate nor a comparison has run in this folder.")


def verdict_title(gate: GateVerdict | None) -> str:
    """The gate's decision as a headline; None before there is one."""
    titles = {
        "PROCEED": "The data are fit to train on",
        "CAUTION": "The data may train, with caution",
        "STOP": "The data are not fit to train on",
        "INVALID": "No verdict on the data",
    }
    return titles[gate.decision] if gate else "No verdict yet"


def direction_of(language: Language) -> str:
    """How its text runs: rtl or ltr."""
    return "rtl" if language.code in _RIGHT_TO_LEFT else "ltr"


def environment() -> Environment:
    """Templates in which every value is escaped, odd characters are named, and an unknown name is an error."""
    environment = Environment(
        loader=PackageLoader("shibolet", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    environment.filters |= {"pct": _pct, "number": _number, "signed": _signed, "rate": short, "count": _count}
    environment.filters |= {"in_words": in_words, "sentence": sentence, "p": _p, "capital": _capital}
    return environment


def _shown(value: Any) -> Any:
    """What stands on a page for a value: text of data without characters that turn what follows; markup is ours."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _pct(fraction: float | None, digits: int = 1) -> str:
    return shown_pct(fraction, digits) or "\u2013"


def _number(value: float | None, digits: int = 1) -> str:
    return "\u2013" if value is None else f"{value:,.{digits}f}"


def _signed(value: float | None, digits: int = 1) -> str:
    return "\u2013" if value is None else f"{value:+.{digits}f}".replace("-", "\u2212")


def _p(value: float | None) -> str:
    return "\u2013" if value is None else p_value(value)


def _count(value: int | None) -> str:
    return "\u2013" if value is None else f"{value:,}"
