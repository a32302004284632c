"""The layer of the library: a pipeline run in a process of its own, killed, and run again."""

import signal
import time
from collections.abc import Sequence

from genblaze_dagster.ledger.submission import OPEN_STATES, LedgerRow, SubmissionState
from tests.faults.crashes import CRASHES, look, park_of, reached
from tests.faults.invariants import Verdict, check
from tests.faults.provider import ONE_CALL_MODEL
from tests.faults.scenarios import LAYERS, STORE_FAULTS, VENDOR_FAULTS, Outcome, Scenario
from tests.faults.simulator import Fault
from tests.faults.world import World

LAYER = "process"

_ACCEPTED = (SubmissionState.SUBMITTED, SubmissionState.SUCCEEDED)
_RUN_SECONDS = 120.0
_MOST_RUNS = 4
_CALL_SECONDS = 10.0


def run(scenario: Scenario, world: World) -> Outcome:
    """Kill a worker at the scenario's point, recover, and judge what is left."""
    problems: list[str] = []
    if scenario.faults_first:
        meet_faults(world, scenario)
    was_reached = crash(world, scenario, problems)
    if scenario.second is not None:
        crash(world, scenario, problems, again=True)
    # Only now: what the second worker has finished, another wish may pay again.
    before = look(world).rows
    if not scenario.faults_first:
        meet_faults(world, scenario)
        recover(world, scenario)
    world.quiet()
    started = time.monotonic()
    decided = recover_all(world, scenario)
    if decided and (world.order.lists or world.order.deduplicates or world.order.callback_url):
        problems.append(f"{decided} left to a person, although the vendor can be asked, or tells")
    seconds = time.monotonic() - started
    problems += [f"not settled: {what}" for what in not_settled(world)]
    problems += not_stored(world)
    problems += paid_again(world, before)
    verdict = check(world)
    return Outcome(
        scenario=scenario,
        layer=LAYER,
        reached=was_reached,
        recovery_seconds=seconds,
        verdict=verdict,
        problems=(*problems, *verdict.violations),
    )


def meet_faults(world: World, scenario: Scenario) -> None:
    """Let vendor and store misbehave as the scenario says."""
    world.vendor.faults(*VENDOR_FAULTS[scenario.vendor_fault])
    world.store_control.faults(*STORE_FAULTS[scenario.store_fault])


def crash(world: World, scenario: Scenario, problems: list[str], *, again: bool = False) -> bool:
    """Start a worker and kill it at its point; return whether it got there.

    `again` is for the second kill, which meets whatever the first has left.
    """
    point = CRASHES[scenario.second] if again and scenario.second else scenario.point
    # In front of other faults, which the same request could meet.
    if point.vendor is not None:
        world.vendor.faults(point.vendor, *_first(scenario, VENDOR_FAULTS[scenario.vendor_fault]))
    if point.store is not None:
        world.store_control.faults(
            point.store, *_first(scenario, STORE_FAULTS[scenario.store_fault])
        )
    worker = world.start(park=park_of(point))
    was_reached = reached(world, point, worker)
    if worker.status is None and worker.kill() != -signal.SIGKILL:
        problems.append(f"the worker was not killed: {worker.status}")
    # Requests stay parked after their sender is dead; a parked ledger would keep its lock.
    if was_reached and not again and not point.proof(look(world)):
        problems.append(f"the kill did not hit {scenario.crash!r}")
    for simulator in (world.vendor, world.store_control):
        simulator.release(go=scenario.late)
    return was_reached


def recover(world: World, scenario: Scenario) -> int | None:
    """Run the same again, in the scenario's way; return the exit code."""
    changes: dict[str, object] = {}
    if scenario.recovery == "elsewhere":
        changes["machine"] = "another-machine"
    elif scenario.recovery == "new scope":
        changes["scope"] = f"{world.order.scope}-again"
    worker = world.start(**changes)
    code = worker.wait(_RUN_SECONDS)
    if code is None:
        worker.kill()
    return code


