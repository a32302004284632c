import asyncio
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genblaze_dagster.errors import (
    AuthError,
    InvalidRequestError,
    OutputError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from genblaze_dagster.providers.nvidia.chat import achat, astream_chat, chat, list_chat_models
from tests.support.chats import check_chat, options_of
from tests.support.vendor import assert_equal_requests
from tests.support.wire import API_KEY, Scenario, replay, scenario_names

# NVIDIA's own client says `stream: false`, and waits for a job; each is one call of ours.
OWN_CLIENT = ("chat_nvidia_client", "chat_nvidia_client_202")
CHATS = [name for name in scenario_names("nvidia", "chat_*") if name not in OWN_CLIENT]
MODEL = "meta/llama-3.3-70b-instruct"


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "nvidia" / f"{name}.json")


def run(scenario: Scenario, call: Callable[[Any], Any]) -> tuple[Any, list[Any]]:
    """Await `call(client)` against a scenario's answers; return its answer and what arrived."""

    async def main() -> Any:
        async with wire.client() as client:
            return await call(client)

    with replay(scenario) as wire:
        answer = asyncio.run(main())
    return answer, wire.received


def played(*answers: dict[str, Any]) -> Scenario:
    return Scenario("own", "nvidia", {}, [{"response": answer} for answer in answers])


@pytest.mark.parametrize("name", CHATS)
def test_a_golden_chat_sends_equal_requests_and_answers_as_expected(
    vectors: Path, name: str
) -> None:
    """Each golden chat gives an equal request and the expected text, tokens or error."""
    check_chat(load(vectors, name), achat, astream_chat)


@pytest.mark.parametrize("name", OWN_CLIENT)
def test_a_chat_of_nvidias_own_client_is_the_same(vectors: Path, name: str) -> None:
    """One call sends what NVIDIA's client sends, and waits for a job where it gets one."""
    scenario = load(vectors, name)
    body = scenario.exchanges[0]["request"]["json"]
    answer, received = run(
        scenario,
        lambda client: achat(
            MODEL, body["messages"], api_key=API_KEY, client=client, **options_of(body)
        ),
    )
    assert_equal_requests(scenario, received)
    assert answer.text == scenario.expect["text"]
    assert answer.cost_usd is None


def test_the_models_that_chat_are_listed(vectors: Path) -> None:
    """They are those of the chat address; media models have no list."""
    scenario = load(vectors, "models_list")
    found, received = run(scenario, lambda client: list_chat_models(API_KEY, client=client))
    assert_equal_requests(scenario, received)
    assert found == [MODEL]


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("nvidia", "chat_*"))
    print(f"nvidia chat: {len(CHATS) + len(OWN_CLIENT)} of {count} vectors replayed")
    assert len(CHATS) + len(OWN_CLIENT) == count


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ('{"message": "busy", "code": 429}', RateLimitError),
        ('{"message": "engine died", "type": "Internal", "code": "x"}', ProviderError),
        ('{"message": "bad tool", "code": 400}', InvalidRequestError),
        ('"worker lost"', ProviderError),
    ],
    ids=["code", "words", "invalid", "text"],
)
def test_an_error_inside_a_stream_is_raised(error: str, kind: type[ProviderError]) -> None:
    """The text before it is given, then the error of its kind."""
    chunk = '{"id": "1", "choices": [{"index": 0, "delta": {"content": "Hel"}}]}'
    body = f'data: {chunk}\n\ndata: {{"error": {error}}}\n\n'
    texts: list[Any] = []

    async def read(client: Any) -> None:
        async for piece in astream_chat(MODEL, prompt="Hi", api_key=API_KEY, client=client):
            texts.append(piece)

    with pytest.raises(kind) as caught:
        run(played({"status": 200, "headers": {}, "body_text": body}), read)
    assert type(caught.value) is kind
    assert texts == ["Hel"]


def test_an_answer_that_is_no_stream_is_no_empty_text() -> None:
    """A job in the place of a stream is an error, not silence."""

    async def read(client: Any) -> None:
        async for _ in astream_chat(MODEL, prompt="Hi", api_key=API_KEY, client=client):
            pass

    with pytest.raises(OutputError, match="no stream"):
        run(played({"status": 202, "headers": {"nvcf-reqid": "1"}, "json": {}}), read)


def test_a_job_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout of a chat counts for the whole of it."""
    # A clock that is 20 s later at each look.
    clock = SimpleNamespace(monotonic=partial(next, count(step=20)))
    monkeypatch.setattr(import_module("genblaze_dagster.providers.nvidia.chat"), "time", clock)
    pending = {"status": 202, "headers": {"nvcf-reqid": "1"}, "json": {}}
    with pytest.raises(ProviderTimeoutError, match="longer timeout"):
        run(
            played(*[pending] * 8),
            lambda client: achat(MODEL, prompt="Hi", api_key=API_KEY, client=client, timeout=60.0),
        )


def test_a_job_without_an_id_cannot_be_waited_for() -> None:
    """The gateway's acceptance alone leads nowhere."""
    with pytest.raises(ProviderUnavailableError, match="names no job"):
        run(
            played({"status": 202, "headers": {}, "json": {}}),
            lambda client: achat(MODEL, prompt="Hi", api_key=API_KEY, client=client),
        )


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    with pytest.raises(AuthError, match="NVIDIA_API_KEY"):
        chat(MODEL, prompt="Hi")
