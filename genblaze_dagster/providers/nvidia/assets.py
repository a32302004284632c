"""Inputs of a request: small ones stand in its body, others are uploaded as assets first.

An asset lives 24 hours, its upload address one. The address is signed: it takes exactly the content
type and description that were declared, and must not see the key.
"""

from collections.abc import Mapping
from contextlib import suppress

from genblaze_dagster.errors import OutputError, ProviderError, ProviderUnavailableError
from genblaze_dagster.providers.nvidia.vendor import NVCF
from genblaze_dagster.providers.protocol import InputMedia
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.api import Api
from genblaze_dagster.providers.vendor.errors import nothing_submitted

INLINE_BYTES = 135_000
"""What becomes 180 KB of base64, the most a request may hold."""

_ASSETS = f"{NVCF}/v2/nvcf/assets"
_DESCRIPTION = "chain input"
_UPLOAD_SECONDS = 600.0
_DELETE_SECONDS = 10.0


class Attachments:
    """The inputs of one request; remembers the assets made for it."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.assets: list[str] = []

    @property
    def headers(self) -> Mapping[str, str]:
        """What tells the model which assets it may read."""
        return {"nvcf-input-asset-references": ",".join(self.assets)} if self.assets else {}

    async def value(self, item: InputMedia) -> str:
        """Return what stands in the body for an input: a data URI, with its bytes or an asset."""
        size = item.asset.size_bytes
        if size is not None and size <= INLINE_BYTES:
            return await inputs.data_uri(self._api.vendor.name, item, max_bytes=INLINE_BYTES)
        return f"data:{item.asset.media_type};asset_id,{await self.upload(item)}"

    async def upload(self, item: InputMedia) -> str:
        """Upload an input and return the id of its asset.

        Raises:
            ProviderError: it cannot be uploaded; nothing was asked to be generated.
        """
        data = await inputs.read(self._api.vendor.name, item)
        with nothing_submitted():
            return await self._stored(item.asset.media_type, data)

    async def _stored(self, media_type: str, data: bytes) -> str:
        declared = {"contentType": media_type, "description": _DESCRIPTION}
        slot = await self._api.document("POST", _ASSETS, json=declared)
        asset_id, url = slot.get("assetId"), slot.get("uploadUrl")
        if not isinstance(asset_id, str) or not isinstance(url, str):
            raise OutputError(
                f"{self._api.vendor.name}: the answer names no asset and upload address; try again",
                provider=self._api.vendor.name,
            )
        self.assets.append(asset_id)
        try:
            await self._put(url, media_type, data)
        except ProviderError as exc:
            # Another host refuses what it was sent; that says nothing about the key.
            raise ProviderUnavailableError(
                f"{self._api.vendor.name}: an input cannot be uploaded "
                f"(HTTP {exc.http_status or 'without an answer'}); try again",
                provider=self._api.vendor.name,
                http_status=exc.http_status,
            ) from exc
        return asset_id

    async def _put(self, url: str, media_type: str, data: bytes) -> None:
        await self._api.call(
            "PUT",
            url,
            content=data,
            headers={
                "content-type": media_type,
                "x-amz-meta-nvcf-asset-description": _DESCRIPTION,
            },
            seconds=_UPLOAD_SECONDS,
            with_key=False,
        )

    async def discard(self) -> None:
        """Delete the assets; nothing may need them any more."""
        for asset_id in self.assets:
            # They vanish by themselves within a day; the answer at hand is worth more.
            with suppress(ProviderError):
                await self._api.call("DELETE", f"{_ASSETS}/{asset_id}", seconds=_DELETE_SECONDS)
