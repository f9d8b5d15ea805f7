"""What a recipe needs of this machine and of the Hub, looked up before anything is paid for; nothing is downloaded."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from shibolet.errors import RecipeError
from shibolet.recipe import Recipe
from shibolet.records import store
from shibolet.records.documents.beforehand import Checked, Finding
from shibolet.records.documents.plan import Plan
from shibolet.records.mirror import mirror_of
from shibolet.speech.known_sources import ELSEWHERE
from shibolet.speech.sources import DataSource
from shibolet.tracking.weights_and_biases import require_wandb

CHECKPOINTS = 6  # at most on disk at once: two last, the best, one a phase, the best of B
HEARING = {"recogniser", "second_gate_recogniser"}  # roles that need not be of a model family
GIB = 2**30
_MACHINE = "GPU, memory, disk"


def check_recipe(
    recipe: Recipe, run_dir: Path, on_finding: Callable[[Finding], None] = lambda _: None, mirror: str | None = None
) -> Checked:
    """A finding for each thing that the recipe needs; `on_finding` has each as soon as it is known.

    `mirror` is where a store shall have a copy of the run folder.
    """
    findings = []
    for finding in chain(_findings(recipe, run_dir), _mirror(mirror or mirror_of(run_dir))):
        on_finding(finding)
        findings.append(finding)
    return Checked(findings=tuple(findings))


def _findings(recipe: Recipe, run_dir: Path) -> Iterator[Finding]:
    """What is known at once first, what torch has to be imported for last."""
    from shibolet.errors import DataError
    from shibolet.rounds.plan import make_plan

    yield _token()
    yield from _tracking(recipe)
    yield from _publishing(recipe)
    plan, lacks_base = None, False
    for finding in _models(recipe):
        roles, _, name = finding.what.partition(": ")
        lacks_base |= finding.state == "missing" and "base" in roles.split(", ") and bool(name) and _is_here(name)
        yield finding
    if not (recipe.models and recipe.train):
        yield Finding(_MACHINE, "note", "this recipe trains nothing")
    elif lacks_base:
        yield Finding(_MACHINE, "note", "known when the base model is there")
    else:
        try:
            plan = make_plan(recipe, run_dir).training
        except DataError:  # told of its source below
            yield Finding(_MACHINE, "note", "known when the training data can be read")
        else:
            yield from _machine(plan, run_dir)
    yield from _misfits(recipe)
    yield from _data(recipe)
    if plan is not None:
        yield _gpu(plan)


def _machine(plan: Plan, run_dir: Path) -> Iterator[Finding]:
    """Memory and disk."""
    weights = plan.model.parameters
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    load_gib = weights * 4 / GIB + 2  # the final model is merged in float32, on the CPU
    yield _amount("memory", memory_gib, load_gib, "take a larger machine")

    trainable = max(phase.trainable for phase in plan.phases)
    disk_gib = (CHECKPOINTS * trainable * 12 + weights * 2) / GIB
    disk_gib += (plan.encoder_cache_gib or 0.0) + (plan.teacher_cache_gib or 0.0)
    existing = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    found_gib = shutil.disk_usage(existing).free / GIB
    yield _amount(
        f"disk of {run_dir}",
        found_gib,
        disk_gib,
        "for checkpoints and what is kept for training; take another --run-dir",
    )


def _gpu(plan: Plan) -> Finding:
    from shibolet.rounds.plan import SMALL_WEIGHTS

    weights = plan.model.parameters
    if properties := _gpus():
        need_gib = max(phase.total_gib for phase in plan.phases)
        have_gib = min(p.total_memory for p in properties) / GIB
        names = ", ".join(f"{p.name} {p.total_memory / GIB:.0f} GiB" for p in properties)
        state = "ok" if have_gib > need_gib else "missing"
        return Finding("GPU", state, f"{names}; {need_gib:.1f} GiB for the fullest pack of the recipe")
    if weights < SMALL_WEIGHTS:
        return Finding("GPU", "note", f"none; {weights / 1e6:.0f} million weights train on the CPU")
    return Finding(
        "GPU", "missing", f"none, and {weights / 1e9:.1f} billion weights do not train on a CPU in useful time"
    )


def _gpus() -> list[Any]:
    """Name and memory of each GPU, as torch has them."""
    from shibolet.model.folders import may_have_gpu

    if not may_have_gpu():
        return []
    import torch

    return [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]


def _amount(what: str, found_gib: float, need_gib: float, advice: str) -> Finding:
    if found_gib >= need_gib:
        return Finding(what, "ok", f"{found_gib:.1f} GiB, {need_gib:.1f} needed")
    return Finding(what, "missing", f"{found_gib:.1f} GiB, {need_gib:.1f} needed: {advice}")


def _token() -> Finding:
    from huggingface_hub import get_token

    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return Finding("Hub", "note", "HF_HUB_OFFLINE=1: only what is on this machine counts")
    if get_token():
        return Finding("Hub token", "ok", "there")
    return Finding("Hub token", "note", "none; gated models and data need one: 'hf auth login' or HF_TOKEN")


def _tracking(recipe: Recipe) -> Iterator[Finding]:
    if not (project := recipe.tracking.wandb_project):
        return
    try:
        require_wandb(project)
    except RecipeError as error:
        yield Finding("W&B", "missing", str(error))
    else:
        yield Finding("W&B", "ok", f"project {project}; without a login the run is written to the run folder")


def _publishing(recipe: Recipe) -> Iterator[Finding]:
    """Whether a card's code can repeat the evaluation, and the layout be written where the base is on this machine."""
    from shibolet.errors import ModelError
    from shibolet.rounds.publish import require_publishable

    if recipe.publish:
        try:
            require_publishable(recipe)
        except RecipeError as error:
            yield Finding("publish", "missing", str(error))
        except ModelError:  # told of the base below
            pass
        else:
            yield Finding("publish", "ok", f"{recipe.publish.to}, layout {recipe.publish.layout}")


