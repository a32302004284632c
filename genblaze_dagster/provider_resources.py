"""Dagster resources that hold providers' settings: one per vendor, for all its providers.

A step of `provider="openai-sora"` uses the resource `openai`. Nothing is opened when definitions
load; a missing key fails only the runs that need it.
"""

from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import dagster as dg
from pydantic import Field

from genblaze_dagster.errors import ConfigError, UnknownProviderError
from genblaze_dagster.net.callbacks import CallbackEndpoint
from genblaze_dagster.providers.catalogue import VENDORS, vendor_of
from genblaze_dagster.providers.protocol import Provider, RateLimit


class ProviderResource(dg.ConfigurableResource):
    """Base of the resources that hold a provider's settings.

    A step of `provider="<name>"` uses the resource of that key.
    """

    @abstractmethod
    def get_provider(self) -> Provider:
        """Return a provider with these settings; the caller closes it."""

    def provider_named(self, name: str) -> Provider:
        """Return the provider a step names; the caller closes it."""
        return self.get_provider()


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


class VendorResource(LimitedResource):
    """A vendor's account. Prefer `dg.EnvVar` for the key.

    `api_key` left out is the vendor's environment variable, `base_url` its usual address.
    """

    vendor: ClassVar[str]

    api_key: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
        description="API key; the vendor's environment variable when left out. Prefer dg.EnvVar.",
    )
    base_url: str | None = Field(
        default=None, description="Another address of the same API; the vendor's own by default."
    )
    prices: list[dict[str, Any]] = Field(
        default_factory=list[dict[str, Any]],
        description="Prices of your own, each as in a price list; they win over built-in ones.",
    )

    def settings(self) -> dict[str, Any]:
        """Return the arguments all of the vendor's providers are made with."""
        return {
            "api_key": self.api_key,
            "base_url": self.base_url,
            "rate_limit": self.rate_limit,
            "prices": [{"vendor": self.vendor, **price} for price in self.prices],
        }

    def get_provider(self) -> Provider:
        """Return the vendor's main provider; the caller closes it."""
        return self.provider_named(next(iter(VENDORS[self.vendor])))

    def provider_named(self, name: str) -> Provider:
        """Return one of the vendor's providers; the caller closes it.

        Raises:
            UnknownProviderError: the vendor has none of that name.
        """
        where = VENDORS[self.vendor].get(name)
        if where is None:
            raise UnknownProviderError(
                f"{name!r} is no provider of {self.vendor}; known: "
                f"{', '.join(VENDORS[self.vendor])}"
            )
        module, _, attribute = where.partition(":")
        return getattr(import_module(module), attribute)(**self.settings_of(name))

    def settings_of(self, name: str) -> dict[str, Any]:
        """Return the arguments one of the vendor's providers is made with."""
        return self.settings()


class CalledBackResource(VendorResource):
    """A vendor's account whose jobs are called back about; see `CallbackEndpoint`.

    Both left out: GENBLAZE_CALLBACK_URL and GENBLAZE_CALLBACK_SECRET. Without a receiver the vendor
    is only polled.
    """

    callback_url: str | None = Field(
        default=None, description="Where vendors reach the receiver of their calls, https."
    )
    callback_secret: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
        description="Secret that the calls' tokens are made with. Prefer dg.EnvVar.",
    )

    def settings(self) -> dict[str, Any]:
        """Return the arguments, and where the vendor calls back.

        Raises:
            ConfigError: one of the two is missing, or cannot be used.
        """
        return {**super().settings(), "callbacks": self._callbacks()}

    def _callbacks(self) -> CallbackEndpoint | None:
        if not self.callback_url and not self.callback_secret:
            return None
        if not self.callback_url or not self.callback_secret:
            raise ConfigError(
                f"{type(self).__name__}: callback_url and callback_secret belong together; give "
                "both, or neither"
            )
        return CallbackEndpoint(self.callback_url, self.callback_secret)


