"""Runs that finish what was submitted before, and submit nothing."""

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
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


def neighbours(
    order: Sequence[str], wanted: Collection[str | None], *, most: int
) -> Iterator[list[str]]:
    """Cut wanted partitions into ranges without gaps, of at most `most` keys each.

    A range is told from Dagster by its first and last key; one with a gap would run what nobody
    asked for.

    Args:
        order: every partition of the asset.
        wanted: those to run; what is not in `order` is left out.
        most: keys in one range.
    """
    places = [place for place, key in enumerate(order) if key in wanted]
    # Neighbours have the same distance from their place in the list.
    for _, run in groupby(enumerate(places), key=lambda counted: counted[1] - counted[0]):
        keys = [order[place] for _, place in run]
        yield from (keys[start : start + most] for start in range(0, len(keys), most))
