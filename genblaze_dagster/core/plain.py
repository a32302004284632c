"""What orjson writes in canonical form, and what it does not.

orjson knows nothing of rounding, of Python's way to print tiny floats, of the depth limit or of
NFC. Here models become dicts of values that need none of it. Whatever else turns up is
`NotPlainError`: only `canonical.text` can tell.

Fields declared as text, integer, boolean or enum are taken at their word. Instances of subclasses
are not plain, because no reader knows the fields they add. This is the hot path of every manifest,
so it is written out, with as few calls as possible.
"""

from collections.abc import Iterable, Mapping, Sequence
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


def hashed(run: Run, schema_version: str, left_out: LeftOut) -> bytes:
    """Write what is hashed of a run.

    Raises:
        NotPlainError: what orjson would write may not be canonical.
    """
    try:
        if type(run) is not Run:
            raise NotPlainError
        fields = run.__dict__.copy()
        run_names, step_names, asset_names = left_out
        for name in run_names:
            del fields[name]
        if metadata := fields["metadata"]:
            fields["metadata"] = _plain_dict(metadata, _RUN_LEVEL)
        fields["steps"] = [_hashed_step(s, step_names, asset_names) for s in fields["steps"]]
    except _MISTYPED:
        raise NotPlainError from None
    return _dumps({"run": fields, "schema_version": schema_version})


def stored(manifest: Mapping[str, Any]) -> bytes:
    """Write a manifest, given as its fields, as it is stored.

    Raises:
        NotPlainError: what orjson would write may not be canonical, or a prompt is encrypted.
    """
    try:
        run = manifest["run"]
        if type(run) is not Run:
            raise NotPlainError
        fields = run.__dict__.copy()
        for name in ("completed_at", "created_at", "started_at"):
            if (time := fields[name]) is not None:
                fields[name] = _time(time)
        if metadata := fields["metadata"]:
            fields["metadata"] = _plain_dict(metadata, _RUN_LEVEL)
        fields["steps"] = [_stored_step(step) for step in fields["steps"]]
    except _MISTYPED:
        raise NotPlainError from None
    return _dumps({**manifest, "run": fields})


_MISTYPED: Final = (AttributeError, TypeError)
"""What is raised when a field was assigned a value of another type than it is declared with."""


def _dumps(document: dict[str, Any]) -> bytes:
    try:
        written = orjson.dumps(document, None, _OPTIONS)
    except orjson.JSONEncodeError:
        raise NotPlainError from None
    # A part of normalised text is normalised, so this holds for each string of the document.
    if written.isascii() or is_normalized("NFC", written.decode()):
        return written
    raise NotPlainError


def _hashed_step(
    step: Step, left_out: tuple[str, ...], left_out_of_assets: tuple[str, ...]
) -> dict[str, Any]:
    fields = step.__dict__.copy()
    if type(step) is not Step:
        raise NotPlainError
    for name in left_out:
        del fields[name]
    if params := fields["params"]:
        fields["params"] = _plain_dict(params, _STEP_LEVEL)
    if metadata := fields["metadata"]:
        fields["metadata"] = _plain_dict(metadata, _STEP_LEVEL)
    if assets := fields["assets"]:
        fields["assets"] = _assets(assets, left_out_of_assets)
    if inputs := fields["inputs"]:
        fields["inputs"] = _assets(inputs, left_out_of_assets)
    return fields


def _stored_step(step: Step) -> dict[str, Any]:
    fields = step.__dict__.copy()
    if type(step) is not Step or fields["prompt_visibility"] == PromptVisibility.ENCRYPTED:
        raise NotPlainError
    if cost := fields["cost_usd"]:
        fields["cost_usd"] = _plain_float(cost)
    if payload := fields["provider_payload"]:
        fields["provider_payload"] = _plain_dict(payload, _STEP_LEVEL)
    if params := fields["params"]:
        fields["params"] = _plain_dict(params, _STEP_LEVEL)
    if metadata := fields["metadata"]:
        fields["metadata"] = _plain_dict(metadata, _STEP_LEVEL)
    if (started := fields["started_at"]) is not None:
        fields["started_at"] = _time(started)
    if (completed := fields["completed_at"]) is not None:
        fields["completed_at"] = _time(completed)
    if assets := fields["assets"]:
        fields["assets"] = _assets(assets, ())
    if inputs := fields["inputs"]:
        fields["inputs"] = _assets(inputs, ())
    return fields


def _assets(assets: Iterable[Asset], left_out: tuple[str, ...]) -> list[dict[str, Any]]:
    trees: list[dict[str, Any]] = []
    for asset in assets:
        fields = asset.__dict__.copy()
        if type(asset) is not Asset:
            raise NotPlainError
        for name in left_out:
            del fields[name]
        if metadata := fields["metadata"]:
            fields["metadata"] = _plain_dict(metadata, _ASSET_LEVEL)
        if (duration := fields["duration"]) is not None:
            fields["duration"] = _plain_float(duration)
        if (
            fields["audio"] is not None
            or fields["tracks"] is not None
            or fields["video"] is not None
        ):
            for name in ("audio", "tracks", "video"):
                fields[name] = _plain(fields[name], _ASSET_LEVEL)
        trees.append(fields)
    return trees


def _plain(value: object, level: int) -> object:
    """Return `value` in a form that orjson writes canonically; itself if it can.

    `level` is where the content of `value` stands, here and below.
    """
    kind = type(value)
    if kind is list or kind is tuple:
        return _plain_list(value, level)
    if kind is dict:
        return _plain_dict(value, level)
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
    rounded = round(value, FLOAT_DECIMALS)
    # In this range orjson and Python print alike; elsewhere exponents differ.
    if 1e-4 <= rounded < 1e16 or -1e16 < rounded <= -1e-4 or rounded == 0:
        return value if rounded == value else rounded
    raise NotPlainError


def _plain_dict(value: Any, level: int) -> dict[str, object]:
    if level > MAX_DEPTH:
        raise NotPlainError
    result: dict[str, object] = value
    items: Iterable[tuple[str, Any]] = value.items()
    for name, item in items:
        kind = type(item)  # pyright: ignore[reportUnknownVariableType]
        if kind in _AS_IT_IS:
            continue
        if kind is float:
            # A multiple of 1/1024 has at most 10 decimals: the common case needs no rounding.
            if (item * 1024.0).is_integer() and -1e15 < item < 1e15:
                continue
            prepared = _plain_float(item)
        elif kind is list and level < MAX_DEPTH and _AS_IT_IS.issuperset(map(type, item)):
            continue
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
