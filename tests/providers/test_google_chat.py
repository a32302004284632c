import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    OutputError,
    ProviderError,
    ProviderUnavailableError,
)
from genblaze_dagster.providers.google.chat import achat, astream_chat, body_of, chat
from genblaze_dagster.providers.vendor.chat import ChatMessage, ChatResponse, chat_request
from tests.support.vendor import ERRORS, assert_equal_requests
from tests.support.wire import API_KEY, Scenario, replay, scenario_names

MODEL = "gemini-2.5-flash"
SIGNATURE = "c2lnbmF0dXJl"


class Dot(BaseModel):
    colour: str


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "google" / f"{name}.json")


def block_of(part: Mapping[str, Any]) -> dict[str, Any]:
    if "text" in part:
        return {"type": "text", "text": part["text"]}
    inline = part["inlineData"]
    url = f"data:{inline['mime_type']};base64,{inline['data']}"
    return {"type": "image_url", "image_url": {"url": url}}


def options_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments a user of ours gives for what a captured body asks."""
    config = dict(body.get("generationConfig", {}))
    options: dict[str, Any] = {
        "messages": [
            {
                "role": "assistant" if content["role"] == "model" else "user",
                "content": [block_of(part) for part in content["parts"]],
            }
            for content in body["contents"]
        ]
    }
    if "systemInstruction" in body:
        options["system"] = body["systemInstruction"]["parts"][0]["text"]
    if "maxOutputTokens" in config:
        options["max_tokens"] = config.pop("maxOutputTokens")
    if "topP" in config:
        options["top_p"] = config.pop("topP")
    if "tools" in body:
        options["tools"] = [
            {"type": "function", "function": lower_types(declared)}
            for declared in body["tools"][0]["functionDeclarations"]
        ]
    return {**options, **config}


def lower_types(value: Any) -> Any:
    """Return a schema as OpenAI's form has it."""
    if not isinstance(value, dict):
        return value
    return {
        key: child.lower() if key == "type" else lower_types(child) for key, child in value.items()
    }


def make_calls(
    scenario: Scenario, options: Mapping[str, Any], *, streams: bool
) -> tuple[list[ChatResponse], list[str], list[ProviderError]]:
    """Make the call as often as the scenario has answers; return answers, pieces and errors."""
    answers: list[ChatResponse] = []
    pieces: list[str] = []
    errors: list[ProviderError] = []

    async def once(client: Any) -> None:
        url = scenario.exchanges[0]["request"]["url"]
        arguments = {"api_key": API_KEY, "client": client, **options}
        model = url.rpartition("/")[2].partition(":")[0]
        if not streams:
            answers.append(await achat(model, **arguments))
            return
        async for piece in astream_chat(model, **arguments):
            if isinstance(piece, str):
                pieces.append(piece)
            else:
                answers.append(piece)

    async def main() -> None:
        async with wire.client() as client:
            for _ in scenario.exchanges:
                try:
                    await once(client)
                except ProviderError as exc:
                    errors.append(exc)

    with replay(scenario) as wire:
        asyncio.run(main())
    assert_equal_requests(scenario, wire.received)
    return answers, pieces, errors


@pytest.mark.parametrize("name", scenario_names("google", "chat_*"))
def test_a_golden_chat_sends_equal_requests_and_answers_as_expected(
    vectors: Path, name: str
) -> None:
    """Each golden chat gives an equal request and the expected text, calls, tokens or error."""
    scenario = load(vectors, name)
    expect = scenario.expect
    request = scenario.exchanges[0]["request"]
    streams = ":stream" in request["url"]
    answers, pieces, errors = make_calls(scenario, options_of(request["json"]), streams=streams)
    if "error_code" in expect:
        assert isinstance(errors[-1], ERRORS[expect["error_code"]])
        assert errors[-1].transient is expect["retryable"]
        assert errors[-1].retry_after == expect.get("retry_after_s")
        assert API_KEY not in str(errors[-1])
        return
    assert len(errors) + 1 == expect.get("attempts", 1)
    (answer,) = answers
    for field in ("text", "finish_reason", "tokens_in", "tokens_out"):
        if field in expect:
            assert getattr(answer, field) == expect[field]
    for wanted, call in zip(expect.get("tool_calls", []), answer.tool_calls, strict=True):
        assert {field: getattr(call, field) for field in wanted} == wanted
    # gemini-2.5-flash at 0.30 USD per million tokens in and 2.50 out.
    assert answer.cost_usd == (answer.tokens_in * 30 + answer.tokens_out * 250) / 100_000_000
    if streams:
        assert pieces == ["Hel", "lo!"]


