"""Decart: Lucy, which edits videos (a job) and images (one call).

API reference: https://docs.platform.decart.ai. Requests equal those of the vendor's Python client
0.2.4.
Submit: `POST /v1/jobs/{model}` (video), `POST /v1/generate/{model}` (image), multipart. Poll:
`GET /v1/jobs/{id}`, every 2 s. Output: `GET /v1/jobs/{id}/content`, bytes, with the key. Cost unit:
seconds of video, images. List prices as of August 2026
(https://docs.platform.decart.ai/getting-started/pricing); your contract may differ: give your own. A
video is as long as its input, whose seconds are counted. lucy-clip and the newest names are not
priced here.
Quirks: every model wants an input; a failed job gives no reason; there is no cancel and no list, so
a lost answer stays ambiguous. Unverified: how long the content stays, and the words of refusals for
credit and moderation.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    ModelError,
    ProviderError,
    QuotaError,
)
from genblaze_dagster.net.client import FilePart, TextPart
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import (
    BoolSchema,
    EnumSchema,
    IntSchema,
    ParamSchema,
    StringSchema,
)
from genblaze_dagster.providers.price_units import PriceUnit
from genblaze_dagster.providers.prices import price, price_table
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
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.errors import (
    ErrorRules,
    Refusal,
    first_problem,
    kind_of_text,
)
from genblaze_dagster.providers.vendor.provider import VendorProvider
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

POLL_SECONDS = 2.0

_STATES = {
    "pending": JobState.QUEUED,
    "processing": JobState.RUNNING,
    "completed": JobState.SUCCEEDED,
}
# It becomes part of an address.
_MODEL = re.compile(r"\w[\w.-]*", re.ASCII)
_UNTYPED = "application/octet-stream"
_WORDS = {ContentPolicyError: ("moderat",), QuotaError: ("credit",)}
_PRICES = price_table(
    price("lucy-2.5", PriceUnit.INPUT_SECOND, 0.04),
    price("lucy-2.1", PriceUnit.INPUT_SECOND, 0.04),
    price("lucy-restyle-2", PriceUnit.INPUT_SECOND, 0.01),
    price("lucy-image-2", PriceUnit.IMAGE, 0.01, resolution="480p"),
    price("lucy-image-2", PriceUnit.IMAGE, 0.02),
)


def _family(
    name: str,
    pattern: str,
    *examples: str,
    modality: Modality = Modality.VIDEO,
    resolutions: Sequence[str] = ("720p",),
    needs_prompt: bool = False,
    further: frozenset[str] = frozenset(),
) -> ModelFamily:
    schemas: dict[str, ParamSchema] = {
        "prompt": StringSchema(min_len=1 if needs_prompt else None, max_len=1000),
        "seed": IntSchema(min=0, max=4_294_967_295),
        "resolution": EnumSchema(frozenset(resolutions)),
        "enhance_prompt": BoolSchema(),
        "self_anchor": BoolSchema(),
    }
    return ModelFamily(
        name=name,
        pattern=re.compile(pattern),
        description=f"{modality.value} edits",
        example_slugs=examples,
        spec_template=ModelSpec(
            model_id=examples[0],
            modality=modality,
            pricing=_PRICES,
            param_schemas=schemas,
            param_required=frozenset({"prompt"}) if needs_prompt else frozenset(),
            param_allowlist=frozenset({"prompt", "seed", "resolution", "enhance_prompt"}) | further,
        ),
    )


VIDEO_FAMILIES = (
    _family("lucy-2.5", r"lucy-2\.5$", "lucy-2.5", further=frozenset({"self_anchor"})),
    _family("lucy", r"lucy-(2\.\d+|latest)$", "lucy-2.6", "lucy-2.1", "lucy-latest"),
    _family("lucy-vton", r"lucy-(2\.1-)?vton", "lucy-vton-3.5"),
    _family("lucy-restyle", r"lucy-restyle", "lucy-restyle-2"),
    _family("lucy-clip", r"lucy-(clip|pro-v2v)", "lucy-clip", needs_prompt=True),
)
IMAGE_FAMILIES = (
    _family(
        "lucy-image",
        r"lucy-(image|pro-i2i)",
        "lucy-image-2",
        "lucy-image-latest",
        modality=Modality.IMAGE,
        resolutions=("720p", "480p"),
        needs_prompt=True,
    ),
)


def _read_error(status: int, body: Any) -> Refusal:
    detail = body.get("detail") if isinstance(body, dict) else None
    if (problem := first_problem(detail)) is not None:
        return problem
    text = detail if isinstance(detail, str) else None
    if status in (400, 422):
        return Refusal(text, kind=kind_of_text(text, _WORDS))
    return Refusal(text)


class _DecartProvider(VendorProvider):
    """What video and image edits share: the form they are sent in."""

    vendor = Vendor(
        name="decart",
        key_variables=("DECART_API_KEY",),
        base_url="https://api.decart.ai",
        key_headers=lambda key: {"x-api-key": key},
        headers={"accept": "*/*"},
        rules=ErrorRules(
            read=_read_error,
            remedies={AuthError: "check DECART_API_KEY", QuotaError: "add credit"},
        ),
    )

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse a request without the media to edit, or with too much of it."""
        if _MODEL.fullmatch(request.model) is None:
            raise self.unknown_model(request, "the model is no name such as lucy-2.5")
        if any(inputs.role_of(item) not in (None, "reference") for item in request.inputs):
            raise self.refusal("inputs", "an input of another role; taken: reference", request)
        data, references = _split(request)
        kind = self.traits.modalities[0].value
        if not data:
            raise self.refusal(
                "inputs", f"{request.model} edits a {kind}; give one as input", request
            )
        if len(data) > 1 or len(references) > 1:
            raise self.refusal(
                "inputs", f"{request.model} takes one {kind} and one reference image", request
            )
        for items, wanted in ((data, kind), (references, "image")):
            for media_type in (item.asset.media_type for item in items):
                if media_type != _UNTYPED and media_type.partition("/")[0] != wanted:
                    what = f"edits a {kind}" if wanted == kind else "refers to an image"
                    raise self.refusal(
                        "inputs", f"{request.model} {what}, not {media_type}", request
                    )
        if "restyle" in request.model and bool(payload.get("prompt")) == bool(references):
            raise self.refusal(
                "prompt", f"{request.model} takes a prompt or a reference image", request
            )

    async def form(self, request: GenerationRequest) -> list[FilePart | TextPart]:
        """Return the parts of a request."""
        data, references = _split(request)
        fields = self.payload(request)
        if "restyle" not in request.model:
            fields.setdefault("prompt", "")
        parts: list[FilePart | TextPart] = [
            (name, (None, str(value), "text/plain")) for name, value in fields.items()
        ]
        for name, items in (("data", data), ("reference_image", references)):
            for item in items:
                content = await inputs.read(self.name, item)
                parts.append((name, (name, content, item.asset.media_type)))
        return parts


