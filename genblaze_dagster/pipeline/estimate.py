"""What a step may cost, before anybody is asked for anything."""

from collections.abc import AsyncIterator, Sequence

from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import ConfigError, GenblazeError
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.replay import ReplayStep
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from genblaze_dagster.providers.registry import resolve_provider


def estimated_cost(step: ReplayStep) -> float | None:
    """Return the expected price of repeating a step in USD, None when nobody can say."""
    return estimated_price(step.spec, step.recorded.inputs)


def estimated_price(spec: StepSpec, inputs: Sequence[Asset] = ()) -> float | None:
    """Return the expected price of a declared step in USD, None when nobody can say."""
    request = GenerationRequest(
        model=spec.model,
        prompt=None if spec.prompt is None else str(spec.prompt),
        negative_prompt=None if spec.negative_prompt is None else str(spec.negative_prompt),
        seed=spec.seed if isinstance(spec.seed, int) else None,
        modality=spec.modality,
        step_type=spec.step_type,
        params=spec.params,
        inputs=tuple(_unread(asset) for asset in inputs),
        timeout=spec.timeout,
    )
    try:
        chosen = spec.provider
        provider = resolve_provider(chosen) if isinstance(chosen, str) else chosen
        return provider.estimate_cost(request)
    except GenblazeError:
        # An unknown provider or a refused parameter is told elsewhere; it has no price either way.
        return None


def _unread(asset: Asset) -> InputMedia:
    """Return an input of which only the record is known."""

    async def read() -> bytes:
        raise _no_bytes()

    async def stream() -> AsyncIterator[bytes]:
        raise _no_bytes()
        yield b""

    return InputMedia(asset=asset, read=read, stream=stream, public_url=lambda: None)


def _no_bytes() -> ConfigError:
    return ConfigError("an estimate is made from records; the bytes of inputs are not read")
