"""Ledgers filled through `Ledger` itself, one submission of each kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from genblaze_dagster.ledger.ledger import Intent, Ledger, LedgerRow

INTENT = Intent(
    asset_key="story/image",
    partition_key="a",
    scope="run-1",
    generation_key="g",
    provider="vendor",
    model="m",
    account="ab12",
    estimated_cost_usd=0.04,
)


class Book:
    """Writes submissions into a ledger; each method returns the row as it is left."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ledger = Ledger(url)

    def claimed(self, partition: str | None = "a", *, owner: str = "w", **wish: Any) -> LedgerRow:
        """Claimed, with a live lease; nothing was sent."""
        intent = replace(INTENT, partition_key=partition, generation_key=f"g-{partition}", **wish)
        return self.ledger.claim(intent, owner=owner).submission

    def sent(self, partition: str | None = "a", *, owner: str = "w", **wish: Any) -> LedgerRow:
        """On its way to the vendor."""
        row = self.claimed(partition, owner=owner, **wish)
        return self.ledger.mark_sending(row.id, owner)

    def stored(
        self, partition: str | None = "a", cost: float | None = 0.05, **wish: Any
    ) -> LedgerRow:
        """Finished and paid."""
        row = self.sent(partition, **wish)
        media = [{"key": f"assets/{partition}.png"}]
        result = {"manifest_key": f"manifests/{partition}.json", "media": media}
        return self.ledger.stored(row.id, "w", result, cost)

    def held(self, partition: str | None = "a", **wish: Any) -> LedgerRow:
        """Its answer was lost."""
        row = self.sent(partition, **wish)
        return self.ledger.failed(row.id, "w", code="timeout", message="no answer", sent=None)

    def submitted(self, partition: str | None = "a", job: str = "job-1", **wish: Any) -> LedgerRow:
        """Accepted by the vendor; a worker polls it."""
        return self.ledger.submitted(self.sent(partition, **wish).id, "w", job)

    def stuck(self, partition: str | None = "a", job: str = "job-1", **wish: Any) -> LedgerRow:
        """Accepted by the vendor, and nobody works on it."""
        return self.ledger.release(self.submitted(partition, job, **wish).id, "w")

    def expiring(self, partition: str | None, until: datetime, job: str = "job-1") -> LedgerRow:
        """Done at the vendor, who deletes the outputs then; nobody fetches them."""
        row = self.submitted(partition, job)
        self.ledger.succeeded(row.id, "w", cost_usd=None, outputs_expire_at=until)
        return self.ledger.release(row.id, "w")

    def failed(
        self,
        partition: str | None = "a",
        *,
        job: str | None = None,
        cost: float | None = None,
        **wish: Any,
    ) -> LedgerRow:
        """Failed at the vendor when there is a job, else refused by it."""
        row = self.submitted(partition, job, **wish) if job else self.sent(partition, **wish)
        told = {"code": "model_error", "message": "the vendor says no", "sent": True}
        return self.ledger.failed(row.id, "w", **told, cost_usd=cost)


@contextmanager
def book(url: str) -> Iterator[Book]:
    """A ledger to write into, closed at the end."""
    opened = Book(url)
    try:
        yield opened
    finally:
        opened.ledger.close()
