"""The simulators do what they say: a harness that lies proves nothing."""

import http.client
import json
import os
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.faults.crashes import VICTIM
from tests.faults.invariants import check
from tests.faults.order import Park
from tests.faults.parking import Point
from tests.faults.simulator import Fault
from tests.faults.vendor import Bill, VendorSimulator
from tests.faults.world import Harness, World
from tests.support.providers import png

BROKEN = "no whole answer"


def ask(world: World, method: str, path: str, body: object = None, **headers: str) -> Any:
    """Ask the vendor; return status and content, or the name of the error."""
    host = world.vendor.url.split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=60)
    named = {"authorization": "Bearer k", **{k.replace("_", "-"): v for k, v in headers.items()}}
    try:
        connection.request(method, f"/{world.name}/{path}", json.dumps(body), named)
        answer = connection.getresponse()
        content = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(content) if is_json else content
    except (OSError, http.client.HTTPException) as exc:
        return type(exc).__name__
    finally:
        connection.close()


def submit(world: World, key: str = "k1") -> Any:
    return ask(world, "POST", "jobs", {"prompt": "a fox", "model": "job"}, idempotency_key=key)


def bills(world: World) -> list[Bill]:
    return [Bill(**bill) for bill in world.bills()]


@pytest.mark.parametrize(("deduplicates", "expected"), [(False, 2), (True, 1)])
def test_the_meter_counts_every_accepted_submit(
    simulators: Harness, deduplicates: bool, expected: int
) -> None:
    """A repeated key is billed again, unless the vendor deduplicates."""
    world = simulators.world(f"meter-{expected}", vendor={"deduplicates": deduplicates})
    assert submit(world)[0] == submit(world)[0] == 201
    assert len(bills(world)) == expected
    assert {(b.key, b.prompt, b.price) for b in bills(world)} == {("k1", "a fox", 0.04)}


@pytest.mark.parametrize(
    ("what", "answer", "billed"),
    [
        ("drop-before", BROKEN, 0),
        ("drop-after", BROKEN, 1),
        ("reset-middle", BROKEN, 1),
        ("status-before:500", 500, 0),
        ("status-after:500", 500, 1),
        ("error-in-200", 200, 0),
        ("garbage", 200, 1),
        ("retried", 201, 2),
        ("fails", 201, 1),
    ],
)
def test_a_submit_is_billed_before_or_after_it_goes_wrong(
    simulators: Harness, what: str, answer: object, billed: int
) -> None:
    """Each fault answers, and bills, as it says; the next submit is fine."""
    world = simulators.world(f"submit-{what.replace(':', '-')}")
    world.vendor.faults(Fault("submit", what))
    got = submit(world)
    assert (BROKEN if isinstance(got, str) else got[0]) == answer
    assert len(bills(world)) == billed
    assert submit(world, "k2")[0] == 201


def test_a_failed_or_cancelled_job_is_paid_back(simulators: Harness) -> None:
    """The vendor refunds what it gives up; what it only said to have failed it does not."""
    world = simulators.world("refunds")
    jobs = [submit(world, f"k{number}")[1]["id"] for number in range(3)]
    world.vendor.faults(Fault("poll", "said-failed"))
    assert ask(world, "GET", f"jobs/{jobs[0]}")[1]["status"] == "failed"
    assert ask(world, "POST", f"jobs/{jobs[1]}/cancel")[1]["status"] == "cancelled"
    found = {bill.job_id: (bill.refunded, bill.said_failed) for bill in bills(world)}
    assert found == {jobs[0]: (False, True), jobs[1]: (True, False), jobs[2]: (False, False)}


