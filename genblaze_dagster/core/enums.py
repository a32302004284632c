"""The closed value sets of the manifest format (lower-case strings on the wire)."""

from enum import StrEnum


class Modality(StrEnum):
    """What kind of media a step produces."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    TEXT = "text"


class StepStatus(StrEnum):
    """State of one step."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunStatus(StrEnum):
    """State of a run."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepType(StrEnum):
    """What a step does with its inputs."""

    GENERATE = "generate"
    UPSCALE = "upscale"
    TRANSCODE = "transcode"
    MIX = "mix"
    EDIT = "edit"
    CUSTOM = "custom"
    INGEST = "ingest"
    IMPORT = "import"


class PromptVisibility(StrEnum):
    """Who may read a prompt."""

    PUBLIC = "public"
    PRIVATE = "private"
    REDACTED = "redacted"
    ENCRYPTED = "encrypted"


class ProviderErrorCode(StrEnum):
    """Why a provider call failed, as written into manifests."""

    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    AUTH_FAILURE = "auth_failure"
    INVALID_INPUT = "invalid_input"
    MODEL_ERROR = "model_error"
    SERVER_ERROR = "server_error"
    CONTENT_POLICY = "content_policy"
    UNKNOWN = "unknown"

    @property
    def retryable(self) -> bool:
        """Whether the manifest format calls this code retryable."""
        return self in (self.TIMEOUT, self.RATE_LIMIT, self.SERVER_ERROR)


class ModerationStage(StrEnum):
    """When moderation refused: before the request was sent, or after the outputs came."""

    PRE = "pre"
    POST = "post"
