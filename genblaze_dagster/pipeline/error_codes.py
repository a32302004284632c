"""Codes under which failures are recorded."""

from genblaze_dagster.core.enums import ProviderErrorCode
from genblaze_dagster.errors import BudgetExceededError, GenblazeError

CANCELLED = "cancelled"
"""Code of a submission that its own run gave up: it says nothing about the model."""
OVER_BUDGET = "budget_exceeded"
"""Code of a model that was not asked because a budget had no room for it."""


def code_of(error: GenblazeError) -> ProviderErrorCode:
    """Return the code under which an error is recorded.

    The format has none for a spend limit; a refused budget has the one that a vendor's used-up
    quota has. Unlike other errors of this code it is not transient.
    """
    if isinstance(error, BudgetExceededError):
        return ProviderErrorCode.RATE_LIMIT
    code = getattr(error, "code", None)
    return code if isinstance(code, ProviderErrorCode) else ProviderErrorCode.UNKNOWN
