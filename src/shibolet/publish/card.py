"""The model card of a round, from the JSON files of its run folder; no number is computed here."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData, RepoCard, try_to_load_from_cache
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shibolet.model.family import Family
from shibolet.model.folders import resolve, stored_types
from shibolet.publish.config import PublishConfig
from shibolet.publish.names import is_path, public_name
from shibolet.records.documents.alignment import AlignmentReport
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.labelled import Labelled
from shibolet.records.documents.plan import Plan
from shibolet.records.documents.prepared import Prepared
from shibolet.records.documents.provenance import Provenance
from shibolet.records.documents.published import Reproduced
from shibolet.records.documents.scores import Ends, Scores
from shibolet.records.documents.teaching import TeacherTexts
from shibolet.records.documents.training import TrainResult
from shibolet.records.machine_texts import written_by_machines
from shibolet.records.runfolder import RunFolder
from shibolet.report.recipe import ShownRecipe
from shibolet.report.wording import visible
from shibolet.speech.text import Language, get_language

NOT_STATED = "not stated"
MINIMISED = {
    "transcribe": "the likelihood of the references",
    "distil": "the divergence from what the teacher expects at each token of the references",
    "on_policy": "the divergence from what the teacher expects at each token that the model writes",
    "min_wer": "the word errors to be expected of what the model writes",
}


class Shown(NamedTuple):
    """A model or data set as a reader elsewhere may see it."""

    name: str
    license: str
    hub: str | None = None  # its id there
    page: str | None = None


def model_card(
    run: RunFolder, recipe: ShownRecipe, config: PublishConfig, family: Family, reproduced: Reproduced
) -> str:
    """The content of README.md; `family` is the exported model's, `reproduced` what the export repeated."""
    compared = Comparison.read(run.compare)
    gates = [GateVerdict.read(path) for path in (run.gate(), run.gate(prepared=True)) if path.is_file()]
    language = get_language(recipe.language)
    paths = {source.name: run.scores(compared.candidate.label, source.name) for source in recipe.evaluate.sets}
    # an optional set may be missing
    scores = {name: Scores.read(path) for name, path in paths.items() if path.is_file()}
    base = _named(recipe.models.base, config, "model")
    page = _environment().get_template("card.md.jinja").render(
        name=config.to.partition("/")[2],
        config=config,
        usage=Markup(_usage(family, run.publish / "model", recipe, config)),  # ours, of several lines
        loop_bias=recipe.evaluate.loop_bias,
        converted=config.layout not in (family.layouts[0], *family.exports),
        language=language,
        base=base,
        baseline=_named(recipe.models.baseline, config, "model"),
        teacher=_named(recipe.models.teacher, config, "model") if recipe.models.teacher else None,
        minimised={name: MINIMISED[one] for name, one in recipe.train.objectives.items()},
        taught=TeacherTexts.read(path) if (path := run.path / "teach" / "teach.json").is_file() else None,
        by_machines=_by_machines(run),
        sources=[_named(source.hub or source.name, config, "dataset") for source in recipe.data.trained],
        compared=compared,
        scores=scores,
        gates=gates,
        audit=AlignmentReport.read(run.alignment_report()),
        prepared=Prepared.read(run.prepared / "summary.json"),
        plan=Plan.read(run.plan),
        trained=TrainResult.read(run.train_result),
        made_with=Provenance.read(run.provenance).training,
        reproduced=reproduced,
        stored=" and ".join(sorted(stored_types(str(run.final), run.final))),
    )  # fmt: skip
    return f"---\n{_metadata(config, family, language.code, base, recipe, scores)}\n---\n\n{page}"


def _by_machines(run: RunFolder) -> str | None:
    """How much of the training data has a text that a model wrote, and which; None where a model wrote none."""
    if not (found := written_by_machines(run.prepared)):
        return None
    hours = Prepared.read(run.prepared / "summary.json").train.hours
    share = 100 * sum(one.hours for one in found.values()) / hours if hours else 0.0
    kinds = ", ".join(
        f"{one.utterances:,} utterances ({one.hours:.3f} h) {MACHINE_TEXTS.get(kind, kind)}"
        for kind, one in found.items()
    )
    path = run.labelled / "label.json"
    hearers = Labelled.read(path) if path.is_file() else None
    names = f", {public_name(hearers.writer)}, and {public_name(hearers.listener)} heard the same" if hearers else ""
    if hearers and hearers.listeners_domains:
        names += f"; the text is that of the second in the domains {', '.join(hearers.listeners_domains)}"
    return f"The text of {share:.1f}% of these hours was written by a model{names}: {kinds}."


