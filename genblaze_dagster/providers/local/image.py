"""Stills of the local provider: a drawn scene or a recoloured input, encoded without metadata."""

import hashlib
import io
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genblaze_dagster.providers.local.canvas import Canvas
from genblaze_dagster.providers.local.palettes import choose_palette
from genblaze_dagster.providers.local.parameters import undecodable
from genblaze_dagster.providers.local.scenes import choose_scene

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator
    from numpy.typing import NDArray
    from PIL.Image import Image

NATURAL_SIZE = (512, 512)
LARGEST_INPUT_PIXELS = 64_000_000
RECOLOUR = 0.62
"""How much of an edited picture is the palette of the prompt; the rest is its own colour."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What to make: the words and the seed, which together decide everything random."""

    prompt: str
    negative_prompt: str
    seed: int

    def generator(self, purpose: str) -> "Generator":
        """Return the random numbers for one purpose, the same in every process."""
        import numpy as np

        text = "\0".join((purpose, str(self.seed), self.prompt, self.negative_prompt))
        return np.random.default_rng(
            int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest())
        )


def draw(subject: Subject, width: int, height: int) -> tuple["Image", str]:
    """Return a picture of the subject and what was drawn, as `scene/palette`."""
    rng = subject.generator("picture")
    scene_pick, palette_pick = rng.integers(0, 2**31, 2)
    scene = choose_scene(subject.prompt, int(scene_pick))
    palette = choose_palette(subject.prompt, int(palette_pick))
    picture = scene.draw(Canvas.create(width, height, rng, palette.lut()))
    return _to_image(picture), f"{scene.name}/{palette.name}"


def recolour(subject: Subject, source: "Image", width: int, height: int) -> tuple["Image", str]:
    """Return the input picture in the palette of the subject, and that as `recolour/palette`."""
    import numpy as np
    from PIL import ImageOps

    rng = subject.generator("picture")
    palette = choose_palette(subject.prompt, int(rng.integers(0, 2**31)))
    canvas = Canvas.create(width, height, rng, palette.lut())
    fitted = fit(source, width, height)
    grey = ImageOps.autocontrast(fitted.convert("L"), cutoff=1)
    light = np.asarray(grey, dtype=np.float32) / 255
    original = np.asarray(fitted, dtype=np.float32) / 255
    mixed = canvas.colour(light) * RECOLOUR + original * (1 - RECOLOUR)
    return _to_image(mixed), f"recolour/{palette.name}"


def _to_image(picture: "NDArray[np.floating]") -> "Image":
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))


def decode(data: bytes, model: str) -> "Image":
    """Return an input picture as upright RGB over black.

    Raises:
        InvalidRequestError: the bytes are not a picture, or one of too many pixels.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > LARGEST_INPUT_PIXELS:
                raise ValueError(f"more than {LARGEST_INPUT_PIXELS} pixels")
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as exc:
        raise undecodable(model, "image") from exc
    black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, upright).convert("RGB")


def fit(source: "Image", width: int, height: int) -> "Image":
    """Return the middle of a picture, scaled to cover width and height exactly."""
    from PIL import Image, ImageOps

    if source.size == (width, height):
        return source
    return ImageOps.fit(source, (width, height), Image.Resampling.LANCZOS)


def write_caption(picture: "Image", text: str) -> "Image":
    """Return the picture with the text on a dark band along its lower edge."""
    from PIL import Image, ImageDraw, ImageFont

    points = max(11, picture.width // 26)
    lines = textwrap.wrap(text, max(8, int(picture.width / (points * 0.56))), max_lines=3)
    margin = points * 0.7
    band = round(len(lines) * points * 1.3 + 2 * margin)
    top = max(0, picture.height - band)
    dark = Image.new("RGB", (picture.width, picture.height - top))
    captioned = picture.copy()
    captioned.paste(Image.blend(picture.crop((0, top, *picture.size)), dark, 0.6), (0, top))
    ImageDraw.Draw(captioned).multiline_text(
        (margin, top + margin),
        "\n".join(lines),
        fill="white",
        font=ImageFont.load_default(points),
        spacing=points * 0.3,
    )
    return captioned


def encode(picture: "Image", output_format: str) -> bytes:
    """Return the file: `png`, `jpeg` or `webp`, without text, timestamps or profiles."""
    options: dict[str, dict[str, int]] = {
        "png": {"compress_level": 1},
        "jpeg": {"quality": 92},
        "webp": {"quality": 88, "method": 2},
    }
    buffer = io.BytesIO()
    picture.save(buffer, output_format, **options[output_format])
    return buffer.getvalue()
