"""GMI Cloud: video, images and audio of many makers, all through one request queue.

API reference: https://docs.gmicloud.ai. Verbs, paths, envelope and records equal those of the
vendor's Python package `gmicloud` 0.1.10; that one logs in with a password, so the address for API
keys, the header and the fields of each model come from GMI's pages.
Submit: `POST /requests` with `{"model", "payload"}`. Poll: `GET /requests/{id}`, every 5 s for video,
2 s otherwise. Lookup: `GET /requests?model_id=`. Cost unit: a request of most models, seconds of
Seedance 2; no figures are known, so the cost is unknown. No upload: media are URLs or data URIs.
Quirks: some models answer the submit itself with `success` and the outputs, and are then not polled;
names of models mix upper and lower case, which matters; the queue's failures are HTTP 200 with words
and no code (see `vendor.py`). `GMI_BASE_URL`, which other tools read, is not: the key would go there.
Unverified: all models' fields that the family modules mark so, how long output URLs live, the lookup
and the lists of models under an API key, and that `DELETE /requests/{id}` would cancel: it is not
sent, so nothing can be cancelled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import quote

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.gmicloud.audio_models import AUDIO_FAMILIES
from genblaze_dagster.providers.gmicloud.image_models import IMAGE_FAMILIES
from genblaze_dagster.providers.gmicloud.records import (
    STATES,
    dicts,
    facts_of,
    is_answer_to,
    model_names,
    urls_of,
)
from genblaze_dagster.providers.gmicloud.slots import Placed, media_of, place
from genblaze_dagster.providers.gmicloud.vendor import QUEUE, failure_of
from genblaze_dagster.providers.gmicloud.video_models import VIDEO_FAMILIES
from genblaze_dagster.providers.protocol import (
    FoundJobs,
    GenerationRequest,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)
from genblaze_dagster.providers.validation import DiscoverySupport
from genblaze_dagster.providers.vendor.errors import Refusal
from genblaze_dagster.providers.vendor.provider import VendorProvider
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

_ELSEWHERE = (
    ("gmicloud", Modality.VIDEO, VIDEO_FAMILIES),
    ("gmicloud-image", Modality.IMAGE, IMAGE_FAMILIES),
    ("gmicloud-audio", Modality.AUDIO, AUDIO_FAMILIES),
)


class _GMICloudProvider(VendorProvider):
    """The request queue.

    Args as of `VendorProvider`; `organization` is who is billed, the key's own one by default.
    """

    vendor = QUEUE
    makes: ClassVar[Modality]
    poll_seconds: ClassVar[float] = 2.0
    discovery_support = DiscoverySupport.PARTIAL

    def __init__(
        self, api_key: str | None = None, *, organization: str | None = None, **options: Any
    ) -> None:
        self._organization = organization
        super().__init__(api_key, **options)

    def own_headers(self) -> Mapping[str, str]:
        """Return the header that names the organisation."""
        return {"x-organization-id": self._organization} if self._organization else {}

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse models of another kind, and inputs the model does not take."""
        if not self.models.has(request.model):
            for name, modality, families in _ELSEWHERE:
                if any(family.matches(request.model) for family in families):
                    raise self.unknown_model(
                        request,
                        f"{request.model} makes {modality.value}; use the provider {name!r}",
                    )
        self._placed(request, payload)

    def outputs_of(self, payload: Mapping[str, Any]) -> int:
        """Return how many outputs a payload asks for; as many as it may get where it has a limit."""
        n = payload.get("n", payload.get("max_images", 1))
        return n if isinstance(n, int) else 1

    async def submit(self, request: GenerationRequest) -> Submission:
        """Put a request into the queue; models that answer at once give the result.

        Raises:
            ProviderError: see `Provider`. A lost answer is ambiguous; `find_jobs` looks for it.
        """
        record = await self.api.document(
            "POST",
            "/requests",
            request_of=request,
            json={"model": self.model_of(request), "payload": await self._body(request)},
            seconds=request.timeout,
        )
        started = self.job_started(request, record, "request_id")
        if record.get("status") == "success" and urls_of(record, self.makes):
            return replace(started, result=self._result(record, request))
        return started

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the request once."""
        record = await self._record(job_id, request)
        native = str(record.get("status"))
        if native == "failed":
            return self.failed(request, failure_of(record))
        if native == "cancelled":
            refusal = Refusal("the request was cancelled at GMI Cloud", code=native)
            return self.failed(request, refusal, state=JobState.CANCELLED)
        # A state nobody knows yet is waited out; the step's own timeout ends it.
        state = STATES.get(native, JobState.RUNNING)
        if state is JobState.SUCCEEDED:
            self.remember(job_id, record)
        return JobStatus(state, poll_after=self.poll_seconds)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the outputs of a request that succeeded."""
        return self._result(self.remembered(job_id) or await self._record(job_id, request), request)

    async def find_jobs(self, request: GenerationRequest, *, since: datetime) -> FoundJobs:
        """Return the requests with this model and payload since then.

        GMI keeps no key of ours, and whether it lists all requests at once is not known: that one is
        missing from the list proves nothing.

        Raises:
            ProviderError: GMI cannot be asked.
        """
        model, payload = self.model_of(request), await self._body(request)
        listed = await self.api.document(
            "GET", "/requests", request_of=request, params={"model_id": model}
        )
        found = [
            record["request_id"]
            for record in dicts(listed.get("requests"))
            if isinstance(record.get("request_id"), str)
            and is_answer_to(record, model, payload, since)
        ]
        return FoundJobs(tuple(dict.fromkeys(found)))

    async def list_models(self) -> Sequence[str]:
        """Return the queue's models, those of another kind left out where GMI tells the kind."""
        return model_names(await self.api.document("GET", "/models"), self.makes)

    async def retrieve_model(self, model: str) -> Mapping[str, Any]:
        """Return what GMI says of a model: its kind, its price where told, its parameters.

        Raises:
            ModelError: there is none, or the account may not use it.
        """
        return await self.api.document("GET", f"/models/{quote(model, safe='')}")

    async def _record(self, job_id: str, request: GenerationRequest) -> dict[str, Any]:
        return await self.api.document("GET", f"/requests/{job_id}", request_of=request)

    async def _body(self, request: GenerationRequest) -> dict[str, Any]:
        payload = self.payload(request)
        return {**payload, **await media_of(self.name, self._placed(request, payload))}

    def _placed(self, request: GenerationRequest, payload: Mapping[str, Any]) -> Placed:
        slots = self.models.get(request.model).extras.get("slots")
        return place(self.name, request, slots, payload)

    def _result(self, record: Mapping[str, Any], request: GenerationRequest) -> Result:
        urls = urls_of(record, self.makes)
        if not urls:
            raise self.no_output(request, "the request succeeded without an output")
        outputs = tuple(Output(url=url) for url in urls)
        model, payload = record.get("model"), facts_of(record)
        return Result(
            outputs=outputs,
            cost_usd=self.cost(request, outputs, payload),
            model_version=model if isinstance(model, str) else None,
            provider_payload=payload,
        )


