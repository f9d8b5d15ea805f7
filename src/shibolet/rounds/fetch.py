"""Everything that a recipe names on the Hub, onto this machine, before a GPU waits for it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from shibolet.errors import DataError, ModelError
from shibolet.recipe import Recipe
from shibolet.records.documents.beforehand import Fetched
from shibolet.records.retry import retried
from shibolet.rounds.shared import Track, cache_dir, untracked
from shibolet.speech.sources import DataSource


def fetch_recipe(recipe: Recipe, track: Track = untracked, wait: Callable[[float], None] = time.sleep) -> Fetched:
    """Bring the models and data sets here; what became of each.

    Cut off, it goes on where it was; what fails does not keep the rest from being fetched.
    """
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise DataError("HF_HUB_OFFLINE=1 is set: nothing can be fetched; unset it")
    fetched, local, missing = [], [], {}
    jobs: dict[str, Callable[[], None] | None] = {name: _model(name) for name in recipe.model_names().values()}
    silent = recipe.evaluate.non_speech.sources if recipe.evaluate.non_speech else ()
    for source in (*recipe.data.trained, *recipe.evaluate.sets, *silent):
        jobs[" ".join(part for part in (source.hub or source.name, source.config, source.split) if part)] = _data(
            source
        )
    for name, fetch in jobs.items():
        if fetch is None:
            local.append(name)
            continue
        try:
            with track(f"fetch {name}"):
                retried(fetch, _may_pass, wait=wait)
            fetched.append(name)
        except (ModelError, DataError) as error:
            missing[name] = str(error)
    return Fetched(fetched=fetched, local=local, missing=missing)


def _model(name: str) -> Callable[[], None] | None:
    """Downloads a model of the Hub and looks whether it is whole; None for what is on this machine.

    A file of hypotheses is on this machine or nowhere, and some names are no model's: what is fetched by then says so.
    """
    from shibolet.listen.open import HYPOTHESES, listener_identity
    from shibolet.model.folders import is_ctranslate2, is_local, resolve, unusable, weight_files

    if name.endswith(HYPOTHESES):
        return None if Path(os.path.expanduser(name)).is_file() else lambda: listener_identity(name)
    if is_local(name) and not unusable(name):
        return None

    def fetch() -> None:
        path = resolve(name)
        if not is_ctranslate2(file.name for file in path.iterdir()):
            weight_files(name, path)

    return fetch


def _data(source: DataSource) -> Callable[[], None] | None:
    """Reads a Hub data set into its cache, and its card for the licence."""
    if source.hub is None or os.path.exists(source.hub):
        return None

    def fetch() -> None:
        from shibolet.speech.hub import fetch_card, hub_tables

        for _ in hub_tables(source, cache_dir())[0]:
            pass
        fetch_card(source)

    return fetch


def _may_pass(error: Exception) -> bool:
    """Whether an error is the network's and not an answer: gated, not there, not of this kind."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

    cause = error.__cause__
    if isinstance(cause, DatasetNotFoundError | GatedRepoError | RepositoryNotFoundError):
        return False
    if isinstance(cause, HfHubHTTPError) and cause.response is not None:
        return cause.response.status_code >= 500 or cause.response.status_code in (408, 429)
    return isinstance(cause, HTTPError | OSError)
