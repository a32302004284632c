"""What a provider is: four async calls around a vendor's job, and values that travel through them.

A provider knows a vendor's wire format and nothing else. Retries, polling rhythm, storage, cost
bookkeeping and the ledger belong to the Runner and are written once.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from genblaze_dagster.core.enums import Modality, StepType
from genblaze_dagster.core.models import Asset


@dataclass(frozen=True, slots=True)
class InputMedia:
    """An input of a step: the asset record and a way to its bytes in our store."""

    asset: Asset
    read: Callable[[], Awaitable[bytes]]
    """Read the whole object into memory."""
    stream: Callable[[], AsyncIterator[bytes]]
    """Stream the object in chunks."""
    public_url: Callable[[], str | None]
    """A short-lived URL a vendor may fetch, or None when the store has none (file, memory)."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One call to a model, fully rendered.

    `params` holds the caller's own names (standard or native); `timeout` is the time in seconds
    the whole step may take; `idempotency_key` is the same for every attempt of one generation.
    """

    model: str
    prompt: str | None = field(default=None, repr=False)
    negative_prompt: str | None = field(default=None, repr=False)
    seed: int | None = None
    modality: Modality = Modality.IMAGE
    step_type: StepType = StepType.GENERATE
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inputs: tuple[InputMedia, ...] = ()
    idempotency_key: str = ""
    timeout: float = 600.0


@dataclass(frozen=True, slots=True)
class Output:
    """One generated file: exactly one of `data`, `path` and `url` is set.

    `url` is downloaded through the SSRF guard with `headers` (sent to that host only) before
    `expires_at`; it never reaches a manifest. `media_type` None means: sniff the bytes.
    `facts` are Asset fields the provider knows (width, height, duration, video, audio, tracks,
    metadata); what is missing is probed from the bytes.
    """

    data: bytes | None = None
    path: Path | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    media_type: str | None = None
    expires_at: datetime | None = None
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished job gave.

    `cost_usd` None means unknown, never free. `provider_payload` is JSON the manifest keeps
    outside its hash: request ids, usage, revised prompts; never URLs, keys or base64.
    """

    outputs: tuple[Output, ...]
    cost_usd: float | None = None
    model_version: str | None = None
    provider_payload: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer to a submit: a job to poll, or the result itself for one-call APIs."""

    job_id: str | None = None
    result: Result | None = None
    estimated_seconds: float | None = None


class JobState(StrEnum):
    """State of a vendor's job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One poll. `progress` is 0 to 1; `poll_after` the seconds the vendor asks to wait.

    `preview_url` shows what there is so far, to who watches the run; it is never recorded.
    """

    state: JobState
    progress: float | None = None
    message: str | None = None
    preview_url: str | None = field(default=None, repr=False)
    poll_after: float | None = None
    error: Exception | None = None
    """The typed ProviderError of a FAILED job."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a vendor allows one account, across all processes that share a ledger.

    `requests` submits per `seconds`, with up to `burst` at once after a quiet time (`requests`
    when left out); at most `concurrency` jobs open at the same time. None means: no such limit.
    """

    requests: float | None = None
    seconds: float = 60.0
    burst: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class FoundJobs:
    """Jobs a vendor knows for a request whose answer was lost.

    `is_complete` is True only when the vendor's answer is certain: a job that is not in it does
    not exist, and submitting again cannot pay twice.
    """

    job_ids: tuple[str, ...]
    is_complete: bool = False


@runtime_checkable
class FindsJobs(Protocol):
    """A provider that can look a job up after the answer to its submit was lost."""

    async def find_jobs(self, request: GenerationRequest, *, since: datetime) -> FoundJobs:
        """Return the jobs that this request may have started at or after `since` (UTC).

        Jobs are told apart by `request.idempotency_key` where the vendor keeps it, else by model,
        prompt and time: then the caller leaves out those the ledger knows already.

        Raises:
            ProviderError: the vendor cannot be asked.
        """
        ...


@runtime_checkable
class HasAccount(Protocol):
    """A provider whose submits count against the limits of an account."""

    account: str
    """Fingerprint of the credentials, stable across processes, that does not give them away."""
    rate_limit: RateLimit | None


@runtime_checkable
class Provider(Protocol):
    """A vendor's generation API.

    Every method raises `ProviderError` (see `genblaze_dagster.errors`) and nothing else on
    purpose; `ProviderError.sent` tells whether a failed submit may have been accepted.
    """

    name: str
    """As in manifests: `openai`, `local`, ..."""
    version: str
    """Adapter version; part of the code version of every step that uses it."""
    deduplicates: bool
    """A repeated submit with the same idempotency key cannot be billed twice."""

    def validate(self, request: GenerationRequest) -> None:
        """Refuse what the model cannot do, before anything is paid.

        Raises:
            InvalidRequestError: names the parameter, the value and the allowed values.
            ModelError: the provider certainly has no such model.
            AuthError: the key is missing; names the variable.
        """
        ...

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        """Return the expected price in USD, None when unknown."""
        ...

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start the job, or do the whole call for one-call APIs."""
        ...

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the job's state once."""
        ...

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the outputs of a succeeded job."""
        ...

    async def cancel(self, job_id: str) -> bool:
        """Ask the vendor to stop the job; True when it confirms, False when it cannot."""
        ...

    async def aclose(self) -> None:
        """Release what this instance opened itself."""
        ...
