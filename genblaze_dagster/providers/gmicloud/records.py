"""What a record of GMI's request queue says: its state, its outputs, and what it was asked.

A record: `{request_id, model, status, payload, outcome, created_at, queued_at, updated_at, ...}`,
times in Unix seconds.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.protocol import JobState

STATES = {
    "created": JobState.QUEUED,
    "queued": JobState.QUEUED,
    "dispatched": JobState.QUEUED,
    "processing": JobState.RUNNING,
    "success": JobState.SUCCEEDED,
}
_LISTS = ("media_urls", "medias", "media")
_OWN_FIELD = {
    Modality.VIDEO: "video_url",
    Modality.IMAGE: "image_url",
    Modality.AUDIO: "audio_url",
}


def urls_of(record: Mapping[str, Any], modality: Modality) -> list[str]:
    """Return the URLs of the outputs, each once: one file may stand in several fields.

    A video's `image_url` or `thumbnail_image_url` is no output.
    """
    outcome = _object(record.get("outcome"))
    found = [item.get("url") for name in _LISTS for item in dicts(outcome.get(name))]
    found.append(outcome.get(_OWN_FIELD[modality]))
    urls = [url for url in found if isinstance(url, str) and url.startswith("https://")]
    return list(dict.fromkeys(urls))


def facts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the manifest keeps of a record: its id, and what the outcome tells in numbers."""
    outcome = _object(record.get("outcome"))
    told = {
        "request_id": record.get("request_id"),
        **{name: outcome.get(name) for name in ("duration_ms", "seed")},
    }
    return {name: value for name, value in told.items() if isinstance(value, str | int | float)}


def dicts(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list; nothing when it is none."""
    if not isinstance(value, list):
        return []
    items = cast(list[object], value)
    return [cast(dict[str, Any], item) for item in items if isinstance(item, dict)]


def model_names(listed: Mapping[str, Any], modality: Modality) -> list[str]:
    """Return the models of a list: names, or records of which those of another kind are left out."""
    ids = listed.get("model_ids")
    names = [name for name in cast(list[object], ids) if isinstance(name, str)] if ids else []
    others = {kind.value for kind in _OWN_FIELD} - {modality.value}
    records = [one for one in dicts(listed.get("models")) if one.get("model_type") not in others]
    return names + [one["model"] for one in records if isinstance(one.get("model"), str)]


def is_answer_to(
    record: Mapping[str, Any], model: str, payload: Mapping[str, Any], since: datetime
) -> bool:
    """Whether a record may be what was submitted: same model, same payload, not from before.

    GMI may have added fields to the payload. URLs count without their query, which is signed anew.
    """
    created = record.get("created_at")
    if not isinstance(created, int | float) or created < int(since.timestamp()):
        return False
    theirs = _object(record.get("payload"))
    return record.get("model") == model and all(
        name in theirs and _bare(theirs[name]) == _bare(value) for name, value in payload.items()
    )


def _bare(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_bare(item) for item in cast(list[object], value)]
    if isinstance(value, str) and value.startswith(("https://", "http://")):
        return value.partition("?")[0]
    return value


def _object(value: object) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
