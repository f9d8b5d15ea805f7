"""The recipe: what one round does, as the stages' own settings put together; read from YAML and `--set a.b=c`.

Strict: an unknown key is an error that names the nearest known one. No stage runs here, nothing heavy is imported.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import Any, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from shibolet.audit.config import AuditConfig, CalibrateConfig
from shibolet.compare import CompareConfig
from shibolet.errors import RecipeError, did_you_mean
from shibolet.evaluate.config import EvaluateConfig
from shibolet.gate.config import GateConfig
from shibolet.model.spans import LayerSpan
from shibolet.prepare.config import PrepareConfig
from shibolet.publish.config import PublishConfig
from shibolet.records.config import Config
from shibolet.records.files import write_bytes
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language
from shibolet.train.config import TrainConfig


class ModelsConfig(Config):
    """The model that is trained and the one it has to beat: Hub ids, folders, or `builtin:NAME`."""

    base: str  # what Round 2 starts from
    round1: str  # what Round 2 is compared with
    round1_trained_on: tuple[
        str, ...
    ] = ()  # names of training sources that Round 1 has seen: it knows their errors too


class DataConfig(Config):
    """What may be trained on, before the audit."""

    train: tuple[DataSource, ...] = Field(min_length=1)


class Recipe(Config):
    """One round, from data to verdict."""

    name: str = Field(min_length=1)
    language: str = "Hebrew"  # as in the prompt
    seed: int = Field(0, ge=0)
    num_threads: int | None = Field(None, gt=0)  # CPU threads of torch; results differ in bits between counts
    models: ModelsConfig | None = None  # an audit alone needs neither models
    data: DataConfig
    audit: AuditConfig
    calibrate: CalibrateConfig = CalibrateConfig()
    gate: GateConfig = GateConfig()
    prepare: PrepareConfig = PrepareConfig()
    train: TrainConfig | None = None  # ... nor training
    evaluate: EvaluateConfig = EvaluateConfig()
    compare: CompareConfig = CompareConfig()
    publish: PublishConfig | None = None  # after a keep verdict; null: nothing is uploaded

    def model_names(self) -> dict[str, str]:
        """By role, the models that the recipe names."""
        roles = {"base": self.models.base, "round1": self.models.round1} if self.models else {}
        roles |= {name: getattr(self.audit, name) for name in ("aligner", "recogniser", "second_gate_recogniser")}
        return {role: name for role, name in roles.items() if name}

    def require(self, command: str, *sections: str) -> None:
        """RecipeError where a section is missing that a command cannot do without."""
        if missing := [name for name in sections if getattr(self, name) is None]:
            raise RecipeError(
                f"recipe '{self.name}' has no section {' and no section '.join(map(repr, missing))}: it can be "
                f"audited, but not used for '{command}'; hebrew-round2 shows what to write"
            )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for key, sources in (("data.train", self.data.train), ("evaluate.sets", self.evaluate.sets)):
            names = [source.name for source in sources]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise RecipeError(f"{key}: {', '.join(twice)} named twice; each source needs a name of its own")
            if bad := [name for name in names if not re.fullmatch(r"[\w.-]+", name)]:
                raise RecipeError(f"{key}: '{bad[0]}' cannot name a folder; use letters, digits, '-', '_' and '.'")
        known = [source.name for source in self.data.train]
        for name in self.models.round1_trained_on if self.models else ():
            if name not in known:
                raise RecipeError(
                    f"models.round1_trained_on: '{name}' is no source of data.train{did_you_mean(name, known)}"
                )
        known = [source.name for source in self.evaluate.sets]
        for name in self.compare.accept_overlap:
            if name not in known:
                raise RecipeError(
                    f"compare.accept_overlap: '{name}' is no set of evaluate.sets{did_you_mean(name, known)}"
                )
        return self

    @model_validator(mode="after")
    def _languages_are_known(self) -> Self:
        for language in (self.language, *(source.language for source in self.evaluate.sets if source.language)):
            get_language(language)
        return self

    @model_validator(mode="after")
    def _adapted_layers_stay_frozen(self) -> Self:
        lora = self.train.lora if self.train else None
        adapted = LayerSpan.parse(lora.part) if lora else None
        for phase in self.train.phases if lora else ():
            for part in phase.lr_by_part:
                span = LayerSpan.parse(part)
                if span and adapted and (layer := span.shared_with(adapted)) is not None:
                    raise RecipeError(
                        f"phase '{phase.name}' thaws '{part}', but train.lora puts adapters on '{lora.part}': both "
                        f"hold layer {layer}, and a layer is either trained or adapted"
                    )
            if "lora" not in phase.lr_by_part:
                raise RecipeError(
                    f"phase '{phase.name}': train.lora adds adapters that this phase does not train; give 'lora' a "
                    "rate in its lr_by_part, or set train.lora to null"
                )
        return self


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file, or of a name that ships with the package; RecipeError says what is wrong and where.

    `overrides` are `a.b=value` with values in YAML; numbers are places in a list: `data.train.0.manifest=x.jsonl`.
    Relative paths in the file start at the file, those of overrides at the current folder.
    """
    path = find_recipe(path_or_name)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values, this file holds {_kind(raw)}")
    raw = _anchored(raw, Recipe, path.parent.resolve())
    for override in overrides:
        _override(raw, override)
    try:
        return Recipe.model_validate(raw)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    except ValidationError as error:
        changed = [override.partition("=")[0] for override in overrides]
        raise RecipeError("\n".join(_sentence(problem, path, changed) for problem in _told(error))) from error


