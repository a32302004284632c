"""Chat with the models NVIDIA hosts, in OpenAI's protocol.

API reference: https://docs.api.nvidia.com/nim/reference/llm-apis. Requests equal those of NVIDIA's
client (langchain-nvidia-ai-endpoints 1.5.0) and of OpenAI's, which NVIDIA documents for it.
`POST https://integrate.api.nvidia.com/v1/chat/completions`; one call, or a stream. Cost unit:
credits; no answer tells them, so the price is unknown.
Quirks: the answer can be 202 with a job to ask for, as with all hosted models; an error can arrive
inside a stream after HTTP 200. Extra fields stand beside the others: `chat_template_kwargs`
(`{"enable_thinking": False}`), `media_io_kwargs`, `mm_processor_kwargs`. A model can be listed and
still answer 404 for an account.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, cast

from genblaze_dagster.errors import OutputError, ProviderTimeoutError, ProviderUnavailableError
from genblaze_dagster.net.client import HttpAnswer, HttpClient
from genblaze_dagster.providers.nvidia.vendor import NVIDIA, REQUEST_ID, STATUS_URL
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.vendor.api import Api, json_object
from genblaze_dagster.providers.vendor.chat import ChatRequest, ChatResponse
from genblaze_dagster.providers.vendor.chatting import Chat
from genblaze_dagster.providers.vendor.openai_chat import OpenAIChat

NVIDIA_CHAT = replace(NVIDIA, base_url="https://integrate.api.nvidia.com/v1")

_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class NvidiaChat(OpenAIChat):
    """OpenAI's protocol on NVIDIA's gateway, which may answer with a job."""

    async def complete(self, request: ChatRequest) -> ChatResponse:
        """Return the whole answer, waiting for it where the gateway gives a job.

        Raises:
            ContentPolicyError: the filter cut the answer off.
            ProviderError: of the kind the answer calls for.
        """
        asked = GenerationRequest(model=request.model)
        answer = await self.api.call(
            "POST",
            "/chat/completions",
            request_of=asked,
            json=self.body(request),
            seconds=request.timeout,
        )
        answer = await self._waited_for(answer, asked, request.timeout)
        return self._response(request, json_object(answer, self.api.vendor.name, asked))

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResponse]:
        """Yield the text piece by piece, and the whole answer at the end.

        Raises:
            ContentPolicyError: the filter cut the answer off.
            OutputError: there was no stream.
            ProviderError: of the kind the answer calls for, also in the middle of the stream.
        """
        # Not super(): a dataclass with slots is another class than the one written here.
        async for piece in OpenAIChat.stream(self, request):
            if isinstance(piece, ChatResponse) and _is_empty(piece):
                raise OutputError(
                    f"{self.api.vendor.name} {request.model}: the answer is no stream; ask without "
                    "streaming",
                    provider=self.api.vendor.name,
                    model=request.model,
                )
            yield piece

    async def _waited_for(
        self, answer: HttpAnswer, asked: GenerationRequest, seconds: float
    ) -> HttpAnswer:
        ends_at = time.monotonic() + seconds
        while answer.status == 202:
            name = self.api.vendor.name
            job_id = answer.headers.get(REQUEST_ID)
            if not job_id:
                raise ProviderUnavailableError(
                    f"{name} {asked.model}: the answer names no job (HTTP 202); try again",
                    provider=name,
                    model=asked.model,
                    http_status=202,
                )
            if time.monotonic() >= ends_at:
                raise ProviderTimeoutError(
                    f"{name} {asked.model}: no answer within {seconds:g} s; give a longer timeout",
                    provider=name,
                    model=asked.model,
                )
            await asyncio.sleep(_POLL_SECONDS)
            answer = await self.api.call(
                "GET", STATUS_URL + job_id, request_of=asked, seconds=seconds
            )
        return answer


def _is_empty(answer: ChatResponse) -> bool:
    return answer.finish_reason is None and not answer.text and not answer.tool_calls


async def list_chat_models(
    api_key: str | None = None, *, base_url: str | None = None, client: HttpClient | None = None
) -> list[str]:
    """Return the chat models NVIDIA lists; an account may not be allowed to call all of them.

    Pictures, video and sound have no list.

    Raises:
        AuthError: there is no key; names the variable.
        ProviderError: of the kind the answer calls for.
    """
    api = Api(NVIDIA_CHAT, api_key=api_key, base_url=base_url, client=client)
    found = await api.document("GET", "/models")
    listed = cast(list[object], found.get("data") or [])
    models = [cast(dict[str, Any], entry) for entry in listed if isinstance(entry, dict)]
    return sorted(str(model["id"]) for model in models if "id" in model)


_chat = Chat(NVIDIA_CHAT, NvidiaChat)
chat = _chat.chat
achat = _chat.achat
astream_chat = _chat.astream_chat
