"""The ledger seen from the event loop: calls that are awaited, leases that are kept alive."""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Self, TypeVar

from uuid_utils import compat as uuid_utils

from genblaze_dagster.errors import AccountBusyError, LeaseHeldError, LedgerError
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.minting import Minted
from genblaze_dagster.ledger.operations import Operations
from genblaze_dagster.ledger.submission import Claim, ClaimKind, Intent

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)

# The holder usually finishes long before its lease ends, so look again soon, then less often.
_FIRST_LOOK_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 5.0
# Most waits for an account are over before anybody has to be told of them.
_TELL_AFTER_SECONDS = 1.0
_TELL_EVERY_SECONDS = 10.0

DEFAULT_LEASE_SECONDS = 60.0
"""How long others stay away from a worker that gives no sign of life."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time by both clocks of this machine, in seconds.

    While a process is stopped both go on. While a virtual machine is paused the steady one may
    stand still, and the wall clock is put right when it goes on.
    """

    steady: float = field(default_factory=time.monotonic)
    wall: float = field(default_factory=time.time)

    def seconds_to(self, later: Self) -> float:
        """Return how long it is until a later moment, by the clock by which it is longer."""
        return max(later.steady - self.steady, later.wall - self.wall)


def new_run_id() -> str:
    """Return a new id of a run or step; ids sort by the time they were made."""
    return str(uuid_utils.uuid7())


def submission_ids(run_id: str | None, step_id: str | None) -> Iterator[str]:
    """Yield run and step ids in turn: the wanted run id once, since it names one submission."""
    yield run_id or new_run_id()
    while True:
        yield step_id or new_run_id()
        yield new_run_id()


