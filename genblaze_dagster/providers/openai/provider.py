"""What OpenAI's providers have in common: who is billed, kinds of models, discovery, uploads."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from genblaze_dagster.errors import OutputError
from genblaze_dagster.net.client import FilePart, TextPart
from genblaze_dagster.net.redact import strip_url
from genblaze_dagster.providers.models import ModelRegistry
from genblaze_dagster.providers.openai.vendor import OPENAI, kind_of, own_headers
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from genblaze_dagster.providers.validation import DiscoverySupport
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.provider import VendorProvider


class OpenAIProvider(VendorProvider):
    """Base of OpenAI's image, video and speech providers.

    Args:
        api_key: default: the variable OPENAI_API_KEY, read when needed.
        organization: default: OPENAI_ORG_ID.
        project: default: OPENAI_PROJECT_ID.
        models: a registry with models, prices or families of your own.
        options: base_url (default: OPENAI_BASE_URL, else https://api.openai.com/v1), rate_limit,
            client and clock; see `VendorProvider`.
    """

    vendor = OPENAI
    discovery_support = DiscoverySupport.NATIVE
    kind: ClassVar[str]
    """What it makes, as `kind_of` says it."""
    reserved: ClassVar[frozenset[str]] = frozenset({"model", "prompt"})
    """Native names that the request itself sets."""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        organization: str | None = None,
        project: str | None = None,
        models: ModelRegistry | None = None,
        **options: Any,
    ) -> None:
        self._billed = own_headers(organization, project)
        self._given_base_url = options.get("base_url")
        super().__init__(api_key, models=models, **options)

    def __repr__(self) -> str:
        url = self._given_base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI.base_url
        return f"{type(self).__name__}(base_url={strip_url(url.rstrip('/'))!r})"

    def own_headers(self) -> Mapping[str, str]:
        """Return the headers that name who is billed."""
        return self._billed

    def validate(self, request: GenerationRequest) -> None:
        """Refuse what the model cannot do, before anything is paid; see `VendorProvider`.

        Raises:
            ModelError: the model makes something else.
        """
        _ = self.api.key
        if kind_of(request.model) not in (self.kind, None):
            raise self.unknown_model(request, f"{request.model!r} makes no {self.kind} here")
        super().validate(request)

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the native parameters of a request; see `VendorProvider`."""
        for name in sorted(self.reserved):
            if request.params.get(name) is not None:
                raise self.refusal(
                    name, f"{name!r} is part of the request itself, not a parameter", request
                )
        return super().payload(request)

    async def list_models(self) -> Sequence[str]:
        """Return the models of this kind that the key may use, and those of unknown kind."""
        found = await self.api.document("GET", "/models")
        listed = cast(list[Mapping[str, Any]], found.get("data") or [])
        names = (str(model["id"]) for model in listed)
        return sorted(name for name in names if kind_of(name) in (self.kind, None))

    async def retrieve_model(self, model_id: str) -> Mapping[str, Any]:
        """Return a model's record: `id`, `created`, `owned_by`.

        Raises:
            ModelError: there is none that the key may use.
        """
        return await self.api.document("GET", f"/models/{model_id}")

    async def upload(self, item: InputMedia, *, purpose: str = "vision") -> str:
        """Upload an input and return its file id, which OpenAI's APIs take in place of the file.

        Raises:
            OutputError: the answer holds no id.
        """
        parts: list[FilePart | TextPart] = [
            ("purpose", (None, purpose)),
            await inputs.file_part(self.name, "file", item),
        ]
        made = await self.api.document("POST", "/files", files=parts)
        file_id = made.get("id")
        if not isinstance(file_id, str):
            raise OutputError(f"{self.name}: the upload gave no file id", provider=self.name)
        return file_id
