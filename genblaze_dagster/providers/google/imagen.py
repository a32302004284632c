"""Imagen: images from text, one synchronous call.

API reference: https://ai.google.dev/gemini-api/docs/imagen. Requests equal those of the vendor's
Python client 1.75.0; later ones do without Imagen, and the service is said to have ended for keys on
17 August 2026: it may answer 404. Submit: `POST /v1beta/models/{model}:predict`. Cost unit: images.
Quirks: Google makes 4 images when `n` is left out, and so do we; filtered images are missing from
the answer, which is an empty object when all of them are, unless `includeRaiReason` asks for more.
Prompts are English and have at most 480 tokens, which Google counts.
"""

from collections.abc import Mapping
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import ContentPolicyError
from genblaze_dagster.providers.google.files import readable
from genblaze_dagster.providers.google.models import IMAGEN
from genblaze_dagster.providers.google.provider import GoogleProvider, prediction
from genblaze_dagster.providers.google.vendor import dicts
from genblaze_dagster.providers.protocol import GenerationRequest, Result, Submission
from genblaze_dagster.providers.vendor.errors import Refusal, job_error, quoted
from genblaze_dagster.providers.vendor.traits import Traits


class ImagenProvider(GoogleProvider):
    """Google's Imagen.

    Parameters are Imagen's own (`guidanceScale`, `safetySetting`, ...) or the standard `n` (1 to 4;
    4 when left out), `aspect_ratio`, `resolution` (1K, 2K) and `output_format` (png, jpeg). There
    are no seeds, no negative prompts and no inputs.
    """

    name = "google-imagen"
    method = "predict"
    usual_outputs = 4
    traits = Traits(makes=("image",), modalities=(Modality.IMAGE,), jobs=False)
    families = IMAGEN

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs."""
        super().check(request, payload)
        if request.inputs:
            raise self.refusal(
                "inputs", f"{request.model} takes no inputs; leave them out", request
            )

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the images.

        Raises:
            ProviderError: see `Provider`.
        """
        body = prediction(self.payload(request), {})
        answer = await self.ask(request, body, seconds=request.timeout)
        predictions = dicts(answer.get("predictions"))
        kept = [p for p in predictions if "bytesBase64Encoded" in p]
        reasons = [str(p["raiFilteredReason"]) for p in predictions if "raiFilteredReason" in p]
        if not kept:
            text = "; ".join(reasons) or "all images were filtered"
            refusal = Refusal(text, kind=ContentPolicyError)
            raise job_error(self.name, refusal, request, key=self.api.key)
        outputs, broken = readable((p["bytesBase64Encoded"], p.get("mimeType")) for p in kept)
        if not outputs:
            raise self.no_output(request, "the answer holds no readable image")
        payload: dict[str, Any] = {"missing": broken} if broken else {}
        if reasons:
            payload["filter_reasons"] = [quoted(r, request, key=self.api.key) for r in reasons]
        cost = self.cost(request, outputs, payload)
        return Submission(result=Result(tuple(outputs), cost_usd=cost, provider_payload=payload))
