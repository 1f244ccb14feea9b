"""A table of TOML as a frozen dataclass.

Job: `build_table`, which checks every key and type by the dataclass's own annotations.
Non-job: rules beyond types, reading files (`config`).
"""

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Literal

from spec_engine.errors import PresetError


def nearest(name: str, valid: list[str]) -> str:
    """What to say of an unknown `name` in an error message: ' Did you mean …? Valid: …'."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{hint} Valid: {', '.join(valid)}."


T = typing.TypeVar("T")


def build_table(kind: type[T], table: typing.Mapping[str, object], where: str) -> T:
    """`table` as the dataclass `kind`. Raises `PresetError`, whose message begins with `where`, for an unknown or a
    missing key and for a value of the wrong type."""
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in hints:
            raise PresetError(f"{where}: unknown key '{key}'.{nearest(key, list(hints))}")
    for spec in dataclasses.fields(kind):  # type: ignore[arg-type]
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and spec.name not in table:
            raise PresetError(f"{where}: the key '{spec.name}' is missing. Add it.")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    return kind(**values)


def _convert(hint: object, value: object, where: str) -> object:
    """`value` from TOML as the type `hint`."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise PresetError(f"{where} must be a table, not {value!r}.")
        return build_table(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise PresetError(f"{where} is {value!r}.{nearest(str(value), [str(arg) for arg in args])}")
        return value
    if origin in (types.UnionType, typing.Union):
        return _convert(next(arg for arg in args if arg is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise PresetError(f"{where} must be a list, not {value!r}.")
        return tuple(_convert(args[0], item, where) for item in value)
    if hint is Path:
        return Path(str(value))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise PresetError(f"{where} must be of type {getattr(hint, '__name__', hint)}, not {value!r}.")
    return value
