"""Between a declared event and the JSON object of its record: writing the one, reading and refusing the other.

A declaration is a frozen dataclass. A field's annotation is its type on disk, with a line of meaning (and the unit) as
`Annotated[float, "ms"]`. What a declaration can say:

- `X | None`: always there, null where there is no value.
- `Annotated[str, OneOf(("ok", "oom"))]`: no other text.
- `Annotated[X | None, OPTIONAL]` and a default of None: missing where there is no value, and never null.
- `Numbers`, `Integers`: a list that may be long: 8 bytes an item in memory, NaN for the null of a number that is none.
- `Annotated[Figures, FLAT]`: the fields of another declaration, beside the others in the same object; with a default of
  None all of them are there, or none.

A key that is a word of Python's has an underscore behind it in its declaration: `pass_`.
"""

from __future__ import annotations

import functools
import math
import types
from array import array
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    NamedTuple,
    Self,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

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
NONE = type(None)
WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}

if TYPE_CHECKING:
    FloatArray: TypeAlias = array[float]
    IntArray: TypeAlias = array[int]
else:  # subscripted from Python 3.12 on
    FloatArray = IntArray = array


class Numbers(FloatArray):
    """Many float64; NaN stands for null."""

    def __new__(cls, values: Iterable[float | None] = ()) -> Self:
        made: Self = super().__new__(cls, "d", (math.nan if value is None else value for value in values))  # type: ignore[assignment]
        return made


class Integers(IntArray):
    """Many integers of 64 bits."""

    def __new__(cls, values: Iterable[int] = ()) -> Self:
        made: Self = super().__new__(cls, "q", values)  # type: ignore[assignment]
        return made


Read = Callable[[Any, str], Any]  # checks and converts the value of the field with this name


class OneOf(NamedTuple):
    """The texts that a field may hold."""

    choices: tuple[str, ...]

    def __str__(self) -> str:
        *others, last = self.choices
        return f"{', '.join(others)} or {last}"


class MisfitError(ValueError):
    """A record that is not what its event declares. The message names the field."""


class Member(NamedTuple):
    """One field of a declaration: `kind` is its type without None; `meaning` says what it is, and its unit.

    Values of the types in `plain` are taken as they are; `read` is for all others.
    """

    name: str
    key: str
    kind: Any
    plain: frozenset[type]
    read: Read
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
        one_of = next((note for note in notes if isinstance(note, OneOf)), None)
        omittable = OPTIONAL in notes or (FLAT in notes and field.default is not MISSING)
        kind, plain, read = _reading(kind, one_of)
        if omittable:
            plain -= {NONE}
        meaning = "; ".join(str(note) for note in notes if isinstance(note, (str, OneOf)))
        key = field.name.removesuffix("_")
        found.append(Member(field.name, key, kind, plain, read, omittable, FLAT in notes, one_of, meaning))
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
    if isinstance(value, Numbers):
        return [None if math.isnan(item) else item for item in value]
    if isinstance(value, (list, tuple, Integers)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


# ---------------------------------------------------------------------------------------------------------- reading
def decode(declaration: type[T], record: dict[str, Any]) -> T:
    """An instance from a JSON object. Raises MisfitError for a missing, surplus or misshapen field."""
    if not record.keys() <= keys(declaration):
        surplus = next(key for key in record if key not in keys(declaration))
        raise MisfitError(f"{surplus!r:.{LONGEST_VALUE}} is none of its fields")
    return _take(declaration, record)


def _take(declaration: type[T], record: dict[str, Any]) -> T:
    """An instance from those keys that are the declaration's."""
    values: dict[str, Any] = {}
    for name, key, kind, plain, read, omittable, flat, _, _ in members(declaration):
        if flat:
            absent = omittable and keys(kind).isdisjoint(record)
            values[name] = None if absent else _take(kind, record)
        elif key in record:
            value = record[key]
            values[name] = value if type(value) in plain else read(value, key)
        elif not omittable:
            raise MisfitError(f"{key} is missing")
    return declaration(**values)


def _misfit(name: str, value: object, words: object) -> MisfitError:
    return MisfitError(f"{name} is {value!r:.{LONGEST_VALUE}}, not {words}")


def _reading(kind: Any, one_of: OneOf | None = None) -> tuple[Any, frozenset[type], Read]:
    """Of the type X or X | None: X, the types of values that are taken as they are, and what reads all others."""
    plain = set()
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (arm for arm in get_args(kind) if arm is not NONE)
        plain.add(NONE)
    if kind in WORDS and not one_of:
        plain.add(kind)
    return kind, frozenset(plain), functools.partial(_choice, one_of) if one_of else _reader(kind)


def _reader(kind: Any) -> Read:
    """What checks and converts a value of this type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value, name: value
    if kind is float:
        return _number
    if kind in (Numbers, Integers):
        return functools.partial(_array, kind)
    if is_dataclass(kind):
        return functools.partial(_object, kind)
    if origin is list:
        return functools.partial(_list, *_reading(arguments[0])[1:])
    if origin is dict:
        return functools.partial(_dict, *_reading(arguments[1])[1:])
    return functools.partial(exactly, kind)


def exactly(kind: type, value: Any, name: str) -> Any:
    """In Python true is 1 and 5.0 is 5; in a log they are not."""
    if type(value) is not kind:
        raise _misfit(name, value, WORDS[kind])
    return value


def _number(value: Any, name: str) -> float:
    if type(value) is not float and type(value) is not int:
        raise _misfit(name, value, WORDS[float])
    return float(value)


def _array(kind: type[Numbers | Integers], value: Any, name: str) -> Numbers | Integers:
    allowed = {int} if kind is Integers else {int, float, NONE}
    if type(value) is not list:
        raise _misfit(name, value, "a list")
    if not allowed.issuperset(map(type, value)):
        wrong = next(item for item in value if type(item) not in allowed)
        raise _misfit(name, wrong, WORDS[int if kind is Integers else float])
    try:
        return kind(value)
    except OverflowError:
        raise _misfit(name, max(value, key=abs), "of 64 bits") from None


def _choice(one_of: OneOf, value: Any, name: str) -> str:
    if type(value) is not str or value not in one_of.choices:
        raise _misfit(name, value, one_of)
    return value


def _list(plain: frozenset[type], read: Read, value: Any, name: str) -> list[Any]:
    if type(value) is not list:
        raise _misfit(name, value, "a list")
    if plain.issuperset(map(type, value)):
        return value
    return [item if type(item) in plain else read(item, name) for item in value]


def _dict(plain: frozenset[type], read: Read, value: Any, name: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise _misfit(name, value, "an object")
    return {key: item if type(item) in plain else read(item, name) for key, item in value.items()}


def _object(declaration: Any, value: Any, name: str) -> Any:
    if type(value) is not dict:
        raise _misfit(name, value, "an object")
    try:
        return decode(declaration, value)
    except MisfitError as error:
        raise MisfitError(f"{name}: {error}") from None