class OpenAIResource(VendorResource):
    """OpenAI: images, Sora, speech. Key: OPENAI_API_KEY."""

    vendor = "openai"
    webhook_secret: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
        description="Secret of the dashboard's webhook; OPENAI_WEBHOOK_SECRET when left out.",
    )
    organization: str | None = Field(default=None, description="Organization that is billed.")
    project: str | None = Field(default=None, description="Project that is billed.")

    def settings(self) -> dict[str, Any]:
        """Return the arguments, and who is billed."""
        billed = {"organization": self.organization, "project": self.project}
        return {**super().settings(), **billed}

    def settings_of(self, name: str) -> dict[str, Any]:
        """Return the arguments; those of videos with the secret of their calls."""
        is_called = name == "openai-sora"
        return self.settings() | ({"webhook_secret": self.webhook_secret} if is_called else {})


class GoogleResource(VendorResource):
    """Google's Gemini API: Veo, Imagen, Gemini images. Key: GEMINI_API_KEY or GOOGLE_API_KEY."""

    vendor = "google"


class NvidiaResource(VendorResource):
    """NVIDIA NIM: video, images, speech. Key: NVIDIA_API_KEY."""

    vendor = "nvidia"


class GMICloudResource(VendorResource):
    """GMICloud: video, images, audio. Key: GMI_API_KEY."""

    vendor = "gmicloud"


class RunwayResource(VendorResource):
    """Runway: video, images, speech. Key: RUNWAYML_API_SECRET."""

    vendor = "runway"


class LumaResource(CalledBackResource):
    """Luma: video and images. Keys: LUMAAI_API_KEY, and LUMA_AGENTS_API_KEY for the newer models."""

    vendor = "luma"
    agents_api_key: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
        description="API key of the successor API; LUMA_AGENTS_API_KEY when left out.",
    )

    def settings(self) -> dict[str, Any]:
        """Return the arguments, and the second key."""
        return {**super().settings(), "agents_api_key": self.agents_api_key}


class DecartResource(VendorResource):
    """Decart: edits of videos and images. Key: DECART_API_KEY."""

    vendor = "decart"


class ReplicateResource(CalledBackResource):
    """Replicate: any model. Key: REPLICATE_API_TOKEN."""

    vendor = "replicate"
    wait: int | None = Field(
        default=None, ge=1, le=60, description="Seconds to keep a submit open for its result."
    )
    cancel_after: int | None = Field(
        default=None, ge=1, description="Seconds after which Replicate gives a prediction up."
    )
    unified: bool = Field(
        default=False, description="Send every model as a version; community models need none then."
    )
    webhook_secret: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
        description="Secret of Replicate's calls; asked for at Replicate when left out.",
    )

    def settings(self) -> dict[str, Any]:
        """Return the arguments, and how predictions are asked for and called back about."""
        asked = {"wait": self.wait, "cancel_after": self.cancel_after, "unified": self.unified}
        return {**super().settings(), **asked, "webhook_secret": self.webhook_secret}


class ElevenLabsResource(VendorResource):
    """ElevenLabs: speech, sound effects, music. Key: ELEVENLABS_API_KEY."""

    vendor = "elevenlabs"


class StabilityResource(VendorResource):
    """Stability AI: Stable Audio. Key: STABILITY_API_KEY."""

    vendor = "stability"


class LMNTResource(VendorResource):
    """LMNT: speech. Key: LMNT_API_KEY."""

    vendor = "lmnt"


class HumeResource(VendorResource):
    """Hume: speech. Key: HUME_API_KEY."""

    vendor = "hume"


class AssemblyAIResource(CalledBackResource):
    """AssemblyAI: transcription. Key: ASSEMBLYAI_API_KEY."""

    vendor = "assemblyai"


class FalResource(CalledBackResource):
    """fal: images, video, audio, transcription, 3D. Key: FAL_KEY."""

    vendor = "fal"


PROVIDER_RESOURCES: Mapping[str, type[ProviderResource]] = {
    "local": LocalResource,
    **{
        resource.vendor: resource
        for resource in (
            OpenAIResource,
            GoogleResource,
            NvidiaResource,
            GMICloudResource,
            RunwayResource,
            LumaResource,
            DecartResource,
            ReplicateResource,
            ElevenLabsResource,
            StabilityResource,
            LMNTResource,
            HumeResource,
            AssemblyAIResource,
            FalResource,
        )
    },
}
"""Resource classes by resource key: the vendor's name, or the provider's where there is no vendor."""


def resource_key(provider: str) -> str:
    """Return the key of the resource that a provider of this name comes from."""
    return vendor_of(provider) or provider
