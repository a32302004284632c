"""Runs that finish what was submitted before, and submit nothing."""

from typing import Final

from genblaze_dagster.errors import NotReachedError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import LedgerRow

RESUME_ONLY_TAG: Final = "genblaze/resume_only"
"""Tag of a Dagster run that submits nothing, whatever its value."""


class ResumeOnlyLedger(Ledger):
    """A ledger that lets no submit leave.

    Every other way to media is open: a submitted job is resumed, and what is stored is taken. What
    would be sent (its request has changed since, or its job ended without media) fails instead of
    being paid a second time.
    """

    def mark_sending(self, id: str, owner: str) -> LedgerRow:
        """Refuse; nothing was sent then.

        Raises:
            NotReachedError: always.
        """
        raise NotReachedError(
            "not sent: this run only finishes jobs that were submitted before, and none of them is "
            "for this request; run the asset without resuming to submit it"
        )
