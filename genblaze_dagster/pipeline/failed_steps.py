"""How a step that failed, or was not run, is recorded."""

from typing import Any

from genblaze_dagster.core.enums import PromptVisibility, StepStatus
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import (
    BudgetExceededError,
    GenblazeError,
    NotReachedError,
    UnusableInputError,
)
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.error_codes import code_of
from genblaze_dagster.pipeline.moderation import ModerationRejectedError, ModerationStage


def failed_step(spec: StepSpec, error: GenblazeError, step_id: str) -> Step:
    """Return the record of a failed step.

    Vendors like to repeat what they refuse: under a prompt that is not public only the kind of the
    error is kept.
    """
    code = code_of(error)
    own_words = isinstance(error, NotReachedError | ModerationRejectedError | BudgetExceededError)
    is_public = spec.prompt_visibility is PromptVisibility.PUBLIC
    words = redact(str(error)) if is_public or own_words else f"{type(error).__name__}: {code}"
    return Step(
        step_id=step_id,
        provider=spec.provider_name,
        model=spec.model,
        step_type=spec.step_type,
        modality=spec.modality,
        prompt_visibility=spec.prompt_visibility,
        status=StepStatus.FAILED,
        error=words,
        error_code=code,
        step_index=None,
        metadata={"name": spec.name, **_why(error)},
    )


def _why(error: GenblazeError) -> dict[str, Any]:
    if isinstance(error, UnusableInputError):
        return {"failure_reason": "input_resolution", "provider_invoked": False}
    if isinstance(error, NotReachedError | BudgetExceededError):
        return {"provider_invoked": False}
    if isinstance(error, ModerationRejectedError):
        is_made = error.stage is ModerationStage.POST
        return {"moderation": error.record, "provider_invoked": is_made}
    return {}
