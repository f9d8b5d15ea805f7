"""What keys a class of settings has, in words: type and limits, default, and the meaning that stands beside the field.

The meaning of a key is the comment above its field or at the end of its lines, so that each sentence has one place.
Knows nothing of recipes.
"""

import ast
import inspect
import io
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from shibolet.records.config import Config

REQUIRED, OF_ITS_KEYS = "required", "as below"
_NAMES = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Path: "path"}
_LIMITS = {"min_length": "not empty", "ge": "{:g} or more", "gt": "over {:g}", "le": "at most {:g}", "lt": "under {:g}"}
_PLURALS = {
    "text": "texts",
    "path": "paths",
    "number": "numbers",
    "whole number": "whole numbers",
    "section": "sections",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One key of a section."""

    name: str
    kind: str  # type and limits, in words
    default: str  # in YAML; or REQUIRED; or OF_ITS_KEYS: the section's own defaults
    meaning: str  # sentences; empty where its field has no comment
    section: str | None  # where its own keys are described; None: it has none

    @property
    def is_written(self) -> bool:
        """Whether the default is a value, in YAML."""
        return self.default not in (REQUIRED, OF_ITS_KEYS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """The keys that stand at one place."""

    place: str  # "train.phases[]", where [] is any entry of a list; empty: the top
    about: str  # what the class says of itself; empty where `like` says it all
    like: str | None  # place of an earlier section whose keys it takes too
    keys: tuple[Key, ...]  # in the order of the class, without those of `like`


def sections(schema: type[Config]) -> tuple[Section, ...]:
    """Sections of a class of settings from the top, each before those inside it; a class is described once."""
    return tuple(_sections(schema, "", {}))


def _sections(schema: type[Config], place: str, seen: dict[type, str]) -> list[Section]:
    base = next((one for one in schema.__mro__ if one in seen), None)
    seen.setdefault(schema, place)
    taken = base.model_fields if base else {}
    keys, inner = [], []
    for name, field in schema.model_fields.items():
        if name in taken:
            continue
        within, is_listed = _inside(field.annotation)
        path = f"{place}.{name}".removeprefix(".") + ("[]" if is_listed else "")
        keys.append(
            Key(
                name=name,
                kind=_in_words(field.annotation, field.metadata),
                default=_default(field),
                meaning=_sentences(_comment(schema, name) or (within and _about(within)) or ""),
                section=within and path,
            )
        )
        if within:
            inner += _sections(within, path, seen)
    about = "" if base is schema else _about(schema)
    own = Section(place=place, about=about, like=base and seen[base], keys=tuple(keys))
    return [own, *inner]


def _inside(kind: Any) -> tuple[type[Config] | None, bool]:
    """The class of settings that a type holds, and whether in a list."""
    if isinstance(kind, type) and issubclass(kind, Config):
        return kind, False
    for option in get_args(kind):
        within, is_listed = _inside(option)
        if within:
            return within, is_listed or get_origin(kind) is tuple
    return None, False


def _in_words(kind: Any, limits: Sequence[Any] = (), is_inner: bool = False) -> str:
    """`whole number, over 0, or null`; limits of what stands in something else are in brackets."""
    origin, args = get_origin(kind), get_args(kind)
    if hasattr(kind, "__metadata__"):
        return _in_words(args[0], kind.__metadata__, is_inner)
    if origin in (UnionType, Union):
        named = [_in_words(option, limits, is_inner) for option in args if option is not NoneType]
        return " or ".join(named) + (", or `null`" if NoneType in args else "")
    if origin is Literal:
        *others, last = (f"`{option}`" for option in args)
        return f"{', '.join(others)} or {last}" if others else last
    inner = [_in_words(option, is_inner=True) for option in args if option is not Ellipsis]
    if origin is tuple:
        return f"list of {_plural(*inner)}{_limited(limits)}" if Ellipsis in args else f"[{', '.join(inner)}]"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of {' to '.join(inner)}"
    limited = _limited(limits)
    return (_NAMES.get(kind) or "section") + (f" ({limited[2:]})" if is_inner and limited else limited)


def _plural(words: str) -> str:
    name, bracket, rest = words.partition(" (")
    return f"{_PLURALS.get(name, name)}{bracket}{rest}"


def _limited(limits: Sequence[Any]) -> str:
    each = [one for limit in limits for one in (limit.metadata if isinstance(limit, FieldInfo) else [limit])]
    found = {name: getattr(one, name) for one in each for name in _LIMITS if getattr(one, name, None) is not None}
    if {"ge", "le"} <= found.keys():
        return ", " + " to ".join(f"{found[name]:g}" for name in ("ge", "le"))
    said = " and ".join(words.format(found[name]) for name, words in _LIMITS.items() if name in found)
    return said and f", {said}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    return OF_ITS_KEYS if isinstance(value, BaseModel) else _in_yaml(value)


def _in_yaml(value: Any) -> str:
    """On one line, as one would write it in a recipe."""
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()  # the end of a document, where it is one word


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in value.model_dump(exclude_defaults=True)}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return dict(value) if isinstance(value, Mapping) else value


def _about(schema: type) -> str:
    return " ".join(inspect.cleandoc(schema.__doc__ or "").split())


def _sentences(comment: str) -> str:
    return comment and comment[0].upper() + comment[1:] + ("" if comment.endswith(".") else ".")


def _comment(schema: type, name: str) -> str:
    """What is said of a field in the class that has it."""
    return next((found[name] for one in schema.__mro__[:-1] if name in (found := _comments(one))), "")


@cache
def _comments(schema: type) -> dict[str, str]:
    """Field -> its comment, of those that a class adds; above it on lines of their own, or at the end of its lines."""
    if not issubclass(schema, Config) or schema is Config:
        return {}
    source = inspect.getsource(schema)
    said, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string.lstrip("# ")
        if token.type == tokenize.COMMENT and not text.startswith(("fmt:", "noqa")):
            said[token.start[0]] = text
            if token.line.lstrip().startswith("#"):
                alone.add(token.start[0])
    found = {}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            found[node.target.id] = " ".join(said[line] for line in range(first, node.end_lineno + 1) if line in said)
    return found
