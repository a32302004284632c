"""The local provider: real media made on this machine, without a key, a network or a cost.

For first steps, demos and tests. It has the shape of a vendor's API on purpose: with `latency` it
is a job to poll, without it one call. The same request gives the same bytes on one machine, so a
job can be fetched by a process that never submitted it.
"""

import hashlib
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from genblaze_dagster.errors import MissingExtraError, OutputError, ProviderError
from genblaze_dagster.providers.local import models, parameters
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    RateLimit,
    Result,
    Submission,
)

PACKAGES = {"av": "av", "numpy": "numpy", "PIL": "pillow"}
QUEUED_SHARE = 0.2
"""Part of the latency a job spends in the queue."""


@dataclass(slots=True)
class _Job:
    started: float
    cancelled: bool = False


class LocalProvider:
    """Makes pictures (`local-image`), music (`local-audio`) and video (`local-video`).

    Pictures take `width`, `height` or `aspect_ratio`, `seed`, `n`, `output_format` (png, jpeg,
    webp) and `caption`; with an input image they recolour it. Videos start from the input image,
    carry the input audio, and take size, `duration`, `fps`, `seed` and `caption`. Audio takes
    `duration`, `sample_rate`, `channels`, `seed` and `output_format` (wav, flac, mp3).

    Args:
        latency: seconds a job takes; 0 answers a submit with the result.
        fail_on: called with every submitted request; an error it returns is raised.
        clock: monotonic seconds, for tests.
        rate_limit: as if a vendor allowed no more, for demonstrations.
    """

    name = "local"
    version = models.VERSION
    deduplicates = True
    models = tuple(parameters.MODELS)

    def __init__(
        self,
        *,
        latency: float = 0.0,
        fail_on: Callable[[GenerationRequest], ProviderError | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rate_limit: RateLimit | None = None,
    ) -> None:
        if rate_limit is not None:
            # Without limits there is no account, and nobody asks the ledger about it.
            self.account = self.name
            self.rate_limit = rate_limit
        self._latency = latency
        self._fail_on = fail_on
        self._clock = clock
        self._jobs: dict[str, _Job] = {}

    def validate(self, request: GenerationRequest) -> None:
        """Refuse what the model cannot do.

        Raises:
            InvalidRequestError: names the parameter and the allowed values.
            ModelError: there is no such local model.
            MissingExtraError: the `local` extra is not installed.
        """
        for module, package in PACKAGES.items():
            if importlib.util.find_spec(module) is None:
                raise MissingExtraError(package, "local")
        parameters.check(request)

    def estimate_cost(self, request: GenerationRequest) -> float:
        """Return 0.0: nothing is paid."""
        return 0.0

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start a job, or with no latency return the media at once.

        Raises:
            ProviderError: as `validate`, for inputs that cannot be decoded, or from `fail_on`.
        """
        self.validate(request)
        error = self._fail_on(request) if self._fail_on else None
        if error is not None:
            raise error
        if self._latency <= 0:
            return Submission(result=await models.generate(request))
        job_id = _job_id(request)
        job = self._jobs.get(job_id)
        if job is None or job.cancelled:
            self._jobs[job_id] = _Job(started=self._clock())
        return Submission(job_id=job_id, estimated_seconds=self._latency)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Return the state of a job; one of another process is done, as it can be made again."""
        job = self._jobs.get(job_id)
        if job is None:
            return JobStatus(JobState.SUCCEEDED, progress=1.0)
        if job.cancelled:
            return JobStatus(JobState.CANCELLED)
        progress = (self._clock() - job.started) / self._latency
        if progress >= 1:
            return JobStatus(JobState.SUCCEEDED, progress=1.0)
        state = JobState.QUEUED if progress < QUEUED_SHARE else JobState.RUNNING
        return JobStatus(state, progress=progress, poll_after=self._latency * (1 - progress))

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the media of a finished job, made from the request.

        Raises:
            OutputError: the job is cancelled or still running.
        """
        status = await self.poll(job_id, request)
        if status.state != JobState.SUCCEEDED:
            raise OutputError(
                f"{request.model}: job {job_id} has no output, it is {status.state}",
                provider=self.name,
                model=request.model,
            )
        result = await models.generate(request)
        self._jobs.pop(job_id, None)
        return result

    async def cancel(self, job_id: str) -> bool:
        """Stop a job of this process; False when there is none or it is over."""
        job = self._jobs.get(job_id)
        if job is None or self._clock() - job.started >= self._latency:
            return False
        job.cancelled = True
        return True

    async def aclose(self) -> None:
        """Forget the jobs; nothing else is open."""
        self._jobs.clear()


def _job_id(request: GenerationRequest) -> str:
    identity = request.idempotency_key or json.dumps(
        [
            request.model,
            request.prompt,
            request.negative_prompt,
            request.seed,
            dict(request.params),
            [media.asset.sha256 or media.asset.asset_id for media in request.inputs],
        ],
        sort_keys=True,
    )
    return "local-" + hashlib.sha256(identity.encode()).hexdigest()[:24]