def streamed(vectors: Path, *events: Mapping[str, Any]) -> Scenario:
    """The golden stream with other events."""
    scenario = load(vectors, "chat_stream")
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    response = {**scenario.exchanges[0]["response"], "body_text": text}
    return replace(scenario, exchanges=[{**scenario.exchanges[0], "response": response}])


def candidate(*parts: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, **fields}]}


def test_a_stream_gathers_thoughts_and_calls(vectors: Path) -> None:
    """What comes in pieces is one answer in the end; thoughts are no text, but are billed."""
    scenario = streamed(
        vectors,
        candidate({"text": "hm", "thought": True}),
        candidate({"text": "Let me see."}),
        candidate(
            {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": SIGNATURE},
            finishReason="STOP",
        ),
        {"usageMetadata": {"candidatesTokenCount": 2, "thoughtsTokenCount": 5}},
    )
    options = {"prompt": "Say hello."}
    (answer,), pieces, _ = make_calls(scenario, options, streams=True)
    assert pieces == ["Let me see."]
    assert (answer.text, answer.reasoning) == ("Let me see.", "hm")
    assert answer.tool_calls[0].arguments == {"a": 1}
    assert (answer.tokens_in, answer.tokens_out) == (None, 7)
    assert answer.finish_reason == "STOP"
    assert len(answer.raw["candidates"][0]["content"]["parts"]) == 3


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"error": {"code": 503, "status": "UNAVAILABLE"}}, ProviderUnavailableError),
        (candidate({"text": "I"}, finishReason="SAFETY"), ContentPolicyError),
        ({"promptFeedback": {"blockReason": "OTHER"}}, ContentPolicyError),
        ({"usageMetadata": {}}, OutputError),
        ([], OutputError),
        (candidate(finishReason=None), OutputError),
    ],
    ids=["error", "filtered", "blocked", "empty", "no-object", "broken-off"],
)
def test_a_stream_that_goes_wrong_ends_in_a_typed_error(
    vectors: Path, event: Any, kind: type[ProviderError]
) -> None:
    """A stream begins with 200, so what goes wrong comes as an event."""
    options = {"prompt": "Say hello."}
    answers, _, errors = make_calls(streamed(vectors, event), options, streams=True)
    assert answers == []
    assert isinstance(errors[0], kind)


def test_a_call_and_its_answer_go_back_with_signature_and_id(vectors: Path) -> None:
    """A tool's answer finds its call; ids go back only where Gemini gave them."""
    scenario = load(vectors, "chat_basic")
    parts = [
        {
            "functionCall": {"id": "g1", "name": "weather", "args": {"city": "Oslo"}},
            "thoughtSignature": SIGNATURE,
        },
        {"functionCall": {"name": "time", "args": {}}},
    ]
    response = {"status": 200, "json": candidate(*parts, finishReason="STOP")}
    answered = replace(scenario, exchanges=[{**scenario.exchanges[0], "response": response}])
    (answer,), _, _ = make_calls(answered, {"prompt": "Say hello."}, streams=False)
    ids = [call.id for call in answer.tool_calls]
    request = chat_request(
        MODEL,
        [
            ChatMessage("user", "Weather and time?"),
            ChatMessage("assistant", answer.text, tool_calls=answer.tool_calls),
            ChatMessage("tool", '{"celsius": 3}', tool_call_id=ids[0]),
            ChatMessage("tool", "noon", tool_call_id=ids[1]),
            ChatMessage("user", "Thanks."),
        ],
        vendor="google",
    )
    assert body_of(request)["contents"] == [
        {"role": "user", "parts": [{"text": "Weather and time?"}]},
        {"role": "model", "parts": parts},
        {
            "role": "user",
            "parts": [
                {
                    "functionResponse": {
                        "id": "g1",
                        "name": "weather",
                        "response": {"celsius": 3},
                    }
                },
                {"functionResponse": {"name": "time", "response": {"result": "noon"}}},
            ],
        },
        {"role": "user", "parts": [{"text": "Thanks."}]},
    ]


