"""Where media and the ledger live when nobody says: one place for the defaults."""

import os
from pathlib import Path

STORE_VARIABLE = "GENBLAZE_STORE"
LEDGER_VARIABLE = "GENBLAZE_LEDGER"


def default_store_url() -> str:
    """Return GENBLAZE_STORE, else `.genblaze/store` below the working directory as file:// URL."""
    return os.environ.get(STORE_VARIABLE) or (Path.cwd() / ".genblaze" / "store").as_uri()


def default_ledger_url() -> str:
    """Return GENBLAZE_LEDGER, else an SQLite file `.genblaze/ledger.db` below the cwd."""
    named = os.environ.get(LEDGER_VARIABLE)
    return named or f"sqlite:///{(Path.cwd() / '.genblaze' / 'ledger.db').as_posix()}"
