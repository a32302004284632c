"""OpenAI video (Sora): each video a job that is polled.

API reference: https://platform.openai.com/docs/api-reference/videos. Requests equal those of the
vendor's Python client 3.52.0. OpenAI announced the end of this API for 24 September 2026; where it
is gone every call ends with the error the vendor gives.
Submit: `POST /videos`, multipart also without a file, JSON with a picture by URL or file id;
`POST /videos/{id}/remix`, `/videos/edits`, `/videos/extensions` make a video of an earlier one.
Poll: `GET /videos/{id}`, every 5 to 10 s. Output: `GET /videos/{id}/content`, with the key, for about
an hour after completion. Cost unit: seconds, by model and size.
Quirks: `seconds` is text; a refused job is a 200 with status failed; there is no way to cancel.
A lost answer can be looked up among the project's recent videos, by model, prompt and time.
OpenAI calls back where the project's settings in its dashboard say, with `video.completed` and
`video.failed` and a Standard Webhooks signature (https://platform.openai.com/docs/guides/webhooks).
Such a call cannot name the submission, which is known by its job.
Unverified: the codes of failed jobs, whether deleting a video stops a running job, and whether the
list of videos is complete at once.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from genblaze_dagster.core.enums import Modality, StepType
from genblaze_dagster.errors import ConfigError, ModelError, ProviderUnavailableError
from genblaze_dagster.net.client import FilePart, TextPart
from genblaze_dagster.providers.openai.provider import OpenAIProvider
from genblaze_dagster.providers.openai.transfer import IMAGE_TRANSFER, fetched_url
from genblaze_dagster.providers.openai.vendor import refusal_of
from genblaze_dagster.providers.openai.video_models import (
    FAMILIES,
    OPERATION,
    OTHERS,
    VIDEO_ID,
    base_model,
)
from genblaze_dagster.providers.protocol import (
    FoundJobs,
    GenerationRequest,
    InputMedia,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.api import json_object
from genblaze_dagster.providers.vendor.callbacks import Callback, Delivery, webhook_key
from genblaze_dagster.providers.vendor.called_back import CallbackReader
from genblaze_dagster.providers.vendor.errors import Refusal
from genblaze_dagster.providers.vendor.provider import DEFAULT_MODEL
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

POLL_SECONDS = 5.0
SECRET_VARIABLE = "OPENAI_WEBHOOK_SECRET"  # noqa: S105 - the name of a secret

_BINARY = {"accept": "application/binary"}
_INPUT_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "video/mp4"})
_PATHS = {"edit": "/videos/edits", "extend": "/videos/extensions"}
_STATES = {
    "queued": JobState.QUEUED,
    "in_progress": JobState.RUNNING,
    "completed": JobState.SUCCEEDED,
}
_EVENTS = {"video.completed": JobState.SUCCEEDED, "video.failed": JobState.FAILED}
_SERVER_CODES = frozenset({"server_error", "internal_error"})
_KEPT_FACTS = ("seconds", "size", "remixed_from_video_id")
_PAGE = 100
_MOST_PAGES = 10


class SoraProvider(CallbackReader, OpenAIProvider):
    """OpenAI's Sora: video with sound from text and a first picture.

    Parameters: `duration` (4, 8 or 12 seconds), `aspect_ratio` and `resolution`, or OpenAI's own
    `seconds`, `size` and `input_reference`. An image input is the picture the video begins with; it
    should have the video's size. It is uploaded, or with `image_transfer="url"` fetched by OpenAI.
    With `operation` remix, edit or extend a video is made of an earlier one: that of `video_id`, or
    a video input. An edit step (`StepType.EDIT`) has the operation edit.
    The model `default` leaves the choice to OpenAI.

    Args as of `OpenAIProvider`; `webhook_secret` is that of the dashboard's webhook,
    OPENAI_WEBHOOK_SECRET by default.
    """

    name = "openai-sora"
    kind = "video"
    traits = Traits(
        makes=("video", "video edit"),
        modalities=(Modality.VIDEO,),
        inputs=(InputForm.UPLOAD, InputForm.URL),
        finds_jobs=True,
        webhooks=True,
        output_lifetime_hours=1,
    )
    families = FAMILIES
    others = OTHERS

    def __init__(
        self, api_key: str | None = None, *, webhook_secret: str | None = None, **options: Any
    ) -> None:
        super().__init__(api_key, **options)
        self._webhook_secret = webhook_secret

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the native parameters of a request; see `VendorProvider`."""
        params = request.params
        if request.step_type is StepType.EDIT and params.get(OPERATION) is None:
            request = replace(request, params={**params, OPERATION: "edit"})
        return super().payload(request)

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs that do not fit what is asked for."""
        inputs.check_inputs(self.name, request.inputs, at_most=1, types=_INPUT_TYPES)
        operation = payload.get(OPERATION)
        for item in request.inputs:
            if fact := _misfit(item, payload):
                raise self.refusal("inputs", fact, request)
        if IMAGE_TRANSFER in payload and not request.inputs:
            raise self.refusal(IMAGE_TRANSFER, "there is no image input to transfer", request)
        if operation in _PATHS and bool(request.inputs) == (VIDEO_ID in payload):
            raise self.refusal(
                VIDEO_ID, f"operation={operation!r} takes either video_id or a video input", request
            )

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start a job.

        Raises:
            ProviderError: see `Provider`. A lost answer is ambiguous; `find_jobs` may find it.
        """
        path, body = await self._call(request)
        video = await self.api.document(
            "POST", path, request_of=request, seconds=request.timeout, **body
        )
        return self.job_started(request, video)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the job once."""
        answer = await self.api.call("GET", f"/videos/{job_id}", request_of=request)
        video = json_object(answer, self.name, request)
        native = video.get("status")
        if native == "failed":
            return self.failed(request, _failure(video))
        state = _STATES.get(str(native), JobState.RUNNING)
        if state is JobState.SUCCEEDED:
            self.remember(job_id, {**video, "request_id": answer.headers.get("x-request-id")})
        progress = video.get("progress")
        return JobStatus(
            state,
            progress=progress / 100 if isinstance(progress, int | float) else None,
            poll_after=_asked_wait(answer.headers) or POLL_SECONDS,
        )

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the video of a succeeded job; its URL needs the key."""
        video = self.remembered(job_id) or await self.retrieve_video(job_id)
        if video.get("status") != "completed":
            raise self.no_output(request, f"the video {job_id} is not complete")
        output = Output(
            url=f"{self.api.base_url}/videos/{job_id}/content",
            headers={
                **self.vendor.key_headers(self.api.key),
                **self.own_headers(),
                **_BINARY,
            },
            media_type="video/mp4",
            expires_at=_moment(video.get("expires_at")),
        )
        kept = (*_KEPT_FACTS, "request_id")
        facts = {name: video[name] for name in kept if video.get(name) is not None}
        return Result(
            outputs=(output,),
            cost_usd=self.cost(request, (output,), facts),
            model_version=video.get("model"),
            provider_payload=facts,
        )

    async def find_jobs(self, request: GenerationRequest, *, since: datetime) -> FoundJobs:
        """Return the project's videos of that time with the same model, prompt and parameters.

        Never certain that there are no others.
        """
        wanted = self.payload(request)
        found: list[str] = []
        after: str | None = None
        for _ in range(_MOST_PAGES):
            page = await self.list_videos(limit=_PAGE, after=after)
            videos = cast(list[Mapping[str, Any]], page.get("data") or [])
            recent = [v for v in videos if (v.get("created_at") or 0) >= since.timestamp()]
            found += [str(v["id"]) for v in recent if _may_be_of(v, request.model, wanted)]
            if len(recent) < len(videos) or not videos or not page.get("has_more"):
                break
            after = str(videos[-1]["id"])
        return FoundJobs(tuple(found))

    async def callback_of(self, delivery: Delivery, *, now: datetime) -> Callback:
        """Check OpenAI's signature of a call, and return what it tells.

        Events of other things than videos have no state.

        Raises:
            ConfigError: there is no secret.
        """
        delivery.check_time(delivery.header("webhook-timestamp"), now)
        key = webhook_key(self._webhook_secret, SECRET_VARIABLE)
        if key is None:
            raise ConfigError(
                f"{self.vendor.name}: calls back cannot be checked here; set {SECRET_VARIABLE} to "
                "the secret of the webhook in OpenAI's dashboard"
            )
        if not delivery.is_signed(key):
            raise delivery.forged()
        event = delivery.document()
        data = event.get("data")
        video = cast(Mapping[str, Any], data) if isinstance(data, dict) else {}
        return delivery.callback(
            video.get("id"),
            _EVENTS.get(str(event.get("type"))),
            delivery_id=delivery.delivery_id("webhook-id"),
        )

    async def retrieve_video(self, video_id: str) -> Mapping[str, Any]:
        """Return OpenAI's record of a video: `status`, `seconds`, `size`, `expires_at`, ..."""
        return await self.api.document("GET", f"/videos/{video_id}")

    async def retrieve_content(self, video_id: str, variant: str = "thumbnail") -> bytes:
        """Return what else there is of a finished video: `thumbnail` (webp), `spritesheet` (jpeg)."""
        answer = await self.api.call(
            "GET", f"/videos/{video_id}/content", params={"variant": variant}, headers=_BINARY
        )
        return answer.content

    async def list_videos(
        self, *, limit: int = 20, after: str | None = None, order: str = "desc"
    ) -> Mapping[str, Any]:
        """Return one page of the project's recent videos: `data`, `has_more`, `last_id`.

        Args:
            limit: at most 100.
            after: the last id of the page before.
            order: `desc`, newest first, or `asc`.
        """
        query: dict[str, str | int] = {"limit": limit, "order": order}
        if after is not None:
            query["after"] = after
        return await self.api.document("GET", "/videos", params=query)

    async def delete_video(self, video_id: str) -> bool:
        """Delete a finished video at OpenAI; True when it confirms."""
        answer = await self.api.document("DELETE", f"/videos/{video_id}")
        return answer.get("deleted") is True

    async def _call(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        """Return path and body of the call that submits a request."""
        fields = self.payload(request)
        operation, video_id = fields.pop(OPERATION, None), fields.pop(VIDEO_ID, None)
        by_url = fields.pop(IMAGE_TRANSFER, None) == "url"
        if operation == "remix":
            return f"/videos/{video_id}/remix", {"json": fields}
        if operation is not None:
            if video_id is not None:
                return _PATHS[operation], {"json": {**fields, "video": {"id": video_id}}}
            return _PATHS[operation], await self._form(request, fields, "video")
        if request.model != DEFAULT_MODEL:
            fields["model"] = self.model_of(request)
        images = inputs.of_kind(request, "image")
        if images and by_url:
            fields["input_reference"] = {"image_url": fetched_url(self.name, images[0])}
        if "input_reference" in fields:
            return "/videos", {"json": fields}
        return "/videos", await self._form(request, fields, "input_reference")

    async def _form(
        self, request: GenerationRequest, fields: Mapping[str, Any], file_name: str
    ) -> dict[str, Any]:
        parts: list[FilePart | TextPart] = []
        for name, value in fields.items():
            if not isinstance(value, str | int | float):
                raise self.refusal(
                    name,
                    f"{name} is a {type(value).__name__}; a form takes text, numbers and booleans",
                    request,
                )
            text = str(value).lower() if isinstance(value, bool) else str(value)
            parts.append((name, (None, text)))
        parts += [await inputs.file_part(self.name, file_name, item) for item in request.inputs[:1]]
        return {"files": parts}


def _misfit(item: InputMedia, payload: Mapping[str, Any]) -> str | None:
    """Return why an input has no place in a request, None when it has one."""
    operation = payload.get(OPERATION)
    if item.asset.media_type.startswith("video/"):
        return None if operation in _PATHS else "a video input needs operation='edit' or 'extend'"
    if operation is not None:
        return f"operation={operation!r} takes no image"
    if "input_reference" in payload:
        return "give either an image input or input_reference"
    role = inputs.role_of(item)
    return f"an image of role {role!r} has no use" if role in ("last_frame", "mask") else None


def _failure(video: Mapping[str, Any]) -> Refusal:
    error = video.get("error")
    refusal = (
        refusal_of(cast(Mapping[str, Any], error)) if isinstance(error, Mapping) else Refusal()
    )
    if refusal.kind is not None:
        return refusal
    kind = ProviderUnavailableError if refusal.code in _SERVER_CODES else ModelError
    return Refusal(refusal.text, code=refusal.code, kind=kind)


def _moment(seconds: object) -> datetime | None:
    """Return a time in Unix seconds, None where there is none that can be read."""
    if not isinstance(seconds, int | float):
        return None
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds, UTC)
    return None


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    try:
        return float(headers.get("openai-poll-after-ms", "")) / 1000
    except ValueError:
        return None


def _may_be_of(video: Mapping[str, Any], model: str, wanted: Mapping[str, Any]) -> bool:
    """Whether a listed video may come of a request; what is not asked for may be anything."""
    said, operation = video.get("model"), wanted.get(OPERATION)
    says_model = operation is None and model != DEFAULT_MODEL and said is not None
    if says_model and model not in (said, base_model(str(said))):
        return False
    source = video.get("remixed_from_video_id")
    if operation in (None, "remix") and source != wanted.get(VIDEO_ID):
        return False
    names = ("prompt", "seconds", "size")
    return all(wanted.get(name) is None or video.get(name) == wanted[name] for name in names)
