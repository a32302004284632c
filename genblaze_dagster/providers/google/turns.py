"""A chat's messages and tools in Gemini's form.

The assistant is `model`; system texts stand apart, in `systemInstruction`; answers of tools are parts
of the user's turn, by name. Ids of calls are optional and go back only where Gemini gave them, as do
the signatures of its thoughts.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from mimetypes import guess_type
from typing import Any, cast

from genblaze_dagster.errors import InvalidRequestError
from genblaze_dagster.providers.vendor.chat import ChatMessage, Content, ToolCall, message_of

_MEDIA_BLOCKS = ("image_url", "video_url", "audio_url")
_SCHEMA_MAPS = ("properties", "$defs", "definitions")
_SCHEMAS = ("items", "prefixItems", "anyOf", "allOf", "oneOf", "not", "additionalProperties")
_DEEPEST = 64


def turns_of(
    messages: Iterable[ChatMessage | Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the contents of a chat, and the parts of its system instruction.

    Raises:
        InvalidRequestError: a block of a message that Gemini has no part for.
    """
    contents: list[dict[str, Any]] = []
    system: list[dict[str, Any]] = []
    calls: dict[str, ToolCall] = {}
    follows_tool = False
    for message in map(message_of, messages):
        if message.role == "system":
            system += _parts(message.content)
            continue
        is_tool = message.role == "tool"
        if is_tool:
            parts = [_tool_answer(message, calls.get(message.tool_call_id or ""))]
        else:
            parts = _parts(message.content) + [_call(call) for call in message.tool_calls]
            calls |= {call.id: call for call in message.tool_calls}
        if is_tool and follows_tool:
            # Answers to calls of one turn belong into one turn.
            contents[-1]["parts"] += parts
        else:
            role = "model" if message.role == "assistant" else "user"
            contents.append({"role": role, "parts": parts})
        follows_tool = is_tool
    return contents, system


def tools_of(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return tools: functions in OpenAI's form gathered as declarations, Gemini's own as they are."""
    functions = [_declaration(tool["function"]) for tool in tools if "function" in tool]
    own = [dict(tool) for tool in tools if "function" not in tool]
    return ([{"functionDeclarations": functions}] if functions else []) + own


def _parts(content: Content) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"text": content}] if content else []
    return [_part(block) for block in content]


def _part(block: Mapping[str, Any]) -> dict[str, Any]:
    kind = block.get("type")
    if kind is None:
        # A part of Gemini's, such as one of an earlier answer with its thought signature.
        return dict(block)
    if kind == "text":
        return {"text": str(block["text"])}
    if kind not in _MEDIA_BLOCKS:
        raise InvalidRequestError(
            f"google: a block of type {kind!r} in a message; allowed: text, "
            f"{', '.join(_MEDIA_BLOCKS)}, or parts in Gemini's own form, which have no type",
            provider="google",
            param="messages",
            sent=False,
        )
    named = block[kind]
    url = str(named["url"] if isinstance(named, Mapping) else named)
    if url.startswith("data:"):
        head, _, data = url.removeprefix("data:").partition(",")
        return {"inlineData": {"mimeType": head.partition(";")[0], "data": data}}
    media_type, _ = guess_type(url)
    typed = {} if media_type is None else {"mimeType": media_type}
    return {"fileData": {"fileUri": url, **typed}}


def _call(call: ToolCall) -> dict[str, Any]:
    kept = call.provider_data or {}
    named = {"id": kept["id"]} if "id" in kept else {}
    part: dict[str, Any] = {
        "functionCall": {**named, "name": call.name, "args": dict(call.arguments)}
    }
    if "thoughtSignature" in kept:
        part["thoughtSignature"] = kept["thoughtSignature"]
    return part


def _tool_answer(message: ChatMessage, call: ToolCall | None) -> dict[str, Any]:
    name = message.name or (call.name if call is not None else None)
    if name is None:
        raise InvalidRequestError(
            "google: the answer of a tool belongs to no call of an earlier turn; give its name, or "
            "the tool_call_id of a call among the messages",
            provider="google",
            param="messages",
            sent=False,
        )
    kept = (call.provider_data or {}) if call is not None else {}
    named = {"id": kept["id"]} if "id" in kept else {}
    return {"functionResponse": {**named, "name": name, "response": _response(message.content)}}


def _response(content: Content) -> dict[str, Any]:
    """Return what a tool said as an object, which is what Gemini takes."""
    if not isinstance(content, str):
        return {"result": [dict(block) for block in content]}
    try:
        parsed = json.loads(content)
    except ValueError:
        parsed = content
    return cast(dict[str, Any], parsed) if isinstance(parsed, dict) else {"result": parsed}


def _declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    declared = {name: function[name] for name in ("name", "description") if name in function}
    if function.get("parameters"):
        declared["parameters"] = _schema(function["parameters"])
    return declared


def _schema(schema: object, depth: int = 0) -> Any:
    """Write the types of a JSON schema as Gemini does: `string` becomes `STRING`."""
    if isinstance(schema, list) and depth <= _DEEPEST:
        return [_schema(item, depth + 1) for item in cast(list[object], schema)]
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return schema
    made: dict[str, Any] = {}
    for key, value in cast(Mapping[str, Any], schema).items():
        if key == "type" and isinstance(value, str):
            made[key] = value.upper()
        elif key in _SCHEMA_MAPS and isinstance(value, Mapping):
            children = cast(Mapping[str, Any], value)
            made[key] = {name: _schema(child, depth + 1) for name, child in children.items()}
        else:
            # Defaults and examples are values, whatever their keys are called.
            made[key] = _schema(value, depth + 1) if key in _SCHEMAS else value
    return made
