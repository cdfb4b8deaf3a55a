"""What every message is made of: frozen dataclasses with limits, and their strict conversion to plain maps.

Decoding is strict: a field has its declared type or the message is refused; texts, lists and maps have
stated limits; unknown fields are ignored.
"""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

from shared_protocol.errors import MalformedMessage

Plain = Any
"""Scalars, and lists and text-keyed maps of them, at most 4 levels deep."""

_PLAIN_DEPTH = 4
_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Limit:
    """Longest text (characters) or list (items) of a field; a `pattern` name narrows a text further."""

    most: int
    hexadecimal: bool = False


Name = Annotated[str, Limit(64)]
Line = Annotated[str, Limit(512)]
Sentence = Annotated[str, Limit(2048)]
JobId = Annotated[str, Limit(32, hexadecimal=True)]
"""uuid4().hex, made by the client: submitting twice is then harmless."""
Sha256 = Annotated[str, Limit(64, hexadecimal=True)]
Path = Annotated[str, Limit(4096)]
Options = Annotated[dict[str, Plain], Limit(128)]


@dataclass(frozen=True)
class Record:
    """Base of everything on the wire: checked fields, nothing else."""


@dataclass(frozen=True)
class Message(Record):
    """Base of the messages.

    type            its name on the wire
    carries_buffer  whether a raw buffer follows the header
    """

    type: ClassVar[str] = ""
    carries_buffer: ClassVar[bool] = False


def to_plain(record: Record) -> dict[str, Any]:
    """The map that stands for a record in a header."""
    return {row[0]: _value_to_plain(getattr(record, row[0])) for row in _schema(type(record))}


def from_plain(cls: type[Any], fields: dict[str, Any]) -> Any:
    """The record that this map stands for; MalformedMessage names the field that is wrong."""
    values = {}
    for name, kind, limit, required in _schema(cls):
        if name in fields:
            values[name] = _checked(fields[name], kind, limit, f"{cls.__name__}.{name}")
        elif required:
            raise MalformedMessage(f"{cls.__name__} lacks '{name}'")
    return cls(**values)


@cache
def _schema(cls: type[Any]) -> tuple[tuple[str, Any, Limit | None, bool], ...]:
    hints = typing.get_type_hints(cls, include_extras=True)
    rows = []
    for field in dataclasses.fields(cls):
        kind, limit = _unwrap(hints[field.name])
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        rows.append((field.name, kind, limit, required))
    return tuple(rows)


def _unwrap(hint: Any) -> tuple[Any, Limit | None]:
    if typing.get_origin(hint) is Annotated:
        kind, *extras = typing.get_args(hint)
        return kind, next(extra for extra in extras if isinstance(extra, Limit))
    return hint, None


def _value_to_plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_value_to_plain(item) for item in value]
    return to_plain(value) if isinstance(value, Record) else value


def _checked(value: Any, kind: Any, limit: Limit | None, where: str) -> Any:
    """`value` as the declared type, or MalformedMessage. A bool is no int; an int is a fine float."""
    if kind is str:
        if type(value) is not str or (limit and len(value) > limit.most):
            raise _wrong(value, where, f"a text of at most {limit.most if limit else 0} characters")
        if limit and limit.hexadecimal and (len(value) != limit.most or not _is_hexadecimal(value)):
            raise _wrong(value, where, f"{limit.most} lower-case hexadecimal digits")
        return value
    if kind is bool:
        if type(value) is not bool:
            raise _wrong(value, where, "a bool")
        return value
    if kind is int:
        if type(value) is not int or not _MIN_INT <= value <= _MAX_INT:
            raise _wrong(value, where, "a 64-bit integer")
        return value
    if kind is float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise _wrong(value, where, "a finite number")
        return float(value)
    origin = typing.get_origin(kind)
    if origin is tuple:
        item, item_limit = _unwrap(typing.get_args(kind)[0])
        if type(value) is not list or (limit and len(value) > limit.most):
            raise _wrong(value, where, f"a list of at most {limit.most if limit else 0}")
        return tuple(_checked(one, item, item_limit, where) for one in value)
    if origin is dict:
        if type(value) is not dict or (limit and len(value) > limit.most):
            raise _wrong(value, where, f"a map of at most {limit.most if limit else 0}")
        _check_plain(value, where, _PLAIN_DEPTH)
        return value
    if origin is types.UnionType:
        if value is None:
            return None
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if type(value) is not dict:
        raise _wrong(value, where, "a map")
    return from_plain(kind, value)


def _check_plain(value: Any, where: str, depth: int) -> None:
    if depth < 0:
        raise MalformedMessage(f"{where} is nested too deep", f"at most {_PLAIN_DEPTH} levels")
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise _wrong(key, where, "texts as keys")
            _check_plain(item, where, depth - 1)
    elif type(value) is list:
        for item in value:
            _check_plain(item, where, depth - 1)
    elif type(value) is float and not math.isfinite(value):
        raise _wrong(value, where, "finite numbers")
    elif value is not None and type(value) not in (str, int, float, bool):
        raise _wrong(value, where, "plain values")


def plain_details(details: dict[str, Any]) -> dict[str, Any]:
    """Details of an error, made fit for the wire: at most 32 of them, what is not plain as text."""
    fit: dict[str, Any] = {}
    for key, value in list(details.items())[:32]:
        try:
            _check_plain(value, key, _PLAIN_DEPTH - 1)
        except MalformedMessage:
            value = str(value)
        fit[str(key)[:64]] = value[:512] if isinstance(value, str) else value
    return fit


def _is_hexadecimal(text: str) -> bool:
    return not text.strip("0123456789abcdef")


def _wrong(value: Any, where: str, expected: str) -> MalformedMessage:
    text = repr(value) if type(value) in (int, float, bool) else f"a {type(value).__name__}"
    return MalformedMessage(f"{where} is {text}", expected)
