"""Veo: videos of some seconds from text, images, and earlier results; a job that is polled.

API reference: https://ai.google.dev/gemini-api/docs/video. Requests equal those of the vendor's
Python client 2.34.0, which gave Veo up in 3.0.0 while the service went on: it may answer 404.
Submit: `POST /v1beta/models/{model}:predictLongRunning`. Poll: `GET /v1beta/{operation}`, every
10 s; the operation's name is the job's id. Result: `GET /v1beta/files/{id}:download?alt=media` with
the key, for 2 days. Cost unit: seconds of video, by model and resolution; filtered results are free.
Quirks: there is no progress, and `done` is absent until the end; a result may be filtered as a
whole or in part. An operation that got no answer may run: there is no list to look it up in.
Unverified: `seed`, which Google documents and its client refuses, so it is refused here; cancelling,
so nothing is cancelled; how large a picture may be.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import ContentPolicyError
from genblaze_dagster.providers.google.files import address_of, download_headers, file_name_of
from genblaze_dagster.providers.google.models import VEO
from genblaze_dagster.providers.google.provider import GoogleProvider, prediction
from genblaze_dagster.providers.google.vendor import VERSION, dicts, job_refusal, part_of
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    InputMedia,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.errors import Refusal, quoted
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

POLL_SECONDS = 10.0
OUTPUT_LIFETIME = timedelta(days=2)
FILE = "google_file"
"""Metadata of an output: its name at Google, by which a later step can have it extended."""

_SUBMIT_SECONDS = 120.0
_MAX_IMAGE_BYTES = 20 * 1000**2
_ROLES = (None, "first_frame", "last_frame", "reference")


class VeoProvider(GoogleProvider):
    """Google's Veo.

    Parameters are Veo's own (`durationSeconds`, `personGeneration`, ...) or the standard `duration`
    (4, 6 or 8 seconds for Veo 3.1, 8 for 3, 5 to 8 for 2), `aspect_ratio` (16:9, 9:16), `resolution`
    (720p, 1080p, 4k), `negative_prompt` and `n` (Veo 2 only). An image becomes the first frame, one
    of `role: last_frame` the last, up to three of `role: reference` references of Veo 3.1. A video
    input is extended; it must be a result of Veo that Google still keeps.
    """

    name = "google-veo"
    method = "predictLongRunning"
    traits = Traits(
        makes=("video", "image to video", "video extension"),
        modalities=(Modality.VIDEO,),
        inputs=(InputForm.DATA,),
        output_lifetime_hours=48,
    )
    families = VEO

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs the model does not take, and a request without prompt and inputs."""
        super().check(request, payload)
        images, videos = inputs.of_kind(request, "image"), inputs.of_kind(request, "video")
        if len(images) + len(videos) < len(request.inputs):
            raise self.refusal("inputs", "takes images and videos only", request)
        if not request.inputs and not payload.get("prompt"):
            raise self.refusal("prompt", f"{request.model} needs a prompt; it is empty", request)
        for item in images:
            if inputs.role_of(item) not in _ROLES:
                roles = ", ".join(role for role in _ROLES if role)
                raise self.refusal("role", f"an image of another role; allowed: {roles}", request)
        references = self.models.get(request.model).extras.get("references", 3)
        for items, at_most, what in (
            (_first(images), 1, "first frames"),
            (inputs.with_role(images, "last_frame"), 1, "last frames"),
            (inputs.with_role(images, "reference"), references, "reference images"),
            (videos, 1, "videos"),
        ):
            inputs.check_inputs(
                self.name, items, at_most=at_most, what=what, max_bytes=_max_bytes(what)
            )
        for item in videos:
            self._address(item)

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start an operation.

        Raises:
            ProviderError: see `Provider`. A lost answer is ambiguous: Google cannot be asked.
        """
        body = prediction(self.payload(request), await self._media(request))
        operation = await self.ask(request, body, seconds=_SUBMIT_SECONDS)
        return self.job_started(request, operation, "name")

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the operation once."""
        operation = await self._operation(job_id, request)
        if not operation.get("done"):
            return JobStatus(JobState.RUNNING, poll_after=POLL_SECONDS)
        if operation.get("error"):
            return self.failed(request, job_refusal(part_of(operation, "error")))
        videos = _videos(operation)
        if not _uris(videos) and (videos.get("raiMediaFilteredCount") or _reasons(videos)):
            text = "; ".join(_reasons(videos)) or "the videos were filtered"
            return self.failed(request, Refusal(text, kind=ContentPolicyError))
        self.remember(job_id, operation)
        return JobStatus(JobState.SUCCEEDED)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the videos of a succeeded operation."""
        videos = _videos(self.remembered(job_id) or await self._operation(job_id, request))
        uris = _uris(videos)
        if not uris:
            raise self.no_output(request, "the operation holds no video")
        expires = self.clock() + OUTPUT_LIFETIME
        outputs = tuple(
            Output(
                url=uri,
                headers=download_headers(self.api, uri),
                expires_at=expires,
                facts={"metadata": {FILE: name}} if (name := file_name_of(uri)) else {},
            )
            for uri in uris
        )
        payload = self._facts(videos, request)
        return Result(
            outputs=outputs,
            cost_usd=self.cost(request, outputs, payload),
            provider_payload=payload,
        )

    def _facts(self, videos: Mapping[str, Any], request: GenerationRequest) -> dict[str, Any]:
        count = videos.get("raiMediaFilteredCount")
        if not count:
            return {}
        reasons = [quoted(text, request, key=self.api.key) for text in _reasons(videos)]
        return {"filtered": count, "filter_reasons": reasons}

    async def _operation(self, job_id: str, request: GenerationRequest) -> dict[str, Any]:
        return await self.api.document("GET", f"{VERSION}/{job_id}", request_of=request)

    async def _media(self, request: GenerationRequest) -> dict[str, Any]:
        images = inputs.of_kind(request, "image")
        media: dict[str, Any] = {}
        for item in _first(images):
            media["image"] = await self._picture(item)
        for item in inputs.with_role(images, "last_frame"):
            media["lastFrame"] = await self._picture(item)
        for item in inputs.of_kind(request, "video"):
            media["video"] = {"uri": self._address(item)}
        references = [
            {"image": await self._picture(item), "referenceType": "ASSET"}
            for item in inputs.with_role(images, "reference")
        ]
        return {**media, **({"referenceImages": references} if references else {})}

    async def _picture(self, item: InputMedia) -> dict[str, Any]:
        encoded = await inputs.base64(self.name, item, max_bytes=_MAX_IMAGE_BYTES)
        return {"bytesBase64Encoded": encoded, "mimeType": item.asset.media_type}

    def _address(self, item: InputMedia) -> str:
        name = item.asset.metadata.get(FILE)
        address = address_of(self.api, name) if isinstance(name, str) else None
        if address is None:
            raise self.refusal(
                "inputs",
                "a video that is no result of Veo cannot be extended; give one whose metadata "
                f"names its {FILE}, within two days",
            )
        return address


def _first(images: tuple[InputMedia, ...]) -> tuple[InputMedia, ...]:
    return inputs.with_role(images, None) + inputs.with_role(images, "first_frame")


def _max_bytes(what: str) -> int | None:
    # Videos are named, not sent.
    return None if what == "videos" else _MAX_IMAGE_BYTES


def _videos(operation: Mapping[str, Any]) -> dict[str, Any]:
    return part_of(operation.get("response"), "generateVideoResponse")


def _uris(videos: Mapping[str, Any]) -> list[str]:
    found = (part_of(s, "video").get("uri") for s in dicts(videos.get("generatedSamples")))
    return [uri for uri in found if isinstance(uri, str)]


def _reasons(videos: Mapping[str, Any]) -> list[str]:
    reasons = videos.get("raiMediaFilteredReasons")
    return [str(reason) for reason in reasons] if isinstance(reasons, list) else []