def test_media_is_given_for_a_fresh_signature_only(simulators: Harness) -> None:
    """A signed URL works until it expires; a changed one never."""
    world = simulators.world("signed")
    job = submit(world)[1]["id"]
    signed = ask(world, "GET", f"jobs/{job}/output")[1]["path"].removeprefix("/signed/")
    status, media = ask(world, "GET", signed)
    assert (status, media) == (200, png("a fox"))
    assert bills(world)[0].delivered == 1
    assert ask(world, "GET", signed[:-1] + "!")[0] == 403
    world.vendor.configure(url_seconds=-1)
    expired = ask(world, "GET", f"jobs/{job}/output")[1]["path"].removeprefix("/signed/")
    assert ask(world, "GET", expired)[0] == 403
    assert bills(world)[0].delivered == 1


def test_a_listing_vendor_lists(simulators: Harness) -> None:
    """Jobs are listed from a time on, and only where the vendor does that."""
    world = simulators.world("lists", vendor={"lists": True})
    submit(world)
    assert len(ask(world, "GET", "jobs?since=0")[1]["jobs"]) == 1
    assert ask(world, "GET", f"jobs?since={time.time() + 60}")[1]["jobs"] == []
    assert ask(simulators.world("no-list"), "GET", "jobs?since=0")[0] == 404


def test_the_meter_survives_the_vendor(tmp_path: Path) -> None:
    """A vendor that is started again knows every bill, and what became of it."""
    file = tmp_path / "meter.jsonl"
    with closing(VendorSimulator(file)) as first:
        first.new_world("a", {"price": 0.5})
        first.enter("a", Bill("job-1", 0.5, "k", "a fox", "job", 1.0))
        first.change("a", "job-1", cancelled=True, refunded=True)
    with closing(VendorSimulator(file)) as again:
        pass
    assert again.worlds["a"].settings == {"price": 0.5}
    assert again.worlds["a"].bills["job-1"].refunded
    assert again.worlds["a"].by_key == {"k": "job-1"}


def test_a_vendor_that_is_killed_and_started_again_loses_no_job(simulators: Harness) -> None:
    """Its outage is waited out: what was submitted before is delivered after, and billed once."""
    world = simulators.world("outage", vendor={"polls": 1000})
    worker = world.start()
    wait_for(lambda: world.vendor.describe()["asked"].get("poll", 0) > 3)
    simulators.restart_vendor()
    world.vendor.configure(**{**world.vendor_settings, "polls": 1})
    assert worker.wait(60) == 0 or world.start().wait(60) == 0
    assert check(world).violations == ()
    assert len(bills(world)) == 2


def test_a_held_request_waits_and_tells(simulators: Harness) -> None:
    """A worker whose request is held stands still, and the harness is told where."""
    world = simulators.world("held", partitions=("p0",))
    world.vendor.faults(Fault("submit", "hold-after"))
    worker = world.start()
    assert wait_for(lambda: world.vendor.held(wait=0.2)) == ["submit"]
    assert (len(bills(world)), worker.status) == (1, None)
    world.vendor.release(go=True)
    assert worker.wait(60) == 0


def test_a_refusal_is_not_held_in_the_middle(simulators: Harness) -> None:
    """What is parked half sent is media: the refusal of an expired address goes out whole."""
    world = simulators.world("held-media", partitions=("p0",))
    world.vendor.faults(Fault("media", "hold-middle"), Fault("output", "expired"))
    worker = world.start()
    assert wait_for(lambda: world.vendor.held(wait=0.2)) == ["media"]
    assert bills(world)[0].delivered == 1
    world.vendor.release(go=True)
    assert worker.wait(60) == 0


@pytest.mark.parametrize("point", [point for point in Point if point is not Point.BEFORE_INDEX])
def test_a_worker_stops_at_its_point(simulators: Harness, point: Point) -> None:
    """It says so, is alive, and is killed by SIGKILL and nothing else."""
    world = simulators.world(f"park-{point}")
    worker = world.start(park=Park(point, VICTIM))
    assert worker.until_parked_or_ended(30)
    assert worker.parked_at == point
    os.kill(worker.pid, 0)
    assert worker.kill() == -signal.SIGKILL


def wait_for(look: Any) -> Any:
    deadline = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < deadline
    return found
