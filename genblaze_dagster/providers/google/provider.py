"""What Google's three generating providers share: the address of a model, and the list of models.

`GET /v1beta/models?pageSize=&pageToken=` lists models with what they can do
(`supportedGenerationMethods`), `GET /v1beta/models/{model}` tells of one. That a model is listed
does not mean that the key may use it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from genblaze_dagster.errors import OutputError
from genblaze_dagster.providers.google.vendor import GOOGLE, VERSION, dicts, resource_of
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.validation import DiscoverySupport
from genblaze_dagster.providers.vendor.provider import VendorProvider

PAGE_SIZE = 1000
_MOST_PAGES = 100


class GoogleProvider(VendorProvider):
    """Base of Veo, Imagen and Gemini images.

    `method` is what is called on the model, which makes `usual_outputs` when it is not told.
    """

    vendor = GOOGLE
    method: ClassVar[str]
    usual_outputs: ClassVar[int] = 1
    discovery_support = DiscoverySupport.NATIVE

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse what can be no model's name."""
        resource_of(request.model)

    def outputs_of(self, payload: Mapping[str, Any]) -> int:
        """Return how many outputs a payload asks for."""
        count = payload.get("sampleCount")
        return count if isinstance(count, int) else self.usual_outputs

    async def ask(
        self, request: GenerationRequest, body: Mapping[str, Any], *, seconds: float
    ) -> dict[str, Any]:
        """Call the model and return its answer."""
        resource = resource_of(self.model_of(request))
        return await self.api.document(
            "POST",
            f"{VERSION}/{resource}:{self.method}",
            request_of=request,
            json=body,
            seconds=seconds,
        )

    async def list_models(self, *, page_size: int = PAGE_SIZE) -> Sequence[str]:
        """Return the listed models of this kind, from all pages."""
        return [
            str(model["name"]).removeprefix("models/")
            for model in await self._listed(page_size)
            if "name" in model and self.method in (model.get("supportedGenerationMethods") or ())
        ]

    async def retrieve_model(self, model: str) -> Mapping[str, Any]:
        """Return what Google says of a model: its methods, token limits, version.

        Raises:
            ModelError: there is none.
        """
        return await self.api.document("GET", f"{VERSION}/{resource_of(model)}")

    async def _listed(self, page_size: int) -> list[dict[str, Any]]:
        query: dict[str, str | int] = {"pageSize": page_size}
        models: list[dict[str, Any]] = []
        for _ in range(_MOST_PAGES):
            page = await self.api.document("GET", f"{VERSION}/models", params=query)
            models += dicts(page.get("models"))
            token = page.get("nextPageToken")
            if not token:
                return models
            query["pageToken"] = str(token)
        raise OutputError(
            f"google: the list of models has more than {_MOST_PAGES} pages; ask for larger ones",
            provider="google",
        )


def prediction(payload: Mapping[str, Any], media: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of Veo and Imagen: one instance, and parameters when there are any."""
    parameters = dict(payload)
    prompt = parameters.pop("prompt", None)
    instance = {**({} if prompt is None else {"prompt": prompt}), **media}
    return {"instances": [instance], **({"parameters": parameters} if parameters else {})}
