"""Errors of vendor calls."""

from genblaze_dagster.core.enums import ModerationStage, ProviderErrorCode
from genblaze_dagster.errors.base import GenblazeError

_TRANSIENT_CODES = frozenset({"timeout", "rate_limit", "server_error"})


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


class NotReachedError(InvalidRequestError):
    """A step that was not run, because another failed or time was over."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class UnusableInputError(NotReachedError):
    """A step that was not run, because an input of it is not there."""


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
