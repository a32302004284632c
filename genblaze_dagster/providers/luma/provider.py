"""Luma: videos and images, each a generation that is polled.

API reference: https://docs.lumalabs.ai/reference. Requests equal those of the vendor's Python
clients, `lumaai` 1.21.0 and `luma-agents` 0.5.0.
Two APIs behind one provider, chosen by the model: Dream Machine (`ray-2`, `photon-1`, ...; key
LUMAAI_API_KEY) and its successor (`uni-1`, `ray-3.2`, ...; key LUMA_AGENTS_API_KEY, another host).
Submit: `POST /generations/video`, `/generations/image` or `/generations/{id}/upscale`; successor:
`POST /generations`. Poll: `GET /generations/{id}`, every 3 to 5 s. Cost unit: pixels and seconds of
video, pictures; no answer tells the price. List prices as of October 2026 in `pricing`; your contract
may differ: give your own.
Quirks: Dream Machine takes URLs that it can fetch and nothing else; a failed generation has words
and no code, of which a leading HTTP number is the only firm part. A video's `assets.image` is its
thumbnail. Dream Machine calls `callback_url` at every change of state
(https://docs.lumalabs.ai/changelog/callbacks-and-credits-balance), again at most three times and
at once, and signs nothing: the token of the address proves who calls. The successor calls nobody.
Unverified: how long output URLs live (the successor's: one hour), the words of a moderation, and
whether deleting a generation stops it or its charge.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from genblaze_dagster.core.enums import Modality, StepType
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.providers.luma.models import FAMILIES, SUCCESSOR
from genblaze_dagster.providers.luma.slots import FIRST, Slot, slots_of
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
from genblaze_dagster.providers.vendor.api import Api, Vendor
from genblaze_dagster.providers.vendor.callbacks import Callback, Delivery
from genblaze_dagster.providers.vendor.called_back import CalledBackProvider
from genblaze_dagster.providers.vendor.errors import (
    ErrorKind,
    ErrorRules,
    Refusal,
    first_problem,
    kind_of_text,
)
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

POLL_SECONDS = 4.0
AGENTS_OUTPUT_LIFETIME = timedelta(hours=1)

_MAX_DATA_BYTES = 10 * 1024 * 1024
_STATES = {
    "queued": JobState.QUEUED,
    "dreaming": JobState.RUNNING,
    "processing": JobState.RUNNING,
    "completed": JobState.SUCCEEDED,
}
_WORDS = {
    ContentPolicyError: ("moderation", "not allowed"),
    QuotaError: ("credit", "insufficient"),
}
_AGENT_FAILURES: Mapping[str, tuple[ErrorKind, bool]] = {
    "content_moderated": (ContentPolicyError, False),
    "budget_exhausted": (QuotaError, False),
    "rate_limited": (RateLimitError, True),
    "image_too_large": (InvalidRequestError, False),
    "unsupported_format": (InvalidRequestError, False),
    "corrupt_input": (InvalidRequestError, False),
    "invalid_request": (InvalidRequestError, False),
    "generation_failed": (ModelError, True),
    "output_not_found": (ModelError, True),
}
_STATUS_IN_TEXT = re.compile(r"\s*(\d{3})\s*:")
_GENERATION_ID = re.compile(r"[\w-]{1,128}", re.ASCII)
# Of the Dream Machine API; the successor's models are told apart by Luma.
_MAKES = {"ray-": Modality.VIDEO, "photon-": Modality.IMAGE}


def _read_error(status: int, body: Any) -> Refusal:
    detail = body.get("detail") if isinstance(body, dict) else None
    if (problem := first_problem(detail)) is not None:
        return problem
    text = detail if isinstance(detail, str) else None
    return Refusal(text, kind=kind_of_text(text, _WORDS) if status in (400, 422) else None)


def _vendor(base_url: str, variable: str) -> Vendor:
    return Vendor(
        name="luma",
        key_variables=(variable,),
        base_url=base_url,
        rules=ErrorRules(
            read=_read_error,
            remedies={AuthError: f"check {variable}", QuotaError: "add credits"},
        ),
    )


DREAM_MACHINE = _vendor("https://api.lumalabs.ai/dream-machine/v1", "LUMAAI_API_KEY")
AGENTS = _vendor("https://agents.lumalabs.ai/v1", "LUMA_AGENTS_API_KEY")


class LumaProvider(CalledBackProvider):
    """Luma's ray and photon models, and those of the successor API.

    Parameters: `duration` (5 or 9 seconds), `aspect_ratio`, `resolution`, `loop`, `concepts`,
    `output_format`. Image inputs of a video are its first frame and, with `role: last_frame`, its
    last. Image inputs of an image are references; with `role: style`, `character` or `modify` they
    are that; `weight` in their metadata is how much they count. `StepType.UPSCALE` with the parameter
    `generation_id` enlarges an earlier generation of Luma. With the parameter `callback_url` Luma
    calls that address, and not `callbacks`.

    Args as of `CalledBackProvider`; `agents_api_key` is the key of the successor API,
    LUMA_AGENTS_API_KEY by default.
    """

    name = "luma"
    vendor = DREAM_MACHINE
    traits = Traits(
        makes=("video", "image", "image edit", "upscaling"),
        modalities=(Modality.VIDEO, Modality.IMAGE),
        inputs=(InputForm.URL,),
        webhooks=True,
    )
    families = FAMILIES
    proves_callbacks = False

    def __init__(
        self, api_key: str | None = None, *, agents_api_key: str | None = None, **options: Any
    ) -> None:
        super().__init__(api_key, **options)
        self._agents = Api(AGENTS, api_key=agents_api_key, client=options.get("client"))

    def validate(self, request: GenerationRequest) -> None:
        """Refuse what the model cannot do, before anything is paid; see `VendorProvider`."""
        _ = self._api_of(request).key, self.callbacks
        if request.step_type is StepType.UPSCALE:
            self._generation_id(request)
            return
        self.check(request, self.payload(request))

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs the model does not take."""
        if request.modality not in self.traits.modalities:
            raise self.refusal(
                "modality", f"makes video and images, not {request.modality.value}", request
            )
        is_agents = SUCCESSOR.match(request.model) is not None
        for start, makes in () if is_agents else _MAKES.items():
            if request.model.startswith(start) and request.modality is not makes:
                raise self.refusal("modality", f"{request.model} makes {makes.value}", request)
        given = {**payload, **(payload.get("video", {}) if is_agents else {})}
        self._check_media(request, given, slots_of(request, is_agents=is_agents))
        is_ray = request.model.startswith("ray-") and not is_agents
        if is_ray and not (payload.get("prompt") or request.inputs or "keyframes" in payload):
            raise self.refusal("prompt", f"{request.model} needs a prompt or an image", request)

    def _check_media(
        self, request: GenerationRequest, payload: Mapping[str, Any], slots: Sequence[Slot]
    ) -> None:
        """Refuse an input that no field takes, too many for one, and one beside its parameter."""
        images = inputs.of_kind(request, "image")
        if len(images) < len(request.inputs):
            raise self.refusal("inputs", "takes images here, no other media", request)
        roles = [role for slot in slots for role in slot.roles]
        if any(inputs.role_of(item) not in roles for item in images):
            known = ", ".join(filter(None, roles))
            raise self.refusal("inputs", f"an image of another role; taken: {known}", request)
        for slot in slots:
            found = [item for item in images if inputs.role_of(item) in slot.roles]
            inputs.check_inputs(
                self.name, found, at_most=slot.most, what=f"images for {slot.field}"
            )
            if found and slot.field in payload:
                raise self.refusal(
                    slot.field,
                    f"{slot.field} is given both as a parameter and as an input",
                    request,
                )

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start a generation.

        Raises:
            ProviderError: see `Provider`. A lost answer is ambiguous: Luma cannot be asked.
        """
        if request.step_type is StepType.UPSCALE:
            path, body = self._upscale(request)
        elif SUCCESSOR.match(request.model):
            path, body = "/generations", await self._agents_body(request)
        else:
            kind = "video" if request.modality is Modality.VIDEO else "image"
            path, body = f"/generations/{kind}", self._body(request)
        api = self._api_of(request)
        if api is self.api and (address := self.callback_address(request)) is not None:
            body.setdefault("callback_url", address)
        created = await api.document("POST", path, request_of=request, json=body)
        return self.job_started(request, created)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the generation once."""
        generation = await self._generation(job_id, request)
        native = generation.get("state")
        if native == "failed":
            return self.failed(request, _failure(generation))
        state = _STATES.get(str(native), JobState.RUNNING)
        if state is JobState.SUCCEEDED:
            self.remember(job_id, generation)
        preview = _assets(generation).get("progress_video")
        return JobStatus(state, preview_url=preview, poll_after=POLL_SECONDS)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the outputs of a completed generation."""
        generation = self.remembered(job_id) or await self._generation(job_id, request)
        urls = _urls(generation, request)
        if not urls:
            raise self.no_output(request, "the generation holds no output")
        is_agents = SUCCESSOR.match(request.model) is not None
        expires = self.clock() + AGENTS_OUTPUT_LIFETIME if is_agents else None
        outputs = tuple(Output(url=url, expires_at=expires) for url in urls)
        return Result(
            outputs=outputs,
            cost_usd=self.cost(request, outputs, {}),
            model_version=generation.get("model"),
        )

    async def callback_of(self, delivery: Delivery, *, now: datetime) -> Callback:
        """Return what a call tells, whoever made it: Luma signs nothing."""
        generation = delivery.document()
        native = str(generation.get("state"))
        state = JobState.FAILED if native == "failed" else _STATES.get(native)
        return delivery.callback(generation.get("id"), state)

    async def delete_generation(self, job_id: str) -> None:
        """Remove the record of a generation; whether that stops it is not known."""
        await self.api.call("DELETE", f"/generations/{job_id}", headers={"accept": "*/*"})

    async def list_concepts(self) -> Sequence[str]:
        """Return the camera concepts that `concepts` takes."""
        return cast(list[str], (await self.api.call("GET", "/generations/concepts/list")).json())

    async def retrieve_credits(self) -> float:
        """Return the balance in US cents; costs nothing, so it also checks the key."""
        return float((await self.api.document("GET", "/credits"))["credit_balance"])

    def _api_of(self, request: GenerationRequest) -> Api:
        return self._agents if SUCCESSOR.match(request.model) else self.api

    async def _generation(self, job_id: str, request: GenerationRequest) -> dict[str, Any]:
        return await self._api_of(request).document(
            "GET", f"/generations/{job_id}", request_of=request
        )

    def _generation_id(self, request: GenerationRequest) -> str:
        generation_id = request.params.get("generation_id")
        if not isinstance(generation_id, str) or not _GENERATION_ID.fullmatch(generation_id):
            raise self.refusal(
                "generation_id", "upscaling needs generation_id, that of an earlier one", request
            )
        for name in ("prompt", "negative_prompt", "seed", "inputs"):
            if getattr(request, name):
                raise self.refusal(name, "upscaling takes generation_id and no more", request)
        return generation_id

    def _upscale(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        options = {
            name: value
            for name, value in request.params.items()
            if name != "generation_id" and value is not None
        }
        path = f"/generations/{self._generation_id(request)}/upscale"
        return path, {"generation_type": "upscale_video", **options}

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        native = self.payload(request)
        images = inputs.of_kind(request, "image")
        if request.modality is Modality.VIDEO:
            media = self._keyframes(images)
        else:
            # What the parameter changes is not among the inputs: they are references then.
            edits = request.step_type is StepType.EDIT and "modify_image_ref" not in native
            media = self._references(images, edits=edits)
        return {"model": self.model_of(request), **native, **media}

    def _keyframes(self, images: Sequence[InputMedia]) -> dict[str, Any]:
        frames: dict[str, Any] = {}
        for name, found in (
            ("frame0", _first(images)),
            ("frame1", inputs.with_role(images, "last_frame")),
        ):
            if found:
                frames[name] = {"type": "image", "url": inputs.public_url(self.name, found[0])}
        return {"keyframes": frames} if frames else {}

    def _references(self, images: Sequence[InputMedia], *, edits: bool) -> dict[str, Any]:
        plain = (*inputs.with_role(images, None), *inputs.with_role(images, "reference"))
        changed = inputs.with_role(images, "modify") or (plain[:1] if edits else ())
        media: dict[str, Any] = {}
        if changed:
            media["modify_image_ref"] = self._weighted(changed[0])
        if rest := [item for item in plain if item not in changed]:
            media["image_ref"] = [self._weighted(item) for item in rest]
        if styles := inputs.with_role(images, "style"):
            media["style_ref"] = [self._weighted(item) for item in styles]
        if faces := inputs.with_role(images, "character"):
            urls = [inputs.public_url(self.name, item) for item in faces]
            media["character_ref"] = {"identity0": {"images": urls}}
        return media

    def _weighted(self, item: InputMedia) -> dict[str, Any]:
        weight = item.asset.metadata.get("weight")
        url = inputs.public_url(self.name, item)
        return {"url": url, **({} if weight is None else {"weight": weight})}

    async def _agents_body(self, request: GenerationRequest) -> dict[str, Any]:
        body = {"model": self.model_of(request), **self.payload(request)}
        images = inputs.of_kind(request, "image")
        if request.modality is Modality.VIDEO:
            body.setdefault("type", "video")
            last = inputs.with_role(images, "last_frame")
            for name, found in (("start_frame", _first(images)), ("end_frame", last)):
                if found:
                    body.setdefault("video", {})[name] = await self._reference(found[0])
        elif images and request.step_type is StepType.EDIT:
            body.setdefault("type", "image_edit")
            body["source"] = await self._reference(images[0])
            images = images[1:]
        if images and request.modality is Modality.IMAGE:
            body["image_ref"] = [await self._reference(item) for item in images]
        return body

    async def _reference(self, item: InputMedia) -> dict[str, Any]:
        url = item.public_url()
        if url is not None:
            return {"url": url}
        data = await inputs.base64(self.name, item, max_bytes=_MAX_DATA_BYTES)
        return {"data": data, "media_type": item.asset.media_type}


def _first(images: Sequence[InputMedia]) -> tuple[InputMedia, ...]:
    return tuple(item for item in images if inputs.role_of(item) in FIRST)


def _urls(generation: Mapping[str, Any], request: GenerationRequest) -> list[str]:
    if isinstance(generation.get("output"), list):
        found = [item.get("url") for item in generation["output"] if isinstance(item, dict)]
        return [url for url in found if isinstance(url, str) and url]
    # A video's image is its thumbnail.
    url = _assets(generation).get("video" if request.modality is Modality.VIDEO else "image")
    return [url] if isinstance(url, str) else []


def _assets(generation: Mapping[str, Any]) -> dict[str, Any]:
    assets = generation.get("assets")
    return cast(dict[str, Any], assets) if isinstance(assets, dict) else {}


def _failure(generation: Mapping[str, Any]) -> Refusal:
    reason = generation.get("failure_reason")
    text = reason if isinstance(reason, str) else None
    code = generation.get("failure_code")
    if isinstance(code, str) and code in _AGENT_FAILURES:
        kind, transient = _AGENT_FAILURES[code]
        return Refusal(text, code=code, kind=kind, transient=transient)
    moderated = kind_of_text(text, {ContentPolicyError: _WORDS[ContentPolicyError]})
    if moderated is not None:
        return Refusal(text, kind=moderated)
    status = _STATUS_IN_TEXT.match(text or "")
    if status is not None and 400 <= int(status[1]) < 500:
        return Refusal(text, code=status[1], kind=InvalidRequestError)
    return Refusal(text, kind=ModelError, transient=True)
