"""What a claim would do, found out without claiming."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select, union

from genblaze_dagster.ledger.budgets import SpendKey
from genblaze_dagster.ledger.prospects import NextStep, prospect
from genblaze_dagster.ledger.queries import Queries
from genblaze_dagster.ledger.schema import intents, submissions
from genblaze_dagster.ledger.spending import entry_keys
from genblaze_dagster.ledger.submission import UNSETTLED_STATES, Intent, LedgerRow


@dataclass(frozen=True, slots=True)
class Peek:
    """What a claim would do, and the submission it would do it with.

    `taken_usd` is what an open submission that would be taken over counts as, by whose spending it
    is: the new attempt needs no room for that.
    """

    step: NextStep
    row: LedgerRow | None = None
    taken_usd: Mapping[SpendKey, float] = field(default_factory=dict[SpendKey, float])


class Peeks(Queries):
    """Questions about claims that nobody makes yet."""

    def peek(self, intent: Intent, *, now: datetime) -> Peek:
        """Say what a claim of an intent would do; writes nothing.

        Args:
            intent: what is wanted.
            now: the time of the claim.
        """
        with self._database.read() as connection:
            found = prospect(connection, intent, owner=None, now=now, locked=False)
            row = found.row
            if row is None or found.step is not NextStep.TAKE_OVER:
                return Peek(found.step, row)
            keys = entry_keys(connection, row.id, row.attempt)
            return Peek(found.step, row, dict.fromkeys(keys, row.reserved_usd or 0.0))

    def places(self, asset_key: str, scope: str) -> set[tuple[str | None, str]]:
        """Return the partition and generation key of all that a scope would not ask for first.

        Those of its own, and those that are open or held, whosever they are.
        """
        unsettled, served = submissions.c, intents.c
        query = union(
            select(unsettled.partition_key, unsettled.generation_key).where(
                unsettled.asset_key == asset_key, unsettled.state.in_(UNSETTLED_STATES)
            ),
            select(served.partition_key, served.generation_key).where(
                served.asset_key == asset_key, served.scope == scope
            ),
        )
        with self._database.read() as connection:
            found = connection.execute(query).mappings().all()
        return {(each["partition_key"] or None, each["generation_key"]) for each in found}
