"""A provider whose every answer the test writes down beforehand, and which counts its bills."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from genblaze_dagster.errors import ProviderError
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)


@dataclass
class ScriptedProvider:
    """Answers with bytes derived from the request.

    `submit_errors`, `poll_errors` and `fetch_errors` are raised first, one per call. With `job` a
    submit gives a job id that needs `polls` polls; else the answer is the result itself. `billed`
    lists the prompt of every submit the "vendor" accepted.
    """

    name: str = "scripted"
    version: str = "1"
    deduplicates: bool = False
    job: bool = False
    polls: int = 1
    delay: float = 0.0
    cost_usd: float | None = 0.04
    size: int = 64
    submit_errors: list[BaseException] = field(default_factory=list)
    poll_errors: list[BaseException] = field(default_factory=list)
    fetch_errors: list[BaseException] = field(default_factory=list)
    refuse: ProviderError | None = None
    outputs: Sequence[Output] | None = None
    accept_before_error: bool = False
    billed: list[str | None] = field(default_factory=list)
    submits: int = 0
    cancelled: list[str] = field(default_factory=list)
    seen: list[GenerationRequest] = field(default_factory=list)
    _polled: dict[str, int] = field(default_factory=dict)
    _jobs: dict[str, GenerationRequest] = field(default_factory=dict)
    failing_job: bool = False

    def validate(self, request: GenerationRequest) -> None:
        if self.refuse is not None:
            raise self.refuse

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        return self.cost_usd

    async def submit(self, request: GenerationRequest) -> Submission:
        self.submits += 1
        self.seen.append(request)
        if self.submit_errors:
            if self.accept_before_error:
                self.billed.append(request.prompt)
            raise self.submit_errors.pop(0)
        self.billed.append(request.prompt)
        if self.delay and not self.job:
            await asyncio.sleep(self.delay)
        if not self.job:
            return Submission(result=await self._result(request))
        job_id = f"job-{request.idempotency_key}"
        self._jobs[job_id] = request
        return Submission(job_id=job_id)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        if self.poll_errors:
            raise self.poll_errors.pop(0)
        count = self._polled[job_id] = self._polled.get(job_id, 0) + 1
        if count <= self.polls:
            return JobStatus(JobState.RUNNING, progress=count / (self.polls + 1), poll_after=0.005)
        return JobStatus(JobState.FAILED if self.failing_job else JobState.SUCCEEDED)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        if self.fetch_errors:
            raise self.fetch_errors.pop(0)
        return await self._result(request)

    async def cancel(self, job_id: str) -> bool:
        self.cancelled.append(job_id)
        return True

    async def aclose(self) -> None:
        return

    async def _result(self, request: GenerationRequest) -> Result:
        outputs = self.outputs
        if outputs is None:
            seed = f"{request.model}|{request.prompt}|{request.seed}|{dict(request.params)}"
            for item in request.inputs:
                seed += hashlib.sha256(await item.read()).hexdigest()
            digest = hashlib.sha256(seed.encode()).digest()
            data = (digest * (self.size // len(digest) + 1))[: self.size]
            outputs = (Output(data=data, media_type="image/png"),)
        return Result(tuple(outputs), cost_usd=self.cost_usd, model_version="v1")
