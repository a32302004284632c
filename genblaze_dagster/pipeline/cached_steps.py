"""Steps from a cache as answers to requests: the same path as a vendor's, at no cost."""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genblaze_dagster.core.models import Asset, Step, is_valid_sha256
from genblaze_dagster.errors import GenblazeError
from genblaze_dagster.media.sniff import extension_for
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.external import ExternalInput
from genblaze_dagster.pipeline.generation import Generation
from genblaze_dagster.pipeline.inputs import Inputs
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome
from genblaze_dagster.pipeline.step_cache import StepCache, cache_key, cache_mark
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    InputMedia,
    JobStatus,
    Output,
    Provider,
    Result,
    Submission,
)

_ASKED_OF_VENDOR = (Origin.GENERATED, Origin.RESUMED)
_NOT_FACTS = frozenset({"asset_id", "url", "media_type", "sha256", "size_bytes"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedSteps:
    """The cache of one tenant's steps, whose media our store has or can fetch."""

    cache: StepCache
    inputs: Inputs
    tenant_id: str | None

    @asynccontextmanager
    async def answering(self, generation: Generation) -> AsyncGenerator[Provider | None]:
        """Give a provider that answers from the cache, or None when it is to be asked for real.

        The bytes come from the store, or from the recorded address; they hash to what the entry
        says, or it is a miss.
        """
        pending = pending_step(generation)
        found = await asyncio.to_thread(self.cache.stored, cache_key(pending, self.tenant_id))
        media = await self._media(generation, found) if found is not None else ()
        if found is None or not media:
            yield None
            return
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="genblaze-cached-"))
        try:
            outputs = await _outputs(media, folder)
            yield CachedAnswer(generation.provider, found, outputs)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _media(self, generation: Generation, found: Step) -> Sequence[InputMedia]:
        if not found.assets or not all(is_valid_sha256(asset.sha256) for asset in found.assets):
            self.cache.count_corrupt()
            return ()
        sources = tuple(ExternalInput(asset=asset) for asset in found.assets)
        try:
            consumed = await self.inputs.consumed(replace(generation.spec, sources=sources), ())
        except GenblazeError as exc:
            _log.info(
                "step %r is in the cache, but its media cannot be had (%s: %s); it is made again",
                generation.spec.name,
                type(exc).__name__,
                redact(str(exc), max_chars=200),
            )
            return ()
        return consumed.media

    async def keep(self, generation: Generation, outcome: StepOutcome) -> None:
        """Keep what was asked of a vendor; a cache that cannot be written fails no step."""
        if outcome.origin not in _ASKED_OF_VENDOR:
            return
        made = outcome.manifest.run.steps[-1]
        try:
            await asyncio.to_thread(self.cache.put, pending_step(generation), made, self.tenant_id)
        except (GenblazeError, OSError) as exc:
            _log.warning(
                "step %r was not cached: %s", generation.spec.name, redact(str(exc), max_chars=200)
            )


def pending_step(generation: Generation) -> Step:
    """Return a request as the step that a cache's key is computed from."""
    spec, request = generation.spec, generation.request
    return Step(
        provider=generation.provider.name,
        model=request.model,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        prompt_visibility=spec.prompt_visibility,
        params=dict(request.params),
        seed=request.seed,
        modality=request.modality,
        step_type=request.step_type,
        inputs=[item.asset for item in request.inputs],
    )


async def _outputs(media: Sequence[InputMedia], folder: Path) -> tuple[Output, ...]:
    outputs: list[Output] = []
    for index, item in enumerate(media):
        path = folder / f"{index}{extension_for(item.asset.media_type)}"
        file = await asyncio.to_thread(path.open, "wb")
        try:
            async for chunk in item.stream():
                await asyncio.to_thread(file.write, chunk)
        finally:
            file.close()
        outputs.append(
            Output(path=path, media_type=item.asset.media_type, facts=_facts(item.asset))
        )
    return tuple(outputs)


def _facts(asset: Asset) -> dict[str, Any]:
    return asset.model_dump(exclude_none=True, exclude=set(_NOT_FACTS))


class CachedAnswer:
    """A provider that stands in for another and gives what that once gave, for nothing."""

    def __init__(self, asked: Provider, found: Step, outputs: tuple[Output, ...]) -> None:
        self._asked = asked
        self.name = asked.name
        self.version = asked.version
        # Nobody is paid, so a submit whose answer is lost may be repeated.
        self.deduplicates = True
        self._result = Result(
            outputs=outputs,
            cost_usd=0.0,
            model_version=found.model_version,
            provider_payload=cache_mark(found),
        )

    def validate(self, request: GenerationRequest) -> None:
        """Take every request: it was valid when it was made."""

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        """Return 0.0."""
        return 0.0

    async def submit(self, request: GenerationRequest) -> Submission:
        """Return the kept result."""
        return Submission(result=self._result)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask the vendor: a job that was submitted before is paid, and is finished."""
        return await self._asked.poll(job_id, request)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Ask the vendor; see `poll`."""
        return await self._asked.fetch_output(job_id, request)

    async def cancel(self, job_id: str) -> bool:
        """Ask the vendor; see `poll`."""
        return await self._asked.cancel(job_id)

    async def aclose(self) -> None:
        """Do nothing: the vendor's provider belongs to who made it."""
