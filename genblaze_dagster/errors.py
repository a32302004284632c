"""Every error the package raises on purpose.

A message starts with the thing, then the fact, then the remedy. It never holds a key, a presigned
URL or more than 80 characters of a prompt.

    GenblazeError                       base of all
    ├── ConfigError                     wrong settings; names the field or variable and the fix
    │   ├── MissingExtraError           an optional dependency is not installed
    │   ├── UnknownProviderError        no provider of that name
    │   ├── PartitionKeyError           empty, duplicate or unusable partition keys
    │   └── PromptTemplateError         missing variable or broken template (also a ValueError)
    ├── UnsafeUrlError                  the SSRF guard refused an address
    ├── WebhookError                    a webhook is refused, or was not delivered
    ├── ProviderError                   a vendor call failed; `code`, `transient`, `retry_after`
    │   ├── AuthError                   key missing, wrong or without permission; permanent
    │   ├── QuotaError                  credit or spend limit used up; permanent
    │   ├── InvalidRequestError         the vendor refused the request; `param` names the field
    │   ├── ContentPolicyError          moderation refused prompt, input or output
    │   │   └── ModerationRejectedError the user's own moderation did; `stage`, `reason`
    │   ├── ModelError                  unknown model, or the model failed
    │   ├── RateLimitError              transient; `retry_after` seconds when the vendor says
    │   ├── ProviderTimeoutError        transient; the job may still run
    │   ├── ProviderUnavailableError    transient; network or 5xx
    │   └── OutputError                 the job is done, its result is missing or not as promised
    ├── StorageError                    an object store operation failed; `key`, `transient`
    │   ├── NotFoundError
    │   ├── AlreadyExistsError          create on an existing key
    │   ├── ConflictError               other content is stored where ours was to go
    │   ├── PreconditionError           a conditional replace lost the race
    │   ├── AccessDeniedError           wrong credentials, or read-only
    │   ├── StorageFullError            no space left, or quota reached
    │   ├── StorageUnavailableError     unreachable, or 5xx after retries; transient
    │   └── SinkError                   a run could not be written; names what is safe already
    ├── ManifestError                   a manifest cannot be read or written
    │   ├── SchemaError                 its structure is wrong (also a ValueError)
    │   ├── UnsupportedSchemaVersionError
    │   ├── IntegrityError              hash mismatch; `expected`, `actual`
    │   └── UnverifiedAssetError        outputs without sha256; `asset_ids`
    ├── EmbeddingError                  no manifest in a file, or it cannot carry one
    │   └── PointerSidecarError         the file holds only a pointer; `manifest_uri`
    ├── LedgerError
    │   ├── LeaseHeldError              another worker is doing this very generation
    │   └── HeldError                   the answer to a submit was lost; a person must decide
    ├── IndexQueryError                 SQL over the index failed
    └── PipelineError                   a run ended with failed steps; `result`
        └── PipelineTimeoutError
"""

from collections.abc import Sequence
from typing import ClassVar

from genblaze_dagster.core.enums import ModerationStage, ProviderErrorCode

_TRANSIENT_CODES = frozenset({"timeout", "rate_limit", "server_error"})


class GenblazeError(Exception):
    """Base of every error this package raises on purpose."""

    transient: bool = False
    """True when the same call may succeed later; the one thing a retry looks at."""


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


class PartitionKeyError(ConfigError):
    """Partition keys are empty, duplicate or not usable as keys."""


class PromptTemplateError(ConfigError, ValueError):
    """A prompt template is broken, or a variable it names is missing."""


class UnsafeUrlError(GenblazeError):
    """The SSRF guard refused a URL, its address or a redirect."""


class WebhookError(GenblazeError):
    """A webhook URL is refused, or an event could not be delivered.

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


class ProviderError(GenblazeError):
    """A vendor call failed.

    Attributes:
        code: genblaze's error code, as written into manifests; `error_code` in genblaze's guides.
        transient: whether the same call may succeed later.
        http_status: status of the answer, None when there was none.
        vendor_code: the vendor's own code, verbatim.
        retry_after: seconds the vendor asks to wait.
        request_id: the vendor's request id, for support.
        param: the field the vendor complains about.
        sent: False when the request certainly never left this machine, True when the vendor
            answered, None when that is not known (a submit is then ambiguous).
    """

    code: ProviderErrorCode = ProviderErrorCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: ProviderErrorCode | None = None,
        error_code: ProviderErrorCode | None = None,
        transient: bool | None = None,
        provider: str | None = None,
        model: str | None = None,
        http_status: int | None = None,
        vendor_code: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        param: str | None = None,
        sent: bool | None = True,
    ) -> None:
        super().__init__(message)
        code = code or error_code
        if code is not None:
            self.code, self.transient = code, self.transient or code in _TRANSIENT_CODES
        if transient is not None:
            self.transient = transient
        self.provider = provider
        self.model = model
        self.http_status = http_status
        self.vendor_code = vendor_code
        self.retry_after = retry_after
        self.request_id = request_id
        self.param = param
        self.sent = sent


class AuthError(ProviderError):
    """The key is missing, wrong, or lacks permission."""

    code = ProviderErrorCode.AUTH_FAILURE


class QuotaError(ProviderError):
    """Credit or a spend limit is used up; waiting does not help."""

    code = ProviderErrorCode.RATE_LIMIT


class InvalidRequestError(ProviderError):
    """The request is not one the vendor accepts; `param` names the field when known."""

    code = ProviderErrorCode.INVALID_INPUT


class ContentPolicyError(ProviderError):
    """Moderation refused the prompt, an input or the output."""

    code = ProviderErrorCode.CONTENT_POLICY


class ModerationRejectedError(ContentPolicyError):
    """A moderation hook refused a request or an output.

    Attributes:
        stage: before the request was sent, or after the outputs came.
        reason: the hook's words, None when there are none or the prompt is not public.
        flagged_categories: the hook's categories.
    """

    # As genblaze records it; `content_policy` is what the vendor's own moderation gives.
    code = ProviderErrorCode.INVALID_INPUT

    def __init__(
        self, stage: ModerationStage, reason: str | None, flagged_categories: tuple[str, ...]
    ) -> None:
        subject = "prompt/input" if stage is ModerationStage.PRE else "output"
        named = f" ({', '.join(flagged_categories)})" if flagged_categories else ""
        super().__init__(
            f"Moderation rejected {subject}: {reason or 'no reason given'}{named}",
            sent=stage is ModerationStage.POST,
        )
        self.stage = stage
        self.reason = reason
        self.flagged_categories = flagged_categories

    @property
    def record(self) -> dict[str, object]:
        """What stands in a step's metadata under `moderation`."""
        return {
            "stage": self.stage.value,
            "reason": self.reason,
            "flagged_categories": list(self.flagged_categories),
        }


