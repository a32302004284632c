"""Runway: video, images, speech and sound effects, each a task that is polled.

API reference: https://docs.dev.runwayml.com/api/. Requests equal those of the vendor's Python
client 5.24.0.
Submit: `POST /v1/<endpoint>` (JSON, camelCase), one endpoint per capability, chosen here by
modality, inputs and model. Poll: `GET /v1/tasks/{id}`, at most every 5 s. Output: signed URLs that
live 24 to 48 hours; asking again gives fresh ones. Cost unit: credits, reported by the finished
task; list prices as of October 2026 in `pricing`, your contract may differ: give your own.
Quirks: a create that got no answer may have started a task, and there is no list to look it up in.
Cancelling a finished task deletes its outputs. `THROTTLED` means that the account's concurrency is
used up. Bounds of gen4_turbo's duration and the wording of some errors are unverified.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    OutputError,
    ProviderUnavailableError,
    QuotaError,
)
from genblaze_dagster.net.client import FilePart, TextPart
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    InputMedia,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)
from genblaze_dagster.providers.runway.models import FAMILIES, GEN_TEXT_RATIOS
from genblaze_dagster.providers.validation import DiscoverySupport
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.errors import ErrorRules, Refusal, nothing_submitted
from genblaze_dagster.providers.vendor.provider import VendorProvider
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

API_VERSION = "2024-11-06"
OUTPUT_LIFETIME = timedelta(hours=24)
POLL_SECONDS = 5.0

_MEBIBYTE = 1024 * 1024
_MAX_DATA_BYTES = {"image": 3 * _MEBIBYTE, "video": 11 * _MEBIBYTE, "audio": 11 * _MEBIBYTE}
_MAX_UPLOAD_BYTES = 200 * _MEBIBYTE
# What Runway fetches; beyond it an input is uploaded although it has a URL.
_MAX_FETCHED_BYTES = {"image": 16_000_000, "video": 32_000_000, "audio": 32_000_000}
_MAX_URL_CHARS = 2048
_MAX_PROMPT_UNITS = 1000
_OVER = ("SUCCEEDED", "FAILED", "CANCELLED")


def _read_error(status: int, body: Any) -> Refusal:
    text = body.get("error") if isinstance(body, dict) else None
    text = text if isinstance(text, str) else None
    # Runway refuses with 400 when credits run out; nothing but the text says so.
    is_credit = status == 400 and text is not None and "credit" in text.lower()
    return Refusal(text, kind=QuotaError if is_credit else None)


_FAILURES: tuple[tuple[str, type[Any], bool], ...] = (
    ("SAFETY", ContentPolicyError, False),
    ("INPUT_PREPROCESSING.SAFETY", ContentPolicyError, False),
    ("INTERNAL.BAD_OUTPUT", ModelError, True),
    ("ASSET.INVALID", InvalidRequestError, False),
    ("INPUT_PREPROCESSING.INTERNAL", ProviderUnavailableError, True),
    ("INTERNAL", ProviderUnavailableError, True),
    ("THIRD_PARTY", ProviderUnavailableError, True),
)
# Models of the `_to_video` endpoints that have no video_to_video.
_IMAGES_ONLY = re.compile(r"(gen4(_turbo|\.5)|veo3\.1(_fast)?)$")
_STATES = {
    "PENDING": JobState.QUEUED,
    "THROTTLED": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "SUCCEEDED": JobState.SUCCEEDED,
}


class RunwayProvider(VendorProvider):
    """Runway's models and those it offers of others.

    Parameters are Runway's own (`ratio`, `duration`, ...) or the standard `aspect_ratio`,
    `resolution`, `duration`, `negative_prompt`, `n`, `output_format`, `voice`. An image input becomes
    the first frame, one of `role: last_frame` the last, those of `role: reference` references (their
    metadata `tag` names them in the prompt). Inputs go as URLs where the store has one that Runway
    can fetch, small ones as data URIs, larger ones are uploaded.
    """

    name = "runway"
    vendor = Vendor(
        name="runway",
        key_variables=("RUNWAYML_API_SECRET",),
        base_url="https://api.dev.runwayml.com",
        base_url_variable="RUNWAYML_BASE_URL",
        headers={"x-runway-version": API_VERSION},
        rules=ErrorRules(
            read=_read_error,
            remedies={
                AuthError: "check RUNWAYML_API_SECRET",
                QuotaError: "add credits in the developer portal",
            },
        ),
    )
    traits = Traits(
        makes=("video", "image", "speech", "sound effects", "upscaling"),
        modalities=(Modality.VIDEO, Modality.IMAGE, Modality.AUDIO),
        inputs=(InputForm.URL, InputForm.DATA, InputForm.UPLOAD),
        cancels=True,
        reports_cost=True,
        output_lifetime_hours=24,
    )
    families = FAMILIES
    discovery_support = DiscoverySupport.PARTIAL

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse what the endpoint would refuse; see `validate`."""
        endpoint = endpoint_of(request)
        inputs.check_inputs(self.name, request.inputs, at_most=16, max_bytes=_MAX_UPLOAD_BYTES)
        self._check_media(request, endpoint, payload)
        prompt = payload.get("promptText")
        needs_prompt = endpoint.startswith("text_to_") or endpoint == "sound_effect"
        if needs_prompt and not prompt:
            raise self.refusal("prompt", f"{request.model} needs a prompt; it is empty", request)
        if request.model == "gen4_turbo" and endpoint != "image_to_video":
            raise self.refusal("inputs", "gen4_turbo makes video from an image; give one", request)
        if request.model == "gen4.5":
            self._check_gen45(request, endpoint, payload)

    def _check_gen45(
        self, request: GenerationRequest, endpoint: str, payload: Mapping[str, Any]
    ) -> None:
        if "duration" not in payload:
            raise self.refusal("duration", "gen4.5 needs a duration of 2 to 10 seconds", request)
        if endpoint == "text_to_video" and payload.get("ratio", "1280:720") not in GEN_TEXT_RATIOS:
            raise self.refusal(
                "aspect_ratio" if "aspect_ratio" in request.params else "ratio",
                f"gen4.5 makes {' and '.join(GEN_TEXT_RATIOS)} (16:9 and 9:16) from text; for "
                "another shape give an image",
                request,
            )
        units = len(str(payload.get("promptText", "")).encode("utf-16-le", "surrogatepass")) // 2
        if units > _MAX_PROMPT_UNITS:
            raise self.refusal(
                "prompt",
                f"has {units} UTF-16 units; gen4.5 takes at most {_MAX_PROMPT_UNITS}",
                request,
            )

    def _check_media(
        self, request: GenerationRequest, endpoint: str, payload: Mapping[str, Any]
    ) -> None:
        """Refuse an input without a field, one too many for its field, and fields without one."""
        slots = _slots(request, endpoint)
        for item in request.inputs:
            if not any(item in (*slot.items, *slot.ends) for slot in slots):
                role = inputs.role_of(item)
                raise self.refusal(
                    "inputs",
                    f"an input of type {item.asset.media_type}"
                    f"{'' if role is None else f' and role {role!r}'} has no place in {endpoint} "
                    f"of {request.model}",
                    request,
                )
        for slot in slots:
            if (slot.items or slot.ends) and slot.field in payload:
                raise self.refusal(
                    slot.field,
                    f"{slot.field} is given both as a parameter and as an input",
                    request,
                )
            for items in (slot.items, slot.ends):
                inputs.check_inputs(self.name, items, at_most=slot.most, what=slot.what)
            if slot.is_required and not slot.items and slot.field not in payload:
                raise self.refusal("inputs", f"{request.model} needs {slot.what}", request)

    def outputs_of(self, payload: Mapping[str, Any]) -> int:
        """Return how many outputs a payload asks for; one where it does not say."""
        wanted = payload.get("outputCount")
        return wanted if isinstance(wanted, int) else 1

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start a task.

        Raises:
            ProviderError: see `Provider`. A lost answer is ambiguous: Runway cannot be asked.
        """
        endpoint = endpoint_of(request)
        with nothing_submitted():
            media = await self._media(request, endpoint)
        body = {"model": self.model_of(request), **self.payload(request), **media}
        created = await self.api.document("POST", f"/v1/{endpoint}", request_of=request, json=body)
        return self.job_started(request, created)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the task once."""
        task = await self._task(job_id, request)
        native = task.get("status")
        if native == "FAILED":
            return self.failed(request, _failure(task))
        if native == "CANCELLED":
            return self.failed(
                request,
                Refusal("the task was cancelled at Runway", code="CANCELLED"),
                state=JobState.CANCELLED,
            )
        state = _STATES.get(str(native), JobState.RUNNING)
        if state is JobState.SUCCEEDED:
            self.remember(job_id, task)
        progress = task.get("progress")
        return JobStatus(
            state,
            progress=float(progress) if isinstance(progress, int | float) else None,
            message="waiting for the account's concurrency" if native == "THROTTLED" else None,
            poll_after=POLL_SECONDS,
        )

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the outputs of a succeeded task."""
        task = self.remembered(job_id) or await self._task(job_id, request)
        listed, cost = task.get("output"), task.get("cost")
        found = cast(list[object], listed) if isinstance(listed, list) else []
        urls = [url for url in found if isinstance(url, str)]
        if not urls:
            raise self.no_output(request, "the task holds no output")
        credits = cast(dict[str, Any], cost).get("credits") if isinstance(cost, dict) else None
        payload = {} if credits is None else {"credits": credits}
        expires = self.clock() + OUTPUT_LIFETIME
        outputs = tuple(Output(url=url, expires_at=expires) for url in urls)
        return Result(
            outputs=outputs,
            cost_usd=self.cost(request, outputs, payload),
            provider_payload=payload,
        )

    async def cancel(self, job_id: str) -> bool:
        """Stop a running task; False when it is over, for a delete would take its outputs away."""
        task = await self.api.document("GET", f"/v1/tasks/{job_id}")
        if task.get("status") in _OVER:
            return task["status"] == "CANCELLED"
        await self.api.call("DELETE", f"/v1/tasks/{job_id}")
        return True

    async def list_models(self) -> Sequence[str]:
        """Return the models of the account's tier, the nearest thing to a list."""
        found = await self.api.document("GET", "/v1/organization")
        models = (found.get("tier") or {}).get("models") or {}
        return sorted(map(str, models))

    async def upload(self, item: InputMedia) -> str:
        """Upload an input and return its `runway://` URI, which lives 24 hours.

        Raises:
            OutputError: Runway named no place for it.
        """
        name = inputs.file_name(item)
        slot = await self.api.document(
            "POST", "/v1/uploads", json={"filename": name, "type": "ephemeral"}
        )
        url, uri, form = (slot.get(member) for member in ("uploadUrl", "runwayUri", "fields"))
        if not isinstance(url, str) or not isinstance(uri, str) or not isinstance(form, dict):
            raise OutputError(
                f"{self.name}: the answer names no place for an upload; try again",
                provider=self.name,
            )
        fields: list[FilePart | TextPart] = [
            (field, (None, str(value))) for field, value in cast(dict[str, Any], form).items()
        ]
        await self.api.call(
            "POST",
            url,
            files=[*fields, await inputs.file_part(self.name, "file", item)],
            headers={"accept": "*/*"},
            with_key=False,
        )
        return uri

    async def _task(self, job_id: str, request: GenerationRequest) -> dict[str, Any]:
        return await self.api.document("GET", f"/v1/tasks/{job_id}", request_of=request)

    async def _media(self, request: GenerationRequest, endpoint: str) -> dict[str, Any]:
        """Return the fields of a request that hold its inputs."""
        media: dict[str, Any] = {}
        for slot in _slots(request, endpoint):
            if slot.is_list and slot.items:
                media[slot.field] = [await self._reference(item) for item in slot.items]
            elif slot.ends:
                media[slot.field] = [
                    {"uri": await self._uri(item), "position": position}
                    for position, items in (("first", slot.items), ("last", slot.ends))
                    for item in items
                ]
            elif slot.items:
                media[slot.field] = await self._uri(slot.items[0])
        return media

    async def _reference(self, item: InputMedia) -> dict[str, Any]:
        tag = item.asset.metadata.get("tag")
        return {"uri": await self._uri(item), **({"tag": tag} if isinstance(tag, str) else {})}

    async def _uri(self, item: InputMedia) -> str:
        kind, size = item.asset.media_type.partition("/")[0], item.asset.size_bytes
        url = item.public_url()
        is_fetched = size is None or size <= _MAX_FETCHED_BYTES.get(kind, 0)
        if url is not None and is_fetched and len(url) <= _MAX_URL_CHARS:
            return url
        most = _MAX_DATA_BYTES.get(kind, 0)
        if size is not None and size <= most:
            return await inputs.data_uri(self.name, item, max_bytes=most)
        return await self.upload(item)


