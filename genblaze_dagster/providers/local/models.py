"""The three local models: a request to files, computed in a thread."""

import asyncio
import hashlib
import threading
from typing import Any

from genblaze_dagster.providers.local import audio, image, parameters, score, video
from genblaze_dagster.providers.local.image import Subject
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, Output, Result

VERSION = "1"
"""Changes whenever the same request gives other bytes."""

DEFAULT_VIDEO_SECONDS = 2.0
_AUDIO_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg"}


async def generate(request: GenerationRequest) -> Result:
    """Return the media of a valid request.

    Raises:
        InvalidRequestError: an input cannot be decoded.
    """
    models = {"local-image": _images, "local-video": _video, "local-audio": _audio}
    return await models[request.model](request)


def _subject(request: GenerationRequest, seed: int | None) -> Subject:
    prompt = request.prompt or ""
    if seed is None:
        seed = int.from_bytes(hashlib.sha256(prompt.encode(errors="surrogatepass")).digest()[:4])
    return Subject(prompt, request.negative_prompt or "", seed)


def _first_input(request: GenerationRequest, kind: str) -> InputMedia | None:
    matching = (m for m in request.inputs if m.asset.media_type.startswith(f"{kind}/"))
    return next(matching, None)


async def _read(media: InputMedia | None) -> bytes | None:
    return await media.read() if media else None


def _result(outputs: list[bytes], media_type: str, subject: Subject, **payload: Any) -> Result:
    return Result(
        outputs=tuple(Output(data=data, media_type=media_type) for data in outputs),
        cost_usd=0.0,
        model_version=VERSION,
        provider_payload={"seed": subject.seed, **payload},
    )


async def _images(request: GenerationRequest) -> Result:
    params = parameters.image_params(request)
    source = await _read(_first_input(request, "image"))
    subject = _subject(request, params.seed)

    def make() -> tuple[list[bytes], str]:
        files, drawn = [], ""
        picture = image.decode(source, request.model) if source is not None else None
        width, height = params.size.resolve(picture.size if picture else image.NATURAL_SIZE)
        for number in range(params.count):
            variant = Subject(subject.prompt, subject.negative_prompt, subject.seed + number)
            if picture:
                still, drawn = image.recolour(variant, picture, width, height)
            else:
                still, drawn = image.draw(variant, width, height)
            if params.caption:
                still = image.write_caption(still, subject.prompt)
            files.append(image.encode(still, params.output_format))
        return files, drawn

    files, drawn = await asyncio.to_thread(make)
    return _result(files, f"image/{params.output_format}", subject, drawn=drawn)


async def _video(request: GenerationRequest) -> Result:
    params = parameters.video_params(request)
    picture = await _read(_first_input(request, "image"))
    sound = await _read(_first_input(request, "audio"))
    subject = _subject(request, params.seed)
    stopped = threading.Event()

    def make() -> bytes:
        track, duration = None, params.duration or DEFAULT_VIDEO_SECONDS
        if sound is not None:
            longest = params.duration or parameters.LONGEST_SECONDS
            samples = audio.decode(sound, params.sample_rate, seconds=longest, model=request.model)
            track = video.Soundtrack(samples, params.sample_rate)
            duration = params.duration or len(samples) / params.sample_rate
        if picture is not None:
            source = image.decode(picture, request.model)
            still = image.fit(source, *params.size.resolve(source.size))
        else:
            still, _ = image.draw(subject, *params.size.resolve(image.NATURAL_SIZE))
        if params.caption:
            still = image.write_caption(still, subject.prompt)
        frames = max(1, round(duration * params.fps))
        rng = subject.generator("camera")
        return video.render(still, rng, frames=frames, fps=params.fps, sound=track, stopped=stopped)

    try:
        file = await asyncio.to_thread(make)
    except asyncio.CancelledError:
        stopped.set()
        raise
    return _result([file], "video/mp4", subject)


async def _audio(request: GenerationRequest) -> Result:
    params = parameters.audio_params(request)
    subject = _subject(request, params.seed)
    # The inputs set the mood by their content only; a digest the store knows saves reading them.
    digests = [
        media.asset.sha256 or hashlib.sha256(await media.read()).hexdigest()
        for media in request.inputs
    ]

    def make() -> bytes:
        samples = score.compose(
            subject.prompt,
            subject.generator("music" + "".join(digests)),
            duration=params.duration,
            sample_rate=params.sample_rate,
            channels=params.channels,
        )
        return audio.encode(samples, params.sample_rate, params.output_format)

    file = await asyncio.to_thread(make)
    return _result([file], _AUDIO_TYPES[params.output_format], subject)
