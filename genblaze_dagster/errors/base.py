"""The base of all errors, and those that belong to no part in particular."""


class GenblazeError(Exception):
    """Base of every error this package raises on purpose."""

    transient: bool = False
    """True when the same call may succeed later; the one thing a retry looks at."""
    submission_id: str | None = None
    """The submission in the ledger that it is about, where there is one."""


class ConfigError(GenblazeError):
    """A setting is wrong. The message names the field or variable and the fix."""


class MissingExtraError(ConfigError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; run: pip install 'genblaze-dagster[{extra}]'"
        )
        self.package = package
        self.extra = extra


class UnknownProviderError(ConfigError):
    """No provider of that name is registered."""


class ProviderTypeError(ConfigError, TypeError):
    """What was given as a provider is none."""


class PartitionKeyError(ConfigError):
    """Partition keys are empty, duplicate or not usable as keys."""


class PromptTemplateError(ConfigError, ValueError):
    """A prompt template is broken, or a variable it names is missing."""


class UnsafeUrlError(GenblazeError):
    """The SSRF guard refused a URL, its address or a redirect."""


class WebhookError(GenblazeError):
    """A webhook URL is refused, an event could not be delivered, or a vendor's call is not believed.

    Attributes:
        transient: whether a later attempt may succeed.
        http_status: the receiver's answer, None when there was none.
        delivery_id: the `webhook-id` of the delivery, None when none was made.
        retry_after: seconds the receiver asks to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        transient: bool = False,
        http_status: int | None = None,
        delivery_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.transient = transient
        self.http_status = http_status
        self.delivery_id = delivery_id
        self.retry_after = retry_after


class IndexQueryError(GenblazeError):
    """SQL over the index failed; the message carries DuckDB's explanation."""
