"""A chat with a model: messages, the answer, and what all vendors' `chat()` functions share.

A chat stands outside of pipelines: nothing is stored and no manifest is written.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from pydantic import BaseModel

from genblaze_dagster.errors import InvalidRequestError
from genblaze_dagster.providers.price_units import TokenRate

Role = Literal["system", "user", "assistant", "tool"]
Content = str | Sequence[Mapping[str, Any]]
"""Text, or blocks in OpenAI's form: `text`, `image_url`, `video_url`, `audio_url`."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the model wants called.

    `arguments` is always a mapping: {} when the model wrote none, or none that can be read; then
    `raw_arguments` holds what it wrote. `provider_data` goes back to the vendor as it is.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    raw_arguments: str | None = field(default=None, repr=False)
    provider_data: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn. `tool_calls` belong to the assistant, `tool_call_id` to a tool's answer."""

    role: Role
    content: Content = field(default="", repr=False)
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """What a model answered.

    `tokens_` are counts, None when the vendor does not say; `cost_usd` None means unknown.
    `reasoning` is what a model thought aloud, apart from `text`. `raw` is the vendor's answer.
    """

    text: str
    model: str
    finish_reason: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_cached: int | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    cost_usd: float | None = None
    reasoning: str | None = field(default=None, repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One chat call, in no vendor's form. What is None is left to the vendor.

    `tools` are definitions in OpenAI's form. `response_format` is a mapping in OpenAI's form, or a
    pydantic model whose JSON schema the answer must follow. `extra` goes into the body as it is.
    """

    model: str
    messages: tuple[ChatMessage | Mapping[str, Any], ...] = field(repr=False)
    tools: Sequence[Mapping[str, Any]] | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    response_format: Mapping[str, Any] | type[BaseModel] | None = None
    timeout: float = 60.0
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Dialect(Protocol):
    """A vendor's way to chat, under one key."""

    async def complete(self, request: ChatRequest) -> ChatResponse:
        """Return the whole answer."""
        ...

    def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResponse]:
        """Yield the text piece by piece, and the whole answer at the end."""
        ...


def chat_request(
    model: str,
    messages: Sequence[ChatMessage | Mapping[str, Any]] | None,
    *,
    prompt: str | None = None,
    system: str | None = None,
    vendor: str,
    **options: Any,
) -> ChatRequest:
    """Return the request for what a caller of `chat()` gave.

    Raises:
        InvalidRequestError: neither or both of `messages` and `prompt`.
    """
    if (messages is None) == (prompt is None) or messages == []:
        raise InvalidRequestError(
            f"{vendor}: give either messages or a prompt, and not an empty list",
            provider=vendor,
            model=model,
            param="messages",
            sent=False,
        )
    turns = list(messages or [])
    if system is not None:
        turns.insert(0, ChatMessage("system", system))
    if prompt is not None:
        turns.append(ChatMessage("user", prompt))
    known = {name: options.pop(name) for name in _OPTIONS if name in options}
    return ChatRequest(
        model=model,
        messages=tuple(turns),
        extra={name: value for name, value in options.items() if value is not None},
        **known,
    )


def message_of(turn: ChatMessage | Mapping[str, Any]) -> ChatMessage:
    """Return a turn as a `ChatMessage`, also one in OpenAI's form."""
    if isinstance(turn, ChatMessage):
        return turn
    calls = cast(Sequence[Mapping[str, Any]], turn.get("tool_calls") or ())
    return ChatMessage(
        role=turn.get("role", "user"),
        content=turn.get("content") or "",
        name=turn.get("name"),
        tool_call_id=turn.get("tool_call_id"),
        tool_calls=tuple(
            tool_call(call.get("id", ""), call["function"]["name"], call["function"]["arguments"])
            for call in calls
        ),
    )


def tool_call(
    id: str, name: str, arguments: object, *, provider_data: Mapping[str, Any] | None = None
) -> ToolCall:
    """Return a call whose arguments came as JSON text or as a mapping."""
    if isinstance(arguments, Mapping):
        return ToolCall(id, name, dict(cast(Mapping[str, Any], arguments)), None, provider_data)
    text = arguments if isinstance(arguments, str) else ""
    try:
        parsed = json.loads(text) if text.strip() else {}
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        return ToolCall(id, name, {}, text, provider_data)
    return ToolCall(id, name, cast(dict[str, Any], parsed), None, provider_data)


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a pydantic model, closed as strict structured output demands."""
    return cast(dict[str, Any], _closed(model.model_json_schema()))


def _closed(schema: object) -> object:
    if isinstance(schema, list):
        return [_closed(item) for item in cast(list[object], schema)]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in cast(dict[str, object], schema).items()}
    properties = closed.get("properties")
    if isinstance(properties, dict):
        closed["additionalProperties"] = False
        closed["required"] = list(cast(dict[str, object], properties))
    return closed


def chat_cost(rate: TokenRate | None, response: ChatResponse) -> float | None:
    """Return what a chat cost in USD by its tokens; None when anything is unknown."""
    counts = (response.tokens_in, response.tokens_out, response.tokens_cached or 0)
    # It is paid: whatever a vendor may report as a count, nothing may fail here.
    if rate is None or not all(isinstance(count, int) for count in counts):
        return None
    return rate.of(*counts)


_OPTIONS = ("tools", "temperature", "max_tokens", "response_format", "timeout")
