"""Typed, checked configurations: from the plain data that Hydra composes to the dataclasses of :mod:`dv.config`.

pydantic checks types, ranges and choices and reports all faults at once; here they become sentences with full keys.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from inspect import get_annotations
from pkgutil import resolve_name
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import annotated_types as at
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from dv.errors import UserError, did_you_mean

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
Role = Literal["result", "resumable", "execution", "bookkeeping"]
Config = TypeVar("Config")


@dataclass(frozen=True)
class Affects:
    """What a change of a key affects: metadata of its field, which keys below it inherit unless they have their own.

    - ``result``, the default: another value makes another run.
    - ``resumable``: it shapes the result, but a run may be resumed with another value.
    - ``execution``: where and how a run executes, with the same result; reports show it, names of runs do not.
    - ``bookkeeping``: neither reports nor names of runs show it.
    """

    role: Role


@dataclass(frozen=True)
class Requirement:
    """Words that complete "KEY=VALUE must be …" for a rule that ``Ge``, ``Le`` and the like cannot express."""

    text: str
    alternatives: tuple[str, ...] = ()


def one_of(*numbers: float) -> tuple[AfterValidator, Requirement]:
    """Metadata for a number that must be one of ``numbers``; ``Literal`` allows no floats."""

    def check(value: float) -> float:
        if value not in numbers:
            raise ValueError
        return value

    first, *others = (f"{number:g}" for number in numbers)
    return AfterValidator(check), Requirement(first, tuple(others))


def parse(schema: type[Config], plain: Mapping[str, Any], above: str = "", *, rules: bool = True) -> Config:
    """Return ``plain`` as an object of ``schema``, a pydantic dataclass with the configuration ``STRICT``.

    A ``model`` of the form ``{"kind": "package.module:Class", …}`` is checked against ``Class.config_class``. Rules
    between fields are the method ``rules`` of a schema, which yields one sentence per fault.

    Args:
        schema: the dataclass.
        plain: the configuration as nested dictionaries, lists and values.
        above: prefix of the keys in messages.
        rules: whether to check the rules between fields too.

    Raises:
        UserError: one line with every fault and its full key.
    """
    faults: list[str] = []
    try:
        config = TypeAdapter(schema).validate_python(_with_model(schema, plain))
        faults = list(getattr(config, "rules", tuple)()) if rules else []
    except ValidationError as error:
        faults = list(dict.fromkeys(above + _fault(schema, plain, dict(item)) for item in error.errors()))
    if faults:
        raise UserError("; ".join(faults))
    return config


def _with_model(schema: Any, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``plain`` with a ``model`` of a kind of your own parsed into the schema of that kind."""
    model = plain.get("model")
    if not isinstance(model, Mapping) or ":" not in str(model.get("kind")) or "model" not in _hints(schema):
        return dict(plain)
    kind = str(model["kind"])
    own_schema = getattr(import_object(kind), "config_class", None)
    if own_schema is None:
        raise UserError(f"model.kind={kind} has no config_class; give the LightningModule of a model, an ObjectModule")
    return {**plain, "model": parse(own_schema, model, "model.")}


def import_object(path: str) -> Any:
    """Import the object ``package.module:name`` that ``model.kind`` names.

    Raises:
        UserError: if the module cannot be imported or has no such name.
    """
    try:
        return resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"model.kind={path}: {error}; give package.module:Class, importable from PYTHONPATH") from error


def _fault(schema: Any, plain: Any, error: dict[str, Any]) -> str:
    """Return one sentence for an error of pydantic, whose ``loc`` also contains union members and list indices."""
    key: list[str] = []
    node: Any = schema
    annotation: Any = None
    value = plain
    for part in error["loc"]:
        hints = _hints(node) if node is not None else {}
        if isinstance(part, str) and part in hints:
            key.append(part)
            annotation = hints[part]
            value = value.get(part) if isinstance(value, Mapping) else None
            node = next(iter(dataclasses_in(annotation)), None)
        elif options := [option for option in dataclasses_in(annotation) if part in _tags(option)]:
            node = options[0]
        elif error["type"] == "unexpected_keyword_argument" and node is not None:
            name, known = ".".join([*key, str(part)]), [key for key, _, _ in leaves(schema)]
            return f"{name} is not a key of this configuration{did_you_mean(name, known)}"
        else:
            break
    if error["type"].startswith("union_tag"):  # the discriminator is missing or names no member of the union
        tag = error["ctx"]["discriminator"].strip("'")
        value = value.get(tag) if isinstance(value, Mapping) else value
        names = ", ".join(name for option in dataclasses_in(annotation) for name in _tags(option))
        own = " or package.module:Class of your own" if tag == "kind" else ""
        return f"{'.'.join([*key, tag])}={show(value)} must be one of {names}{own}"
    name = ".".join(key)
    if error["type"] in ("missing", "missing_argument"):
        return f"{name} is missing"
    choices = [word for word in _alternatives(annotation) if " " not in word]
    return f"{name}={show(value)} must be {describe(annotation)}{did_you_mean(show(value), choices)}"


