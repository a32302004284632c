"""fal's storage: where an input goes that has no URL of its own.

A short-lived token of `rest.fal.ai` opens the CDN, which gets that token and never the key; when it
is down, a signed URL of a bucket does as well. What is uploaded can be read by anyone who knows its
URL, unless the account says otherwise.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from genblaze_dagster.errors import OutputError, ProviderError
from genblaze_dagster.providers.fal.vendor import STORAGE_URL
from genblaze_dagster.providers.vendor.api import Api
from genblaze_dagster.providers.vendor.errors import nothing_submitted

MAX_UPLOAD_BYTES = 100 * 1024 * 1024
"""Above it fal's own client uploads in parts."""

_UPLOAD_SECONDS = 600.0
_MARGIN = timedelta(minutes=1)


class Storage:
    """Uploads under one key.

    Args:
        api: makes the calls.
        clock: tells whether the token is still good.
    """

    def __init__(self, api: Api, clock: Callable[[], datetime]) -> None:
        self._api = api
        self._clock = clock
        self._token: Mapping[str, Any] = {}

    async def put(self, data: bytes, *, media_type: str, name: str) -> str:
        """Upload bytes and return their URL.

        Raises:
            ProviderError: neither way worked; nothing was generated, so `sent` is False.
        """
        with nothing_submitted():
            token = await self._usable_token()
            try:
                return await self._to_cdn(token, data, media_type, name)
            except ProviderError:
                self._token = {}
                return await self._to_bucket(data, media_type, name)

    async def _usable_token(self) -> Mapping[str, Any]:
        if not self._token or _expiry(self._token) < self._clock() + _MARGIN:
            self._token = await self._api.document(
                "POST",
                f"{STORAGE_URL}/auth/token",
                params={"storage_type": "fal-cdn-v3"},
                json={},
            )
        return self._token

    async def _to_cdn(
        self, token: Mapping[str, Any], data: bytes, media_type: str, name: str
    ) -> str:
        uploaded = await self._api.document(
            "POST",
            f"{token.get('base_url')}/files/upload",
            content=data,
            headers={
                "authorization": f"{token.get('token_type')} {token.get('token')}",
                "content-type": media_type,
                "x-fal-file-name": name,
            },
            seconds=_UPLOAD_SECONDS,
            with_key=False,
        )
        return _url(uploaded, "access_url")

    async def _to_bucket(self, data: bytes, media_type: str, name: str) -> str:
        place = await self._api.document(
            "POST",
            f"{STORAGE_URL}/upload/initiate",
            params={"storage_type": "gcs"},
            json={"file_name": name, "content_type": media_type},
        )
        await self._api.call(
            "PUT",
            _url(place, "upload_url"),
            content=data,
            headers={"content-type": media_type},
            seconds=_UPLOAD_SECONDS,
            with_key=False,
        )
        return _url(place, "file_url")


def _expiry(token: Mapping[str, Any]) -> datetime:
    """Return when a token ends; one that does not tell is not used again."""
    try:
        found = datetime.fromisoformat(str(token.get("expires_at")))
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _url(answer: Mapping[str, Any], member: str) -> str:
    url = answer.get(member)
    if not isinstance(url, str) or not url.startswith("https://"):
        raise OutputError(f"fal: the storage's answer holds no {member}", provider="fal")
    return url
