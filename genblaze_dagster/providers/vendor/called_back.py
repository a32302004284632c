"""Providers whose vendor calls back: where it is told to call, and how its calls are read."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from genblaze_dagster.net.callbacks import CallbackEndpoint
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.callbacks import Callback, Delivery
from genblaze_dagster.providers.vendor.provider import VendorProvider


class CallbackReader(ABC):
    """What providers that understand their vendor's calls have in common; see `ReadsCallbacks`."""

    vendor: ClassVar[Vendor]
    proves_callbacks: bool = True

    async def read_callback(
        self,
        headers: Mapping[str, str],
        body: bytes,
        *,
        now: datetime,
        query: Mapping[str, str] | None = None,
    ) -> Callback:
        """Check a call and return what it tells; see `ReadsCallbacks`."""
        return await self.callback_of(
            Delivery.of(self.vendor.name, headers, body, query or {}), now=now
        )

    @abstractmethod
    async def callback_of(self, delivery: Delivery, *, now: datetime) -> Callback:
        """Check a delivery and return what it tells; the vendor's module does it.

        Raises:
            WebhookError: it is not believed.
            ConfigError: what it would be checked with is missing.
        """


class CalledBackProvider(CallbackReader, VendorProvider):
    """Base of the providers whose vendor calls an address that goes along with each submit.

    Args as of `VendorProvider`, and:
        callbacks: the receiver; default: GENBLAZE_CALLBACK_URL and GENBLAZE_CALLBACK_SECRET, read
            when needed. Without one the vendor is only polled.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        callbacks: CallbackEndpoint | None = None,
        **options: Any,
    ) -> None:
        super().__init__(api_key, **options)
        self._given_callbacks = callbacks

    @property
    def callbacks(self) -> CallbackEndpoint | None:
        """The receiver, None when there is none.

        Raises:
            ConfigError: the environment names one that cannot be used.
        """
        return self._given_callbacks or CallbackEndpoint.from_environment()

    def validate(self, request: GenerationRequest) -> None:
        """Refuse what the model cannot do, before anything is paid; see `VendorProvider`."""
        _ = self.callbacks
        super().validate(request)

    def callback_address(self, request: GenerationRequest) -> str | None:
        """Return where the vendor calls about a request; None when nobody would know it."""
        endpoint = self.callbacks
        if endpoint is None or not request.idempotency_key:
            return None
        return endpoint.address(self.vendor.name, request.idempotency_key)