class GMICloudVideoProvider(_GMICloudProvider):
    """Videos: Sora, Veo, Kling, Seedance, HappyHorse, Wan, PixVerse and others.

    Standard parameters: `duration`, `aspect_ratio`, `resolution`, `seed`, `negative_prompt`,
    `generate_audio`, each for the models that have it; the models' own names pass as well. An image
    input is the first frame, one of `role: last_frame` the last; those of `role: reference`, and
    videos and sounds, are references where the model takes some.
    """

    name = "gmicloud"
    makes = Modality.VIDEO
    poll_seconds = 5.0
    families = VIDEO_FAMILIES
    traits = Traits(
        makes=("video",),
        modalities=(Modality.VIDEO,),
        inputs=(InputForm.URL, InputForm.DATA),
        finds_jobs=True,
    )


class GMICloudImageProvider(_GMICloudProvider):
    """Images: Seedream, gpt-image-2, SeedEdit, Reve, Bria and others.

    Standard parameters: `aspect_ratio`, `resolution`, `seed`, `n`, `output_format`, each for the
    models that have it; the models' own names pass as well. Image inputs are what is edited or
    referred to, one of `role: mask` is the mask.
    """

    name = "gmicloud-image"
    makes = Modality.IMAGE
    families = IMAGE_FAMILIES
    traits = Traits(
        makes=("image", "image edit"),
        modalities=(Modality.IMAGE,),
        inputs=(InputForm.URL, InputForm.DATA),
        finds_jobs=True,
    )


class GMICloudAudioProvider(_GMICloudProvider):
    """Speech and music: ElevenLabs, MiniMax, Inworld and others.

    The prompt is the text of speech and the style of music. Standard parameters: `voice`,
    `language`, `output_format`, `speed`, `seed`, each for the models that have it; the models' own
    names pass as well. An audio input is the voice to clone, one of `role: prompt` its example.
    """

    name = "gmicloud-audio"
    makes = Modality.AUDIO
    families = AUDIO_FAMILIES
    traits = Traits(
        makes=("speech", "voice clone", "music"),
        modalities=(Modality.AUDIO,),
        inputs=(InputForm.URL, InputForm.DATA),
        finds_jobs=True,
    )
