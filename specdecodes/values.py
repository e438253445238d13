"""A setting's value: a text, as `--set` gives it, read by the setting's own type; anything else checked against it."""

from __future__ import annotations

import json
import types
from typing import Any, Union, get_args, get_origin

from specdecodes.errors import ConfigError

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a list", type(None): "none"}
_TRUE, _FALSE, _NONE = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), ("none", "null")


def read_value(value: object, kind: Any, key: str) -> Any:
    """`value` as the first of the types in `kind` that takes it: none first, and last str because it takes any text.

    Raises ConfigError, naming the setting `key`.
    """
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for choice in sorted(choices, key=lambda c: (c is str, c is not type(None))):
        taken, parsed = _take(value, choice) if isinstance(value, str) else _fit(value, choice)
        if taken:
            return parsed
    wanted = " or ".join(_NAMES.get(get_origin(choice) or choice, "text") for choice in choices)
    raise ConfigError(f"'{value}' is no value for {key}, which is {wanted}.")


def _take(text: str, kind: Any) -> tuple[bool, Any]:
    low = text.lower()
    if kind is type(None):
        return low in _NONE, None
    if kind is bool:
        return low in _TRUE + _FALSE, low in _TRUE
    if kind is str:
        return True, text
    if get_origin(kind) is tuple:
        return _take_list(text)
    try:
        return True, kind(text)
    except ValueError:
        return False, None


def _fit(value: object, kind: Any) -> tuple[bool, Any]:
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple), tuple(value) if isinstance(value, list | tuple) else ()
    if kind is float and type(value) is int:
        return True, float(value)
    return type(value) is kind, value


def _take_list(text: str) -> tuple[bool, tuple[str, ...]]:
    """`a,b` or, where blanks and commas matter, a JSON list such as `["a, ", "\\n"]`."""
    if not text.startswith("["):
        return True, () if text.lower() in ("", *_NONE) else tuple(part.strip() for part in text.split(","))
    try:
        return True, tuple(str(part) for part in json.loads(text))
    except json.JSONDecodeError:
        return False, ()
