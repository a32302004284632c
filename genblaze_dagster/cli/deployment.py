"""A running Dagster deployment, over its GraphQL interface: find the replay job, launch, follow."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.client import HttpClient
from genblaze_dagster.net.graphql import GraphQLClient
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.replay_config import REPLAY_TAG, run_config

ACCESS_VARIABLE: Final = "GENBLAZE_DAGSTER_TOKEN"
_ACCESS_HEADER: Final = "Dagster-Cloud-Api-Token"

_JOBS: Final = """
query ReplayJobs {
  repositoriesOrError {
    __typename
    ... on Error { message }
    ... on RepositoryConnection {
      nodes { name location { name } jobs { name tags { key value } } }
    }
  }
}
"""
_LAUNCH: Final = """
mutation LaunchReplay($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}
"""
_STATUS: Final = """
query ReplayStatus($runId: ID!) {
  runOrError(runId: $runId) {
    __typename
    ... on Run { status }
    ... on Error { message }
  }
}
"""
_ENDED: Final = ("SUCCESS", "FAILURE", "CANCELED")
SUCCESS: Final = _ENDED[0]
_FIRST_LOOK_SECONDS: Final = 0.5
_LONGEST_WAIT_SECONDS: Final = 5.0
_MOST_MISSED_ANSWERS: Final = 5
_QUOTED_CHARS: Final = 300


@dataclass(frozen=True, slots=True)
class Job:
    """A job of a code location."""

    name: str
    repository: str
    location: str


class Deployment:
    """A Dagster webserver.

    Args:
        url: its address, as in the browser. GENBLAZE_DAGSTER_TOKEN is sent as Dagster+ wants it.
        client: for tests, as `sleep`.

    Raises:
        ConfigError: `url` is no web address.
    """

    def __init__(
        self,
        url: str,
        *,
        client: HttpClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sleep = sleep
        self._url = url.rstrip("/").removesuffix("/graphql")
        token = os.environ.get(ACCESS_VARIABLE)
        headers = {_ACCESS_HEADER: token} if token else {}
        self._client = GraphQLClient(f"{self._url}/graphql", headers=headers, client=client)

    def run_url(self, run_id: str) -> str:
        """Return where a person sees a run."""
        return f"{self._url}/runs/{run_id}"

    async def replay_job(self, location: str | None) -> Job:
        """Return the job that replays runs.

        Args:
            location: the code location to look in, when several have one.

        Raises:
            ConfigError: there is none, or more than one.
        """
        answer = (await self._client.query(_JOBS, {}))["repositoriesOrError"]
        _refuse_errors(answer, "RepositoryConnection", "the code locations cannot be listed")
        found = [
            Job(job["name"], repository["name"], repository["location"]["name"])
            for repository in answer["nodes"]
            for job in repository["jobs"]
            if any(tag["key"] == REPLAY_TAG for tag in job["tags"])
            and location in (None, repository["location"]["name"])
        ]
        if len(found) == 1:
            return found[0]
        where = self._url if location is None else f"code location {location!r} of {self._url}"
        if not found:
            raise ConfigError(
                f"{where} has no replay job; add genblaze_dagster.replay.replay_job() to its "
                "Definitions and reload the code location"
            )
        names = ", ".join(sorted({job.location for job in found}))
        raise ConfigError(f"{where} has {len(found)} replay jobs ({names}); name one by --location")

    async def launch(self, job: Job, config: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Launch a run of the replay job and return its id.

        Raises:
            ConfigError: the deployment refuses.
        """
        params = {
            "selector": {
                "repositoryLocationName": job.location,
                "repositoryName": job.repository,
                "jobName": job.name,
            },
            "runConfigData": run_config(job.name, dict(config)),
            "executionMetadata": {
                "tags": [{"key": key, "value": value} for key, value in tags.items()]
            },
        }
        answer = (await self._client.query(_LAUNCH, {"params": params}))["launchRun"]
        _refuse_errors(answer, "LaunchRunSuccess", "the replay was not launched")
        return answer["run"]["runId"]

    async def follow(self, run_id: str) -> str:
        """Return the status with which a run ends; waits as long as that takes.

        Raises:
            ConfigError: the deployment does not answer any more; the run goes on.
        """
        wait, missed = _FIRST_LOOK_SECONDS, 0
        while True:
            try:
                status = await self._status(run_id)
                missed = 0
            except ConfigError:
                missed += 1
                if missed == _MOST_MISSED_ANSWERS:
                    raise
                status = None
            if status in _ENDED:
                return str(status)
            await self._sleep(wait)
            wait = min(wait * 1.5, _LONGEST_WAIT_SECONDS)

    async def _status(self, run_id: str) -> str:
        answer = (await self._client.query(_STATUS, {"runId": run_id}))["runOrError"]
        _refuse_errors(answer, "Run", f"run {run_id} cannot be followed")
        return answer["status"]


def _refuse_errors(answer: Mapping[str, Any], wanted: str, failure: str) -> None:
    kind = answer["__typename"]
    if kind == wanted:
        return
    errors = answer.get("errors") or [answer]
    told = redact(str(errors[0].get("message") or "no reason given"), max_chars=_QUOTED_CHARS)
    raise ConfigError(f"{failure}: {kind}: {told}")
