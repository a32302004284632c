"""Every error the package raises on purpose.

A message starts with the thing, then the fact, then the remedy. It never holds a key, a presigned
URL or more than 80 characters of a prompt.

    GenblazeError                       base of all
    ├── ConfigError                     wrong settings; names the field or variable and the fix
    │   ├── MissingExtraError           an optional dependency is not installed
    │   ├── UnknownProviderError        no provider of that name
    │   ├── ProviderTypeError           what was given as a provider is none (also a TypeError)
    │   ├── PartitionKeyError           empty, duplicate or unusable partition keys
    │   └── PromptTemplateError         missing variable or broken template (also a ValueError)
    ├── UnsafeUrlError                  the SSRF guard refused an address
    ├── WebhookError                    a webhook is refused, or was not delivered
    ├── ProviderError                   a vendor call failed; `code`, `transient`, `retry_after`
    │   ├── AuthError                   key missing, wrong or without permission; permanent
    │   ├── QuotaError                  credit or spend limit used up; permanent
    │   ├── InvalidRequestError         the vendor refused the request; `param` names the field
    │   │   └── NotReachedError         a step was not run: another failed, or time was over
    │   │       └── UnusableInputError  an input of it is not there
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
    │   ├── AccountBusyError            an account has as many open jobs as its vendor allows
    │   ├── HeldError                   the answer to a submit was lost; a person must decide
    │   └── BudgetExceededError         no room for this request; names budget, spend and request
    ├── IndexQueryError                 SQL over the index failed
    └── PipelineError                   a run ended with failed steps; `result`
        ├── PipelineTimeoutError        (RunFailedError and BatchPipelineError are beside the
        └── ...                          results they carry, in `pipeline`)
"""

from genblaze_dagster.errors.base import (
    ConfigError,
    GenblazeError,
    IndexQueryError,
    MissingExtraError,
    PartitionKeyError,
    PromptTemplateError,
    ProviderTypeError,
    UnknownProviderError,
    UnsafeUrlError,
    WebhookError,
)
from genblaze_dagster.errors.ledger import (
    AccountBusyError,
    BudgetExceededError,
    HeldError,
    LeaseHeldError,
    LedgerError,
)
from genblaze_dagster.errors.manifest import (
    EmbeddingError,
    IntegrityError,
    ManifestError,
    PointerSidecarError,
    SchemaError,
    UnsupportedSchemaVersionError,
    UnverifiedAssetError,
)
from genblaze_dagster.errors.provider import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    ModerationRejectedError,
    NotReachedError,
    OutputError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaError,
    RateLimitError,
    UnusableInputError,
)
from genblaze_dagster.errors.run import (
    PipelineError,
    PipelineTimeoutError,
)
from genblaze_dagster.errors.storage import (
    AccessDeniedError,
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    PreconditionError,
    SinkError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)

__all__ = [
    "AccessDeniedError",
    "AccountBusyError",
    "AlreadyExistsError",
    "AuthError",
    "BudgetExceededError",
    "ConfigError",
    "ConflictError",
    "ContentPolicyError",
    "EmbeddingError",
    "GenblazeError",
    "HeldError",
    "IndexQueryError",
    "IntegrityError",
    "InvalidRequestError",
    "LeaseHeldError",
    "LedgerError",
    "ManifestError",
    "MissingExtraError",
    "ModelError",
    "ModerationRejectedError",
    "NotFoundError",
    "NotReachedError",
    "OutputError",
    "PartitionKeyError",
    "PipelineError",
    "PipelineTimeoutError",
    "PointerSidecarError",
    "PreconditionError",
    "PromptTemplateError",
    "ProviderError",
    "ProviderTimeoutError",
    "ProviderTypeError",
    "ProviderUnavailableError",
    "QuotaError",
    "RateLimitError",
    "SchemaError",
    "SinkError",
    "StorageError",
    "StorageFullError",
    "StorageUnavailableError",
    "UnknownProviderError",
    "UnsafeUrlError",
    "UnsupportedSchemaVersionError",
    "UnusableInputError",
    "UnverifiedAssetError",
    "WebhookError",
]
