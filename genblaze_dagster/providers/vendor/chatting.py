"""The `chat` functions of a vendor: what their signature and documentation have in common."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genblaze_dagster.net.client import HttpClient
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.providers.vendor.api import Api, Vendor
from genblaze_dagster.providers.vendor.chat import (
    ChatMessage,
    ChatResponse,
    Dialect,
    chat_request,
)

Messages = Sequence[ChatMessage | Mapping[str, Any]]


def no_headers() -> Mapping[str, str]:
    """Return no further headers."""
    return {}


@dataclass(frozen=True, slots=True)
class Chat:
    """Chats with one vendor: `chat`, `achat` and `astream_chat` take the same arguments.

    Args:
        vendor: address, key and errors.
        dialect: makes the vendor's way to chat from its API.
        own_headers: headers from the environment that go with the key.
    """

    vendor: Vendor
    dialect: Callable[[Api], Dialect]
    own_headers: Callable[[], Mapping[str, str]] = no_headers

    def chat(self, model: str, messages: Messages | None = None, **options: Any) -> ChatResponse:
        """Ask a chat model and return its whole answer; see `achat`."""
        return run_sync(self.achat(model, messages, **options))

    async def achat(
        self,
        model: str,
        messages: Messages | None = None,
        *,
        prompt: str | None = None,
        system: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        client: HttpClient | None = None,
        **options: Any,
    ) -> ChatResponse:
        """Ask a chat model and return its whole answer.

        Args:
            model: the vendor's name of it.
            messages: the turns, as `ChatMessage`s or in OpenAI's form.
            prompt: instead of messages: a single turn of the user.
            system: an instruction before all turns.
            api_key: the vendor's environment variable when left out.
            base_url: another address of the same API.
            client: an HTTP client for tests.
            options: `tools`, `temperature`, `max_tokens`, `response_format` (a mapping or a
                pydantic model), `timeout` (seconds, 60 by default); everything else goes into the
                body as it is.

        Raises:
            AuthError: there is no key; names the variable.
            ContentPolicyError: the answer was refused or cut off by the filter.
            ProviderError: of the kind the answer calls for.
        """
        request = chat_request(
            model, messages, prompt=prompt, system=system, vendor=self.vendor.name, **options
        )
        return await self._opened(api_key, base_url, client).complete(request)

    def astream_chat(
        self,
        model: str,
        messages: Messages | None = None,
        *,
        prompt: str | None = None,
        system: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        client: HttpClient | None = None,
        **options: Any,
    ) -> AsyncIterator[str | ChatResponse]:
        """Yield the text piece by piece, and the `ChatResponse` at the end; see `achat`."""
        request = chat_request(
            model, messages, prompt=prompt, system=system, vendor=self.vendor.name, **options
        )
        return self._opened(api_key, base_url, client).stream(request)

    def _opened(
        self, api_key: str | None, base_url: str | None, client: HttpClient | None
    ) -> Dialect:
        return self.dialect(
            Api(
                self.vendor,
                api_key=api_key,
                base_url=base_url,
                headers=self.own_headers(),
                client=client,
            )
        )