class DecartVideoProvider(_DecartProvider):
    """Decart's video edits: Lucy 2, try-on, restyling.

    The video input is edited as the prompt says; an image input is the reference (a person, a
    garment, a style). Parameters: `seed`, `resolution` (720p), `enhance_prompt`, `self_anchor`
    (lucy-2.5). Length and shape follow the input.
    """

    name = "decart"
    traits = Traits(
        makes=("video edit", "try-on", "restyling"),
        modalities=(Modality.VIDEO,),
        inputs=(InputForm.UPLOAD,),
    )
    families = VIDEO_FAMILIES

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start a job.

        Raises:
            ModelError: Decart has no such model.
            ProviderError: see `Provider`.
        """
        with _models_not_found(request):
            created = await self.api.document(
                "POST",
                f"/v1/jobs/{self.model_of(request)}",
                request_of=request,
                files=await self.form(request),
                seconds=300.0,
            )
        return self.job_started(request, created, "job_id")

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the job once."""
        job = await self.api.document("GET", f"/v1/jobs/{job_id}", request_of=request)
        if job.get("status") == "failed":
            refusal = Refusal("the job failed; Decart gives no reason", transient=False)
            return self.failed(request, refusal)
        state = _STATES.get(str(job.get("status")), JobState.RUNNING)
        return JobStatus(state, poll_after=POLL_SECONDS)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the video of a completed job."""
        answer = await self.api.call(
            "GET", f"/v1/jobs/{job_id}/content", request_of=request, seconds=300.0
        )
        data = self.media_of(request, answer, is_kept=True)
        outputs = (Output(data=data, media_type="video/mp4"),)
        return Result(outputs=outputs, cost_usd=self.cost(request, outputs, {}))


class DecartImageProvider(_DecartProvider):
    """Decart's image edits: Lucy image.

    The first image input is edited as the prompt says; one of `role: reference`, or the second, is
    the reference. Parameters: `seed`, `resolution` (720p, 480p), `enhance_prompt`.
    """

    name = "decart-image"
    traits = Traits(
        makes=("image edit",),
        modalities=(Modality.IMAGE,),
        inputs=(InputForm.UPLOAD,),
        jobs=False,
    )
    families = IMAGE_FAMILIES

    async def submit(self, request: GenerationRequest) -> Submission:
        """Edit the image.

        Raises:
            ModelError: Decart has no such model.
            ProviderError: see `Provider`.
        """
        with _models_not_found(request):
            answer = await self.api.call(
                "POST",
                f"/v1/generate/{self.model_of(request)}",
                request_of=request,
                files=await self.form(request),
                seconds=request.timeout,
            )
        outputs = (Output(data=self.media_of(request, answer), media_type="image/png"),)
        return Submission(result=Result(outputs=outputs, cost_usd=self.cost(request, outputs, {})))


@contextmanager
def _models_not_found(request: GenerationRequest) -> Generator[None]:
    """Say of a 404 to a submit that there is no such model: elsewhere it is about a job."""
    try:
        yield
    except ProviderError as exc:
        if exc.http_status != 404:
            raise
        raise ModelError(
            f"{exc.provider}: there is no model {request.model!r}",
            provider=exc.provider,
            model=request.model,
            http_status=404,
        ) from exc


def _split(
    request: GenerationRequest,
) -> tuple[Sequence[InputMedia], Sequence[InputMedia]]:
    """Return what is edited, and the references."""
    named = inputs.with_role(request.inputs, "reference")
    rest = tuple(item for item in request.inputs if item not in named)
    if named or request.modality is Modality.IMAGE:
        return (rest, named) if named else (rest[:1], rest[1:])
    films = tuple(i for i in rest if not i.asset.media_type.startswith("image/"))
    pictures = tuple(i for i in rest if i.asset.media_type.startswith("image/"))
    return (films, pictures) if films else (rest[:1], rest[1:])
