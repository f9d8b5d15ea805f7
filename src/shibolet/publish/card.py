"""The model card of a round, from the JSON files of its run folder; no number is computed here."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, RepoCard, try_to_load_from_cache
from jinja2 import Environment, PackageLoader, StrictUndefined

from shibolet.model.family import Family
from shibolet.publish.config import PublishConfig
from shibolet.records.files import read_json
from shibolet.records.runfolder import RunFolder
from shibolet.speech.text import get_language

ROUND2 = "round2"
NOT_STATED = "not stated"


def model_card(run: RunFolder, recipe: dict, config: PublishConfig, family: Family, reproduced: dict) -> str:
    """The content of README.md.

    `recipe` is the resolved one as plain data, `family` the exported model's, `reproduced` what the export repeated.
    """
    compared = run.read_compare()
    gates = [read_json(path) for path in (run.gate(), run.gate(prepared=True)) if path.is_file()]
    language = get_language(recipe["language"])
    paths = {source["name"]: run.scores(ROUND2, source["name"]) for source in recipe["evaluate"]["sets"]}
    scores = {name: read_json(path) for name, path in paths.items() if path.is_file()}  # an optional set may be missing
    base = _named(recipe["models"]["base"], config, "model")
    page = _environment().get_template("card.md.jinja").render(
        name=config.to.partition("/")[2],
        config=config,
        usage=family.usage(config.to, config.layout),
        language=language,
        base=base,
        round1=_named(recipe["models"]["baseline"], config, "model"),
        sources=[_named(source["hub"] or source["name"], config, "dataset") for source in recipe["data"]["train"]],
        compared=compared,
        scores=scores,
        gates=gates,
        audit=read_json(run.alignment_report()),
        prepared=read_json(run.prepared / "summary.json"),
        plan=read_json(run.plan),
        trained=read_json(run.train / "result.json"),
        made_with=_training_start(read_json(run.provenance)),
        reproduced=reproduced,
    )  # fmt: skip
    return f"---\n{_metadata(config, family, language.code, base, recipe, scores)}\n---\n\n{page}"


def _training_start(starts: list[dict]) -> dict:
    """The last start that can have trained."""
    return next((start for start in reversed(starts) if start["command"] in ("run", "train", "demo")), starts[-1])


def _metadata(
    config: PublishConfig, family: Family, code: str, base: dict, recipe: dict, scores: dict[str, dict]
) -> str:
    """The YAML that the Hub reads; without results of a name that is a folder's."""
    results = [
        EvalResult(
            task_type="automatic-speech-recognition", dataset_type=source["hub"] or source["name"],
            dataset_name=source["name"], dataset_split=source["split"], metric_type=measure,
            metric_value=_pct(scores[source["name"]][measure]["rate"]),
        )
        for source in recipe["evaluate"]["sets"] if source["name"] in scores
        for measure in ("wer", "cer")
        if scores[source["name"]][measure]["rate"] is not None and not _is_path(source["hub"])
    ]  # fmt: skip
    data = ModelCardData(
        model_name=config.to,
        language=code,
        license=config.license,
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        base_model=base["hub"],
        datasets=[source["hub"] for source in recipe["data"]["train"] if source["hub"] and not _is_path(source["hub"])]
        or None,
        tags=[family.tag, "shibolet"],
        eval_results=results or None,
    )
    return data.to_yaml()


def _named(name: str, config: PublishConfig, kind: str) -> dict[str, Any]:
    """A model or data set for a reader elsewhere: its Hub id and licence, or the last part of a local path."""
    if name.startswith("builtin:"):
        return {"name": name, "hub": None, "page": None, "license": config.licenses.get(name, "apache-2.0")}
    if _is_path(name) or "/" not in name:
        shown = Path(name).name
        return {"name": shown, "hub": None, "page": None, "license": config.licenses.get(shown, NOT_STATED)}
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
    license = config.licenses.get(name) or _license_on_hub(name, kind) or f"{NOT_STATED} here; see its page"
    return {"name": name, "hub": name, "page": page, "license": license}


def _is_path(name: str | None) -> bool:
    return name is not None and (name.startswith((".", "/", "~")) or Path(name).exists())


def _license_on_hub(name: str, kind: str) -> str | None:
    """What the repository's own card says, where the cache holds it (`shibolet fetch` puts it there)."""
    cached = try_to_load_from_cache(name, "README.md", repo_type=kind)
    if not isinstance(cached, str):
        return None
    data = RepoCard.load(cached, ignore_metadata_errors=True).data
    license = data.get("license_name") or data.get("license")
    return ", ".join(license) if isinstance(license, list) else license


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("shibolet", "publish"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"pct": _pct, "points": _points, "interval": _interval, "span": _span}
    return environment


def _pct(rate: float | None) -> float | str:
    return "n/a" if rate is None else round(100 * rate, 2)


def _points(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.2f}"


def _interval(bounds: list[float] | None) -> str:
    """Of a difference in points."""
    return "n/a" if bounds is None else f"{bounds[0]:+.2f} to {bounds[1]:+.2f}"


def _span(bounds: list[float] | None) -> str:
    """Of a rate, in percent."""
    return "n/a" if bounds is None else f"{_pct(bounds[0])} to {_pct(bounds[1])}"
