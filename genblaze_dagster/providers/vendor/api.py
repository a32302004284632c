"""One vendor's HTTP API under one key: how every vendor module makes its calls."""

import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from genblaze_dagster.errors import AuthError, InvalidRequestError, ProviderUnavailableError
from genblaze_dagster.net.client import (
    FilePart,
    HttpAnswer,
    HttpClient,
    TextPart,
    Timeouts,
    guarded_client,
    http_client,
    request,
    streamed,
)
from genblaze_dagster.net.redact import strip_url
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.vendor.errors import ErrorRules, answer_error

_JSON = {"accept": "application/json"}
_SHORT_CALL_SECONDS = 60.0


def bearer(key: str) -> dict[str, str]:
    """Return the header most vendors take their key in."""
    return {"authorization": f"Bearer {key}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """What is the same for every call to one vendor.

    Args:
        name: as in manifests.
        key_variables: environment variables that may hold the key; the first that is set counts.
        named_variable: the one that messages name; the first of them when left out.
        base_url: of the API, without a slash at its end.
        base_url_variable: environment variable with another one.
        key_headers: the headers that carry a key.
        headers: sent with every call that carries the key, such as an API version.
        key_origins: further origins (`https://host`) that get the key.
        rules: how the vendor refuses.
    """

    name: str
    key_variables: tuple[str, ...]
    named_variable: str | None = None
    base_url: str
    base_url_variable: str | None = None
    key_headers: Callable[[str], Mapping[str, str]] = bearer
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    key_origins: frozenset[str] = frozenset()
    rules: ErrorRules = field(default_factory=ErrorRules)


class Api:
    """Calls to one vendor. The key goes to the vendor's own origins and nowhere else.

    Args:
        vendor: which.
        api_key: default: the vendor's variable, read when needed.
        base_url: default: the vendor's variable, else its usual address.
        headers: sent with every call that carries the key, such as an organisation.
        client: an HTTP client for tests; by default the one the whole process shares.
    """

    def __init__(
        self,
        vendor: Vendor,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        client: HttpClient | None = None,
    ) -> None:
        self.vendor = vendor
        self._given_key = api_key
        self._given_base_url = base_url
        self._headers = {**vendor.headers, **(headers or {})}
        self._client = client

    @property
    def key(self) -> str:
        """The key.

        Raises:
            AuthError: there is none, or it cannot be one; names the variable.
        """
        name = self.vendor.name
        variable = self.vendor.named_variable or self.vendor.key_variables[0]
        found = (os.environ.get(known) for known in self.vendor.key_variables)
        key = (self._given_key or next(filter(None, found), "")).strip()
        if not key:
            raise AuthError(
                f"{name}: no API key; set {variable}, or try without a key with the provider "
                "'local'",
                provider=name,
                sent=False,
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise AuthError(
                f"{name}: the API key holds blanks, line breaks or non-ASCII characters; copy it "
                f"again into {variable}",
                provider=name,
                sent=False,
            )
        return key

    @property
    def account(self) -> str:
        """Fingerprint of the key, which does not give it away; the vendor's name without one."""
        try:
            key = self.key
        except AuthError:
            return self.vendor.name
        return f"{self.vendor.name}:{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    @property
    def base_url(self) -> str:
        """Where the API is.

        Raises:
            InvalidRequestError: the address is no http(s) URL, or holds credentials or a query.
        """
        variable = self.vendor.base_url_variable
        url = self._given_base_url or (os.environ.get(variable) if variable else None)
        url = (url or self.vendor.base_url).strip().rstrip("/")
        if not url.startswith(("https://", "http://")) or any(sign in url for sign in "?#@"):
            raise InvalidRequestError(
                f"{self.vendor.name}: base URL {strip_url(url)} must be http(s)://host/path "
                f"without user, password, query or fragment; check base_url{f' and {variable}' if variable else ''}",
                provider=self.vendor.name,
                param="base_url",
                sent=False,
            )
        return url

    def __repr__(self) -> str:
        return f"Api({self.vendor.name!r})"

    async def call(
        self,
        method: str,
        url: str,
        *,
        request_of: GenerationRequest | None = None,
        json: object = None,
        data: Mapping[str, Any] | None = None,
        files: Sequence[FilePart | TextPart] | None = None,
        content: bytes | None = None,
        params: Mapping[str, str | int | float | bool] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = _SHORT_CALL_SECONDS,
        with_key: bool = True,
    ) -> HttpAnswer:
        """Make one call and return its answer, whose status is below 400.

        Args:
            method: of HTTP.
            url: a path below the base URL, or a whole URL.
            request_of: what is generated; names the model in errors and keeps its prompt out.
            json, data, files, content, params: see `net.client.request`.
            headers: further ones; they win.
            seconds: to wait for the answer; one-call APIs take `request.timeout`.
            with_key: False for signed URLs, which must not see the key.

        Raises:
            ProviderError: of the kind the answer calls for; `sent` is False when nothing was sent,
                True when the vendor answered, None when the answer was lost.
        """
        key = self.key
        whole, sent, client = self._addressed(url, headers, key if with_key else None)
        answer = await request(
            method,
            whole,
            provider=self.vendor.name,
            client=client,
            headers=sent,
            json=json,
            data=data,
            files=files,
            content=content,
            params=params,
            timeouts=Timeouts(read=seconds, pool=max(seconds, _SHORT_CALL_SECONDS)),
        )
        if answer.status >= 400:
            raise answer_error(self.vendor.name, self.vendor.rules, answer, request_of, key=key)
        return answer

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        request_of: GenerationRequest | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = _SHORT_CALL_SECONDS,
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Make one call and yield the bytes of its answer as they come; see `call`.

        Raises:
            ProviderError: of the kind the answer calls for.
        """
        key = self.key
        whole, sent, client = self._addressed(url, headers, key)
        async with streamed(
            method,
            whole,
            provider=self.vendor.name,
            client=client,
            headers=sent,
            json=json,
            timeouts=Timeouts(read=seconds, pool=max(seconds, _SHORT_CALL_SECONDS)),
        ) as answer:
            if isinstance(answer, HttpAnswer):
                raise answer_error(self.vendor.name, self.vendor.rules, answer, request_of, key=key)
            yield answer

    async def document(
        self, method: str, url: str, *, request_of: GenerationRequest | None = None, **options: Any
    ) -> dict[str, Any]:
        """Make one call and return the JSON object it answers with; see `call`.

        Raises:
            ProviderUnavailableError: the answer is no JSON object; see `json_object`.
        """
        answer = await self.call(method, url, request_of=request_of, **options)
        return json_object(answer, self.vendor.name, request_of)

    def _addressed(
        self, url: str, headers: Mapping[str, str] | None, key: str | None
    ) -> tuple[str, dict[str, str], HttpClient]:
        """Return the whole URL, the headers, and the client that may go there."""
        whole = url if "://" in url else self.base_url + url
        is_ours = self._is_ours(whole)
        sent = dict(_JSON)
        if key is not None and is_ours:
            sent |= {**self.vendor.key_headers(key), **self._headers}
        client = self._client or (http_client() if is_ours else guarded_client())
        return whole, {**sent, **(headers or {})}, client

    def _is_ours(self, url: str) -> bool:
        origin = _origin(url)
        return origin == _origin(self.base_url) or origin in self.vendor.key_origins


def json_object(
    answer: HttpAnswer, vendor: str, request_of: GenerationRequest | None = None
) -> dict[str, Any]:
    """Return the JSON object of an answer.

    Raises:
        ProviderUnavailableError: it is none, but a proxy's page, say. Nothing is known then: a job
            that was polled goes on, and a submit may have been accepted (`sent` is None).
    """
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        model = f" {request_of.model}" if request_of is not None else ""
        raise ProviderUnavailableError(
            f"{vendor}{model}: the answer is no JSON object (HTTP {answer.status}); what was asked "
            "for may have been billed",
            provider=vendor,
            model=request_of.model if request_of is not None else None,
            http_status=answer.status,
            sent=None,
        )
    return cast(dict[str, Any], body)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
