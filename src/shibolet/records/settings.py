"""YAML files of settings: strict, with a sentence for every mistake, `a.b=c` on top, and paths that start at the file.

Knows pydantic's models and no particular one: an unknown key is an error that names the nearest known one.
"""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from shibolet.errors import RecipeError
from shibolet.records.config import Config
from shibolet.records.files import open_regular
from shibolet.records.store import has_scheme

MAX_YAML_BYTES = 512 << 10  # in full, with every default, 0.7 KiB a data set
MAX_VALUES = 50_000  # of a file, with its aliases written out

Settings = TypeVar("Settings", bound=Config)
Schema = type[Config]


def read_settings(path: Path, schema: type[Settings], overrides: Sequence[str] = ()) -> Settings:
    """The settings in a YAML file; RecipeError says what is wrong and where.

    `overrides` are `a.b=value` with values in YAML; numbers are places in a list: `data.train.0.manifest=x.jsonl`.
    Relative paths in the file start at the file, those of overrides at the current folder.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values, this file holds {_kind(raw)}")
    raw = _anchored(raw, schema, path.parent.resolve())
    for override in overrides:
        _override(raw, override, schema)
    try:
        return schema.model_validate(raw)
    except RecipeError as error:
        raise RecipeError(f"{path}: {_one_line(error)}") from error
    except ValidationError as error:
        changed = [override.partition("=")[0] for override in overrides]
        raise RecipeError("\n".join(_sentence(problem, path, changed, schema) for problem in _told(error))) from error


def settings_yaml(settings: Config, folder: Path | None = None, *, width: int = 120) -> str:
    """Settings in full; with a `folder` their paths are relative to it, so that they can be read again there."""
    plain = settings.model_dump(mode="json")
    if folder is not None:
        plain = _moved(plain, type(settings), folder.resolve())
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)


def peek(path: Path, key: str) -> Any:
    """What stands at a key of a YAML file; None where there is none, or no YAML."""
    try:
        raw = read_yaml(path)
    except RecipeError:
        return None
    return raw.get(key) if isinstance(raw, dict) else None


def read_yaml(path: Path) -> Any:
    """The plain data in a YAML file: mappings with keys of text, lists, text, numbers, truth values, nothing.

    RecipeError for what is none, and for what would take a machine's time or memory.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_YAML_BYTES:
        raise RecipeError(f"{path} has more than {MAX_YAML_BYTES >> 10} KiB, so it is not a recipe")
    try:
        return _parse(content.decode())
    except ValueError as error:
        raise RecipeError(f"{path}: not YAML: {error}") from error


def _parse(text: str) -> Any:
    """The plain data in YAML; ValueError, in a sentence, for what is none."""
    try:
        loader = _Loader(text.removeprefix("\ufeff"))
        node = loader.get_single_node()
        if node is None:
            return None
        _num_values(node, {})
        return loader.construct_document(node)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:500]) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of a tag such as !!int
        raise ValueError(f"a value is not what it should be ({' '.join(str(error).split())[:300]})") from error


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for with its aliases written out; YAMLError for more than any recipe has."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES  # of itself, while it is being counted: an alias to what it is in
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = [one for pair in inner for one in pair] if isinstance(node, yaml.MappingNode) else inner
        known[id(node)] = 1 + sum(_num_values(one, known) for one in pairs)
    if known[id(node)] > MAX_VALUES:
        raise yaml.YAMLError(f"it has more than {MAX_VALUES:,} values with expanded aliases, so it is not a recipe")
    return known[id(node)]


class _Loader(yaml.SafeLoader):
    """YAML's plain data alone; 2e-4 is a number, a date is text, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                problem = f"key {key!r} is not text; put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        digits = self.construct_scalar(node)
        if len(digits) > 100 or abs(value := super().construct_yaml_int(node)) >= 1 << 63:
            problem = f"{digits[:30]} is more than 64 bits hold"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        text = self.construct_scalar(node)
        if odd := next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), None):
            problem = f"text with the control character U+{ord(odd):04X}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return text


class _Dumper(yaml.SafeDumper):
    """YAML without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FLOAT = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))
_TAG = "tag:yaml.org,2002:"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != f"{_TAG}timestamp"]
    for first, forms in _Loader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: made
    for tag, made in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(_TAG) in ("null", "bool", "float", "seq", "map")
}
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_yaml_int)
_Loader.add_constructor(f"{_TAG}str", _Loader.construct_yaml_str)


def _anchored(value: Any, kind: Any, root: Path) -> Any:
    """`value` with its relative paths starting at `root`: fields of type Path, and any text with ./ or ../ in front."""
    return _map_paths(value, kind, lambda text: os.path.normpath(root / os.path.expanduser(text)))


