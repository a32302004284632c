"""Dagster resources: the ledger, and one per provider.

Nothing is opened when definitions load; a missing key fails only the runs that need it.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.io_manager import MediaIOManager, StoreIOManager
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.environment import default_ledger_url
from genblaze_dagster.providers.protocol import Provider, RateLimit

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


class ProviderResource(dg.ConfigurableResource):
    """Base of the resources that hold a provider's settings.

    A step of `provider="<name>"` uses the resource of that key.
    """

    @abstractmethod
    def get_provider(self) -> Provider:
        """Return a provider with these settings; the caller closes it."""


class LimitedResource(ProviderResource):
    """A provider whose vendor limits what one account may ask.

    Every process that shares the ledger keeps to the limits together. They count requests, where a
    Dagster pool counts steps.
    """

    rate: float | None = Field(default=None, gt=0, description="Submits per minute at most.")
    concurrency: int | None = Field(
        default=None, ge=1, description="Jobs that are open at the same time at most."
    )

    @property
    def rate_limit(self) -> RateLimit | None:
        """The limits, None when there are none."""
        if self.rate is None and self.concurrency is None:
            return None
        return RateLimit(requests=self.rate, seconds=60.0, concurrency=self.concurrency)


class LocalResource(LimitedResource):
    """The `local` provider: real media without a key or a network."""

    latency: float = Field(default=0.0, description="Seconds every job takes, for demonstrations.")

    def get_provider(self) -> Provider:
        """Return a local provider."""
        from genblaze_dagster.providers.local import LocalProvider

        return LocalProvider(latency=self.latency, rate_limit=self.rate_limit)


class OpenAIResource(LimitedResource):
    """The `openai` provider."""

    api_key: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
        description="API key; OPENAI_API_KEY when left out. Prefer dg.EnvVar('OPENAI_API_KEY').",
    )
    base_url: str | None = Field(
        default=None, description="Another endpoint with the same API; OPENAI_BASE_URL by default."
    )
    organization: str | None = Field(default=None, description="Organization that is billed.")
    project: str | None = Field(default=None, description="Project that is billed.")

    def get_provider(self) -> Provider:
        """Return an OpenAI provider.

        Raises:
            AuthError: there is no key; names the variable.
        """
        from genblaze_dagster.providers.openai import DalleProvider

        return DalleProvider(
            api_key=self.api_key,
            base_url=self.base_url,
            organization=self.organization,
            project=self.project,
            rate_limit=self.rate_limit,
        )


PROVIDER_RESOURCES: Mapping[str, type[ProviderResource]] = {
    "local": LocalResource,
    "openai": OpenAIResource,
}
"""Resource classes by the provider name, which is also their resource key."""


def genblaze_resources(
    *,
    store: str | StoreIOManager | None = None,
    ledger: str | LedgerResource | None = None,
    s3: dg.ConfigurableResource | None = None,
) -> dict[str, Any]:
    """Return every resource that generated assets need, with defaults.

    The keys are `media` (IO manager), `ledger`, and one per provider: `local`, `openai`. Update the
    dictionary to configure a provider: `{**genblaze_resources(), "openai": OpenAIResource(...)}`.

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
