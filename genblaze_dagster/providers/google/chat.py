"""Chat with Google's models.

API reference: https://ai.google.dev/api/generate-content. Requests equal those of the vendor's
Python client 3.4.0, but for the version, which is v1beta throughout.
`POST /v1beta/models/{model}:generateContent`, and `:streamGenerateContent?alt=sse`, where every event
is an answer of its own, the last one has the usage and there is no `[DONE]`. Cost unit: tokens, those
of thoughts included; list prices as of October 2026 in `pricing`, your contract may differ: give your
own with GENBLAZE_PRICES. Audio that goes in has an unknown price.
Quirks: `finishReason` is STOP for calls of tools too, and calls may have no id; a refused answer is
HTTP 200. Messages may hold Gemini's own parts, which have no `type`: `raw`'s, for a history with all
signatures of thoughts. Further options go into `generationConfig` when they belong there (`top_p`,
`topK`, `stop`, `seed`, `thinkingConfig`, ...), else into the body.
Unverified: addresses of files that are not the Files API's, and the count of cached tokens.
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pydantic import BaseModel

from genblaze_dagster.errors import OutputError, ProviderError
from genblaze_dagster.net.sse import event_data
from genblaze_dagster.providers.google.answers import (
    candidates_of,
    filtered,
    parts_of,
    text_of,
)
from genblaze_dagster.providers.google.pricing import CHAT
from genblaze_dagster.providers.google.turns import tools_of, turns_of
from genblaze_dagster.providers.google.vendor import (
    GOOGLE,
    VERSION,
    dicts,
    part_of,
    read_error,
    resource_of,
)
from genblaze_dagster.providers.price_list import PriceList
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.vendor.api import Api
from genblaze_dagster.providers.vendor.chat import (
    ChatRequest,
    ChatResponse,
    ToolCall,
    chat_cost,
    schema_of,
    tool_call,
)
from genblaze_dagster.providers.vendor.chatting import Chat
from genblaze_dagster.providers.vendor.errors import job_error

_CONFIG = {
    "top_p": "topP",
    "top_k": "topK",
    "stop": "stopSequences",
    "stop_sequences": "stopSequences",
    "max_output_tokens": "maxOutputTokens",
    "response_mime_type": "responseMimeType",
    "response_schema": "responseSchema",
    "response_json_schema": "responseJsonSchema",
    "response_modalities": "responseModalities",
    "thinking_config": "thinkingConfig",
    "seed": "seed",
}
_CONFIG_NAMES = {**_CONFIG, **{native: native for native in _CONFIG.values()}}
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class GeminiChat:
    """Chats through one API. `own_prices`, those of the environment, win over the vendor's list."""

    api: Api
    own_prices: PriceList = field(default_factory=PriceList.from_environment)

    async def complete(self, request: ChatRequest) -> ChatResponse:
        """Return the whole answer.

        Raises:
            ContentPolicyError: the prompt or the answer was filtered.
            ProviderError: of the kind the answer calls for.
        """
        answer = await self.api.document(
            "POST",
            f"{VERSION}/{resource_of(request.model)}:generateContent",
            request_of=_named(request),
            json=body_of(request),
            seconds=request.timeout,
        )
        return self._response(request, answer)

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResponse]:
        """Yield the text piece by piece, and the whole answer at the end.

        Raises:
            ContentPolicyError: the prompt or the answer was filtered.
            ProviderError: of the kind the answer calls for, also in the middle of the stream.
        """
        pieces = _Pieces()
        async with self.api.stream(
            "POST",
            f"{VERSION}/{resource_of(request.model)}:streamGenerateContent?alt=sse",
            request_of=_named(request),
            json=body_of(request),
            seconds=request.timeout,
        ) as chunks:
            async for data in event_data(chunks, provider=self.api.vendor.name):
                text = pieces.add(self._chunk(data, request))
                if text:
                    yield text
        answer = pieces.answer()
        if any(not candidate.get("finishReason") for candidate in candidates_of(answer)):
            # Half an answer must not pass for a whole one.
            raise self._unusable(request, "the stream broke off before its end")
        yield self._response(request, answer)

    def _chunk(self, data: str, request: ChatRequest) -> dict[str, Any]:
        try:
            chunk = json.loads(data)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            raise self._unusable(request, "an event of the stream is no JSON object")
        chunk = cast(dict[str, Any], chunk)
        if chunk.get("error"):
            raise job_error(
                self.api.vendor.name,
                read_error(500, chunk),
                _named(request),
                key=self.api.key,
                otherwise=ProviderError,
            )
        return chunk

    def _response(self, request: ChatRequest, answer: Mapping[str, Any]) -> ChatResponse:
        refusal = filtered(answer)
        if refusal is not None:
            raise job_error(self.api.vendor.name, refusal, _named(request), key=self.api.key)
        candidate = next(iter(candidates_of(answer)), None)
        if candidate is None:
            raise self._unusable(request, "the answer holds no candidate")
        usage = part_of(answer, "usageMetadata")
        response = ChatResponse(
            text=text_of(candidate),
            model=answer.get("modelVersion") or request.model,
            finish_reason=candidate.get("finishReason"),
            tokens_in=usage.get("promptTokenCount"),
            tokens_out=_tokens_out(usage),
            tokens_cached=usage.get("cachedContentTokenCount"),
            tool_calls=_tool_calls(candidate),
            reasoning=text_of(candidate, thought=True) or None,
            raw=answer,
        )
        rate = self.own_prices.token_rate(self.api.vendor.name, request.model)
        if rate is None and not _has_audio(usage):
            rate = CHAT.get(request.model.removeprefix("models/"))
        return replace(response, cost_usd=chat_cost(rate, response))

    def _unusable(self, request: ChatRequest, fact: str) -> OutputError:
        name = self.api.vendor.name
        return OutputError(f"{name} {request.model}: {fact}", provider=name, model=request.model)