def shipped_recipes() -> dict[str, Path]:
    """Recipes of the package by name."""
    folder = Path(str(files("shibolet"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(path_or_name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that ships with the package."""
    path, shipped = Path(path_or_name), shipped_recipes()
    if path.is_file():
        return path
    if str(path_or_name) in shipped:
        return shipped[str(path_or_name)]
    raise RecipeError(
        f"recipe '{path_or_name}' is neither a file here nor one of {', '.join(shipped)}"
        f"{did_you_mean(str(path_or_name), list(shipped))}"
    )


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe in full, paths relative to its new place, so that `load_recipe` reads the same recipe there."""
    plain = _moved(recipe.model_dump(mode="json"), Recipe, path.parent.resolve())
    write_bytes(path, yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120).encode())


def name_of(path: Path) -> str | None:
    """The name of a recipe that `write_recipe` wrote; None of what something else wrote."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return raw.get("name") if isinstance(raw, dict) else None


def recipe_yaml(recipe: Recipe) -> str:
    """The recipe in full, as `--dry-run` shows it."""
    plain = recipe.model_dump(mode="json")
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=80)


class _Loader(yaml.SafeLoader):
    """YAML in which 2e-4 is a number and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key '{twice[0]}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FLOAT = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def _anchored(value: Any, kind: Any, root: Path) -> Any:
    """`value` with its relative paths starting at `root`: fields of type Path, and any text with ./ or ../ in front."""
    return _map_paths(value, kind, lambda text: os.path.normpath(root / Path(text).expanduser()))


def _moved(value: Any, kind: Any, root: Path) -> Any:
    """The reverse: `value` with its absolute paths written relative to `root`."""
    return _map_paths(value, kind, lambda text: os.path.join(".", os.path.relpath(text, root)))


def _map_paths(value: Any, kind: Any, change) -> Any:
    if isinstance(value, Mapping):
        return {key: _map_paths(item, _inner(kind, key), change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_paths(item, _inner(kind, i), change) for i, item in enumerate(value)]
    if isinstance(value, str) and (Path in _alternatives(kind) or re.match(r"\.{1,2}/|~/|/", value)):
        return change(value)
    return value


def _override(raw: dict, override: str) -> None:
    """Put one `a.b=value` into a recipe's plain data."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise RecipeError(f"--set {override}: write it as key=value, such as --set train.pack_tokens=4096")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not YAML: {' '.join(str(error).split())}") from error
    *parents, last = _split_key(dotted)
    place, kind = raw, Recipe
    for key in parents:
        kind = _inner(kind, key)
        place = _enter(place, key, kind, override)
    value = _anchored(value, _inner(kind, last), Path.cwd())
    if isinstance(place, list):
        index = _index(place, last, override)
        place[index : index + 1] = [value]
    else:
        place[last] = value


def _split_key(dotted: str) -> list[str]:
    """Keys of a dotted path; in a mapping of free names the rest is one name (`lr_by_part.decoder.layers[16:28]`)."""
    keys, kind, rest = [], Recipe, dotted
    while rest:
        if any(get_origin(option) in (dict, Mapping) for option in _alternatives(kind)):
            return [*keys, rest]
        key, _, rest = rest.partition(".")
        keys.append(key)
        kind = _inner(kind, key)
    return keys


def _enter(place: dict | list, key: str, kind: Any, override: str) -> dict | list:
    """The container of type `kind` at `key`, made where there is none yet."""
    if isinstance(place, list):
        index = _index(place, key, override)
        if index == len(place):
            place.append({})
        inner = place[index]
    else:
        if place.get(key) is None:
            place[key] = [] if any(get_origin(option) in (list, tuple) for option in _alternatives(kind)) else {}
        inner = place[key]
    if not isinstance(inner, dict | list):
        raise RecipeError(f"--set {override}: '{key}' is {_kind(inner)} in the recipe and has nothing below it")
    return inner


def _index(place: list, key: str, override: str) -> int:
    if not key.isdigit() or int(key) > len(place):
        names = [item.get("name") if isinstance(item, dict) else None for item in place]
        hint = f"'{key}' is number {names.index(key)}" if key in names else "count from 0"
        raise RecipeError(f"--set {override}: '{key}' is no place in a list of {len(place)}; {hint}")
    return int(key)


def _alternatives(kind: Any) -> tuple:
    """The types that an annotation allows, without None."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is None or origin in (list, tuple, dict) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return (kind,)
    if hasattr(kind, "__metadata__"):
        return _alternatives(args[0])
    return tuple(inner for arg in args if arg is not NoneType for inner in _alternatives(arg))


def _inner(kind: Any, key: str | int) -> Any:
    """The annotation of what stands at `key` in a value of type `kind`; None where nothing is known."""
    for option in _alternatives(kind):
        origin, args = get_origin(option), get_args(option)
        if isinstance(option, type) and issubclass(option, BaseModel) and key in option.model_fields:
            return option.model_fields[key].annotation
        if origin in (list, tuple) and args and str(key).isdigit():
            return args[0]
        if isinstance(origin, type) and issubclass(origin, Mapping) and len(args) == 2:
            return args[1]
    return None


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """Keys that are known where an error lies."""
    kind: Any = Recipe
    for key in location:
        kind = _inner(kind, key)
    return [
        key
        for option in _alternatives(kind)
        if isinstance(option, type) and issubclass(option, BaseModel)
        for key in option.model_fields
    ]


def _all_keys(kind: Any = Recipe, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a recipe; places in lists are 0."""
    for option in _alternatives(kind):
        if isinstance(option, type) and issubclass(option, BaseModel):
            for key, field in option.model_fields.items():
                yield f"{prefix}{key}"
                yield from _all_keys(field.annotation, f"{prefix}{key}.")
        elif get_origin(option) in (list, tuple):
            yield from _all_keys(get_args(option)[0], f"{prefix}0.")


def _told(error: ValidationError) -> list[Mapping]:
    """pydantic's errors, without the one that a list is empty because each of its entries has an error of its own."""
    problems = error.errors()
    within = lambda loc: any(p["loc"][: len(loc)] == loc and len(p["loc"]) > len(loc) for p in problems)  # noqa: E731
    return [problem for problem in problems if problem["type"] != "too_short" or not within(problem["loc"])]


def _sentence(problem: Mapping, path: Path, changed: Sequence[str]) -> str:
    """One of pydantic's errors, for a person; `changed` are the keys that the command line gave."""
    location = [key for key in problem["loc"] if key != "[key]"]
    dotted = ".".join(map(str, location))
    is_unknown = problem["type"] == "extra_forbidden"  # and so is all that stands below it
    within = lambda key, other: f"{key}.".startswith(f"{other}.")  # noqa: E731
    is_given = any(within(dotted, key) or (is_unknown and within(key, dotted)) for key in changed)
    where = "--set" if is_given else str(path)
    if is_unknown:
        return f"{where}: unknown key '{dotted}'{_suggest_key(location)}"
    if problem["type"] == "missing":
        return f"{where}: key '{dotted}' is missing"
    if problem["type"] == "too_short":
        return f"{where}: '{dotted}' is empty; it takes {problem['ctx']['min_length']} or more"
    if problem["type"] == "model_type":
        return f"{where}: {dotted}: should be a mapping of keys to values, not {_kind(problem['input'])}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] == "value_error" or not isinstance(problem["input"], str | int | float):
        return f"{where}: {dotted}: {message}"
    return f"{where}: {dotted}: {message[0].lower()}{message[1:]}, not {problem['input']!r}"


def _suggest_key(location: Sequence[str | int]) -> str:
    """The nearest key in the same place, else one of that name elsewhere, else what may stand there."""
    *parents, key = location
    known = _known_keys(parents)
    prefix = "".join(f"{parent}." for parent in parents)
    if near := difflib.get_close_matches(str(key), known, n=1):
        return f"; did you mean '{prefix}{near[0]}'?"
    everywhere = list(_all_keys())
    leaves = [dotted.rpartition(".")[2] for dotted in everywhere]
    if near := difflib.get_close_matches(str(key), leaves, n=1, cutoff=0.8):
        return f"; did you mean '{everywhere[leaves.index(near[0])]}'?"
    return f"; known here: {', '.join(known)}"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "a mapping", list: "a list", str: "text", bool: "a truth value"}.get(type(value), f"'{value}'")
