import json

import httpx
import pytest

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.graphql import GraphQLClient
from genblaze_dagster.net.loop import run_sync

URL = "http://dagster.internal:3000/graphql"
TOKEN = "agent-token-0123456789abcdef"


def ask(answer: httpx.Response | Exception) -> object:
    """Send one query to a server that answers so."""

    def serve(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content) == {"query": "{ x }", "variables": {"n": 1}}
        assert request.headers["Dagster-Cloud-Api-Token"] == TOKEN
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def body() -> object:
        async with httpx.AsyncClient(transport=httpx.MockTransport(serve)) as client:
            headers = {"Dagster-Cloud-Api-Token": TOKEN}
            graphql = GraphQLClient(URL, headers=headers, client=client)
            return await graphql.query("{ x }", {"n": 1})

    return run_sync(body())


def test_data_is_returned_as_it_is() -> None:
    """A query with headers and variables gives the data of its answer."""
    assert ask(httpx.Response(200, json={"data": {"x": 1}})) == {"x": 1}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.ConnectError("refused"), "is the server running there"),
        (httpx.ReadTimeout("slow"), "is the server running there"),
        (httpx.Response(401), "check the token"),
        (httpx.Response(403, json={"data": {}}), "check the token"),
        (httpx.Response(404, text="<html>"), "HTTP 404 without a GraphQL answer"),
        (httpx.Response(200, json=[1]), "without a GraphQL answer"),
        (httpx.Response(200, json={"data": None}), "no reason given"),
        (httpx.Response(200, json={"data": {}, "errors": [{"message": "no x"}]}), "failed: no x"),
        (httpx.Response(200, json={"errors": "broken"}), "no reason given"),
        (httpx.Response(200, json={"errors": [7]}), "no reason given"),
    ],
    ids=[
        "unreachable",
        "timeout",
        "unauthorised",
        "forbidden",
        "no endpoint",
        "no object",
        "no data",
        "errors",
        "broken errors",
        "odd errors",
    ],
)
def test_every_failure_is_one_kind_of_error(answer: httpx.Response | Exception, words: str) -> None:
    """It names the server and what to do, and never the token."""
    with pytest.raises(ConfigError, match=words) as caught:
        ask(answer)
    assert "dagster.internal" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_messages_of_a_server_are_redacted_and_cut() -> None:
    """Whatever a server repeats of our request does not reach a terminal."""
    message = f"token {TOKEN} sk-proj-{'a1B2' * 10} " + "x" * 1000
    with pytest.raises(ConfigError) as caught:
        ask(httpx.Response(200, json={"errors": [{"message": message}]}))
    assert "sk-proj" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("url", ["ftp://host/graphql", "localhost:3000", "http://[::1", "http://"])
def test_only_web_addresses_are_asked(url: str) -> None:
    """A missing scheme is the usual mistake."""
    with pytest.raises(ConfigError, match="not a web address"):
        GraphQLClient(url)
