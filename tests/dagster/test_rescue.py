import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from genblaze_dagster import Pipeline
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.ledger.ledger import Intent, Ledger, SubmissionState
from genblaze_dagster.pipeline.resuming import RESUME_ONLY_TAG
from genblaze_dagster.sensors import rescue_sensor
from tests.support.daemon import Daemon, daemon, sensor_tick, sqlite_instance
from tests.support.leases import end_leases
from tests.support.world import World, failed_records, prompts

pytestmark = [
    pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LOCATION = Path(__file__).parent / "locations" / "rescue.py"
IMAGE = dg.AssetKey(["story", "image"])
_WORKER = """
import dagster as dg
from genblaze_dagster._compat import partition_range_tags
from tests.dagster.locations.rescue import defs, images
dg.materialize(
    images, instance=dg.DagsterInstance.get(), resources=defs.resources,
    tags=partition_range_tags("a", "c"),
)
"""


def environment(folder: Path) -> dict[str, str]:
    """Where vendor, store and ledger are, for code server, worker and the runs in this process."""
    return {
        "VENDOR_FOLDER": str(folder),
        "GENBLAZE_STORE": (folder / "store").as_uri(),
        "GENBLAZE_LEDGER": f"sqlite:///{folder / 'ledger.db'}",
    }


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rescue")


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, places: Path) -> None:
    for name, value in environment(places).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def workspace(places: Path) -> Iterator[Daemon]:
    with (
        pytest.MonkeyPatch.context() as patch,
        sqlite_instance() as instance,
    ):
        for name, value in environment(places).items():
            # The code server inherits it.
            patch.setenv(name, value)
        with daemon(LOCATION, instance) as started:
            yield started


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen in 300 s"
        time.sleep(0.05)


def test_a_daemon_brings_home_what_a_killed_worker_left(workspace: Daemon, places: Path) -> None:
    """Three submits in all: one delivered before the kill, two fetched by one rescue run."""
    (places / "b.ready").touch()
    instance = workspace.instance
    home = {**os.environ, "DAGSTER_HOME": instance.root_directory}
    root = Path(__file__).parents[2]
    worker = subprocess.Popen([sys.executable, "-c", _WORKER], env=home, cwd=root)
    try:
        with Ledger(f"sqlite:///{places / 'ledger.db'}") as ledger:
            until(lambda: set(instance.get_materialized_partitions(IMAGE)) == {"b"})
            until(lambda: len(ledger.find(state=SubmissionState.SUBMITTED)) == 2)
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    assert sensor_tick(workspace) == []
    end_leases(places / "ledger.db")
    time.sleep(1)
    (places / "all.ready").touch()
    runs = sensor_tick(workspace)
    assert {run.tags["dagster/partition"] for run in runs} == {"a", "c"}
    assert all(RESUME_ONLY_TAG in run.tags for run in runs)
    assert set(instance.get_materialized_partitions(IMAGE)) == {"a", "b", "c"}
    assert sorted((places / "submits").read_text().split()) == ["a", "b", "c"]
    time.sleep(1)
    assert sensor_tick(workspace) == []


def leave(
    world: World, *places: tuple[str, str | None, int], expires: timedelta | None = None
) -> None:
    """Leave a submitted job of asset and partition behind, whose lease ended minutes ago."""
    for asset, partition, minutes in places:
        past = datetime.now(UTC) - timedelta(minutes=minutes)
        ledger = Ledger(f"sqlite:///{world.folder / 'ledger.db'}", clock=lambda past=past: past)
        with ledger:
            intent = Intent(asset, partition, "gone", f"{asset}-{partition}", "counting", "m")
            row = ledger.claim(intent, owner="dead", lease_seconds=1).submission
            ledger.mark_sending(row.id, "dead")
            ledger.submitted(row.id, "dead", f"job-{row.id}")
            if expires is not None:
                at = datetime.now(UTC) + expires
                ledger.succeeded(row.id, "dead", cost_usd=None, outputs_expire_at=at)


