"""GraphQL over HTTP, for a server that the user names."""

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from genblaze_dagster.errors import ConfigError, ProviderError
from genblaze_dagster.net.client import HttpAnswer, HttpClient, Timeouts, request
from genblaze_dagster.net.redact import redact, strip_url

_TIMEOUTS = Timeouts(connect=10.0, read=60.0, write=30.0, pool=10.0)
_MAX_ANSWER_BYTES = 32 * 1024 * 1024
_QUOTED_CHARS = 300


class GraphQLClient:
    """Sends queries to one endpoint; every failure is a `ConfigError` that names the server.

    Args:
        url: http:// or https:// address of the endpoint.
        headers: sent with every query, such as an access token; never part of a message.
        client: for tests.

    Raises:
        ConfigError: `url` is no web address.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        client: HttpClient | None = None,
    ) -> None:
        try:
            parts = urlsplit(url)
            is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            is_web = False
        if not is_web:
            raise ConfigError(f"{strip_url(url)}: not a web address; give http://host:port")
        self._url = url
        self._shown = strip_url(url)
        self._headers = dict(headers or {})
        self._client = client

    async def query(self, document: str, variables: Mapping[str, object]) -> Mapping[str, Any]:
        """Return the `data` of an answer.

        Raises:
            ConfigError: the server cannot be reached in time, refuses, or answers with errors.
        """
        try:
            answer = await request(
                "POST",
                self._url,
                provider=self._shown,
                client=self._client,
                headers=self._headers,
                json={"query": document, "variables": dict(variables)},
                timeouts=_TIMEOUTS,
                max_bytes=_MAX_ANSWER_BYTES,
            )
        except ProviderError as exc:
            raise ConfigError(f"{exc}; is the server running there?") from exc
        return self._data(answer)

    def _data(self, answer: HttpAnswer) -> Mapping[str, Any]:
        if answer.status in (401, 403):
            raise ConfigError(
                f"{self._shown}: access refused (HTTP {answer.status}); check the token"
            )
        try:
            body: object = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ConfigError(
                f"{self._shown}: HTTP {answer.status} without a GraphQL answer; check the address"
            )
        fields = cast(dict[str, Any], body)
        errors: object = fields.get("errors")
        if errors or not isinstance(fields.get("data"), dict):
            raise ConfigError(f"{self._shown}: the query failed: {_message(errors)}")
        return fields["data"]


def _message(errors: object) -> str:
    first = cast(list[object], errors)[0] if isinstance(errors, list) and errors else None
    text = cast(dict[str, object], first).get("message") if isinstance(first, dict) else None
    return redact(str(text or "no reason given"), max_chars=_QUOTED_CHARS)
