"""Media for ffmpeg, and one call of a provider."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import Asset
from genblaze_dagster.providers.ffmpeg.provider import FFmpegProvider
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, Output


def given(data: bytes, media_type: str, **facts: object) -> InputMedia:
    async def read() -> bytes:
        return data

    async def stream() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 65_536):
            yield data[at : at + 65_536]

    facts = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data), **facts}
    asset = Asset.model_validate({"url": "https://x/y", "media_type": media_type, **facts})
    return InputMedia(asset=asset, read=read, stream=stream, public_url=lambda: None)


def local(kind: str, **params: object) -> InputMedia:
    request = GenerationRequest(f"local-{kind}", "dusk", modality=Modality(kind), params=params)
    submission = asyncio.run(LocalProvider().submit(request))
    assert submission.result is not None
    output = submission.result.outputs[0]
    assert output.data is not None
    assert output.media_type is not None
    return given(output.data, output.media_type)


def make(provider: FFmpegProvider, *inputs: InputMedia, **params: object) -> Output:
    request = GenerationRequest("ffmpeg", inputs=inputs, params=params)
    provider.validate(request)
    result = asyncio.run(provider.submit(request)).result
    assert result is not None
    assert result.cost_usd == 0.0
    assert result.model_version
    return result.outputs[0]


def read(output: Output) -> bytes:
    assert output.path is not None
    return output.path.read_bytes()
