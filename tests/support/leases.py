"""The leases of workers that are gone, ended without waiting for them."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path


def end_leases(ledger: Path) -> None:
    """Let every lease in a ledger's file have ended a while ago."""
    past = (datetime.now(UTC) - timedelta(minutes=10)).replace(tzinfo=None).isoformat(" ")
    with closing(sqlite3.connect(ledger, timeout=60)) as rows, rows:
        rows.execute(
            "UPDATE submissions SET lease_expires_at = ? WHERE lease_expires_at IS NOT NULL",
            (past,),
        )
