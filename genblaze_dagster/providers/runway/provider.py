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

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
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
from genblaze_dagster.providers.runway.models import FAMILIES
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
_STATES = {
    "PENDING": JobState.QUEUED,
    "THROTTLED": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "SUCCEEDED": JobState.SUCCEEDED,
}


class RunwayProvider(VendorProvider):
    """Runway's models and those it offers of others.

    Parameters are Runway's own (`ratio`, `duration`, ...) or the standard `aspect_ratio`,
    `resolution`, `duration`, `negative_prompt`, `n`, `output_format`, `voice`. Image inputs become
    the first frame, one of `role: last_frame` the last, those of `role: reference` references (their
    metadata `tag` names them in the prompt). Inputs go as URLs where the store has one, small ones
    as data URIs, larger ones are uploaded.
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
        needs_prompt = endpoint.startswith("text_to_") or endpoint == "sound_effect"
        if needs_prompt and not payload.get("promptText"):
            raise self.refusal("prompt", f"{request.model} needs a prompt; it is empty", request)
        if request.model == "gen4_turbo" and endpoint != "image_to_video":
            raise self.refusal("inputs", "gen4_turbo makes video from an image; give one", request)
        if request.model == "gen4.5" and "duration" not in payload:
            raise self.refusal("duration", "gen4.5 needs a duration of 2 to 10 seconds", request)

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
        urls = task.get("output")
        if not isinstance(urls, list) or not urls:
            raise self.no_output(request, "the task holds no output")
        credits = (task.get("cost") or {}).get("credits")
        payload = {} if credits is None else {"credits": credits}
        expires = self.clock() + OUTPUT_LIFETIME
        outputs = tuple(Output(url=url, expires_at=expires) for url in urls)
        return Result(
            outputs=outputs,
            cost_usd=self.cost(request, outputs, payload),
            provider_payload=payload,
        )

    async def cancel(self, job_id: str) -> bool:
        """Stop a running task. Never called on a finished one: that would delete its outputs."""
        await self.api.call("DELETE", f"/v1/tasks/{job_id}")
        return True

    async def list_models(self) -> Sequence[str]:
        """Return the models of the account's tier, the nearest thing to a list."""
        found = await self.api.document("GET", "/v1/organization")
        models = (found.get("tier") or {}).get("models") or {}
        return sorted(models)

    async def upload(self, item: InputMedia) -> str:
        """Upload an input and return its `runway://` URI, which lives 24 hours."""
        name = inputs.file_name(item)
        slot = await self.api.document(
            "POST", "/v1/uploads", json={"filename": name, "type": "ephemeral"}
        )
        fields: list[FilePart | TextPart] = [
            (field, (None, str(value))) for field, value in slot["fields"].items()
        ]
        await self.api.call(
            "POST",
            slot["uploadUrl"],
            files=[*fields, await inputs.file_part(self.name, "file", item)],
            headers={"accept": "*/*"},
            with_key=False,
        )
        return slot["runwayUri"]

    async def _task(self, job_id: str, request: GenerationRequest) -> dict[str, Any]:
        return await self.api.document("GET", f"/v1/tasks/{job_id}", request_of=request)

    async def _media(self, request: GenerationRequest, endpoint: str) -> dict[str, Any]:
        """Return the fields of a request that hold its inputs."""
        images = inputs.of_kind(request, "image")
        references = inputs.with_role(images, "reference")
        last = inputs.with_role(images, "last_frame")
        first = inputs.with_role(images, None)
        media: dict[str, Any] = {}
        if endpoint == "text_to_image":
            references, first = (*references, *first), ()
        if references:
            media["referenceImages"] = [await self._reference(item) for item in references]
        if endpoint == "image_upscale" and first:
            media["imageUri"] = await self._uri(first[0])
        elif last:
            frames = [*((item, "first") for item in first[:1]), (last[0], "last")]
            media["promptImage"] = [
                {"uri": await self._uri(item), "position": where} for item, where in frames
            ]
        elif first:
            media["promptImage"] = await self._uri(first[0])
        for item in inputs.of_kind(request, "video")[:1]:
            field = "promptVideo" if _takes_prompt_video(request.model) else "videoUri"
            media[field] = await self._uri(item)
        return media

    async def _reference(self, item: InputMedia) -> dict[str, Any]:
        tag = item.asset.metadata.get("tag")
        return {"uri": await self._uri(item), **({"tag": tag} if isinstance(tag, str) else {})}

    async def _uri(self, item: InputMedia) -> str:
        url = item.public_url()
        if url is not None:
            return url
        size = item.asset.size_bytes
        most = _MAX_DATA_BYTES.get(item.asset.media_type.partition("/")[0], 0)
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


def _takes_prompt_video(model: str) -> bool:
    return model.startswith(("klingO3", "seedance", "hailuo3"))


def _failure(task: Mapping[str, Any]) -> Refusal:
    code = str(task.get("failureCode") or "")
    text = task.get("failure") if isinstance(task.get("failure"), str) else None
    for prefix, kind, transient in _FAILURES:
        if code.startswith(prefix):
            return Refusal(text, code=code, kind=kind, transient=transient)
    return Refusal(text, code=code or None, kind=ModelError, transient=True)
