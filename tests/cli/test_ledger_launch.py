import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from dagster_graphql.schema import create_schema
from graphql import parse, validate

from genblaze_dagster.cli import deployment as documents
from genblaze_dagster.cli.deployment import Deployment
from genblaze_dagster.cli.ledger_batches import Progress
from genblaze_dagster.cli.ledger_launch import launch
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.ledger.ledger import LedgerRow, SubmissionState
from genblaze_dagster.net.loop import run_sync
from tests.cli.conftest import PROGRAM
from tests.cli.resume_site import LOCATION, ROOT, Site, site
from tests.support.process import running
from tests.support.s3 import free_port
from tests.support.submissions import book

__all__ = ["site"]

KEYS = ["a", "b", "c", "d", "e"]


def node(key: str, **facts: Any) -> dict[str, Any]:
    return {
        "assetKey": {"path": key.split("/")},
        "jobNames": ["nightly", "__ASSET_JOB"],
        "isPartitioned": True,
        "partitionKeys": KEYS,
        "partitionKeysByDimension": [{"name": "default"}],
        "backfillPolicy": {"maxPartitionsPerRun": 50},
        "repository": {"name": "__repository__", "location": {"name": "media"}},
        **facts,
    }


class Server:
    """Answers from these assets, and keeps what it was asked to launch."""

    def __init__(self, *nodes: dict[str, Any], status: str = "SUCCESS") -> None:
        self._nodes = nodes
        self._status = status
        self.launched: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        if "assetNodes" in asked["query"]:
            return self._answer({"assetNodes": list(self._nodes)})
        if "launchRun" in asked["query"]:
            self.launched.append(asked["variables"]["params"])
            run = {"runId": f"run-{len(self.launched)}"}
            return self._answer({"launchRun": {"__typename": "LaunchRunSuccess", "run": run}})
        return self._answer({"runOrError": {"__typename": "Run", "status": self._status}})

    @staticmethod
    def _answer(data: dict[str, Any]) -> httpx.Response:
        return httpx.Response(200, json={"data": data})

    def run(self, rows: Sequence[LedgerRow], **options: Any) -> Progress:
        async def body() -> Progress:
            async with httpx.AsyncClient(transport=httpx.MockTransport(self)) as client:
                given = {"location": None, "wait": False, "regenerate": False, **options}
                deployment = Deployment(
                    "http://dagster:3000", client=client, sleep=lambda _: asyncio.sleep(0)
                )
                return await launch(rows, deployment, **given)

        return run_sync(body())

    @property
    def tags(self) -> list[dict[str, str]]:
        """The tags of each run."""
        return [
            {tag["key"]: tag["value"] for tag in params["executionMetadata"]["tags"]}
            for params in self.launched
        ]


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    """Open jobs of these partitions."""

    def make(*partitions: str | None, asset: str = "story/image") -> list[LedgerRow]:
        with book(f"sqlite:///{tmp_path / 'ledger.db'}") as kept:
            return [kept.stuck(key, f"job-{key}", asset_key=asset) for key in partitions]

    return make


def test_the_queries_are_ones_that_dagster_answers() -> None:
    """Checked against the schema that the installed webserver serves."""
    schema = create_schema().graphql_schema
    for name in ("_JOBS", "_ASSETS", "_LAUNCH", "_STATUS"):
        assert validate(schema, parse(getattr(documents, name))) == []


def test_neighbours_are_one_run_and_nothing_else_is_run(rows: Any) -> None:
    """Dagster is told the first and the last partition, so a gap ends a run."""
    server = Server(node("story/image"))
    work = server.run(rows("e", "b", "a", "d"))
    assert server.tags == [
        {
            "genblaze/resume_only": "true",
            "dagster/asset_partition_range_start": "a",
            "dagster/asset_partition_range_end": "b",
        },
        {
            "genblaze/resume_only": "true",
            "dagster/asset_partition_range_start": "d",
            "dagster/asset_partition_range_end": "e",
        },
    ]
    selector = server.launched[0]["selector"]
    assert selector["jobName"] == "__ASSET_JOB"
    assert selector["assetSelection"] == [{"path": ["story", "image"]}]
    assert [run.url for run in work.runs] == [
        "http://dagster:3000/runs/run-1",
        "http://dagster:3000/runs/run-2",
    ]
    assert work.problems == {}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"backfillPolicy": {"maxPartitionsPerRun": 1}}, 3),
        ({"backfillPolicy": None}, 3),
        ({"backfillPolicy": {"maxPartitionsPerRun": 2}}, 2),
        ({"backfillPolicy": {"maxPartitionsPerRun": None}}, 1),
    ],
    ids=["one-each", "no-policy", "two", "all"],
)
def test_a_run_takes_as_many_partitions_as_the_asset_allows(
    rows: Any, facts: dict[str, Any], expected: int
) -> None:
    """As a backfill of it would."""
    server = Server(node("story/image", **facts))
    server.run(rows("a", "b", "c"))
    assert len(server.launched) == expected


