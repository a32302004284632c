"""Canonical JSON: the one text form of a value, so that equal content has an equal hash.

Keys sorted by code point, no spaces, non-ASCII literal, strings in Unicode NFC (keys as they are),
floats rounded to 10 decimals, NaN and infinities null, timestamps ISO 8601 with `Z` for UTC.
"""

import hashlib
import json
import math
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from json.encoder import encode_basestring as quote
from typing import Any, Final
from unicodedata import normalize
from uuid import UUID

from genblaze_dagster.errors import ManifestError

MAX_DEPTH: Final = 100
"""Deepest level of a value; the root is level 0."""

FLOAT_DECIMALS: Final = 10

_raw_json = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
).encode


def canonical_json(value: object) -> str:
    """Return the canonical JSON text of `value`.

    Besides JSON's own types it takes enum members, aware datetimes, UUIDs, tuples and pydantic
    models. Keys that are numbers, booleans or None sort as such and are then written as text, so
    what is read back may sort differently: manifests refuse them.

    Raises:
        ManifestError: nested deeper than 100 levels, or a value JSON has no form for.
    """
    return text(value, 0, _any_key)


def canonical_hash(value: object) -> str:
    """Return the SHA-256, in lower-case hex, of the canonical JSON of `value` in UTF-8.

    Raises:
        ManifestError: as `canonical_json`, or a string holds a lone surrogate.
    """
    return hashlib.sha256(utf8(canonical_json(value))).hexdigest()


def utf8(canonical: str) -> bytes:
    """Encode canonical text.

    Raises:
        ManifestError: the text holds a lone surrogate.
    """
    try:
        return canonical.encode()
    except UnicodeEncodeError:
        raise ManifestError(
            "content holds half of a surrogate pair, so it cannot be hashed or stored; "
            "replace the broken character"
        ) from None


def text(value: object, level: int, key: Callable[[Any], str] = quote) -> str:
    """Write `value`, which stands at `level`; `key` writes the keys of objects.

    Raises:
        ManifestError: as `canonical_json`; with the default `key` also for keys that are not text.
    """
    if level > MAX_DEPTH:
        raise ManifestError(f"content is nested deeper than {MAX_DEPTH} levels; flatten it")
    if value is None:
        return "null"
    return _WRITERS.get(type(value), _other)(value, level, key)


def timestamp(value: datetime) -> str:
    """Return ISO 8601 text, with `Z` for UTC and microseconds only when there are some.

    Raises:
        ManifestError: the time has no zone.
    """
    if value.utcoffset() is None:
        raise ManifestError("a timestamp has no time zone, so it is no point in time; add one")
    iso = value.isoformat()
    return iso[:-6] + "Z" if iso.endswith("+00:00") else iso


def _string(value: str, _level: int, _key: Callable[[Any], str]) -> str:
    return quote(value if value.isascii() else normalize("NFC", value))


def _bool(value: bool, _level: int, _key: Callable[[Any], str]) -> str:
    return "true" if value else "false"


def _int(value: int, _level: int, _key: Callable[[Any], str]) -> str:
    try:
        return int.__repr__(value)
    except ValueError:
        raise ManifestError("an integer has too many digits to be printed; store text") from None


def _float(value: float, _level: int, _key: Callable[[Any], str]) -> str:
    if not math.isfinite(value):
        return "null"
    return repr(round(float(value), FLOAT_DECIMALS))


def _array(value: list[Any], level: int, key: Callable[[Any], str]) -> str:
    return "[" + ",".join([text(item, level + 1, key) for item in value]) + "]"


def _object(value: dict[Any, Any], level: int, key: Callable[[Any], str]) -> str:
    try:
        names = sorted(value)
        heads = [key(name) for name in names]
    except (TypeError, ValueError):
        raise ManifestError("an object has keys that are not text; use string keys") from None
    pairs = zip(heads, names, strict=True)
    return "{" + ",".join([f"{head}:{text(value[n], level + 1, key)}" for head, n in pairs]) + "}"


def _datetime(value: datetime, _level: int, _key: Callable[[Any], str]) -> str:
    return f'"{timestamp(value)}"'


def _uuid(value: UUID, _level: int, _key: Callable[[Any], str]) -> str:
    return f'"{value}"'


def _enum(value: Enum, _level: int, _key: Callable[[Any], str]) -> str:
    # The format does not normalise the value of an enum that is not itself a string.
    try:
        return _raw_json(value.value)
    except (TypeError, ValueError):
        raise _unsupported(value.value) from None


# Subclasses are looked up in this order: a string enum is a string, a float enum an enum.
_WRITERS: dict[type, Callable[[Any, int, Callable[[Any], str]], str]] = {
    str: _string,
    bool: _bool,
    Enum: _enum,
    int: _int,
    float: _float,
    dict: _object,
    list: _array,
    tuple: _array,
    datetime: _datetime,
    UUID: _uuid,
}


def _other(value: object, level: int, key: Callable[[Any], str]) -> str:
    for base, write in _WRITERS.items():
        if isinstance(value, base):
            return write(value, level, key)
    dump = getattr(value, "model_dump", None)
    if not callable(dump) or isinstance(value, type):
        raise _unsupported(value)
    return text(dump(), level, key)


def _any_key(key: object) -> str:
    """Write a key as `json` does; the caller refuses keys for which this raises TypeError."""
    if isinstance(key, str):
        return quote(key)
    if key is None or isinstance(key, int | float):
        return f'"{json.dumps(key)}"'
    raise TypeError


def _unsupported(value: object) -> ManifestError:
    return ManifestError(
        f"a value of type {type(value).__name__} has no JSON form; convert it to text or numbers"
    )
