"""Stability AI's Stable Audio: music and sounds from text, from other audio, and into gaps of it.

API reference: https://platform.stability.ai/docs/api-reference (v2beta). Stability maintains no
client; requests follow the reference and public integrations.
Submit: `POST /v2beta/audio/<generation>/<text-to-audio | audio-to-audio | inpaint>`, multipart also
without a file. Stable Audio 2 and 2.5 answer with the audio; 3 gives a job whose results are kept
24 hours: `GET /v2beta/audio/results/{id}`, no more than every 10 s, 202 until it is done.
Cost unit: credits per result, by model; no answer tells them. List prices as of 2026, 20 credits of
0.01 USD for Stable Audio 2.5 (https://platform.stability.ai/pricing, as several public price tables
quote it); your contract may differ: give your own. The price of the others is unknown.
Quirks: 403 is moderation, not authentication. The seed that was used comes in the header `seed`.
Unverified: whether audio-to-audio needs `strength`, and CONTENT_FILTERED with a 200.
"""

import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    ProviderError,
    QuotaError,
)
from genblaze_dagster.net.client import FilePart, HttpAnswer, TextPart
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import (
    EnumSchema,
    FloatSchema,
    IntSchema,
    ParamSchema,
    StringSchema,
)
from genblaze_dagster.providers.price_units import CREDITS, per_credit
from genblaze_dagster.providers.prices import InWords
from genblaze_dagster.providers.pricing import PricingContext
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.errors import ErrorRules, Refusal, job_error
from genblaze_dagster.providers.vendor.provider import VendorProvider
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

POLL_SECONDS = 10.0

_RESULTS = "/v2beta/audio/results/"
_AUDIO = {"accept": "audio/*"}
_MEDIA_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav"}
_INPUT_TYPES = frozenset({"audio/mpeg", "audio/wav"})
_ASYNC = re.compile(r"stable-audio-3")
_PARAMS = frozenset(
    {"prompt", "duration", "seed", "steps", "cfg_scale", "output_format", "strength"}
    | {"mask_start", "mask_end"}
)
_USD_PER_CREDIT = 0.01
_CREDITS: Mapping[str, int] = {"stable-audio-2.5": 20}


def _credits_of(context: PricingContext) -> int | None:
    return _CREDITS.get(context.step.model)


def _family(
    name: str, pattern: str, example: str, *, seconds: int, steps: IntSchema
) -> ModelFamily:
    price = InWords(per_credit(_USD_PER_CREDIT, _credits_of), f"{_USD_PER_CREDIT} USD per credit")
    schemas: dict[str, ParamSchema] = {
        "prompt": StringSchema(min_len=1, max_len=10_000),
        "duration": FloatSchema(min=1, max=seconds),
        # 0 would mean: any seed. Who gives a seed wants that one.
        "seed": IntSchema(min=1, max=4_294_967_294),
        "steps": steps,
        "cfg_scale": FloatSchema(min=1, max=25),
        "output_format": EnumSchema(frozenset(_MEDIA_TYPES)),
        "strength": FloatSchema(min=0.01, max=1),
        "mask_start": FloatSchema(min=0, max=seconds),
        "mask_end": FloatSchema(min=0, max=seconds),
    }
    return ModelFamily(
        name=name,
        pattern=re.compile(pattern),
        description="music and sounds",
        example_slugs=(example,),
        spec_template=ModelSpec(
            model_id=example,
            modality=Modality.AUDIO,
            pricing=price if example in _CREDITS else None,
            extras={CREDITS: _credits_of},
            param_schemas=schemas,
            param_required=frozenset({"prompt"}),
            param_allowlist=_PARAMS,
        ),
    )


FAMILIES = (
    _family(
        "stable-audio-2",
        r"stable-audio-2$",
        "stable-audio-2",
        seconds=190,
        steps=IntSchema(min=30, max=100),
    ),
    _family(
        "stable-audio-2.5",
        r"stable-audio-2\.5$",
        "stable-audio-2.5",
        seconds=190,
        steps=IntSchema(min=4, max=8),
    ),
    _family(
        "stable-audio-3",
        r"stable-audio-3",
        "stable-audio-3",
        seconds=380,
        steps=IntSchema(min=4, max=8),
    ),
)


def _read_error(status: int, body: Any) -> Refusal:
    if not isinstance(body, dict):
        return Refusal()
    fields = cast(dict[str, Any], body)
    errors = fields.get("errors")
    text = "; ".join(map(str, cast(list[object], errors))) if isinstance(errors, list) else None
    name = fields.get("name")
    kind = ContentPolicyError if name == "content_moderation" else None
    return Refusal(text, code=name if isinstance(name, str) else None, kind=kind)