class Claims:
    """Claims and transitions of one worker; what is asked for at once is committed at once.

    Leases are renewed every third of `lease_seconds` and reach a third further: when its renewal is
    due a lease still has `lease_seconds` left, so a clock that is put forward by less ends none.

    Args:
        ledger: where they are kept.
        lease_seconds: how long others stay away from a worker that gives no sign of life, and up
            to a third more.
        clock: tells what time it is.
    """

    def __init__(
        self, ledger: Ledger, *, lease_seconds: float, clock: Callable[[], Moment] = Moment
    ) -> None:
        self.ledger = ledger
        self.clock = clock
        self.renewal_seconds = lease_seconds / 3
        self.lease_seconds = lease_seconds + self.renewal_seconds
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._operations = Operations(ledger)

    async def call(self, operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a ledger operation off the event loop; it is finished even when cancelled.

        Operations whose first argument is the same text, a submission's id, are run in the
        order of their calls. An operation must do nothing but call the ledger: after a transaction
        that failed it is run again.
        """
        key = args[0] if args and isinstance(args[0], str) else None
        started = self._operations.start(lambda: operation(*args, **kwargs), key=key)
        return await asyncio.shield(started)

    async def claim(
        self,
        intent: Intent,
        *,
        patience_seconds: float,
        new_id: Callable[[], str] = new_run_id,
        budgets: Sequence[Budget] = (),
        concurrency: int | None = None,
        on_busy: Callable[[AccountBusyError], None] | None = None,
    ) -> "Lease":
        """Claim a generation; waits for another live worker that is doing it, or a free account.

        For an account it waits as long as it takes: that is nobody's time but ours.
        A new submission takes its run id and its step id from `new_id`, in this order.

        Args:
            intent: what is wanted.
            patience_seconds: how long to wait for another worker.
            new_id: mints ids.
            budgets: what a new submit has to leave room in.
            concurrency: how many open jobs the intent's account may have.
            on_busy: called every few seconds while it waits for the account.

        Raises:
            LeaseHeldError: it is still held after `patience_seconds`.
            HeldError: the answer to an earlier submit was lost; a person must decide.
            BudgetExceededError: a budget has no room.
        """
        # An owner per claim: two steps of one process that want the same must not both get it.
        owner = f"{self._worker}:{uuid.uuid4().hex[:12]}"
        patience = _Patience(patience_seconds, on_busy)
        ids = Minted(new_id)
        begun = self.clock()

        def claim() -> Claim:
            nonlocal begun
            begun = self.clock()
            return self.ledger.claim(
                intent,
                owner=owner,
                lease_seconds=self.lease_seconds,
                new_run_id=ids.again(),
                budgets=budgets,
                concurrency=concurrency,
            )

        while True:
            try:
                claimed = await self._claim_now(claim, owner)
                return Lease(self, claimed, owner, since=begun)
            except LeaseHeldError as exc:
                if not await patience.waits_for_worker(exc):
                    raise
            except AccountBusyError as exc:
                await patience.wait_for_account(exc)

    async def _claim_now(self, claim: Callable[[], Claim], owner: str) -> Claim:
        claiming = self._operations.start(claim)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # The claim is made all the same: nobody may have to wait for a lease without a holder.
            await asyncio.wait({claiming})
            if claiming.exception() is None:
                made = claiming.result()
                if made.kind in (ClaimKind.NEW, ClaimKind.RESUME):
                    await self.call(self.ledger.release, made.submission.id, owner)
            raise

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        self._operations.close()


class _Patience:
    """The waiting of one claim: for another worker within a limit, for the account without one."""

    def __init__(self, seconds: float, on_busy: Callable[[AccountBusyError], None] | None) -> None:
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + seconds
        self._on_busy = on_busy
        self._pause = _FIRST_LOOK_SECONDS
        self._busy_seconds = 0.0
        self._tell_at = _TELL_AFTER_SECONDS

    async def waits_for_worker(self, error: LeaseHeldError) -> bool:
        """Sleep a while; False, at once, when the time is over."""
        pause = self._next_pause(error.retry_after)
        if self._clock() + pause > self._deadline:
            return False
        await asyncio.sleep(pause)
        return True

    async def wait_for_account(self, error: AccountBusyError) -> None:
        """Sleep a while, which leaves as much time for another worker as before."""
        pause = self._next_pause(error.retry_after)
        if self._busy_seconds >= self._tell_at:
            self._tell_at = self._busy_seconds + _TELL_EVERY_SECONDS
            _log.info("waited %.0f s so far: %s", self._busy_seconds, error)
            if self._on_busy is not None:
                self._on_busy(error)
        begun = self._clock()
        await asyncio.sleep(pause)
        waited = self._clock() - begun
        self._busy_seconds += waited
        self._deadline += waited

    def _next_pause(self, retry_after: float) -> float:
        pause = min(self._pause, max(retry_after, _FIRST_LOOK_SECONDS))
        self._pause = min(pause * 2, _LONGEST_WAIT_SECONDS)
        return pause


class Lease:
    """A claimed row; inside `async with` its lease is renewed again and again.

    A lost lease is noticed by the next transition, which compares owner and state; renewing only
    keeps others away, so a failed renewal is logged and not raised.
    """

    def __init__(self, claims: Claims, claim: Claim, owner: str, *, since: Moment) -> None:
        self._claims = claims
        self.kind = claim.kind
        self.row = claim.submission
        self._owner = owner
        self._since = since
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Lease":
        self._schedule()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._renewal is not None:
            await asyncio.wait({self._renewal})

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._claims.renewal_seconds, self._start_renewal)

    def _start_renewal(self) -> None:
        self._renewal = asyncio.ensure_future(self._renew())
        self._schedule()

    async def _renew(self) -> None:
        begun = self._claims.clock()

        def renew(id: str, owner: str) -> None:
            nonlocal begun
            begun = self._claims.clock()
            self._claims.ledger.renew(id, owner, lease_seconds=self._claims.lease_seconds)

        try:
            await self.apply(renew)
            self._since = begun
        except LedgerError as exc:
            _log.warning("lease of submission %s was not renewed: %s", self.row.id, exc)

    def objection(self) -> str | None:
        """Say why nothing may be sent any more: the lease has ended, or will before it is due.

        Others may then have looked for the job, found none, and be about to submit.
        """
        age = self._since.seconds_to(self._claims.clock())
        left = self._claims.lease_seconds - age
        if left >= self._claims.renewal_seconds:
            return None
        return (
            f"the lease on submission {self.row.id} was renewed {age:.1f} s ago and is for "
            f"{self._claims.lease_seconds:.1f} s; this process stood still, or the ledger cannot be "
            "reached, so another worker may go on with it"
        )

    async def apply(self, transition: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Apply a ledger transition to this row as its owner.

        Raises:
            LedgerError: the lease was lost, or the transition is not allowed.
        """
        await self._claims.call(transition, self.row.id, self._owner, *args, **kwargs)

    async def sending(self) -> None:
        """Record that the request goes out now."""
        await self.apply(self._claims.ledger.mark_sending)

    async def submitted(self, job_id: str, estimated_seconds: float | None) -> None:
        """Record the vendor's job id."""
        await self.apply(self._claims.ledger.submitted, job_id, estimated_seconds=estimated_seconds)
