import pytest

from genblaze_dagster.cli.exit_codes import ExitCode, exit_code
from genblaze_dagster.errors import BudgetExceededError, GenblazeError, LedgerError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            BudgetExceededError("no", budget="b", limit_usd=1, spent_usd=1, request_usd=None),
            ExitCode.FAILED,
        ),
        (LedgerError("locked"), ExitCode.ENVIRONMENT),
    ],
    ids=["budget", "database"],
)
def test_a_refused_budget_is_no_broken_ledger(error: GenblazeError, code: ExitCode) -> None:
    """The one is an answer, the other a matter of the surroundings."""
    assert exit_code(error) is code
