"""What a manifest holds: a run, its steps, and the assets they made or used.

Constructing an object applies every rule. Loading a file does not: facts about media that an older
or careless writer got wrong are kept and reported by `Manifest.verification_report`, because the
hash must be computed over what the file says. `TOLERANT` is the validation context of a load.

Fields stand in alphabetical order, as in the canonical text, which makes writing it cheaper.
Lists stop at their first wrong item: millions of them would need gigabytes to be explained.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from uuid_utils import uuid4

from genblaze_dagster.core.enums import (
    Modality,
    PromptVisibility,
    ProviderErrorCode,
    RunStatus,
    StepStatus,
    StepType,
)

TOLERANT: Final = {"tolerant": True}
"""Pass as `context=` to `model_validate` to keep media facts that break the rules."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WITHOUT_PROVIDER = frozenset({StepType.INGEST, StepType.IMPORT})


class _Suspended:
    """Makes the rules before it in an `Annotated` type hold on construction, not on a load."""

    def __init__(self, expected: str, *, exact: re.Pattern[str] | None = None) -> None:
        self._expected = expected
        self._exact = exact

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        # The second choice is tried only when the rules failed, so allowing it costs nothing.
        return core_schema.union_schema(
            [
                handler(source),
                core_schema.with_info_after_validator_function(
                    self._second_look, handler.generate_schema(source)
                ),
            ],
            mode="left_to_right",
            custom_error_type="media_fact",
            custom_error_message=f"Input should be {self._expected}",
        )

    def _second_look(self, value: Any, info: ValidationInfo) -> Any:
        if info.context is TOLERANT or (self._exact is not None and self._exact.match(value)):
            return value
        raise PydanticCustomError("media_fact", "not allowed")


_Count = Annotated[int, Field(gt=0), _Suspended("a whole number above 0")]
_Amount = Annotated[
    float, Field(ge=0, allow_inf_nan=False), _Suspended("a finite number, 0 or more")
]
# The format was written for Python's `re`, where `\w` takes letters of any script and `$` also
# matches before a final newline. The ASCII pattern is the quick look.
_MediaType = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.+-]*$"),
    _Suspended(
        "a media type without parameters, such as image/png",
        exact=re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.+-]*$"),
    ),
]


class _UnlessImported:
    """Allows null only in a step that imports media; the step's type must come before."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.union_schema(
            [
                core_schema.str_schema(),
                core_schema.with_info_after_validator_function(
                    self._imported, core_schema.none_schema()
                ),
            ],
            mode="left_to_right",
            custom_error_type="provider",
            custom_error_message="Input should be a text; null is for ingest and import steps",
        )

    @staticmethod
    def _imported(value: None, info: ValidationInfo) -> None:
        if info.data.get("step_type") not in _WITHOUT_PROVIDER:
            raise PydanticCustomError("provider", "not allowed")
        return value


def is_valid_sha256(value: str | None) -> bool:
    """Whether `value` is exactly 64 lower-case hex characters."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _new_id() -> str:
    return str(uuid4())


def _now() -> datetime:
    return datetime.now(UTC)


class _Model(BaseModel):
    """Unknown keys are dropped; errors never quote the input, which may be a private prompt."""

    model_config = ConfigDict(hide_input_in_errors=True)


class _Metadata(_Model):
    # An Asset built around a part that was loaded tolerantly is as invalid as the part.
    model_config = ConfigDict(revalidate_instances="always")


class WordTiming(_Model):
    """When one spoken word starts and ends, in seconds; `confidence` is 0 to 1."""

    confidence: float | None = Field(default=None, ge=0, le=1)
    end: float = Field(allow_inf_nan=False)
    start: float = Field(ge=0, allow_inf_nan=False)
    word: str = Field(repr=False)

    @model_validator(mode="after")
    def _ends_after_start(self) -> Self:
        if self.end < self.start:
            raise PydanticCustomError("word_timing", "end is before start")
        return self