class _Pieces:
    """The events of a stream, put together as the answer they are pieces of."""

    def __init__(self) -> None:
        self._answer: dict[str, Any] = {}
        self._candidate: dict[str, Any] | None = None
        self._parts: list[dict[str, Any]] = []

    def add(self, chunk: dict[str, Any]) -> str:
        """Take an event and return its text. What comes later wins; parts are gathered."""
        self._answer |= chunk
        candidate = next(iter(candidates_of(chunk)), None)
        if candidate is None:
            return ""
        self._candidate = {**(self._candidate or {}), **candidate}
        self._parts += dicts(part_of(candidate, "content").get("parts"))
        return text_of(candidate)

    def answer(self) -> dict[str, Any]:
        """Return the whole answer in the form of one that was not streamed."""
        if self._candidate is None:
            return self._answer
        content = {"role": "model", "parts": self._parts}
        return {**self._answer, "candidates": [{**self._candidate, "content": content}]}


def body_of(request: ChatRequest) -> dict[str, Any]:
    """Return the body of a request, without Gemini's defaults.

    Raises:
        InvalidRequestError: a block of a message that Gemini has no part for.
    """
    contents, system = turns_of(request.messages)
    config = _config(request)
    body: dict[str, Any] = {"contents": contents}
    if system:
        body["systemInstruction"] = {"role": "user", "parts": system}
    if request.tools is not None:
        body["tools"] = tools_of(request.tools)
    if config or request.tools is not None:
        # Beside tools Google's client sends it also when it is empty.
        body["generationConfig"] = config
    return {
        **body,
        **{
            name: value
            for name, value in request.extra.items()
            if name not in _CONFIG_NAMES and name != "generationConfig"
        },
    }


def _config(request: ChatRequest) -> dict[str, Any]:
    stated = {"temperature": request.temperature, "maxOutputTokens": request.max_tokens}
    config: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
    config |= _response_format(request.response_format)
    for name, value in request.extra.items():
        if name in _CONFIG_NAMES:
            config[_CONFIG_NAMES[name]] = value
    if isinstance(config.get("stopSequences"), str):
        config["stopSequences"] = [config["stopSequences"]]
    return {**config, **request.extra.get("generationConfig", {})}


def _response_format(wanted: Mapping[str, Any] | type[BaseModel] | None) -> dict[str, Any]:
    if wanted is None:
        return {}
    if not isinstance(wanted, Mapping):
        return {"responseMimeType": _JSON, "responseJsonSchema": schema_of(wanted)}
    if wanted.get("type") == "text":
        return {}
    schema = part_of(wanted.get("json_schema"), "schema")
    return {"responseMimeType": _JSON, **({"responseJsonSchema": schema} if schema else {})}


def _tool_calls(candidate: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    return tuple(
        _tool_call(part, index)
        for index, part in enumerate(p for p in parts_of(candidate) if "functionCall" in p)
    )


def _tool_call(part: Mapping[str, Any], index: int) -> ToolCall:
    called = part_of(part, "functionCall")
    kept = {"id": called.get("id"), "thoughtSignature": part.get("thoughtSignature")}
    kept = {name: value for name, value in kept.items() if value}
    name = str(called.get("name") or "")
    # Without an id of Gemini's, one of ours ties the tool's answer to the call; it is not sent.
    id = str(called.get("id") or f"{name}-{index}")
    return tool_call(id, name, called.get("args"), provider_data=kept or None)


def _tokens_out(usage: Mapping[str, Any]) -> int | None:
    counts = [usage.get("candidatesTokenCount"), usage.get("thoughtsTokenCount")]
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known else None


def _has_audio(usage: Mapping[str, Any]) -> bool:
    return any(part.get("modality") == "AUDIO" for part in dicts(usage.get("promptTokensDetails")))


def _named(request: ChatRequest) -> GenerationRequest:
    """Return what errors need to know: the model, and no text of the chat."""
    return GenerationRequest(model=request.model)


_chat = Chat(GOOGLE, GeminiChat)
chat = _chat.chat
achat = _chat.achat
astream_chat = _chat.astream_chat
