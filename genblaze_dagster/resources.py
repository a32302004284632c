"""Dagster resources: the ledger, the media store, and one per vendor.

Nothing is opened when definitions load; a missing key fails only the runs that need it.
"""

from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.io_manager import MediaIOManager, StoreIOManager
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.environment import default_ledger_url
from genblaze_dagster.provider_resources import PROVIDER_RESOURCES

LEDGER_KEY = "ledger"
MEDIA_KEY = "media"


class BudgetConfig(dg.Config):
    """A `Budget` as Dagster config."""

    scope: str = Field(description="run, asset, partition, tenant, provider or day.")
    limit_usd: float = Field(description="USD that each of them may spend.")
    unknown_cost: float | None = Field(
        default=None,
        description="USD a request of unknown price counts as; it is refused when left out.",
    )
    name: str | None = Field(default=None, description="How messages call this budget.")
    match: str | None = Field(
        default=None, description="The only asset key, tenant or provider it holds for."
    )


class LedgerResource(dg.ConfigurableResource):
    """The database in which every generation is claimed before it is paid."""

    url: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
        description="`sqlite:///path` of a file on a local disk, for one machine; or "
        "`postgresql://user:password@host/database` for several, with "
        "`genblaze-dagster[postgres]` installed. Prefer dg.EnvVar for a URL with a password. "
        "GENBLAZE_LEDGER, else `.genblaze/ledger.db` below the working directory, when left out.",
    )
    budgets: list[BudgetConfig] = Field(
        default=[], description="Limits on what is spent through this ledger."
    )

    _ledger: Ledger | None = PrivateAttr(default=None)

    def get_ledger(self) -> Ledger:
        """Return the ledger; it is opened on first use.

        Raises:
            ConfigError: the URL is broken or not of a supported database.
            MissingExtraError: PostgreSQL needs a driver that is not installed.
        """
        if self._ledger is None:
            self._ledger = Ledger(self.url or default_ledger_url())
        return self._ledger

    def get_budgets(self) -> tuple[Budget, ...]:
        """Return the budgets.

        Raises:
            ConfigError: a value is not usable; names it.
        """
        return tuple(Budget(**each.model_dump()) for each in self.budgets)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the database when the step process is done with it."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None


def genblaze_resources(
    *,
    store: str | StoreIOManager | None = None,
    ledger: str | LedgerResource | None = None,
    s3: dg.ConfigurableResource | None = None,
) -> dict[str, Any]:
    """Return every resource that generated assets need, with defaults.

    The keys are `media` (IO manager), `ledger`, and one per vendor: `local`, `openai`, `google`,
    `runway`, ... Update the dictionary to configure a vendor:
    `{**genblaze_resources(), "openai": OpenAIResource(...)}`.

    Args:
        store: URL of the media store (`s3://bucket/prefix`, `b2://bucket`, `file:///dir`,
            `memory://name`) or an IO manager. GENBLAZE_STORE, else `.genblaze/store`, by default.
        ledger: URL of the ledger, or its resource. GENBLAZE_LEDGER, else `.genblaze/ledger.db`.
        s3: a dagster-aws `S3Resource` whose endpoint and credentials the store uses.

    Raises:
        ConfigError: `s3` is given together with an IO manager, which has its own.
    """
    if isinstance(store, StoreIOManager) and s3 is not None:
        raise ConfigError("store is an IO manager, so s3 has no effect; give s3 to the IO manager")
    media = store if isinstance(store, StoreIOManager) else MediaIOManager(url=store, s3=s3)
    return {
        MEDIA_KEY: media,
        LEDGER_KEY: ledger if isinstance(ledger, LedgerResource) else LedgerResource(url=ledger),
        **{name: resource() for name, resource in PROVIDER_RESOURCES.items()},
    }
