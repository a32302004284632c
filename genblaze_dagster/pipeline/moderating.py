"""Moderation of a step, which may take as long as the step and no longer."""

import asyncio
from collections.abc import Sequence

from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import ProviderTimeoutError
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.moderation import (
    ModerationHook,
    moderate_outputs,
    moderate_request,
)
from genblaze_dagster.providers.protocol import GenerationRequest


async def let_request_pass(
    hook: ModerationHook, spec: StepSpec, request: GenerationRequest
) -> None:
    """Return when a hook allows a request.

    Raises:
        ProviderError: it refuses, fails, or does not answer in time; nothing was sent.
    """
    try:
        async with asyncio.timeout(spec.timeout):
            await moderate_request(hook, request, visibility=spec.prompt_visibility)
    except TimeoutError as exc:
        raise _late(spec, "nothing was sent", sent=False) from exc


async def let_outputs_pass(hook: ModerationHook, spec: StepSpec, assets: Sequence[Asset]) -> None:
    """Return when a hook allows the outputs of a step.

    Raises:
        ProviderError: it refuses, fails, or does not answer in time; the outputs are stored.
    """
    try:
        async with asyncio.timeout(spec.timeout):
            await moderate_outputs(hook, assets, visibility=spec.prompt_visibility)
    except TimeoutError as exc:
        raise _late(spec, "its outputs are stored", sent=True) from exc


def _late(spec: StepSpec, consequence: str, *, sent: bool) -> ProviderTimeoutError:
    return ProviderTimeoutError(
        f"step {spec.name!r}: moderation did not answer within {spec.timeout:g} s; {consequence}",
        sent=sent,
    )