def body(**options: Any) -> dict[str, Any]:
    return body_of(chat_request(MODEL, None, prompt="Hi", vendor="google", **options))


def test_options_go_where_gemini_looks_for_them() -> None:
    """Sampling goes into generationConfig under its own names, all else into the body."""
    made = body(
        top_p=0.5,
        stop="END",
        thinkingConfig={"thinkingBudget": 0},
        generationConfig={"candidateCount": 1},
        safetySettings=[],
    )
    assert made["generationConfig"] == {
        "topP": 0.5,
        "stopSequences": ["END"],
        "thinkingConfig": {"thinkingBudget": 0},
        "candidateCount": 1,
    }
    assert made["safetySettings"] == []
    assert set(made) == {"contents", "generationConfig", "safetySettings"}


@pytest.mark.parametrize(
    ("wanted", "config"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"responseMimeType": "application/json"}),
        (
            {"type": "json_schema", "json_schema": {"name": "d", "schema": {"type": "object"}}},
            {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}},
        ),
    ],
    ids=["text", "json_object", "json_schema"],
)
def test_a_response_format_in_openais_form_is_understood(
    wanted: dict[str, Any], config: dict[str, Any] | None
) -> None:
    """Structured output is asked for in Gemini's own way."""
    assert body(response_format=wanted).get("generationConfig") == config


def test_a_pydantic_model_becomes_a_schema() -> None:
    """Structured output asks for all properties and no others."""
    config = body(response_format=Dot)["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert config["responseJsonSchema"]["required"] == ["colour"]


def test_tools_keep_names_and_values_that_look_like_types() -> None:
    """Only types of the schema get capitals; Gemini's own tools stay as they are."""
    parameters = {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["a"], "default": {"type": "x"}},
            "list": {"type": "array", "items": {"anyOf": [{"type": "number"}]}},
        },
    }
    function = {"name": "f", "parameters": parameters, "strict": True}
    made = body(tools=[{"googleSearch": {}}, {"type": "function", "function": function}])
    declarations, own = made["tools"]
    assert own == {"googleSearch": {}}
    (declared,) = declarations["functionDeclarations"]
    assert declared["parameters"] == {
        "type": "OBJECT",
        "properties": {
            "type": {"type": "STRING", "enum": ["a"], "default": {"type": "x"}},
            "list": {"type": "ARRAY", "items": {"anyOf": [{"type": "NUMBER"}]}},
        },
    }
    assert set(declared) == {"name", "parameters"}


def test_media_and_geminis_own_parts_are_taken() -> None:
    """A file goes by its address, and parts of an earlier answer go back as they were."""
    own = {"text": "Hello", "thoughtSignature": SIGNATURE}
    messages = [
        {"role": "assistant", "content": [own]},
        {"role": "user", "content": [{"type": "video_url", "video_url": "https://a.test/v.mp4"}]},
    ]
    contents = body_of(chat_request(MODEL, messages, vendor="google"))["contents"]
    assert contents[0]["parts"] == [own]
    file = {"fileUri": "https://a.test/v.mp4", "mimeType": "video/mp4"}
    assert contents[1]["parts"] == [{"fileData": file}]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "hologram"}]},
        {"role": "tool", "content": "noon", "tool_call_id": "unknown"},
    ],
    ids=["block", "tool"],
)
def test_what_gemini_has_no_part_for_is_refused(message: dict[str, Any]) -> None:
    """A refusal says what is allowed, and that nothing was sent."""
    with pytest.raises(InvalidRequestError) as caught:
        asyncio.run(achat(MODEL, [message], api_key=API_KEY))
    assert caught.value.param == "messages"
    assert caught.value.sent is False


def test_a_model_that_would_change_the_address_is_refused() -> None:
    """The model is part of the URL, so it has to be a name."""
    with pytest.raises(ModelError, match="no name"):
        chat("../files/x", prompt="Hi", api_key=API_KEY)


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    with pytest.raises(AuthError, match="GEMINI_API_KEY"):
        chat(MODEL, prompt="Hi")
