import json
from collections.abc import Sequence

import httpx
import pytest

from genblaze_dagster.cli.deployment import Deployment, Job
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.loop import run_sync

TOKEN = "agent-token-0123456789abcdef"


class Server:
    """Answers queries in the order they are written down, and keeps what it was asked."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.waited: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(200, json={"data": answer})

    def deployment(self, client: httpx.AsyncClient) -> Deployment:
        async def sleep(seconds: float) -> None:
            self.waited.append(seconds)

        return Deployment("https://dagster.example.com/prod/", client=client, sleep=sleep)


def locations(*found: tuple[str, Sequence[str]]) -> dict[str, object]:
    nodes = [
        {
            "name": "__repository__",
            "location": {"name": location},
            "jobs": [
                {"name": "other", "tags": []},
                *(
                    {"name": job, "tags": [{"key": "genblaze/replay", "value": "true"}]}
                    for job in jobs
                ),
            ],
        }
        for location, jobs in found
    ]
    return {"repositoriesOrError": {"__typename": "RepositoryConnection", "nodes": nodes}}


def status(value: str) -> dict[str, object]:
    return {"runOrError": {"__typename": "Run", "status": value}}


def find(server: Server, location: str | None = None) -> Job:
    async def body() -> Job:
        async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as client:
            return await server.deployment(client).replay_job(location)

    return run_sync(body())


def follow(server: Server) -> str:
    async def body() -> str:
        async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as client:
            return await server.deployment(client).follow("run-1")

    return run_sync(body())


def test_the_job_is_found_by_its_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is called; the token goes into Dagster+'s header, below the path of the URL."""
    monkeypatch.setenv("GENBLAZE_DAGSTER_TOKEN", TOKEN)
    server = Server(locations(("etl", []), ("media", ["again"])))
    assert find(server) == Job("again", "__repository__", "media")
    (request,) = server.requests
    assert str(request.url) == "https://dagster.example.com/prod/graphql"
    assert request.headers["Dagster-Cloud-Api-Token"] == TOKEN


def test_several_jobs_need_a_location() -> None:
    """Nothing is guessed: the code locations are named, and one can be chosen."""
    two = locations(("a", ["replay"]), ("b", ["replay"]))
    with pytest.raises(ConfigError, match=r"2 replay jobs \(a, b\); name one by --location"):
        find(Server(two))
    assert find(Server(two), "b").location == "b"
    with pytest.raises(ConfigError, match=r"code location 'c' of .* has no replay job"):
        find(Server(two), "c")


def test_a_deployment_that_cannot_list_says_why() -> None:
    """Dagster's own error is passed on."""
    failed = {"repositoriesOrError": {"__typename": "PythonError", "message": "no module"}}
    with pytest.raises(ConfigError, match="PythonError: no module"):
        find(Server(failed))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"__typename": "RunConfigValidationInvalid", "errors": [{"message": "missing field"}]},
            "RunConfigValidationInvalid: missing field",
        ),
        ({"__typename": "UnauthorizedError", "message": "not yours"}, "not yours"),
        ({"__typename": "NoModeProvidedError"}, "no reason given"),
    ],
    ids=["configuration", "permission", "silent"],
)
def test_a_refused_launch_says_why(answer: dict[str, object], words: str) -> None:
    """Nothing was launched, and the reason is Dagster's."""
    server = Server({"launchRun": answer})

    async def body() -> str:
        async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as client:
            job = Job("replay", "__repository__", "media")
            return await server.deployment(client).launch(job, {"manifest": "r"}, {"a": "b"})

    with pytest.raises(ConfigError, match=f"not launched: .*{words}"):
        run_sync(body())
    params = json.loads(server.requests[0].content)["variables"]["params"]
    assert params["runConfigData"] == {"ops": {"replay_run": {"config": {"manifest": "r"}}}}
    assert params["executionMetadata"] == {"tags": [{"key": "a", "value": "b"}]}


@pytest.mark.parametrize("ended", ["SUCCESS", "FAILURE", "CANCELED"])
def test_a_run_is_followed_to_its_end(ended: str) -> None:
    """A lost answer on the way does not matter, and the looks become rarer."""
    server = Server(status("STARTED"), httpx.ConnectError("blip"), status(ended))
    assert follow(server) == ended
    assert server.waited == sorted(set(server.waited))
    assert len(server.waited) == 2


def test_a_deployment_that_went_away_is_given_up() -> None:
    """The run goes on; the command says that it cannot be seen any more."""
    gone = [httpx.ConnectError("gone") for _ in range(5)]
    with pytest.raises(ConfigError, match="is the server running there"):
        follow(Server(*gone))