def test_partitions_of_several_dimensions_are_told_one_by_one(rows: Any) -> None:
    """Each dimension has a tag of its own, in the order of the names."""
    dimensions = [{"name": "size"}, {"name": "day"}]
    facts = {"partitionKeys": ["1|s", "1|m"], "partitionKeysByDimension": dimensions}
    server = Server(node("story/image", **facts))
    server.run(rows("1|s", "1|m"), regenerate=True)
    assert server.tags[0] == {
        "dagster/partition": "1|s",
        "dagster/partition/day": "1",
        "dagster/partition/size": "s",
    }
    assert len(server.tags) == 2


def test_an_asset_without_partitions_has_one_run(rows: Any) -> None:
    """No tag says anything of partitions."""
    server = Server(node("solo/cover", isPartitioned=False, partitionKeys=[]))
    server.run(rows(None, asset="solo/cover"))
    assert server.tags == [{"genblaze/resume_only": "true"}]


def test_what_the_deployment_does_not_have_is_left(rows: Any) -> None:
    """An asset, a partition, or one that only another job makes: with the reason."""
    there, gone = rows("a", "zz")
    (other,) = rows("a", asset="film/clip")
    server = Server(node("story/image"), node("film/clip", jobNames=["nightly"]))
    work = server.run([there, gone, other])
    assert len(server.launched) == 1
    assert "no such partition" in work.problems[gone.id]
    assert "no such asset" in work.problems[other.id]


def test_several_code_locations_need_a_name(rows: Any) -> None:
    """Nothing is guessed."""
    elsewhere = {"repository": {"name": "__repository__", "location": {"name": "copy"}}}
    two = (node("story/image"), node("story/image", **elsewhere))
    with pytest.raises(ConfigError, match=r"in 2 code locations \(copy, media\); name one by"):
        Server(*two).run(rows("a"))
    server = Server(*two)
    server.run(rows("b"), location="copy")
    assert server.launched[0]["selector"]["repositoryLocationName"] == "copy"


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE"])
def test_runs_are_followed_to_their_end(rows: Any, status: str) -> None:
    """Each has the status Dagster gave it."""
    work = Server(node("story/image"), status=status).run(rows("a", "c"), wait=True)
    assert [run.status for run in work.runs] == [status, status]


@pytest.mark.slow
def test_open_jobs_are_finished_by_a_real_webserver(site: Site) -> None:
    """A webserver, its code server, its run workers: finished by job id, and nothing submitted."""
    site.leave_open("a", "b", "d")
    home = site.folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}\n"
    )
    log, port = site.folder / "log.txt", free_port()
    program = Path(sys.executable).with_name("dagster-webserver")
    command = [str(program), "-f", str(LOCATION), "-h", "127.0.0.1", "-p", str(port)]
    env = {"DAGSTER_HOME": str(home), "PYTHONPATH": str(ROOT), "DAGSTER_DISABLE_TELEMETRY": "1"}
    url = f"http://127.0.0.1:{port}"
    with running(command, env=env, cwd=ROOT, log=log) as process:
        _wait_for(url, process, log)
        launch = [PROGRAM, "ledger", "resume", "--all", "--launch", url, "--wait", "--json"]
        done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert [one["outcome"] for one in document["submissions"]] == ["stored"] * 3
        assert [run["status"] for run in document["runs"]] == ["SUCCESS"] * 2
        assert site.bill == ["draw a", "draw b", "draw d"]
        # What has changed since is not submitted there either.
        (row,) = site.leave_open("c")
        site.say("prompt", "paint {subject}")
        done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
        assert done.returncode == 1, done.stdout
    (left,) = json.loads(done.stdout)["submissions"]
    assert (left["state"], left["job_id"]) == ("submitted", row.job_id)
    assert site.bill == ["draw a", "draw b", "draw d", "draw c"]
    assert len(site.rows(SubmissionState.STORED)) == 3


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the webserver was not ready: {log.read_text()}")