class ModelError(ProviderError):
    """The model is unknown to the vendor, or it failed to produce anything."""

    code = ProviderErrorCode.MODEL_ERROR


class RateLimitError(ProviderError):
    """Too many requests; `retry_after` holds the seconds to wait when the vendor says."""

    code = ProviderErrorCode.RATE_LIMIT
    transient = True


class ProviderTimeoutError(ProviderError):
    """No answer in time. A submitted job may still be running."""

    code = ProviderErrorCode.TIMEOUT
    transient = True


class ProviderUnavailableError(ProviderError):
    """The vendor cannot be reached, or answers 5xx."""

    code = ProviderErrorCode.SERVER_ERROR
    transient = True


class OutputError(ProviderError):
    """The job finished, but its result is missing or not of the promised type."""

    code = ProviderErrorCode.MODEL_ERROR


class StorageError(GenblazeError):
    """An object store operation failed; `key` names the object when there is one."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class NotFoundError(StorageError):
    """No such object or bucket."""


class AlreadyExistsError(StorageError):
    """Create on a key that exists."""


class ConflictError(StorageError):
    """Other content is stored under the key; nothing was overwritten."""


class PreconditionError(StorageError):
    """A conditional replace lost the race."""


class AccessDeniedError(StorageError):
    """The credentials are wrong, or do not allow this."""


class StorageFullError(StorageError):
    """No space or quota is left; nothing half-written remains."""


class StorageUnavailableError(StorageError):
    """The store cannot be reached, or keeps answering 5xx."""

    transient = True


class SinkError(StorageError):
    """A run could not be written completely; `stored` names the objects that are safe.

    Attributes:
        failed_asset_ids: asset ids that are not stored.
    """

    def __init__(self, message: str, *, failed_asset_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.failed_asset_ids = tuple(failed_asset_ids)


class ManifestError(GenblazeError):
    """A manifest cannot be read, hashed or written."""


class SchemaError(ManifestError, ValueError):
    """The structure of a manifest is wrong; the message names the fields, never their values."""


class UnsupportedSchemaVersionError(ManifestError):
    """The manifest's schema version is not one we read."""


class IntegrityError(ManifestError):
    """Content does not hash to what its record says."""

    def __init__(self, message: str, *, expected: str | None = None, actual: str | None = None):
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class UnverifiedAssetError(ManifestError):
    """Output assets carry no valid sha256."""

    def __init__(self, asset_ids: Sequence[str]) -> None:
        super().__init__(
            f"{len(asset_ids)} output asset(s) declare no valid sha256: {', '.join(asset_ids[:5])}"
        )
        self.asset_ids = tuple(asset_ids)


class EmbeddingError(GenblazeError):
    """A file holds no manifest, or its container cannot carry one."""


class PointerSidecarError(EmbeddingError):
    """The file only points to a manifest stored elsewhere."""

    def __init__(self, message: str, *, manifest_uri: str, canonical_hash: str | None) -> None:
        super().__init__(message)
        self.manifest_uri = manifest_uri
        self.canonical_hash = canonical_hash


class LedgerError(GenblazeError):
    """The ledger database cannot be used, or a transition is not allowed."""


class LeaseHeldError(LedgerError):
    """Another live worker holds the lease on this generation.

    Attributes:
        retry_after: seconds until the lease ends unless it is renewed.
    """

    transient = True

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class HeldError(LedgerError):
    """The answer to a submit was lost and the vendor cannot tell; nothing is resubmitted."""

    def __init__(self, message: str, *, submission_id: str) -> None:
        super().__init__(message)
        self.submission_id = submission_id


class IndexQueryError(GenblazeError):
    """SQL over the index failed; the message carries DuckDB's explanation."""


class PipelineError(GenblazeError):
    """A run ended with failed steps; what succeeded is in `result` and is stored."""

    code: ClassVar[str] = "pipeline_failed"

    def __init__(self, message: str, *, result: object = None) -> None:
        super().__init__(message)
        self.result = result


class PipelineTimeoutError(PipelineError):
    """The time for the whole run is over; finished steps are in `result`."""

    code = "pipeline_timeout"
