"""Video files of the local provider: a slow camera move and a band of light over a still."""

import io
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator
    from numpy.typing import NDArray
    from PIL.Image import Image

    Plane = NDArray[np.uint8]
    Samples = NDArray[np.int16]

BRIGHTEST = 235
"""White in the limited range of broadcast YUV."""
SHIMMER = 34
AAC_FRAME = 1024
BT709 = 1
LIMITED_RANGE = 1


@dataclass(frozen=True, slots=True)
class Soundtrack:
    """Stereo samples of shape (frames, 2)."""

    samples: "Samples"
    sample_rate: int


class Camera:
    """Moves over a still in YUV: one resampling per plane and frame, no colour conversion."""

    def __init__(self, still: "Image", rng: "Generator") -> None:
        import av
        from PIL import Image

        self._width, self._height = still.size
        frame = av.VideoFrame.from_image(still).reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        planes = frame.to_ndarray().reshape(-1)
        luma = self._width * self._height
        half = (self._height // 2, self._width // 2)
        self._planes = [
            Image.fromarray(planes[:luma].reshape(self._height, self._width)),
            Image.fromarray(planes[luma : luma * 5 // 4].reshape(half)),
            Image.fromarray(planes[luma * 5 // 4 :].reshape(half)),
        ]
        self._focus_x, self._focus_y = 0.2 + 0.6 * rng.random(2)
        self._zoom = 0.1 + 0.06 * rng.random()
        self._light = self._make_light()

    def _make_light(self) -> "NDArray[np.int16]":
        """Return every row of a band of light, from all of the picture before it to all after."""
        import numpy as np

        reach = 3 * self._width + self._height
        middle = 1.5 * self._width + self._height // 2
        away = (np.arange(reach) - middle) / (0.16 * self._width)
        profile = (SHIMMER * np.exp(-(away**2))).astype(np.int16)
        return np.lib.stride_tricks.sliding_window_view(profile, self._width)

    def frame(self, moment: float) -> "Plane":
        """Return the packed yuv420p picture at a moment from 0 (the still itself) to 1."""
        import numpy as np

        ease = moment * moment * (3 - 2 * moment)
        zoom = 1 + self._zoom * ease
        picture = np.empty((self._height * 3 // 2, self._width), dtype=np.uint8)
        flat = picture.reshape(-1)
        written = 0
        for plane in self._planes:
            moved = np.asarray(self._look(plane, zoom)).reshape(-1)
            flat[written : written + moved.size] = moved
            written += moved.size
        self._shine(picture[: self._height], moment)
        return picture

    def _look(self, plane: "Image", zoom: float) -> "Image":
        from PIL import Image

        width, height = plane.width / zoom, plane.height / zoom
        left = (plane.width - width) * self._focus_x
        top = (plane.height - height) * self._focus_y
        box = (left, top, left + width, top + height)
        return plane.resize(plane.size, Image.Resampling.BILINEAR, box=box)

    def _shine(self, luma: "Plane", moment: float) -> None:
        import numpy as np

        slant = np.arange(self._height) // 2
        travel = len(self._light) - self._height // 2 - 1
        light = self._light[round(travel * (1 - moment)) + slant]
        np.minimum(luma + ((luma * light) >> 8), BRIGHTEST, out=luma, casting="unsafe")


class Mp4Writer:
    """Writes H.264, and AAC when there is a soundtrack, with the index before the media."""

    def __init__(self, size: tuple[int, int], fps: int, frames: int, sound: Soundtrack | None):
        import av

        self._fps = fps
        self._sound = sound
        self._sounded = 0
        self._buffer = io.BytesIO()
        packets = frames + (len(sound.samples) // AAC_FRAME + 4 if sound else 0)
        # The muxer fills the space it reserves here at the end; a player can start at once, and
        # nothing has to be moved, which only works with files that have a name.
        options = {"fflags": "+bitexact", "moov_size": str(3000 + 28 * packets)}
        self._container = av.open(self._buffer, "w", format="mp4", options=options)
        self._video: Any = self._container.add_stream("libx264", rate=fps)
        self._video.width, self._video.height = size
        self._video.pix_fmt = "yuv420p"
        self._video.options = {"preset": "superfast", "crf": "20", "bf": "0", "g": str(2 * fps)}
        context = self._video.codec_context
        # One thread: x264 splits the work by thread count, and the bytes would depend on it.
        context.thread_count = 1
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE
        if sound:
            self._audio: Any = self._container.add_stream(
                "aac",
                rate=sound.sample_rate,
                options={"flags": "+bitexact", "aac_coder": "fast"},
            )
            self._audio.codec_context.layout = "stereo"
            self._audio.codec_context.format = "fltp"
            self._audio.codec_context.bit_rate = 128_000

    def write(self, picture: "Plane", number: int) -> None:
        """Append one picture, and the sound up to its end."""
        import av

        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        frame.pts = number
        frame.time_base = Fraction(1, self._fps)
        self._container.mux(self._video.encode(frame))
        if self._sound:
            self._write_sound(self._sound, (number + 1) / self._fps)

    def _write_sound(self, sound: Soundtrack, until: float) -> None:
        import av
        import numpy as np

        last = min(round(until * sound.sample_rate), len(sound.samples))
        while self._sounded < last:
            part = sound.samples[self._sounded : self._sounded + AAC_FRAME]
            floats = np.ascontiguousarray(part.T.astype(np.float32) / 32768)
            frame = av.AudioFrame.from_ndarray(floats, format="fltp", layout="stereo")
            frame.sample_rate = sound.sample_rate
            frame.pts = self._sounded
            self._container.mux(self._audio.encode(frame))
            self._sounded += len(part)

    def finish(self) -> bytes:
        """Close the file and return it."""
        self._container.mux(self._video.encode())
        if self._sound:
            self._container.mux(self._audio.encode())
        self._container.close()
        return self._buffer.getvalue()


def render(
    still: "Image",
    rng: "Generator",
    *,
    frames: int,
    fps: int,
    sound: Soundtrack | None,
    stopped: threading.Event,
) -> bytes:
    """Return the MP4 of a camera move over the still; cut short, of no use, once `stopped`."""
    camera = Camera(still, rng)
    writer = Mp4Writer(still.size, fps, frames, sound)
    for number in range(frames):
        if stopped.is_set():
            break
        writer.write(camera.frame(number / max(1, frames - 1)), number)
    return writer.finish()