def evaluate(world: World, cursor: str | None = None, **options: Any) -> dg.SensorResult:
    """Look once with a sensor over a pipeline of partitions a to f and one asset without."""
    table = prompts(*"abcdef")
    logo = Pipeline("brand").step(world.provider, model="m", name="logo", prompt="x").to_assets()
    sensor = rescue_sensor(**options)
    definitions = dg.Definitions(
        assets=[*world.pipeline().to_assets(partitions=table), *logo],
        sensors=[sensor],
        resources=world.resources,
    )
    with dg.build_sensor_context(
        instance=world.instance,
        definitions=definitions,
        cursor=cursor,
        resources={"ledger": world.resources["ledger"]},
    ) as context:
        data = sensor.evaluate_tick(context)
    return dg.SensorResult(run_requests=data.run_requests, cursor=data.cursor)


def requested(found: dg.SensorResult) -> list[tuple[str, str | None]]:
    """Asset and partitions of each request."""
    places: list[tuple[str, str | None]] = []
    for request in found.run_requests or []:
        assert request.tags[RESUME_ONLY_TAG] == "true"
        (key,) = request.asset_selection or []
        ends = [
            request.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end")
        ]
        partitions = request.partition_key or ("...".join(map(str, ends)) if all(ends) else None)
        places.append((key.to_user_string(), partitions))
    return places


def test_neighbours_share_a_run_and_others_get_one_each(world: World) -> None:
    """A range has no gap, since it would run what nobody asked for; other assets are passed over."""
    image = "story/image"
    leave(world, (image, "a", 9), (image, "b", 9), (image, "d", 9), ("brand/logo", None, 9))
    leave(world, ("agent/story/image", "a", 9), ("somebody/else", None, 9), (image, "gone", 9))
    leave(world, (image, "f", 1))
    found = requested(evaluate(world))
    assert sorted(found, key=str) == [("brand/logo", None), (image, "a...b"), (image, "d")]


def test_what_expires_first_is_fetched_first_and_without_grace(world: World) -> None:
    """A limit holds back the rest for the next look."""
    leave(world, ("story/image", "a", 9), ("story/image", "c", 9))
    leave(world, ("story/video", "b", 1), expires=timedelta(minutes=20))
    leave(world, ("story/video", "f", 1), expires=timedelta(hours=20))
    first = evaluate(world, limit=2)
    assert requested(first) == [("story/video", "b"), ("story/image", "a")]
    assert requested(evaluate(world, first.cursor, limit=2)) == [("story/image", "c")]


def test_it_asks_again_later_when_a_submission_stays_open(world: World) -> None:
    """Every time under another key, since Dagster runs a key once; and not at every look."""
    leave(world, ("story/image", "a", 9))
    patient = evaluate(world, retry_after=timedelta(hours=1))
    assert requested(evaluate(world, patient.cursor)) == []
    first = evaluate(world, retry_after=timedelta(seconds=0.05))
    time.sleep(0.1)
    again = evaluate(world, first.cursor, retry_after=timedelta(seconds=0.05))
    keys = [request.run_key for one in (first, again) for request in one.run_requests or []]
    assert len(set(keys)) == 2
    assert [r.run_key for r in evaluate(world, "not a cursor").run_requests or []] == keys[:1]


def test_a_limit_of_nothing_is_refused() -> None:
    """A sensor that never asks would rescue nobody."""
    with pytest.raises(ConfigError, match="limit of rescue_sensor is 0"):
        rescue_sensor(limit=0)


def test_a_run_that_resumes_only_submits_nothing(world: World) -> None:
    """Partitions with nothing open are passed over; a changed request fails without being sent."""
    world.provider.jobs = True
    table = prompts(*"abc")
    assets = world.pipeline().to_assets(partitions=table)
    leave(world, ("story/image", "b", 9))
    tags = {RESUME_ONLY_TAG: "true"}
    result = world.materialize(assets, [*"abc"], tags=tags, raise_on_error=False)
    (record,) = failed_records(result)
    assert (record["asset"], record["partition"]) == ("story/image", "b")
    assert "only finishes jobs that were submitted before" in record["message"]
    assert world.provider.submitted == 0
    assert world.materialize(assets, "c", tags=tags).success
    assert world.materialized("story/image") == set()