def endpoint_of(request: GenerationRequest) -> str:
    """Return the endpoint for a request, by modality, inputs and model."""
    has_image = bool(inputs.of_kind(request, "image"))
    has_video = bool(inputs.of_kind(request, "video"))
    model = request.model
    if request.modality is Modality.AUDIO:
        return "sound_effect" if "_to_sound" in model else "text_to_speech"
    if "upscaler" in model:
        return "video_upscale" if request.modality is Modality.VIDEO else "image_upscale"
    if request.modality is Modality.IMAGE:
        return "text_to_image"
    if has_video:
        return "video_to_video"
    return "image_to_video" if has_image else "text_to_video"


@dataclass(frozen=True, slots=True)
class _Slot:
    """A field that takes inputs; of frames `items` is the first and `ends` the last one."""

    field: str
    what: str
    items: Sequence[InputMedia]
    ends: Sequence[InputMedia] = ()
    most: int = 1
    is_list: bool = False
    is_required: bool = False


def _slots(request: GenerationRequest, endpoint: str) -> Sequence[_Slot]:
    """Return the fields an endpoint has for inputs, with those that go there."""
    images, videos = inputs.of_kind(request, "image"), inputs.of_kind(request, "video")
    plain = inputs.with_role(images, None)
    references = inputs.with_role(images, "reference")
    model = request.model
    if endpoint == "text_to_image":
        return (
            _Slot(
                "referenceImages",
                "reference images",
                (*references, *plain),
                most=16,
                is_list=True,
                is_required=model == "gen4_image_turbo",
            ),
        )
    if endpoint == "image_upscale":
        return (_Slot("imageUri", "an image", plain, is_required=True),)
    if endpoint == "video_upscale":
        return (_Slot("videoUri", "a video", videos, is_required=True),)
    if not endpoint.endswith("_to_video"):
        return ()
    first = (*plain, *inputs.with_role(images, "first_frame"))
    last = inputs.with_role(images, "last_frame")
    slots = (
        _Slot("promptImage", "images of that role", first, last),
        _Slot("referenceImages", "reference images", references, most=16, is_list=True),
    )
    if _IMAGES_ONLY.match(model):
        return slots
    return (
        *slots,
        _Slot("promptVideo" if _takes_prompt_video(model) else "videoUri", "videos", videos),
    )


def _takes_prompt_video(model: str) -> bool:
    return model.startswith(("klingO3", "seedance", "hailuo3"))


def _failure(task: Mapping[str, Any]) -> Refusal:
    code = str(task.get("failureCode") or "")
    text = task.get("failure") if isinstance(task.get("failure"), str) else None
    for prefix, kind, transient in _FAILURES:
        if code.startswith(prefix):
            return Refusal(text, code=code, kind=kind, transient=transient)
    return Refusal(text, code=code or None, kind=ModelError, transient=True)
