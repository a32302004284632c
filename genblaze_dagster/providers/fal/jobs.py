"""Jobs of fal's queue: how they are addressed, and what their status says."""

import re
from collections.abc import Mapping
from typing import Any, cast

from genblaze_dagster.errors import (
    AuthError,
    OutputError,
    ProviderError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.providers.protocol import GenerationRequest, JobState
from genblaze_dagster.providers.vendor.errors import quoted

STATES = {
    "IN_QUEUE": JobState.QUEUED,
    "IN_PROGRESS": JobState.RUNNING,
    "COMPLETED": JobState.SUCCEEDED,
}
NOTHING_TO_STOP = ("ALREADY_COMPLETED", "NOT_FOUND")

_NAMESPACES = ("workflows", "comfy")
_ID = re.compile(r"[\w-]{1,128}")
_PATH = re.compile(r"\w[\w.-]*(/\w[\w.-]*)+/requests/[\w-]{1,128}")


def app_of(model: str) -> str:
    """Return what is left of a model's id in the addresses of its jobs."""
    parts = model.split("/")
    return "/".join(parts[: 3 if parts[0] in _NAMESPACES else 2])


def job_id_of(queued: Mapping[str, Any], model: str) -> str | None:
    """Return the path of a job below the queue's host, None when the answer holds no id.

    Of the address that fal answers with only the path counts, since the key goes along.
    """
    request_id = queued.get("request_id")
    if not isinstance(request_id, str) or _ID.fullmatch(request_id) is None:
        return None
    address = str(queued.get("status_url")).partition("://")[2].partition("/")[2]
    path = address.partition("?")[0].removesuffix("/status")
    is_its = is_path(path) and path.endswith(f"/requests/{request_id}")
    return path if is_its else f"{app_of(model)}/requests/{request_id}"


def is_path(job_id: str) -> bool:
    """Whether a job id is a path, as `job_id_of` gives it."""
    return _PATH.fullmatch(job_id) is not None


def path_of(job_id: str, model: str) -> str | None:
    """Return the path of a job by its path or its bare id; None for what is neither."""
    if is_path(job_id):
        return job_id
    return f"{app_of(model)}/requests/{job_id}" if _ID.fullmatch(job_id) else None


def is_of_the_run(error: ProviderError) -> bool:
    """Whether the error of a result is what became of the run, and not of asking for it."""
    about_asking = AuthError | QuotaError | RateLimitError | OutputError
    if error.http_status is None or isinstance(error, about_asking):
        return False
    # A proxy that is down says nothing about the run, and names no request.
    return error.request_id is not None or not error.transient


def message_of(status: Mapping[str, Any], request: GenerationRequest) -> str | None:
    """Return the last line of the log, or the place in the queue."""
    logs = status.get("logs")
    last = cast(list[Any], logs)[-1] if isinstance(logs, list) and logs else None
    if isinstance(last, dict):
        return quoted(str(cast(Mapping[str, Any], last).get("message") or ""), request)
    position = status.get("queue_position")
    return f"position {position} in the queue" if isinstance(position, int) else None