def _models(recipe: Recipe) -> Iterator[Finding]:
    from shibolet.listen.open import HYPOTHESES

    roles = recipe.model_names()
    for name in dict.fromkeys(roles.values()):
        own = [role for role, value in roles.items() if value == name]
        what, only_hears = f"{', '.join(own)}: {name}", HEARING.issuperset(own)
        if only_hears and name.endswith(HYPOTHESES):
            yield _hypotheses(what, name, recipe.language)
        else:
            yield _local_model(what, name, only_hears) or _hub_model(what, name, only_hears)
    for role in ("base", "baseline") if recipe.models and recipe.train else ():
        if role not in roles:
            how = f"'shibolet next RUN --from {recipe.name} -o FILE' writes it with the model of the round before"
            yield Finding(role, "missing", f"the recipe names none: {how}, or give --set models.{role}=MODEL")


def _misfits(recipe: Recipe) -> Iterator[Finding]:
    """What a round would be refused for at its start: settings that do not suit a model, a base that cannot train."""
    from shibolet.rounds.fit import hearers_alike, misfits, untold_style

    for error in misfits(recipe):
        yield Finding("models", "missing", str(error))
    if sentence := untold_style(recipe):
        yield Finding("evaluate", "note", sentence)
    if sentence := hearers_alike(recipe):
        yield Finding("label", "note", sentence)


def _hypotheses(what: str, name: str, language: str) -> Finding:
    """A finding for a file that stands in for a recogniser."""
    from shibolet.errors import DataError, ModelError
    from shibolet.listen.open import open_recogniser

    try:
        open_recogniser(name, language)
    except (ModelError, DataError) as error:
        return Finding(what, "missing", str(error))
    return Finding(what, "ok", "a file of hypotheses")


def _is_here(model: str) -> bool:
    from shibolet.model.folders import is_local

    return is_local(model)


def _local_model(what: str, name: str, only_hears: bool) -> Finding | None:
    """A finding for a model on disk; None for a Hub id."""
    from shibolet.errors import ModelError
    from shibolet.model.folders import is_ctranslate2, resolve

    if not _is_here(name):
        return None
    try:
        path = resolve(name)
    except ModelError as error:
        return Finding(what, "missing", str(error))
    sizes = {file.name: file.stat().st_size for file in path.iterdir() if file.is_file()}
    if only_hears and is_ctranslate2(sizes):
        return _with_extra(Finding(what, "ok", "a Whisper in CTranslate2's format"))
    weights = sum(size for file, size in sizes.items() if file.endswith(".safetensors"))
    return (
        Finding(what, "ok", f"{weights / 2**20:.1f} MiB")
        if weights
        else Finding(what, "missing", "no .safetensors there")
    )


def _hub_model(what: str, name: str, only_hears: bool) -> Finding:
    """A finding for a model on the Hub or in its cache."""
    from shibolet.model.folders import is_ctranslate2

    found = _on_hub(what, name, "model", "config.json")
    is_asked = only_hears and found.state == "ok" and not _has_ctranslate2()
    return _with_extra(found) if is_asked and is_ctranslate2(_files_on_hub(name)) else found


