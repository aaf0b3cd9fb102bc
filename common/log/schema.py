"""Between a declared event and the JSON object of its record: writing the one, reading and refusing the other.

A declaration is a frozen dataclass. A field's annotation is its type on disk, with a line of meaning (and the unit) as
`Annotated[float, "ms"]`. What a declaration can say:

- `X | None` without a default: always there, null where there is no value.
- `Annotated[str, OneOf(("ok", "oom"))]`: no other text.
- `Annotated[X | None, OPTIONAL]` and a default of None: the key may be missing.
- `Annotated[Figures, FLAT]`: the fields of another declaration, beside the others in the same object; with a default of
  None all of them are there, or none.

A key that is a word of Python's has an underscore behind it in its declaration: `pass_`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
LONGEST_VALUE = 60  # characters of a wrong value that a message shows


def _cached(function: Callable[[Any], T]) -> Callable[[Any], T]:
    """functools.cache, whose own types refuse a class as an argument."""
    return functools.cache(function)


class _Mark(Enum):
    """What an annotation says of a field beside its type and its meaning."""

    FLAT = "its fields stand beside the others, and not in an object of their own"
    OPTIONAL = "its key may be missing"


FLAT, OPTIONAL = _Mark.FLAT, _Mark.OPTIONAL
WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
}


class OneOf(NamedTuple):
    """The texts that a field may hold."""

    choices: tuple[str, ...]

    def __str__(self) -> str:
        *others, last = self.choices
        return f"{', '.join(others)} or {last}"


class MisfitError(ValueError):
    """A record that is not what its event declares. The message names the field."""


class Member(NamedTuple):
    """One field of a declaration: `kind` is its type without None; `meaning` says what it is, and its unit."""

    name: str
    key: str
    kind: Any
    nullable: bool
    omittable: bool
    flat: bool
    one_of: OneOf | None
    meaning: str


@_cached
def members(declaration: Any) -> tuple[Member, ...]:
    """The fields of a declaration in their order."""
    hints = get_type_hints(declaration, include_extras=True)
    found = []
    for field in fields(declaration):
        kind: Any = hints[field.name]
        notes: list[Any] = []
        if get_origin(kind) is Annotated:
            kind, *notes = get_args(kind)
        nullable = get_origin(kind) in (Union, types.UnionType)
        if nullable:
            (kind,) = (arm for arm in get_args(kind) if arm is not type(None))
        meaning = "; ".join(str(note) for note in notes if isinstance(note, (str, OneOf)))
        one_of = next((note for note in notes if isinstance(note, OneOf)), None)
        omittable = OPTIONAL in notes or (FLAT in notes and field.default is not MISSING)
        key = field.name.removesuffix("_")
        found.append(Member(field.name, key, kind, nullable, omittable, FLAT in notes, one_of, meaning))
    return tuple(found)


@_cached
def keys(declaration: Any) -> frozenset[str]:
    """The keys on disk, those of flat fields included."""
    own = {member.key for member in members(declaration) if not member.flat}
    return frozenset(own.union(*(keys(member.kind) for member in members(declaration) if member.flat)))


# ---------------------------------------------------------------------------------------------------------- writing
def encode(declared: Any) -> dict[str, Any]:
    """The JSON object of an instance of a declaration."""
    found: dict[str, Any] = {}
    for member in members(type(declared)):
        value = getattr(declared, member.name)
        if value is None and member.omittable:
            continue
        if member.flat:
            found |= encode(value)
        else:
            found[member.key] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return encode(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


# ---------------------------------------------------------------------------------------------------------- reading
def decode(declaration: type[T], record: dict[str, Any]) -> T:
    """An instance from a JSON object. Raises MisfitError for a missing, surplus or misshapen field."""
    left = dict(record)
    made = _take(declaration, left)
    if left:
        raise MisfitError(f"{next(iter(left))!r:.{LONGEST_VALUE}} is none of its fields")
    return made


def _take(declaration: type[T], left: dict[str, Any]) -> T:
    """An instance from some of the keys, which are taken away."""
    values: dict[str, Any] = {}
    for member in members(declaration):
        if member.flat:
            absent = member.omittable and not keys(member.kind) & left.keys()
            values[member.name] = None if absent else _take(member.kind, left)
        elif member.key in left:
            value = left.pop(member.key)
            if not (value is None and member.nullable):
                value = _reader(member.kind)(value, member.key)
                if member.one_of and value not in member.one_of.choices:
                    raise _misfit(member.key, value, str(member.one_of))
            values[member.name] = value
        elif not member.omittable:
            raise MisfitError(f"{member.key} is missing")
    return declaration(**values)


def _misfit(name: str, value: object, words: str) -> MisfitError:
    return MisfitError(f"{name} is {value!r:.{LONGEST_VALUE}}, not {words}")


@functools.cache
def _reader(kind: Any) -> Callable[[Any, str], Any]:
    """What checks and converts a value of this type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value, name: value
    if kind is float:
        return _number
    if is_dataclass(kind):
        return lambda value, name: _object_of(kind, value, name)
    if origin is list:
        return functools.partial(_list, _item_reader(arguments[0]))
    if origin is dict:
        return functools.partial(_dict, _item_reader(arguments[1]))
    return functools.partial(_exactly, kind)