class VideoMetadata(_Metadata):
    """The picture of a video: `frame_rate` in frames, `bitrate` in bits per second."""

    bitrate: _Count | None = None
    codec: str | None = None
    color_space: str | None = None
    frame_rate: _Amount | None = None
    has_audio: bool | None = None
    resolution: str | None = None


class AudioMetadata(_Metadata):
    """The sound of an asset: `sample_rate` in Hz, `bitrate` in bits per second."""

    bitrate: _Count | None = None
    channels: _Count | None = None
    codec: str | None = None
    sample_rate: _Count | None = None
    word_timings: list[WordTiming] | None = Field(default=None, fail_fast=True)


class Track(_Model):
    """One track of a container; `kind` is "video", "audio" or "subtitle" by convention."""

    codec: str | None = None
    kind: str
    label: str | None = None


class Asset(_Model):
    """One media object, as an output or as an input of a step.

    `size_bytes` in bytes, `width` and `height` in pixels, `duration` in seconds. `sha256` is not
    checked here: an asset without a valid one can be stored, it only never verifies.
    """

    asset_id: str = Field(default_factory=_new_id)
    audio: AudioMetadata | None = None
    duration: _Amount | None = None
    height: _Count | None = None
    media_type: _MediaType
    metadata: dict[str, Any] = Field(default_factory=dict, repr=False)
    sha256: str | None = None
    size_bytes: int | None = Field(default=None, ge=0)
    tracks: list[Track] | None = Field(default=None, fail_fast=True)
    url: str = Field(repr=False)
    video: VideoMetadata | None = None
    width: _Count | None = None


def is_valid_media(asset: Asset) -> bool:
    """Whether `asset` could be constructed: a tolerant load and assignment let anything through."""
    try:
        Asset.model_validate({**asset.__dict__, "metadata": {}})
    except ValidationError:
        return False
    return True


def _no_assets() -> list[Asset]:
    return []


class Step(_Model):
    """One call of a model, or one import of media. Unknown keys are refused.

    `provider` may be missing only when `step_type` is ingest or import. `cost_usd` None means
    unknown, never free. `provider_payload` is the one free-form field outside the hash.
    """

    model_config = ConfigDict(extra="forbid")

    assets: list[Asset] = Field(default_factory=_no_assets, fail_fast=True)
    completed_at: datetime | None = None
    cost_usd: float | None = None
    error: str | None = None
    error_code: ProviderErrorCode | None = None
    inputs: list[Asset] = Field(default_factory=_no_assets, fail_fast=True)
    metadata: dict[str, Any] = Field(default_factory=dict, repr=False)
    modality: Modality = Modality.IMAGE
    model: str
    model_hash: str | None = None
    model_version: str | None = None
    negative_prompt: str | None = Field(default=None, repr=False)
    params: dict[str, Any] = Field(default_factory=dict, repr=False)
    prompt: str | None = Field(default=None, repr=False)
    prompt_visibility: PromptVisibility = PromptVisibility.PUBLIC
    # Before `provider`, whose rule depends on it.
    step_type: StepType = StepType.GENERATE
    provider: Annotated[str | None, _UnlessImported()] = Field(default=None, validate_default=True)
    provider_payload: dict[str, Any] = Field(default_factory=dict, repr=False)
    retries: int = 0
    run_id: str | None = None
    seed: int | None = None
    started_at: datetime | None = None
    status: StepStatus = StepStatus.PENDING
    step_id: str = Field(default_factory=_new_id)
    step_index: int | None = None


def _no_steps() -> list[Step]:
    return []


class Run(_Model):
    """One execution: its steps in order. `parent_run_id` is the run that this one refines."""

    completed_at: datetime | None = None
    created_at: datetime = Field(default_factory=_now)
    idempotency_key: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict, repr=False)
    name: str | None = None
    parent_run_id: str | None = None
    project_id: str | None = None
    run_id: str = Field(default_factory=_new_id)
    started_at: datetime | None = None
    status: RunStatus = RunStatus.PENDING
    steps: list[Step] = Field(default_factory=_no_steps, fail_fast=True)
    tenant_id: str | None = None
