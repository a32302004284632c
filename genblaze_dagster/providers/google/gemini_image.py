"""Gemini's images: from text and from other images, one synchronous call.

API reference: https://ai.google.dev/gemini-api/docs/image-generation. Requests equal those of the
vendor's Python client 3.4.0. Submit: `POST /v1beta/models/{model}:generateContent`. Cost unit:
output tokens, a fixed number for each picture by its size.
Quirks: a call makes one picture as a rule; with TEXT among the modalities it comes between texts; a
200 can hold no picture. Drafts of models that think are left out. Inputs beyond 14 MB are uploaded.
Unverified: what `seed` does.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import ModelError
from genblaze_dagster.providers.google.answers import candidates_of, filtered, parts_of, text_of
from genblaze_dagster.providers.google.files import MAX_FILE_BYTES, media_parts, readable
from genblaze_dagster.providers.google.models import GEMINI_IMAGE
from genblaze_dagster.providers.google.provider import PAGE_SIZE, GoogleProvider
from genblaze_dagster.providers.google.vendor import part_of
from genblaze_dagster.providers.protocol import GenerationRequest, Result, Submission
from genblaze_dagster.providers.validation import DiscoverySupport
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.errors import Refusal, job_error
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

_MOST_INPUTS = 100
_IMAGE_MODEL = re.compile(r"gemini-.*-image")
_IMAGE_CONFIG = ("aspectRatio", "imageSize")
_BESIDE_CONFIG = ("safetySettings", "systemInstruction", "tools", "toolConfig")


class GeminiImageProvider(GoogleProvider):
    """Google's Gemini image models.

    Parameters are those of `generationConfig` (`responseModalities`, `temperature`, ...),
    `safetySettings`, `systemInstruction`, `tools`, or the standard `aspect_ratio`, `resolution` (1K, 2K, 4K; not for 2.5) and
    `seed`. Images among the inputs stand behind the prompt, which says what to do with them.
    """

    name = "google-gemini-image"
    method = "generateContent"
    traits = Traits(
        makes=("image", "image edit"),
        modalities=(Modality.IMAGE,),
        inputs=(InputForm.DATA, InputForm.UPLOAD),
        jobs=False,
    )
    families = GEMINI_IMAGE
    # Chat models are called in the same way and listed in the same list.
    discovery_support = DiscoverySupport.PARTIAL

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs that are no images."""
        super().check(request, payload)
        if len(inputs.of_kind(request, "image")) < len(request.inputs):
            raise self.refusal("inputs", "takes images only", request)
        inputs.check_inputs(
            self.name, request.inputs, at_most=_MOST_INPUTS, max_bytes=MAX_FILE_BYTES
        )

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the picture.

        Raises:
            ProviderError: see `Provider`.
        """
        body = content_of(self.payload(request), await media_parts(self.api, request.inputs))
        return Submission(
            result=self._result(request, await self.ask(request, body, seconds=request.timeout))
        )

    async def list_models(self, *, page_size: int = PAGE_SIZE) -> Sequence[str]:
        """Return the listed models that are image models by their name."""
        models = await super().list_models(page_size=page_size)
        return [model for model in models if _IMAGE_MODEL.match(model)]

    def _result(self, request: GenerationRequest, answer: Mapping[str, Any]) -> Result:
        candidates = candidates_of(answer)
        pictures = [
            part_of(part, "inlineData")
            for candidate in candidates
            for part in parts_of(candidate)
            if "inlineData" in part
        ]
        if not pictures:
            refusal = filtered(answer) or _without_picture(candidates)
            raise job_error(self.name, refusal, request, key=self.api.key)
        outputs, broken = readable((p.get("data"), p.get("mimeType")) for p in pictures)
        if not outputs:
            raise self.no_output(request, "the answer holds no readable picture")
        told = {
            "response_id": answer.get("responseId"),
            "finish_reason": candidates[0].get("finishReason"),
            "text": "".join(map(text_of, candidates)),
            "usage": part_of(answer, "usageMetadata"),
            "missing": broken,
        }
        payload = {name: value for name, value in told.items() if value}
        version = answer.get("modelVersion")
        return Result(
            outputs=tuple(outputs),
            cost_usd=self.cost(request, outputs, payload),
            model_version=version if isinstance(version, str) else None,
            provider_payload=payload,
        )


def content_of(payload: Mapping[str, Any], media: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the body: the prompt and the pictures as one turn, and what is left as its settings."""
    config = dict(payload)
    parts = [{"text": config.pop("prompt")}, *media]
    image = {name: config.pop(name) for name in _IMAGE_CONFIG if name in config}
    if image:
        config["imageConfig"] = {**config.get("imageConfig", {}), **image}
    beside = {name: config.pop(name) for name in _BESIDE_CONFIG if name in config}
    return {
        "contents": [{"role": "user", "parts": parts}],
        **beside,
        "generationConfig": config,
    }


def _without_picture(candidates: Sequence[Mapping[str, Any]]) -> Refusal:
    reason = next((c["finishReason"] for c in candidates if c.get("finishReason")), None)
    said = "".join(map(text_of, candidates))
    return Refusal(
        f"no picture but text: {said}" if said else "the answer holds no picture",
        code=None if reason is None else str(reason),
        kind=ModelError,
    )
