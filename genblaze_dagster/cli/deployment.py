"""A running Dagster deployment, over its GraphQL interface: find jobs and assets, launch, follow."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
_ASSETS: Final = """
query Assets($keys: [AssetKeyInput!]) {
  assetNodes(assetKeys: $keys) {
    assetKey { path }
    jobNames
    isPartitioned
    partitionKeys
    partitionKeysByDimension { name }
    backfillPolicy { maxPartitionsPerRun }
    repository { name location { name } }
  }
}
"""
_LAUNCH: Final = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}
"""
_STATUS: Final = """
query Status($runId: ID!) {
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
_ASSET_JOB: Final = "__ASSET_JOB"
"""Start of the names of the jobs with which Dagster materialises selected assets."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job of a code location."""

    name: str
    repository: str
    location: str


@dataclass(frozen=True, slots=True)
class DeployedAsset:
    """An asset of a code location.

    `partition_keys` are in Dagster's order, None of an asset without partitions; `dimensions` are
    the names of those of multi-partition keys, else empty. `partitions_per_run` is None when a run
    may take any number.
    """

    key: str
    job: Job
    partition_keys: Sequence[str] | None
    dimensions: Sequence[str]
    partitions_per_run: int | None


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
        given = {"runConfigData": run_config(job.name, dict(config))}
        return await self._launch(_selector(job), tags, given, "the replay was not launched")

    async def assets(self, keys: Sequence[str], location: str | None) -> list[DeployedAsset]:
        """Return the materialisable assets of these keys; those that are not there are left out.

        Args:
            keys: asset keys, their parts joined with `/`.
            location: the code location to look in, when several have them.

        Raises:
            ConfigError: the deployment cannot be asked.
        """
        paths = [{"path": key.split("/")} for key in keys]
        nodes = (await self._client.query(_ASSETS, {"keys": paths}))["assetNodes"]
        return [
            asset
            for node in nodes
            if location in (None, node["repository"]["location"]["name"])
            and (asset := _asset(node)) is not None
        ]

    async def materialize(self, asset: DeployedAsset, tags: Mapping[str, str]) -> str:
        """Launch a run of one asset and return its id; tags tell its partitions.

        Raises:
            ConfigError: the deployment refuses.
        """
        selector = {
            **_selector(asset.job),
            "assetSelection": [{"path": asset.key.split("/")}],
            # Its checks run with it, as when a person materialises it.
            "assetCheckSelection": None,
        }
        return await self._launch(selector, tags, {}, f"{asset.key} was not launched")

    async def _launch(
        self,
        selector: Mapping[str, object],
        tags: Mapping[str, str],
        given: Mapping[str, object],
        failure: str,
    ) -> str:
        metadata = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        params = {"selector": selector, "executionMetadata": metadata, **given}
        answer = (await self._client.query(_LAUNCH, {"params": params}))["launchRun"]
        _refuse_errors(answer, "LaunchRunSuccess", failure)
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


def _selector(job: Job) -> dict[str, object]:
    return {
        "repositoryLocationName": job.location,
        "repositoryName": job.repository,
        "jobName": job.name,
    }


def _asset(node: Mapping[str, Any]) -> DeployedAsset | None:
    job = next((name for name in node["jobNames"] if name.startswith(_ASSET_JOB)), None)
    if job is None:
        return None
    policy = node["backfillPolicy"]
    dimensions = [dimension["name"] for dimension in node["partitionKeysByDimension"]]
    repository = node["repository"]
    return DeployedAsset(
        key="/".join(node["assetKey"]["path"]),
        job=Job(job, repository["name"], repository["location"]["name"]),
        partition_keys=node["partitionKeys"] if node["isPartitioned"] else None,
        dimensions=dimensions if len(dimensions) > 1 else [],
        partitions_per_run=1 if policy is None else policy["maxPartitionsPerRun"],
    )


def _refuse_errors(answer: Mapping[str, Any], wanted: str, failure: str) -> None:
    kind = answer["__typename"]
    if kind == wanted:
        return
    errors = answer.get("errors") or [answer]
    told = redact(str(errors[0].get("message") or "no reason given"), max_chars=_QUOTED_CHARS)
    raise ConfigError(f"{failure}: {kind}: {told}")
