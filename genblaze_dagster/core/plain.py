"""What orjson writes in canonical form, and what it does not.

orjson knows nothing of rounding, of Python's way to print tiny floats, of the depth limit or of
NFC. Here a run becomes dicts of values that need none of it. Whatever else turns up is
`NotPlainError`: only `canonical.text` can tell.

Fields declared as text, integer, boolean or enum are taken at their word. This is the hot path of
every manifest, so it is written out field by field.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from unicodedata import is_normalized

import orjson

from genblaze_dagster.core.canonical import FLOAT_DECIMALS, MAX_DEPTH, timestamp
from genblaze_dagster.core.enums import (
    Modality,
    PromptVisibility,
    ProviderErrorCode,
    RunStatus,
    StepStatus,
    StepType,
)
from genblaze_dagster.core.form import LeftOut
from genblaze_dagster.core.models import (
    Asset,
    AudioMetadata,
    Run,
    Step,
    Track,
    VideoMetadata,
    WordTiming,
)

_OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z | orjson.OPT_PASSTHROUGH_DATACLASS

# Where the fields of each model hold their values, in levels below the root of either text.
_RUN_LEVEL: Final = 3
_STEP_LEVEL: Final = 5
_ASSET_LEVEL: Final = 7

_PARTS: Final = frozenset({AudioMetadata, Track, VideoMetadata, WordTiming})
_AS_IT_IS: Final[frozenset[type]] = frozenset(
    {
        str,
        int,
        bool,
        type(None),
        Modality,
        PromptVisibility,
        ProviderErrorCode,
        RunStatus,
        StepStatus,
        StepType,
    }
)


class NotPlainError(Exception):
    """Only `canonical.text` knows how to write this, or why to refuse it."""


def dumps(document: dict[str, Any]) -> bytes:
    """Write a document whose run is a `run_tree`.

    Raises:
        NotPlainError: what orjson would write may not be canonical.
    """
    try:
        written = orjson.dumps(document, None, _OPTIONS)
    except orjson.JSONEncodeError:
        raise NotPlainError from None
    # A part of normalised text is normalised, so this holds for each string of the document.
    if written.isascii() or is_normalized("NFC", written.decode()):
        return written
    raise NotPlainError


def run_tree(run: Run, left_out: LeftOut) -> dict[str, Any]:
    """Return the fields of a run, less those left out, in a form for `dumps`.

    Raises:
        NotPlainError: there may be no such form.
    """
    run_left_out, step_left_out, asset_left_out = left_out
    try:
        fields = _run_fields(run, run_left_out)
        fields["steps"] = [
            _step_fields(step, step_left_out, asset_left_out) for step in fields["steps"]
        ]
    except (AttributeError, TypeError):
        # A field was assigned a value of another type than it is declared with.
        raise NotPlainError from None
    return fields


def _run_fields(run: Any, left_out: tuple[str, ...]) -> dict[str, Any]:
    if type(run) is not Run:
        raise NotPlainError
    fields: dict[str, Any] = run.__dict__.copy()
    if left_out:
        for name in left_out:
            del fields[name]
    else:
        for name in ("completed_at", "created_at", "started_at"):
            if (time := fields[name]) is not None:
                fields[name] = _time(time)
    if metadata := fields["metadata"]:
        fields["metadata"] = _plain_dict(metadata, _RUN_LEVEL)
    return fields


def _step_fields(
    step: Any, left_out: tuple[str, ...], asset_left_out: tuple[str, ...]
) -> dict[str, Any]:
    if type(step) is not Step:
        raise NotPlainError
    fields: dict[str, Any] = step.__dict__.copy()
    if left_out:
        for name in left_out:
            del fields[name]
    else:
        _prepare_operation(fields)
    if params := fields["params"]:
        fields["params"] = _plain_dict(params, _STEP_LEVEL)
    if metadata := fields["metadata"]:
        fields["metadata"] = _plain_dict(metadata, _STEP_LEVEL)
    if assets := fields["assets"]:
        fields["assets"] = _assets(assets, asset_left_out)
    if inputs := fields["inputs"]:
        fields["inputs"] = _assets(inputs, asset_left_out)
    return fields


def _prepare_operation(fields: dict[str, Any]) -> None:
    if cost := fields["cost_usd"]:
        fields["cost_usd"] = _plain_float(cost)
    if payload := fields["provider_payload"]:
        fields["provider_payload"] = _plain_dict(payload, _STEP_LEVEL)
    if (started := fields["started_at"]) is not None:
        fields["started_at"] = _time(started)
    if (completed := fields["completed_at"]) is not None:
        fields["completed_at"] = _time(completed)


def _assets(assets: Iterable[Any], left_out: tuple[str, ...]) -> list[dict[str, Any]]:
    trees: list[dict[str, Any]] = []
    for asset in assets:
        if type(asset) is not Asset:
            raise NotPlainError
        fields: dict[str, Any] = asset.__dict__.copy()
        for name in left_out:
            del fields[name]
        if metadata := fields["metadata"]:
            fields["metadata"] = _plain_dict(metadata, _ASSET_LEVEL)
        for name in ("audio", "duration", "tracks", "video"):
            if (value := fields[name]) is not None:
                fields[name] = _plain(value, _ASSET_LEVEL)
        trees.append(fields)
    return trees


def _plain(value: object, level: int) -> object:
    """Return `value` in a form that orjson writes canonically; itself if it can.

    `level` is where the content of `value` stands, here and below.
    """
    kind = type(value)
    if kind is dict:
        return _plain_dict(value, level)
    if kind is list or kind is tuple:
        return _plain_list(value, level)
    if kind in _PARTS:
        return _plain_dict(value.__dict__, level)
    if kind is float:
        return _plain_float(value)
    if kind is datetime:
        return _time(value)
    if kind in _AS_IT_IS:
        return value
    raise NotPlainError


def _plain_float(value: Any) -> float:
    # Multiples of 1/1024 have at most 10 decimals: the common case, without rounding.
    if (value * 1024.0).is_integer() and -1e15 < value < 1e15:
        return value
    rounded = round(value, FLOAT_DECIMALS)
    # In this range orjson and Python print alike; elsewhere exponents differ.
    if 1e-4 <= rounded < 1e16 or -1e16 < rounded <= -1e-4 or rounded == 0:
        return value if rounded == value else rounded
    raise NotPlainError


def _plain_dict(value: Any, level: int) -> dict[str, object]:
    if level > MAX_DEPTH:
        raise NotPlainError
    result: dict[str, object] = value
    items: Iterable[tuple[str, object]] = value.items()
    for name, item in items:
        kind = type(item)
        if kind not in _AS_IT_IS:
            if kind is float:
                prepared = _plain_float(item)
            elif kind is list:
                prepared = _plain_list(item, level + 1)
            else:
                prepared = _plain(item, level + 1)
            if prepared is not item:
                if result is value:
                    result = value.copy()
                result[name] = prepared
    return result


def _plain_list(value: Any, level: int) -> Sequence[object]:
    if level > MAX_DEPTH:
        raise NotPlainError
    if _AS_IT_IS.issuperset(map(type, value)):
        return value
    level += 1
    items: Iterable[object] = value
    return [item if type(item) in _AS_IT_IS else _plain(item, level) for item in items]


def _time(value: Any) -> datetime | str:
    # orjson would write a time without a zone, and cannot read pydantic's own zones.
    return value if value.tzinfo is UTC else timestamp(value)