def show(value: Any) -> str:
    """Return a value as YAML writes it on one line; dictionaries are abbreviated."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(show, value))}]"
    if isinstance(value, Mapping):
        return "{…}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def describe(annotation: Any) -> str:
    """Return in words what a value of a field must be.

    >>> describe(Annotated[int, at.Ge(1)] | Literal["auto"] | None)
    'a whole number of at least 1, auto or null'
    """
    *first, last = dict.fromkeys(_alternatives(annotation))
    return f"{', '.join(first)} or {last}" if first else last


def _alternatives(annotation: Any) -> Iterator[str]:
    metadata, kinds = _unpack(annotation)
    requirements = [item for item in metadata if isinstance(item, Requirement)]
    for item in requirements:
        yield from (item.text, *item.alternatives)
    if requirements:
        kinds = [kind for kind in kinds if kind is NoneType]
    for kind in kinds:
        if get_origin(kind) in (Annotated, Union, UnionType):
            yield from _alternatives(kind)
        elif kind is NoneType:
            yield "null"
        elif get_origin(kind) is Literal:
            yield from map(show, get_args(kind))
        elif kind in (int, float):
            yield ("a whole number" if kind is int else "a number") + _range(metadata)
        elif kind is bool:
            yield from ("true", "false")
        elif get_origin(kind) is list:
            yield f"a list, [a,b,…], of which each is {describe(get_args(kind)[0])}"
        else:
            yield "text" if kind is str else "a group of keys"


def _range(metadata: Sequence[Any]) -> str:
    found = {type(item): item for item in metadata}
    low, high = found.get(at.Ge), found.get(at.Le)
    if low and high:
        return f" from {low.ge:g} to {high.le:g}"
    words = [
        f"of at least {low.ge:g}" if low else "",
        f"above {found[at.Gt].gt:g}" if at.Gt in found else "",
        f"of at most {high.le:g}" if high else "",
        f"below {found[at.Lt].lt:g}" if at.Lt in found else "",
    ]
    return "".join(f" {word}" for word in [" and ".join(filter(None, words))] if word)


def _unpack(annotation: Any) -> tuple[list[Any], list[Any]]:
    """Return the metadata of an annotation that :func:`describe` uses, and the members of its union."""
    metadata: list[Any] = []
    while get_origin(annotation) is Annotated:
        annotation, *found = get_args(annotation)
        metadata += found
    kinds = list(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else [annotation]
    return [item for item in metadata if isinstance(item, Requirement | at.Ge | at.Gt | at.Le | at.Lt)], kinds


def dataclasses_in(annotation: Any) -> Iterator[Any]:
    """Yield the schemas that an annotation allows: one, several for a union, none for a leaf."""
    if get_origin(annotation) is Annotated:
        yield from dataclasses_in(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from dataclasses_in(member)
    elif isinstance(annotation, type) and is_dataclass(annotation):
        yield annotation


def _tags(option: Any) -> tuple[str, ...]:
    """Return the values of a schema's discriminator, a ``Literal`` named ``kind`` or ``name``; empty without one."""
    hints = _hints(option)
    found = [hints[name] for name in ("kind", "name") if name in hints]
    return tuple(value for annotation in found if get_origin(annotation) is Literal for value in get_args(annotation))


@cache
def _hints(schema: Any) -> dict[str, Any]:
    """Return the annotations of the fields; ``get_type_hints`` fails on those that pydantic adds to its dataclasses."""
    names = {field.name for field in fields(schema)}
    hints: dict[str, Any] = {}
    for base in reversed(schema.__mro__[:-1]):
        own = SimpleNamespace(__annotations__={k: v for k, v in get_annotations(base).items() if k in names})
        hints |= get_type_hints(own, vars(sys.modules[base.__module__]), include_extras=True)
    return hints


def leaves(
    schema: Any, plain: Mapping[str, Any] | None = None, above: str = "", role: Role = "result"
) -> Iterator[tuple[str, Any, Role]]:
    """Yield key, annotation and role of every leaf of a schema.

    Args:
        schema: dataclass of a configuration.
        plain: a configuration that selects members of unions; without it, those of all members are yielded once each.
        above: prefix of the keys.
        role: role of keys that have none of their own.
    """
    seen = set()
    for name, annotation in _hints(schema).items():
        own = _role(annotation, role)
        inner = (plain or {}).get(name)
        below = list(dataclasses_in(annotation))
        inner = inner if isinstance(inner, Mapping) else {}
        chosen = [option for option in below if {inner.get("kind"), inner.get("name")} & {*_tags(option)}]
        for option in chosen or below:
            for leaf in leaves(option, inner, f"{above}{name}.", own):
                if leaf[0] not in seen:
                    seen.add(leaf[0])
                    yield leaf
        if not below:
            yield f"{above}{name}", annotation, own


def _role(annotation: Any, default: Role) -> Role:
    found = [item.role for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Affects)]
    return found[-1] if found else default


def role_of(schema: Any, key: str) -> Role:
    """Return the role of a full key; a key that the schema lacks, as in a run of another version, has its parent's."""
    role: Role = "result"
    node = schema
    for part in key.split("."):
        annotation = _hints(node).get(part) if node is not None else None
        role = _role(annotation, role)
        node = next(dataclasses_in(annotation), None)
    return role


def is_same(value: Any, other: Any) -> bool:
    """Whether two values of a key mean the same, such as 1 and 1.0 or the names 7 and "7"."""
    return bool(value == other) or str(value) == str(other)


def flatten(config: Any, above: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to a dictionary of values by full key; lists are values.

    >>> flatten({"trainer": {"max_steps": 4}, "seed": 0})
    {'trainer.max_steps': 4, 'seed': 0}
    """
    if not isinstance(config, Mapping):
        return {above.rstrip("."): config}
    return {k: v for key, value in config.items() for k, v in flatten(value, f"{above}{key}.").items()}