class StabilityAudioProvider(VendorProvider):
    """Stable Audio 2, 2.5 and 3.

    The prompt describes the sound (English). Parameters: `duration` (seconds), `seed`, `steps`,
    `cfg_scale`, `output_format` (mp3, wav). With an audio input it is changed as far as `strength`
    allows, or, with `mask_start` and `mask_end` (seconds), made anew in between.
    """

    name = "stability-audio"
    vendor = Vendor(
        name="stability-audio",
        key_variables=("STABILITY_API_KEY",),
        base_url="https://api.stability.ai",
        rules=ErrorRules(
            read=_read_error,
            by_status={403: ContentPolicyError},
            remedies={
                AuthError: "check STABILITY_API_KEY",
                QuotaError: "buy credits",
                ContentPolicyError: "change the prompt or the input",
            },
        ),
    )
    traits = Traits(
        makes=("music", "sound", "audio to audio", "audio inpainting"),
        modalities=(Modality.AUDIO,),
        inputs=(InputForm.UPLOAD,),
        output_lifetime_hours=24,
    )
    families = FAMILIES

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs that are no single piece of audio, and masks without one."""
        inputs.check_inputs(self.name, request.inputs, at_most=1, types=_INPUT_TYPES)
        masks = [name for name in ("mask_start", "mask_end") if name in payload]
        if len(masks) == 1:
            raise self.refusal(masks[0], "mask_start and mask_end go together", request)
        for name in (*masks, *(("strength",) if "strength" in payload else ())):
            if not request.inputs:
                raise self.refusal(name, f"{name} needs an audio input; give one", request)

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the audio, or start the job of Stable Audio 3.

        Raises:
            ProviderError: see `Provider`.
        """
        is_async = _ASYNC.match(request.model) is not None
        fields = {"model": self.model_of(request), **self.payload(request)}
        parts: list[FilePart | TextPart] = [
            (name, (None, _text(value))) for name, value in fields.items()
        ]
        parts += [await inputs.file_part(self.name, "audio", item) for item in request.inputs[:1]]
        answer = await self.api.call(
            "POST",
            f"/v2beta/audio/{'stable-audio' if is_async else 'stable-audio-2'}/{_path(request)}",
            request_of=request,
            files=parts,
            headers={} if is_async else _AUDIO,
            seconds=request.timeout,
        )
        if is_async:
            return self.job_started(request, _json(answer))
        return Submission(result=self._result(request, answer, is_kept=False))

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the result once; the HTTP status is the state."""
        try:
            answer = await self._results(job_id, request)
        except ContentPolicyError as exc:
            return JobStatus(JobState.FAILED, message=exc.vendor_code, error=exc)
        if answer.status == 202:
            return JobStatus(JobState.RUNNING, poll_after=POLL_SECONDS)
        self.remember(job_id, {"answer": answer})
        return JobStatus(JobState.SUCCEEDED)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the audio of a succeeded job."""
        record = self.remembered(job_id)
        answer = record["answer"] if record else await self._results(job_id, request)
        return self._result(request, answer, is_kept=True)

    async def retrieve_balance(self) -> float:
        """Return the credits that are left; costs nothing, so it also checks the key."""
        return float((await self.api.document("GET", "/v1/user/balance"))["credits"])

    async def _results(self, job_id: str, request: GenerationRequest) -> HttpAnswer:
        return await self.api.call(
            "GET", _RESULTS + job_id, request_of=request, headers=_AUDIO, seconds=request.timeout
        )

    def _result(self, request: GenerationRequest, answer: HttpAnswer, *, is_kept: bool) -> Result:
        body = (
            _json(answer)
            if answer.headers.get("content-type", "").startswith("application/json")
            else {}
        )
        if body:
            seed, reason = body.get("seed"), body.get("finish_reason")
        else:
            seed, reason = answer.headers.get("seed"), answer.headers.get("finish-reason")
        if reason == "CONTENT_FILTERED":
            raise self._filtered(request)
        if "audio" in body:
            data = self._decoded(request, body["audio"])
        else:
            data = self.media_of(request, answer, is_kept=is_kept)
        payload: dict[str, Any] = {}
        if str(seed).isdecimal():
            payload["seed"] = int(str(seed))
        if request_id := answer.headers.get("x-request-id"):
            payload["request_id"] = request_id
        # None of a format that only newer models have: then the bytes tell.
        media_type = _MEDIA_TYPES.get(str(request.params.get("output_format") or "mp3"))
        outputs = (Output(data=data, media_type=media_type),)
        return Result(
            outputs=outputs,
            cost_usd=self.cost(request, outputs, payload),
            provider_payload=payload,
        )

    def _decoded(self, request: GenerationRequest, audio: object) -> bytes:
        try:
            data = b64decode(str(audio or ""), validate=True)
        except ValueError:
            data = b""
        if not data:
            raise self.no_output(request, "the answer holds no readable audio")
        return data

    def _filtered(self, request: GenerationRequest) -> ProviderError:
        refusal = Refusal(
            "the output was filtered", code="CONTENT_FILTERED", kind=ContentPolicyError
        )
        return job_error(self.name, refusal, request)


def _path(request: GenerationRequest) -> str:
    if not request.inputs:
        return "text-to-audio"
    return "inpaint" if request.params.get("mask_start") is not None else "audio-to-audio"


def _text(value: object) -> str:
    """Write numbers as decimal text, whole ones without a fraction."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _json(answer: HttpAnswer) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    return cast(dict[str, Any], body) if isinstance(body, dict) else {}