def recover_all(world: World, scenario: Scenario) -> int:
    """Run again until all is stored that can be; return how much a person had to decide."""
    decided = 0
    for _ in range(_MOST_RUNS):
        if recover(world, scenario) == 0:
            break
        if world.order.callback_url is not None:
            _wait_for_calls(world)
        now = resolve_as_a_person(world)
        decided += now
        if not (now or not_stored(world) or not_settled(world)):
            break
    return decided


def _wait_for_calls(world: World) -> None:
    """Give the vendor its time: a person looks when nothing more is to come."""
    deadline = time.monotonic() + _CALL_SECONDS
    accepted = [bill["key"] for bill in world.bills()]
    with world.ledger() as ledger:
        while time.monotonic() < deadline and any(
            key.startswith(row.run_id)
            for row in ledger.find(state=SubmissionState.HELD)
            for key in accepted
        ):
            time.sleep(0.05)


def resolve_as_a_person(world: World) -> int:
    """Decide about held submissions after looking at the vendor; return how many there were.

    What was answered in one call cannot be fetched again: it stays held.
    """
    bills = world.bills()
    resolved = 0
    with world.ledger() as ledger:
        for row in ledger.find(state=SubmissionState.HELD):
            mine = [bill for bill in bills if bill["key"].startswith(row.run_id)]
            live = [bill for bill in mine if not (bill["refunded"] or bill["said_failed"])]
            if any(bill["one_call"] for bill in live):
                continue
            ledger.resolve(row.id, job_id=live[0]["job_id"] if live else None)
            resolved += 1
    return resolved


def not_settled(world: World) -> list[str]:
    """Return partitions that are neither stored, failed nor held."""
    with world.ledger() as ledger:
        rows = list(ledger.rows())
    missing = set(world.order.partitions) - {row.partition_key for row in rows}
    still_open = {f"{row.partition_key} ({row.state})" for row in rows if row.state in OPEN_STATES}
    return sorted({*missing, *still_open})


def not_stored(world: World) -> list[str]:
    """Return partitions that are not stored although nothing is in the way any more.

    An answer in one call that was lost stays held: there is no job to fetch.
    """
    with world.ledger() as ledger:
        rows = list(ledger.rows())
    done = {row.partition_key for row in rows if row.state is SubmissionState.STORED}
    if world.order.model == ONE_CALL_MODEL:
        done |= {row.partition_key for row in rows if row.state is SubmissionState.HELD}
    return [f"{key} is not stored in the end" for key in world.order.partitions if key not in done]


def paid_again(world: World, before: Sequence[LedgerRow]) -> list[str]:
    """Return partitions whose job was open at the kill, and that were submitted again since.

    Another wish may pay again for what was finished, not for what it can take over.
    """
    is_open = {row.partition_key for row in before if row.state in _ACCEPTED}
    with world.ledger() as ledger:
        rows = list(ledger.rows())
    problems: list[str] = []
    for partition in sorted(key for key in is_open if key is not None):
        mine = [row.run_id for row in rows if row.partition_key == partition]
        live = [
            bill
            for bill in world.bills()
            if any(bill["key"].startswith(run_id) for run_id in mine)
            and not (bill["refunded"] or bill["said_failed"] or bill["by_proxy"])
        ]
        if len(live) > 1:
            problems.append(f"{partition} was open and is billed {len(live)} times")
    return problems


def _first(scenario: Scenario, faults: Sequence[Fault]) -> Sequence[Fault]:
    return faults if scenario.faults_first else ()


def unfinished(error: Exception, scenario: Scenario, layer: str) -> Outcome:
    """Return the outcome of a scenario that the harness itself could not bring to an end."""
    problem = f"harness: {type(error).__name__}: {error}"
    return Outcome(scenario, layer, False, 0.0, Verdict((), 0, 0, 0), (problem,))


LAYERS[LAYER] = run
