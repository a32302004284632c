"""Errors of the ledger."""

from genblaze_dagster.errors.base import GenblazeError


class LedgerError(GenblazeError):
    """The ledger database cannot be used, or a transition is not allowed."""


class LeaseHeldError(LedgerError):
    """Another live worker holds the lease on this generation.

    Attributes:
        retry_after: seconds until the lease ends unless it is renewed.
    """

    transient = True

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class HeldError(LedgerError):
    """The answer to a submit was lost and the vendor cannot tell; nothing is resubmitted."""

    def __init__(self, message: str, *, submission_id: str) -> None:
        super().__init__(message)
        self.submission_id = submission_id


class BudgetExceededError(LedgerError):
    """A budget leaves no room for a request; nothing was sent and nothing is reserved.

    Attributes:
        budget: name of the budget.
        limit_usd: what it allows.
        spent_usd: what is paid of it, and what open and held submissions may still cost.
        request_usd: what this request counts as, None when its cost is unknown and the budget has
            no `unknown_cost`.
    """

    def __init__(
        self,
        message: str,
        *,
        budget: str,
        limit_usd: float,
        spent_usd: float,
        request_usd: float | None,
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd
        self.request_usd = request_usd


class AccountBusyError(LedgerError):
    """An account has as many open jobs as its vendor allows; another has to end first.

    A run waits for its turn, however long that takes; only who claims by hand gets this.

    Attributes:
        retry_after: seconds after which it is worth asking again.
    """

    transient = True

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
