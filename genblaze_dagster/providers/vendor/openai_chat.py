"""OpenAI's chat protocol, which other vendors speak as well: `POST /chat/completions`.

Reference: https://platform.openai.com/docs/api-reference/chat. Streams are server-sent events that
end with `[DONE]`; with `include_usage` the last chunk has no choices and the usage. Arguments of
tool calls come in pieces, by index.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pydantic import BaseModel

from genblaze_dagster.errors import ContentPolicyError, OutputError, ProviderError
from genblaze_dagster.net.sse import event_data
from genblaze_dagster.providers.price_list import PriceList
from genblaze_dagster.providers.price_units import TokenRate
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.vendor.api import Api
from genblaze_dagster.providers.vendor.chat import (
    ChatMessage,
    ChatRequest,
    ChatResponse,
    ToolCall,
    chat_cost,
    schema_of,
    tool_call,
)
from genblaze_dagster.providers.vendor.errors import job_error

_PATH = "/chat/completions"
_END = "[DONE]"


def no_price(model: str) -> str:
    """Return the name of a model in a price table: its own."""
    return model


@dataclass(frozen=True, slots=True)
class OpenAIChat:
    """Chats through one API. `prices` are those of the vendor's list, by `price_name(model)`;
    `own_prices`, those of the environment, win over them.

    `takes_max_tokens` says whether a model takes `max_tokens`; the others get
    `max_completion_tokens`.
    """

    api: Api
    prices: Mapping[str, TokenRate] = field(default_factory=dict[str, TokenRate])
    price_name: Callable[[str], str] = no_price
    takes_max_tokens: Callable[[str], bool] = lambda model: True
    own_prices: PriceList = field(default_factory=PriceList.from_environment)

    async def complete(self, request: ChatRequest) -> ChatResponse:
        """Return the whole answer.

        Raises:
            ContentPolicyError: the vendor's filter cut the answer off.
            ProviderError: of the kind the answer calls for.
        """
        body = await self.api.document(
            "POST",
            _PATH,
            request_of=_named(request),
            json=self.body(request),
            seconds=request.timeout,
        )
        return self._response(request, body)

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResponse]:
        """Yield the text piece by piece, and the whole answer at the end.

        Raises:
            ContentPolicyError: the vendor's filter cut the answer off.
            ProviderError: of the kind the answer calls for, also in the middle of the stream.
        """
        body = {
            **self.body(request),
            "stream": True,
            "stream_options": {"include_usage": True, **request.extra.get("stream_options", {})},
        }
        pieces, is_over = _Pieces(), False
        async with self.api.stream(
            "POST", _PATH, request_of=_named(request), json=body, seconds=request.timeout
        ) as chunks:
            async for data in event_data(chunks, provider=self.api.vendor.name):
                if data.strip() == _END:
                    is_over = True
                    break
                text = pieces.add(self._chunk(data, request))
                if text:
                    yield text
        if pieces.is_unfinished and not is_over:
            # Half an answer must not pass for a whole one.
            raise OutputError(
                f"{self.api.vendor.name} {request.model}: the stream broke off before its end; ask "
                "again",
                provider=self.api.vendor.name,
                model=request.model,
            )
        yield self._response(request, pieces.answer(request.model))

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """Return the body of a request."""
        limit = "max_tokens" if self.takes_max_tokens(request.model) else "max_completion_tokens"
        options: dict[str, Any] = {
            "tools": None if request.tools is None else [dict(tool) for tool in request.tools],
            "temperature": request.temperature,
            limit: request.max_tokens,
            "response_format": _response_format(request.response_format),
        }
        return {
            "model": request.model,
            "messages": [_turn(message) for message in request.messages],
            **{name: value for name, value in options.items() if value is not None},
            **request.extra,
        }

    def _chunk(self, data: str, request: ChatRequest) -> dict[str, Any]:
        try:
            chunk = json.loads(data)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            raise OutputError(
                f"{self.api.vendor.name} {request.model}: an event of the stream is no JSON object",
                provider=self.api.vendor.name,
                model=request.model,
            )
        chunk = cast(dict[str, Any], chunk)
        self._check_error(chunk, request)
        return chunk

    def _check_error(self, body: Mapping[str, Any], request: ChatRequest) -> None:
        """Raise the error that stands in an answer or an event in spite of HTTP 200."""
        if body.get("error"):
            raise job_error(
                self.api.vendor.name,
                self.api.vendor.rules.read(500, body),
                _named(request),
                key=self.api.key,
                otherwise=ProviderError,
            )

    def _response(self, request: ChatRequest, body: Mapping[str, Any]) -> ChatResponse:
        self._check_error(body, request)
        choices = body.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            raise OutputError(
                f"{self.api.vendor.name} {request.model}: the answer holds no choice",
                provider=self.api.vendor.name,
                model=request.model,
            )
        choice = cast(dict[str, Any], choice)
        message = _object(choice.get("message"))
        reason = choice.get("finish_reason")
        refused = message.get("refusal")
        if reason == "content_filter" or (refused and not message.get("content")):
            raise ContentPolicyError(
                f"{self.api.vendor.name} {request.model}: the answer was "
                f"{'refused by the model' if refused else 'cut off by the content filter'}",
                provider=self.api.vendor.name,
                model=request.model,
                vendor_code="refusal" if refused else "content_filter",
            )
        usage = _object(body.get("usage"))
        tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
        response = ChatResponse(
            text=_text(message.get("content")),
            model=body.get("model") or request.model,
            finish_reason=reason,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            tokens_cached=_object(usage.get("prompt_tokens_details")).get("cached_tokens"),
            tool_calls=_tool_calls(message),
            reasoning=message.get("reasoning_content"),
            raw=body,
        )
        return replace(response, cost_usd=chat_cost(self._rate(request.model), response))

    def _rate(self, model: str) -> TokenRate | None:
        own = self.own_prices.token_rate(self.api.vendor.name, model)
        return own or self.prices.get(self.price_name(model))


class _Pieces:
    """The chunks of a stream, put together as the answer they are pieces of."""

    def __init__(self) -> None:
        self._first: dict[str, Any] = {}
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._usage: dict[str, Any] | None = None
        self._reason: str | None = None

    def add(self, chunk: dict[str, Any]) -> str:
        """Take a chunk and return its text."""
        self._first = self._first or chunk
        self._usage = chunk.get("usage") or self._usage
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            return ""
        choice = _object(cast(list[object], choices)[0])
        delta = _object(choice.get("delta"))
        self._reason = choice.get("finish_reason") or self._reason
        text = _text(delta.get("content"))
        self._text.append(text)
        self._reasoning.append(delta.get("reasoning_content") or "")
        self._refusal.append(delta.get("refusal") or "")
        for piece in delta.get("tool_calls") or ():
            self._add_call(piece)
        return text

    @property
    def is_unfinished(self) -> bool:
        """Whether an answer has begun, and nothing has told why it ended."""
        return bool(self._first) and self._reason is None

    def _add_call(self, piece: dict[str, Any]) -> None:
        call = self._calls.setdefault(
            piece.get("index") or 0, {"id": "", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = piece.get("id") or call["id"]
        function: dict[str, Any] = piece.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    def answer(self, model: str) -> dict[str, Any]:
        """Return the whole answer in the form of one that was not streamed."""
        message = {
            "role": "assistant",
            "content": "".join(self._text),
            "refusal": "".join(self._refusal) or None,
            "reasoning_content": "".join(self._reasoning) or None,
            "tool_calls": [self._calls[index] for index in sorted(self._calls)],
        }
        return {
            "id": self._first.get("id"),
            "model": self._first.get("model") or model,
            "choices": [{"index": 0, "message": message, "finish_reason": self._reason}],
            "usage": self._usage,
        }


def _object(value: object) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _text(content: object) -> str:
    """Return the text of a message; some vendors give it in parts."""
    if isinstance(content, list):
        return "".join(_text(_object(part).get("text")) for part in cast(list[object], content))
    return content if isinstance(content, str) else ""


def _turn(turn: ChatMessage | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(turn, ChatMessage):
        return dict(turn)
    content = turn.content if isinstance(turn.content, str) else [dict(b) for b in turn.content]
    named = {"name": turn.name, "tool_call_id": turn.tool_call_id}
    message: dict[str, Any] = {
        "role": turn.role,
        "content": content,
        **{name: value for name, value in named.items() if value is not None},
    }
    if turn.tool_calls:
        message["tool_calls"] = [_call(call) for call in turn.tool_calls]
    return message


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = call.raw_arguments or json.dumps(dict(call.arguments))
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _tool_calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    calls = cast(list[dict[str, Any]], message.get("tool_calls") or [])
    return tuple(
        tool_call(
            call.get("id") or "",
            (call.get("function") or {}).get("name") or "",
            (call.get("function") or {}).get("arguments"),
        )
        for call in calls
    )


def _response_format(
    wanted: Mapping[str, Any] | type[BaseModel] | None,
) -> dict[str, Any] | None:
    if wanted is None or isinstance(wanted, Mapping):
        return None if wanted is None else dict(wanted)
    return {
        "type": "json_schema",
        "json_schema": {"name": wanted.__name__, "strict": True, "schema": schema_of(wanted)},
    }


def _named(request: ChatRequest) -> GenerationRequest:
    """Return what errors need to know: the model, and no text of the chat."""
    return GenerationRequest(model=request.model)
