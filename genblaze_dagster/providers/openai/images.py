"""OpenAI images: generations and edits, one synchronous call each.

API reference: https://platform.openai.com/docs/api-reference/images. Requests equal those of the
vendor's Python client 3.52.0.
Submit: `POST /images/generations` (JSON), `POST /images/edits` (multipart, or JSON with URLs).
There is no job to poll and no idempotency key. Cost unit: tokens (GPT image), image (dall-e).
Quirks: GPT image models answer base64 only and refuse `response_format`; dall-e URLs live 60
minutes and must be fetched without the key; a 200 can hold no image.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.openai.answers import read_images
from genblaze_dagster.providers.openai.edits import check_inputs, edit_body, is_edit
from genblaze_dagster.providers.openai.image_models import EDIT_PARAMS, EDITS, FAMILIES, OTHERS
from genblaze_dagster.providers.openai.provider import OpenAIProvider
from genblaze_dagster.providers.openai.transfer import IMAGE_TRANSFER
from genblaze_dagster.providers.protocol import GenerationRequest, Result, Submission
from genblaze_dagster.providers.vendor.errors import answer_error
from genblaze_dagster.providers.vendor.traits import InputForm, Traits


class DalleProvider(OpenAIProvider):
    """OpenAI's image models: GPT image and dall-e, to generate and to edit.

    Parameters are OpenAI's own (`size`, `quality`, `n`, ...) or the standard `aspect_ratio` and
    `resolution`. With inputs the call is an edit; an input whose metadata has `role: mask` is the
    mask; `image_transfer="url"` lets OpenAI fetch the inputs instead of uploading them.
    """

    name = "openai"
    kind = "image"
    traits = Traits(
        makes=("image", "image edit"),
        modalities=(Modality.IMAGE,),
        inputs=(InputForm.UPLOAD, InputForm.URL),
        jobs=False,
        output_lifetime_hours=1,
    )
    families = FAMILIES
    others = OTHERS
    reserved = frozenset({"model", "prompt", "image", "images", "mask"})

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse an empty prompt, parameters of edits without one, and inputs it does not edit."""
        if not payload.get("prompt"):
            raise self.refusal("prompt", f"{request.model} needs a prompt; it is empty", request)
        if is_edit(request):
            check_inputs(self.name, request, self.models.get(request.model).extras.get(EDITS))
            return
        for name in EDIT_PARAMS:
            if name in payload:
                raise self.refusal(name, f"{name} is for edits; give an input image", request)

    def outputs_of(self, payload: Mapping[str, Any]) -> int:
        """Return how many images a payload asks for."""
        return payload.get("n", 1)

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the images.

        Raises:
            ProviderError: of the kind the vendor's answer calls for; `sent` is False when nothing
                was sent, True when the vendor answered, None when the answer was lost.
        """
        key = self.api.key
        fields = {**self.payload(request), "model": self.model_of(request)}
        by_url = fields.pop(IMAGE_TRANSFER, None) == "url"
        if is_edit(request):
            path = "/images/edits"
            body = await edit_body(self.name, request, fields, by_url=by_url)
        else:
            path, body = "/images/generations", {"json": fields}
        answer = await self.api.call(
            "POST", path, request_of=request, seconds=request.timeout, **body
        )
        if answer.status != 200:
            # A redirect of a gateway: nothing that could be read.
            raise answer_error(self.vendor.name, self.vendor.rules, answer, request, key=key)
        # Megabytes of base64 would hold up the event loop.
        outputs, facts = await asyncio.to_thread(
            read_images, self.name, request, answer, fields.get("output_format"), self.clock()
        )
        return Submission(
            result=Result(
                outputs=outputs,
                cost_usd=self.cost(request, outputs, facts),
                provider_payload=facts,
            )
        )
