"""Audio files of the local provider: 16-bit samples to WAV, FLAC or MP3, and inputs back to them."""

import io
import wave
from typing import TYPE_CHECKING, Any

from genblaze_dagster.providers.local.parameters import undecodable

if TYPE_CHECKING:
    import numpy as np
    from av import AudioFrame
    from numpy.typing import NDArray

    Samples = NDArray[np.int16]

MP3_BIT_RATE = 160_000
FRAMES_PER_CALL = 4096


def encode(samples: "Samples", sample_rate: int, output_format: str) -> bytes:
    """Return the file (`wav`, `flac` or `mp3`) of samples of shape (frames, channels)."""
    if output_format == "wav":
        return _wav(samples, sample_rate)
    return _with_codec(samples, sample_rate, output_format)


def _wav(samples: "Samples", sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def _with_codec(samples: "Samples", sample_rate: int, output_format: str) -> bytes:
    import av

    codec, sample_format = {"flac": ("flac", "s16"), "mp3": ("libmp3lame", "s16p")}[output_format]
    layout = "stereo" if samples.shape[1] == 2 else "mono"
    buffer = io.BytesIO()
    # Bit-exact: no encoder version and no date in the file; and no empty ID3 tag before an MP3.
    muxer = {"fflags": "+bitexact"} | ({"id3v2_version": "0"} if output_format == "mp3" else {})
    with av.open(buffer, "w", format=output_format, options=muxer) as container:
        options = {"flags": "+bitexact", "compression_level": "7"}
        stream: Any = container.add_stream(codec, rate=sample_rate, options=options)
        stream.codec_context.layout = layout
        stream.codec_context.format = sample_format
        stream.codec_context.thread_count = 1
        if output_format == "mp3":
            stream.codec_context.bit_rate = MP3_BIT_RATE
        for start in range(0, len(samples), FRAMES_PER_CALL):
            part = samples[start : start + FRAMES_PER_CALL]
            shaped = part.reshape(1, -1) if sample_format == "s16" else part.T.copy()
            frame = av.AudioFrame.from_ndarray(shaped, format=sample_format, layout=layout)
            frame.sample_rate = sample_rate
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def decode(data: bytes, sample_rate: int, *, seconds: float, model: str) -> "Samples":
    """Return the first `seconds` of an input's sound as stereo samples of shape (frames, 2).

    Raises:
        InvalidRequestError: the bytes hold no sound that can be decoded.
    """
    import av
    import numpy as np
    from av.error import FFmpegError

    limit = round(seconds * sample_rate)
    parts: list[Samples] = []
    frames = 0
    try:
        with av.open(io.BytesIO(data), "r") as container:
            resampler = av.AudioResampler(format="s16", layout="stereo", rate=sample_rate)
            for decoded in container.decode(audio=0):
                for frame in resampler.resample(decoded):
                    parts.append(_stereo(frame))
                    frames += frame.samples
                if frames >= limit:
                    break
            else:
                parts.extend(_stereo(frame) for frame in resampler.resample(None))
    except (FFmpegError, IndexError, ValueError) as exc:
        raise undecodable(model, "audio") from exc
    if not parts:
        raise undecodable(model, "audio")
    return np.concatenate(parts)[:limit]


def _stereo(frame: "AudioFrame") -> "Samples":
    import numpy as np

    return frame.to_ndarray().reshape(-1, 2).astype(np.int16, copy=False)
