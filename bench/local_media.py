"""Time and size of what the local provider makes. Run: python bench/local_media.py"""

import asyncio
import statistics
import time

from rich.console import Console
from rich.table import Table

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import Asset
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia

ROUNDS = 15
PROMPT = "mountains at sunset"


def as_input(data: bytes, media_type: str) -> InputMedia:
    async def read() -> bytes:
        return data

    async def stream():
        yield data

    return InputMedia(Asset(url="memory:", media_type=media_type), read, stream, lambda: None)


async def measure(
    provider: LocalProvider, request: GenerationRequest
) -> tuple[float, float, bytes]:
    """Return the median and the best time in milliseconds, and the file."""
    times, data = [], b""
    for number in range(ROUNDS + 1):
        started = time.perf_counter()
        submission = await provider.submit(request)
        assert submission.result is not None
        data = submission.result.outputs[0].data or b""
        if number:
            times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times), min(times), data


async def main() -> None:
    provider = LocalProvider()
    table = Table("what", "median ms", "best ms", "bytes", title=f"local provider, {ROUNDS} rounds")

    async def row(what: str, modality: Modality, **fields: object) -> bytes:
        request = GenerationRequest(
            model=f"local-{modality}",
            modality=modality,
            prompt=PROMPT,
            **fields,  # type: ignore[arg-type]
        )
        median, best, data = await measure(provider, request)
        table.add_row(what, f"{median:.0f}", f"{best:.0f}", f"{len(data):,}")
        return data

    image = await row("PNG 512x512", Modality.IMAGE)
    await row("PNG 1024x1024", Modality.IMAGE, params={"width": 1024})
    await row("JPEG 512x512", Modality.IMAGE, params={"output_format": "jpeg"})
    sound = await row("WAV 3 s stereo", Modality.AUDIO)
    await row("FLAC 3 s stereo", Modality.AUDIO, params={"output_format": "flac"})
    await row("MP3 3 s stereo", Modality.AUDIO, params={"output_format": "mp3"})
    still, music = as_input(image, "image/png"), as_input(sound, "audio/wav")
    await row("MP4 2 s 512x512 12 fps", Modality.VIDEO)
    await row("MP4 2 s from the image", Modality.VIDEO, inputs=(still,))
    await row(
        "MP4 2 s, image and sound", Modality.VIDEO, inputs=(still, music), params={"duration": 2}
    )
    Console().print(table)


asyncio.run(main())