def adapter_card(folder: Path, base: str, family: Family, language: Language) -> str:
    """The content of an adapter's README.md; `base` is a Hub id or a folder, as its configuration names it."""
    _, layout = family.config_in(resolve(base))
    data = ModelCardData(
        language=language.code,
        library_name="peft",
        pipeline_tag="automatic-speech-recognition",
        base_model=None if is_path(base) else base,
        tags=[family.tag, "lora", "shibolet"],
    )
    page = _environment().get_template("adapter.md.jinja").render(
        name=folder.name, base=base, is_local=is_path(base), language=language,
        usage=Markup(family.adapter_usage(f"./{folder.name}", base, layout, language=language.name)),
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n\n{page}"


def _usage(family: Family, model: Path, recipe: ShownRecipe, config: PublishConfig) -> str:
    """With the beams that the model was scored with."""
    decoding = recipe.evaluate
    return family.usage(
        config.to, config.layout, model=model, language=recipe.language, beam_size=decoding.beam_size,
        length_penalty=decoding.length_penalty,
    )  # fmt: skip


def _metadata(
    config: PublishConfig, family: Family, code: str, base: Shown, recipe: ShownRecipe, scores: dict[str, Scores]
) -> str:
    """The YAML that the Hub reads; without results of a name that is a folder's."""
    results = [
        EvalResult(
            task_type="automatic-speech-recognition", dataset_type=source.hub or source.name,
            dataset_name=source.name, dataset_split=source.split, metric_type=measure, metric_value=_pct(rate),
        )
        for source in recipe.evaluate.sets if source.name in scores and not is_path(source.hub)
        for measure, rate in _rates(scores[source.name]).items() if rate is not None
    ]  # fmt: skip
    data = ModelCardData(
        model_name=config.to,
        language=code,
        license=config.license,
        library_name=family.libraries.get(config.layout),
        pipeline_tag="automatic-speech-recognition",
        base_model=base.hub,
        datasets=[source.hub for source in recipe.data.trained if source.hub and not is_path(source.hub)] or None,
        tags=[family.tag, "shibolet"],
        eval_results=results or None,
    )
    return data.to_yaml()


def _rates(scores: Scores) -> dict[str, float | None]:
    """By the Hub's names of the metrics."""
    return {"wer": scores.wer.rate, "cer": scores.cer.rate}


MACHINE_TEXTS = {"labelled": "came without a text", "corrected": "came with another text"}


def _named(name: str, config: PublishConfig, kind: str) -> Shown:
    """A model or data set for a reader elsewhere: its Hub id and licence, or the last part of a local path."""
    if name.startswith("builtin:"):
        return Shown(name, config.licenses.get(name, "apache-2.0"))
    if is_path(name) or "/" not in name:
        shown, own = public_name(name), Path(name) / "README.md"
        return Shown(shown, config.licenses.get(shown) or (_license_in(own) if own.is_file() else None) or NOT_STATED)
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
    license = config.licenses.get(name) or _license_on_hub(name, kind) or f"{NOT_STATED} here; see its page"
    return Shown(name, license, name, page)


def _license_on_hub(name: str, kind: str) -> str | None:
    """What the repository's own card says, where the cache holds it (`shibolet fetch` puts it there)."""
    cached = try_to_load_from_cache(name, "README.md", repo_type=kind)
    return _license_in(Path(cached)) if isinstance(cached, str) else None


def _license_in(card: Path) -> str | None:
    """What a model's or data set's own card says."""
    data = RepoCard.load(card, ignore_metadata_errors=True).data
    license = data.get("license_name") or data.get("license")
    return ", ".join(license) if isinstance(license, list) else license


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("shibolet", "publish"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, finalize=_shown,
    )  # fmt: skip
    environment.filters |= {"pct": _pct, "points": _points, "interval": _interval, "span": _span}
    return environment


def _shown(value: Any) -> Any:
    """Text of data for a place in Markdown: in one line, in one cell, no HTML; markup is ours."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    line = visible(" ".join(value.splitlines())).replace("|", "\\|")
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", line)


def _pct(rate: float | None) -> float | str:
    return "n/a" if rate is None else round(100 * rate, 2)


def _points(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.2f}"


def _interval(bounds: Ends | None) -> str:
    """Of a difference in points."""
    return "n/a" if bounds is None else f"{bounds[0]:+.2f} to {bounds[1]:+.2f}"


def _span(bounds: Ends | None) -> str:
    """Of a rate, in percent."""
    return "n/a" if bounds is None else f"{_pct(bounds[0])} to {_pct(bounds[1])}"