def _files_on_hub(name: str) -> list[str]:
    """What a model's repository holds, in the cache or else on the Hub; nothing where that cannot be asked."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError

    if isinstance(config := try_to_load_from_cache(name, "config.json"), str):
        return os.listdir(os.path.dirname(config))
    try:
        return HfApi().list_repo_files(name)
    except (HTTPError, OSError):
        return []


def _has_ctranslate2() -> bool:
    return find_spec("ctranslate2") is not None


def _with_extra(found: Finding) -> Finding:
    """The finding for a model in CTranslate2's format, or that the package is missing which reads it."""
    if _has_ctranslate2():
        return found
    from shibolet.model.folders import NEEDS_CTRANSLATE2

    return replace(found, state="missing", found=f"it {NEEDS_CTRANSLATE2}")


def _data(recipe: Recipe) -> Iterator[Finding]:
    silent = recipe.evaluate.non_speech.sources if recipe.evaluate.non_speech else ()
    roles = {**recipe.data.roles, "evaluate": recipe.evaluate.sets, "non-speech": silent}
    for role, sources in roles.items():
        for source in sources:
            what = f"{role}: {source.name}"
            if source.hub is None or Path(source.hub).exists():
                yield _local_data(what, source)
            else:
                found = _on_hub(f"{what} ({source.hub})", source.hub, "dataset", "README.md")
                if found.state == "missing" and source.hub in ELSEWHERE:
                    found = replace(found, found=f"{found.found}; {ELSEWHERE[source.hub]}")
                if found.state == "missing" and getattr(source, "optional", False):
                    found = replace(found, state="note", found=f"{found.found}; optional, so it is left out")
                yield found
    if recipe.models and recipe.train and not recipe.evaluate.sets:
        yield Finding("evaluate", "note", f"the recipe names no evaluate.sets: {recipe.title} will not be compared")


def _local_data(what: str, source: DataSource) -> Finding:
    if source.hub is not None:
        return Finding(what, "ok", f"a copy in {source.hub}")
    if source.manifest is not None:
        return _local_manifest(what, source)
    return _local_tables(what, source)


def _local_tables(what: str, source: DataSource) -> Finding:
    from shibolet.errors import DataError
    from shibolet.speech.readers import table_files

    try:
        sizes = [num_bytes for num_bytes in table_files(source).values() if num_bytes]
    except DataError as error:
        return Finding(what, "missing", str(error))
    if not sizes:
        return Finding(what, "missing", f"no file {source.parquet}")
    return Finding(what, "ok", f"{len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB")


def _local_manifest(what: str, source: DataSource) -> Finding:
    from shibolet.errors import DataError
    from shibolet.speech.manifests import count_and_first

    try:
        num_rows, url = count_and_first(source)
        num_bytes = url and store.info(url).size
    except DataError as error:
        return Finding(what, "missing", str(error))
    return Finding(what, "ok", f"{num_rows:,} rows{f'; {url} can be read, {num_bytes:,} bytes' if url else ''}")


def _mirror(url: str | None) -> Iterator[Finding]:
    """Whether a store takes the copy of the run folder: an object is written there, read and deleted."""
    from shibolet.errors import DataError
    from shibolet.rounds.mirroring import require_store

    if url is None:
        return
    try:
        require_store(url)
        store.require_writable(url)
    except (DataError, RecipeError) as error:
        yield Finding("mirror", "missing", str(error))
    else:
        yield Finding("mirror", "ok", f"{url} can be written and read")


def _on_hub(what: str, name: str, kind: Literal["model", "dataset"], file: str) -> Finding:
    """Whether a repository can be had: from the cache, or from the Hub with the token at hand."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

    if isinstance(try_to_load_from_cache(name, file, repo_type=kind), str):
        return Finding(what, "ok", "in the Hub's cache, in part at least")
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
    try:
        HfApi().auth_check(name, repo_type=kind)
    except GatedRepoError:
        return Finding(what, "missing", f"gated: ask for access at {page}, then 'hf auth login'")
    except RepositoryNotFoundError:
        return Finding(what, "missing", f"not on the Hub, or private: {page}")
    except (HTTPError, OSError) as error:
        return Finding(what, "missing", f"not in the cache, and the Hub cannot be asked ({type(error).__name__})")
    return Finding(what, "ok", "on the Hub, to be downloaded")