def _item_reader(kind: Any) -> Callable[[Any, str], Any]:
    """Of a list's or object's item, which may be null where its type says so."""
    if get_origin(kind) not in (Union, types.UnionType):
        return _reader(kind)
    (arm,) = (arm for arm in get_args(kind) if arm is not type(None))
    read = _reader(arm)
    return lambda value, name: None if value is None else read(value, name)


def _exactly(kind: type, value: Any, name: str) -> Any:
    """In Python true is 1 and 5.0 is 5; in a log they are not."""
    if type(value) is not kind:
        raise _misfit(name, value, WORDS[kind])
    return value


def _number(value: Any, name: str) -> float:
    if type(value) is not float and type(value) is not int:
        raise _misfit(name, value, WORDS[float])
    return float(value)


def _list(read: Callable[[Any, str], Any], value: Any, name: str) -> list[Any]:
    if type(value) is not list:
        raise _misfit(name, value, "a list")
    return [read(item, name) for item in value]


def _dict(read: Callable[[Any, str], Any], value: Any, name: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise _misfit(name, value, "an object")
    return {key: read(item, name) for key, item in value.items()}


def _object_of(declaration: Any, value: Any, name: str) -> Any:
    if type(value) is not dict:
        raise _misfit(name, value, "an object")
    try:
        return decode(declaration, value)
    except MisfitError as error:
        raise MisfitError(f"{name}: {error}") from None


# ------------------------------------------------------------------------------------------------------ describing
@dataclass(frozen=True)
class Described:
    """A field for people: its key, its type in the words of JSON, and what it means."""

    key: str
    kind: str
    meaning: str


def describe(declaration: Any, note: str = "") -> list[Described]:
    """The keys of a declaration in their order, those of flat fields in their place."""
    found = []
    for member in members(declaration):
        if member.flat:
            found += describe(member.kind, member.meaning or note)
        else:
            optional = ", may be missing" if member.omittable else ""
            kind = _in_words(member.kind) + (" or null" if member.nullable and not member.omittable else "") + optional
            found.append(Described(member.key, kind, "; ".join(filter(None, (member.meaning, note)))))
    return found


def _in_words(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"list of {_in_words(get_args(kind)[0])}"
    if get_origin(kind) is dict or kind is Any:
        return "object" if get_origin(kind) is dict else "any"
    if is_dataclass(kind):
        return f"object ({', '.join(sorted(keys(kind), key=list(_ordered_keys(kind)).index))})"
    return {int: "integer", float: "number", str: "text", bool: "boolean"}.get(kind, str(kind))


def _ordered_keys(declaration: Any) -> list[str]:
    return [described.key for described in describe(declaration)]
