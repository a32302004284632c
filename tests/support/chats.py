"""Golden chats of OpenAI's protocol, replayed through a vendor's `chat` functions."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from genblaze_dagster.errors import ProviderError
from genblaze_dagster.providers.vendor.chat import ChatResponse
from tests.support.vendor import ERRORS, assert_equal_requests
from tests.support.wire import API_KEY, Scenario, replay


def options_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments a user of ours gives for what a captured body asks."""
    options = {name: value for name, value in body.items() if name not in ("model", "messages")}
    if "max_completion_tokens" in options:
        options["max_tokens"] = options.pop("max_completion_tokens")
    return options


def check_chat(
    scenario: Scenario, achat: Callable[..., Any], astream_chat: Callable[..., Any]
) -> None:
    """Make the scenario's call, streamed when it was, and assert requests and answer."""
    body = scenario.exchanges[0]["request"]["json"]
    options = options_of(body)
    streams = options.pop("stream", False)
    options.pop("stream_options", None)
    answers: list[ChatResponse] = []
    errors: list[ProviderError] = []
    texts: list[str] = []

    async def once(client: Any) -> None:
        arguments = {"api_key": API_KEY, "client": client, **options}
        if not streams:
            answers.append(await achat(body["model"], body["messages"], **arguments))
            return
        async for piece in astream_chat(body["model"], body["messages"], **arguments):
            (texts if isinstance(piece, str) else answers).append(piece)

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
    if "error_code" in scenario.expect:
        _check_error(scenario.expect, errors[-1])
        return
    _check_answer(scenario.expect, answers[-1])
    if streams:
        assert "".join(texts) == scenario.expect["text"]
        assert len(texts) > 1


def _check_error(expect: Mapping[str, Any], error: ProviderError) -> None:
    assert isinstance(error, ERRORS[expect["error_code"]])
    assert error.transient is expect["retryable"]
    assert error.retry_after == expect.get("retry_after_s")
    assert API_KEY not in str(error)


def _check_answer(expect: Mapping[str, Any], answer: ChatResponse) -> None:
    for name in ("text", "finish_reason", "tokens_in", "tokens_out", "reasoning"):
        if name in expect:
            assert getattr(answer, name) == expect[name]
    for wanted, call in zip(expect.get("tool_calls", []), answer.tool_calls, strict=True):
        assert {name: getattr(call, name) for name in wanted} == wanted
