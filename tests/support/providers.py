"""Providers for tests: they answer at once, count what they are asked, and fail when told to."""

import asyncio
import hashlib
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import ModelError
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)


def png(seed: str, size_bytes: int = 0) -> bytes:
    """Return a real 8x8 PNG whose pixels depend on `seed`, padded by a private chunk."""
    pixels = hashlib.sha256(seed.encode()).digest() * 6
    rows = b"".join(b"\0" + pixels[y * 24 : y * 24 + 24] for y in range(8))
    chunks = [
        _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)),
        _chunk(b"IDAT", zlib.compress(rows)),
        _chunk(b"IEND", b""),
    ]
    spare = size_bytes - 8 - sum(map(len, chunks)) - 12
    if spare > 0:
        noise = hashlib.shake_128(seed.encode()).digest(spare)
        chunks.insert(1, _chunk(b"prVt", noise))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@dataclass
class CountingProvider:
    """Answers every prompt with a small file made from prompt, seed and inputs.

    `submits` counts prompts that reached the "vendor"; `errors` maps a prompt to the error it
    meets; `gate`, when set, is awaited by every job before it is done; `jobs` makes it a
    submit-and-poll API.
    """

    name: str = "counting"
    version: str = "1"
    deduplicates: bool = False
    cost_usd: float | None = 0.04
    jobs: bool = False
    size_bytes: int = 0
    errors: dict[str, Exception] = field(default_factory=dict)
    gate: Callable[[str], bool] | None = None
    submits: Counter[str] = field(default_factory=Counter)
    cancelled: list[str] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _requests: dict[str, GenerationRequest] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def submitted(self) -> int:
        """How many generations were asked of the vendor."""
        return sum(self.submits.values())

    def validate(self, request: GenerationRequest) -> None:
        if request.model == "no-such-model":
            raise ModelError("model 'no-such-model' is unknown; use 'm'", sent=False)

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        return self.cost_usd

    async def submit(self, request: GenerationRequest) -> Submission:
        prompt = request.prompt or ""
        with self._lock:
            self.submits[prompt] += 1
        error = self.errors.get(prompt)
        if error is not None:
            raise error
        if self.jobs:
            job_id = f"job-{request.idempotency_key}"
            self._requests[job_id] = request
            return Submission(job_id=job_id)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            # At least one turn of the loop, as any network call takes.
            await asyncio.sleep(0)
            # Opened by another thread, which an asyncio.Event would not notice.
            while self.gate is not None and not self.gate(prompt):
                await asyncio.sleep(0.01)
        finally:
            self._at_once -= 1
        return Submission(result=await self._result(request))

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        ready = self.gate is None or self.gate(request.prompt or "")
        state = JobState.SUCCEEDED if ready else JobState.RUNNING
        return JobStatus(state, poll_after=0.01)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        return await self._result(request)

    async def cancel(self, job_id: str) -> bool:
        self.cancelled.append(job_id)
        return True

    async def aclose(self) -> None:
        return None

    async def _result(self, request: GenerationRequest) -> Result:
        inputs = [hashlib.sha256(await item.read()).hexdigest() for item in request.inputs]
        seed = f"{request.prompt}|{request.seed}|{request.params}|{inputs}"
        if request.modality is Modality.IMAGE:
            output = Output(data=png(seed, self.size_bytes), media_type="image/png")
        else:
            body = hashlib.shake_128(seed.encode()).digest(max(self.size_bytes, 64))
            output = Output(data=body, media_type=f"{request.modality.value}/mp4")
        return Result(outputs=(output,), cost_usd=self.cost_usd)