def _moved(value: Any, kind: Any, root: Path) -> Any:
    """The reverse: `value` with its absolute paths written relative to `root`."""
    return _map_paths(value, kind, lambda text: os.path.join(".", os.path.relpath(text, root)))


def _map_paths(value: Any, kind: Any, change) -> Any:
    if isinstance(value, Mapping):
        return {key: _map_paths(item, _inner(kind, key), change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_paths(item, _inner(kind, i), change) for i, item in enumerate(value)]
    is_path = isinstance(value, str) and (Path in _alternatives(kind) or re.match(r"\.{1,2}/|~/|/", value))
    return change(value) if is_path and not has_scheme(value) else value


def _override(raw: dict, override: str, schema: Schema) -> None:
    """Put one `a.b=value` into plain data."""
    dotted, equals, text = override.partition("=")
    override = _one_line(override)[:200]  # as messages show it
    if not equals or not dotted:
        raise RecipeError(f"--set {override}: write it as key=value, such as --set train.pack_tokens=4096")
    try:
        value = _parse(text)
    except ValueError as error:
        raise RecipeError(f"--set {override}: the value is not YAML: {error}") from error
    *parents, last = _split_key(dotted, schema)
    place, kind = raw, schema
    for key in parents:
        kind = _inner(kind, key)
        place = _enter(place, key, kind, override)
    value = _anchored(value, _inner(kind, last), Path.cwd())
    if isinstance(place, list):
        index = _index(place, last, override)
        place[index : index + 1] = [value]
    else:
        place[last] = value


def _split_key(dotted: str, schema: Schema) -> list[str]:
    """Keys of a dotted path; in a mapping of free names the rest is one name (`lr_by_part.decoder.layers[16:28]`)."""
    keys, kind, rest = [], schema, dotted
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
        raise RecipeError(f"--set {override}: '{key}' is not an index of a list of {len(place)}; {hint}")
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


def _known_keys(location: Sequence[str | int], schema: Schema) -> list[str]:
    """Keys that are known where an error lies."""
    kind: Any = schema
    for key in location:
        kind = _inner(kind, key)
    return [
        key
        for option in _alternatives(kind)
        if isinstance(option, type) and issubclass(option, BaseModel)
        for key in option.model_fields
    ]


def _all_keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key; places in lists are 0."""
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


def _sentence(problem: Mapping, path: Path, changed: Sequence[str], schema: Schema) -> str:
    """One of pydantic's errors, for a person; `changed` are the keys that the command line gave."""
    location = [key for key in problem["loc"] if key != "[key]"]
    dotted = ".".join(map(str, location))
    is_unknown = problem["type"] == "extra_forbidden"  # and so is all that stands below it
    within = lambda key, other: f"{key}.".startswith(f"{other}.")  # noqa: E731
    is_given = any(within(dotted, key) or (is_unknown and within(key, dotted)) for key in changed)
    where = "--set" if is_given else str(path)
    if is_unknown:
        return f"{where}: unknown key '{_one_line(dotted)}'{_suggest_key(location, schema)}"
    if problem["type"] == "missing":
        return f"{where}: key '{dotted}' is missing"
    if problem["type"] == "too_short":
        return f"{where}: '{dotted}' is empty; it takes {problem['ctx']['min_length']} or more"
    if problem["type"] == "model_type":
        return f"{where}: {dotted}: should be a mapping of keys to values, not {_kind(problem['input'])}"
    message = _one_line(problem["msg"].removeprefix("Value error, ").removeprefix("Input "))
    if problem["type"] == "value_error" or not isinstance(problem["input"], str | int | float):
        return f"{where}: {dotted}: {message}"
    return f"{where}: {dotted}: {message[0].lower()}{message[1:]}, not {_one_line(repr(problem['input']))}"


def _one_line(value: Any) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(value)[:2000].split()))[:500]


def _suggest_key(location: Sequence[str | int], schema: Schema) -> str:
    """The nearest key in the same place, else one of that name elsewhere, else what may stand there."""
    *parents, key = location
    known = _known_keys(parents, schema)
    prefix = "".join(f"{parent}." for parent in parents)
    if near := difflib.get_close_matches(str(key), known, n=1):
        return f"; did you mean '{prefix}{near[0]}'?"
    everywhere = list(_all_keys(schema))
    leaves = [dotted.rpartition(".")[2] for dotted in everywhere]
    if near := difflib.get_close_matches(str(key), leaves, n=1, cutoff=0.8):
        return f"; did you mean '{everywhere[leaves.index(near[0])]}'?"
    return f"; known here: {', '.join(known)}"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "a mapping", list: "a list", str: "text", bool: "a truth value"}.get(type(value), f"'{value}'")
