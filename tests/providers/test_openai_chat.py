import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from genblaze_dagster.errors import AuthError, InvalidRequestError, OutputError, QuotaError
from genblaze_dagster.providers.openai.chat import achat, astream_chat, chat
from genblaze_dagster.providers.openai.vendor import OPENAI
from genblaze_dagster.providers.vendor.api import Api
from genblaze_dagster.providers.vendor.chat import (
    ChatMessage,
    ChatResponse,
    chat_request,
    tool_call,
)
from genblaze_dagster.providers.vendor.openai_chat import OpenAIChat
from tests.support.chats import check_chat
from tests.support.wire import API_KEY, Scenario, replay, scenario_names


class Dot(BaseModel):
    colour: str


@pytest.mark.parametrize("name", scenario_names("openai", "chat_*"))
def test_a_golden_chat_sends_equal_requests_and_answers_as_expected(
    vectors: Path, name: str
) -> None:
    """Each golden chat gives an equal request and the expected text, calls, tokens or error."""
    check_chat(Scenario.load(vectors / "wire" / "openai" / f"{name}.json"), achat, astream_chat)


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    with pytest.raises(AuthError, match="OPENAI_API_KEY"):
        chat("gpt-4.1-mini", prompt="Hi")


def test_messages_and_prompt_exclude_each_other() -> None:
    """Exactly one of the two is a chat."""
    for given in ({}, {"prompt": "Hi", "messages": [ChatMessage("user", "Hi")]}):
        with pytest.raises(InvalidRequestError, match="either messages or a prompt"):
            asyncio.run(achat("gpt-4.1-mini", api_key="k", **given))


def test_a_reasoning_model_gets_its_own_name_of_the_limit() -> None:
    """`max_tokens` becomes `max_completion_tokens` where the model refuses the former."""
    dialect = OpenAIChat(Api(OPENAI, api_key="k"), takes_max_tokens=lambda model: "gpt-4" in model)
    request = chat_request("gpt-5.4", None, prompt="Hi", vendor="openai", max_tokens=5)
    assert dialect.body(request)["max_completion_tokens"] == 5
    request = chat_request("gpt-4.1", None, prompt="Hi", vendor="openai", max_tokens=5)
    assert dialect.body(request)["max_tokens"] == 5


def test_a_pydantic_model_becomes_a_strict_schema() -> None:
    """Structured output asks for all properties and no others."""
    dialect = OpenAIChat(Api(OPENAI, api_key="k"))
    request = chat_request(
        "gpt-4.1", None, prompt="Hi", system="Be brief.", vendor="openai", response_format=Dot
    )
    body = dialect.body(request)
    schema = body["response_format"]["json_schema"]
    assert schema["name"] == "Dot"
    assert schema["schema"]["required"] == ["colour"]
    assert schema["schema"]["additionalProperties"] is False
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def test_arguments_that_cannot_be_read_are_kept_as_text() -> None:
    """A model's broken JSON neither fails the call nor gets lost."""
    broken = tool_call("1", "f", '{"a": ')
    assert (broken.arguments, broken.raw_arguments) == ({}, '{"a": ')
    assert tool_call("1", "f", "").arguments == {}
    assert tool_call("1", "f", '{"a": 1}').arguments == {"a": 1}


def answered(*, streams: bool = False, **response: Any) -> tuple[list[Any], Exception | None]:
    """Chat, and be answered with that; return what came and what was raised."""
    scenario = Scenario("odd", "openai", {}, [{"response": {"status": 200, **response}}])
    came: list[Any] = []

    async def main() -> None:
        async with wire.client() as client:
            options: dict[str, Any] = {"prompt": "Hi.", "api_key": API_KEY, "client": client}
            if not streams:
                came.append(await achat("gpt-4.1-mini", **options))
                return
            async for piece in astream_chat("gpt-4.1-mini", **options):
                came.append(piece)

    with replay(scenario) as wire:
        try:
            asyncio.run(main())
        except (OutputError, QuotaError) as exc:
            return came, exc
    return came, None


def test_a_stream_that_breaks_off_is_no_whole_answer() -> None:
    """Its pieces were passed on; half of it does not pass for the answer."""
    half = 'data: {"choices":[{"delta":{"content":"He"}}]}\n\n'
    came, raised = answered(streams=True, body_text=half)
    assert came == ["He"]
    assert isinstance(raised, OutputError)
    came, raised = answered(streams=True, body_text=f"{half}data: [DONE]\n\n")
    assert raised is None
    assert isinstance(came[-1], ChatResponse)


def test_an_error_with_the_status_of_a_success_is_that_error() -> None:
    """A gateway may put it into a 200."""
    _, raised = answered(json={"error": {"message": "No.", "code": "insufficient_quota"}})
    assert isinstance(raised, QuotaError)


@pytest.mark.parametrize(
    ("content", "text"),
    [("hi", "hi"), ([{"type": "text", "text": "h"}, {"text": "i"}], "hi"), (5, "")],
    ids=["text", "parts", "nonsense"],
)
def test_a_text_in_parts_is_one_text(content: object, text: str) -> None:
    """Some vendors of this protocol answer as one may ask; odd usage is no usage."""
    body = {"choices": [{"message": {"content": content}}], "usage": [1]}
    came, raised = answered(json=body)
    assert raised is None
    assert came[0].text == text
    assert came[0].tokens_in is None
