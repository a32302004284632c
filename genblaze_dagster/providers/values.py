"""What travels between a guide-style provider and who calls it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from genblaze_dagster.core.enums import Modality


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """The vendor's job id, and the seconds the vendor expects the job to take."""

    prediction_id: Any
    estimated_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ProviderCapabilities:
    """What a provider can do; None means: not declared.

    `supported_inputs` are modalities or media types; `max_duration` is seconds, `resolutions` are
    texts as the vendor writes them. With capabilities declared, a step that has inputs needs
    `accepts_chain_input`.
    """

    supported_modalities: list[Modality] | None = None
    supported_inputs: list[str] | None = None
    accepts_chain_input: bool = False
    max_duration: float | None = None
    resolutions: list[str] | None = None
    output_formats: list[str] | None = None
    models: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A voice of a speech provider."""

    voice_id: str
    name: str
    provider: str
    model: str | None = None
    gender: Literal["male", "female", "neutral"] | None = None
    language: str | None = None
    style_tags: tuple[str, ...] = ()
    sample_url: str | None = None
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One moment of one call, for `on_progress`.

    `status` is submitted, processing, resumed, retry_resumed, succeeded or failed; `progress_pct` is
    as the provider says it; `elapsed_sec` counts from the start of the step. `preview_url` may grant
    access for a while, and is in no repr for that.
    """

    step_id: str
    provider: str
    model: str
    status: str
    progress_pct: float | None
    elapsed_sec: float
    message: str | None = None
    preview_url: str | None = field(default=None, repr=False)
    request_id: str | None = None
    is_heartbeat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRetriedEvent:
    """A phase of a step is tried again after `delay_sec` seconds, for `on_retry`."""

    step_id: str
    provider: str
    model: str
    phase: Literal["submit", "poll", "fetch", "step"]
    attempt: int
    max_attempts: int
    delay_sec: float
    error_code: str | None = None
    error: str | None = None
    run_id: str | None = None


class RunnableConfig(TypedDict, total=False):
    """Settings of one call. `timeout` is seconds for the whole step, 600 when left out."""

    tags: list[str]
    metadata: dict[str, Any]
    run_id: str
    timeout: float
    max_retries: int
    on_progress: Callable[[ProgressEvent], None] | None
    on_submit: Callable[[str, Any], None] | None
    on_retry: Callable[[StepRetriedEvent], None] | None
