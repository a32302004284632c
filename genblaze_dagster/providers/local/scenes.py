"""The pictures of the local provider: six compositions of seeded smooth noise.

The words of the prompt pick scene and palette, its hash does where it has no known word, and the
seed draws the rest. The limits of what local pictures show: mood, not objects.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genblaze_dagster.providers.local.canvas import Canvas, cover
from genblaze_dagster.providers.local.palettes import LUT_SIZE, prompt_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

GLOW = 2.4
"""How many radii the glow of an orb reaches."""


def silk(canvas: Canvas) -> "Floats":
    """Draw folded cloth: warped waves, lit from the upper left."""
    import numpy as np

    phases = canvas.rng.random(8, dtype=np.float32) * np.float32(2 * np.pi)
    across, down = canvas.x * 2.4, canvas.y * 2.4
    for step in range(4):
        turn = 1.0 + 0.55 * step
        across = across + 0.75 / turn * np.sin(1.3 * turn * down + phases[2 * step])
        down = down + 0.75 / turn * np.sin(1.1 * turn * across + phases[2 * step + 1])
    wave = np.sin(across * 1.7 + np.sin(down * 1.9))
    value = 0.47 + 0.3 * wave + 0.13 * np.sin(down * 1.2 - across * 0.4)
    vertical, horizontal = np.gradient(value)
    light = (vertical + horizontal) * (-0.11 * canvas.short)
    sheen = np.maximum(light, 0) ** 2 * 0.5
    return canvas.colour(value) * (1.0 + 0.42 * np.tanh(light))[..., None] + sheen[..., None]


def aurora(canvas: Canvas) -> "Floats":
    """Draw curtains of light over a dark ridge."""
    import numpy as np

    picture = canvas.colour(0.02 + 0.2 * canvas.depth**2 + 0 * canvas.x)
    picture += (canvas.stars(round(220 * canvas.right), 0.75) * 0.8)[..., None]
    for layer in range(3):
        foot = 0.5 + 0.13 * layer + 0.42 * canvas.skyline(2.2, octaves=2)
        rays = 0.65 + 0.9 * canvas.skyline(16, octaves=3)
        height = 0.35 + 0.3 * canvas.skyline(3, octaves=2)
        above = foot * canvas.bottom - canvas.y
        fade = np.exp(np.minimum(above, 0) * 26 - np.maximum(above, 0) / height)
        tint = canvas.colour(0.52 + 0.16 * layer - 0.5 * np.minimum(above, 0.5))
        picture += tint * ((fade * rays).clip(0, 1.1) * 0.62)[..., None]
    rows, below = canvas.below((0.86 + 0.14 * canvas.skyline(2.5)) * canvas.bottom)
    cover(picture[rows], canvas.lut[0] * 0.55, canvas.inside(below))
    return picture


def ridges(canvas: Canvas) -> "Floats":
    """Draw mountains in haze, range behind range, under a low sun."""
    import numpy as np

    haze = 0.12 * canvas.noise(3, octaves=3, stretch=4)
    picture = canvas.colour(0.68 + 0.36 * (canvas.depth / 0.62).clip(0, 1) - haze)
    sun_x, sun_y = canvas.rng.random(2, dtype=np.float32)
    away = np.sqrt(
        (canvas.x - canvas.right * (0.25 + 0.5 * sun_x)) ** 2
        + (canvas.y - canvas.bottom * (0.2 + 0.2 * sun_y)) ** 2
    )
    picture += (0.35 * np.exp(-5 * away))[..., None]
    cover(picture, canvas.lut[-1], canvas.inside(0.085 - away))
    for near in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        rough = (0.13 + 0.14 * near) * canvas.skyline(1.6 + 2.2 * near)
        rows, below = canvas.below((0.42 + 0.46 * near + rough) * canvas.bottom)
        shade = 0.66 * (1 - near) ** 1.15 + (below * 1.6).clip(0, 0.16) * (1 - 0.7 * near)
        cover(picture[rows], canvas.colour(shade), canvas.inside(below))
    return picture


def waves(canvas: Canvas) -> "Floats":
    """Draw rolling bands, as of sea or sand, each with a lit crest."""
    import numpy as np

    picture = canvas.colour(0.98 - 0.3 * canvas.depth + 0 * canvas.x)
    layers = 9
    phases = canvas.rng.random((layers, 2), dtype=np.float32) * np.float32(2 * np.pi)
    for layer in range(layers):
        near = layer / (layers - 1)
        swell = np.sin(canvas.x * (5.4 - 3.2 * near) + phases[layer, 0])
        ripple = np.sin(canvas.x * (6.1 + 5.0 * near) + phases[layer, 1])
        crest = 0.24 + 0.72 * near**1.1 + 0.055 * swell + 0.018 * ripple
        rows, below = canvas.below(crest * canvas.bottom)
        glow = np.exp(np.maximum(below, 0) * (6 * near - 13))
        cover(picture[rows], canvas.colour(0.74 - 0.72 * near + 0.3 * glow), canvas.inside(below))
    return picture


def nebula(canvas: Canvas) -> "Floats":
    """Draw clouds of gas with bright filaments and stars."""
    import numpy as np

    cloud = canvas.noise(2.0, octaves=5)
    other = canvas.noise(2.6, octaves=5)
    filament = (1 - np.abs(2 * canvas.noise(2.4, octaves=5) - 1) * 3.2).clip(0, 1) ** 2
    value = ((cloud - 0.3) * 1.5 * (0.35 + 1.2 * other)).clip(0, 1)
    picture = canvas.colour(0.95 * value) * (0.35 + 0.9 * value)[..., None]
    picture += canvas.colour(0.55 + 0.4 * other) * (0.5 * filament * value)[..., None]
    picture += (canvas.stars(round(420 * canvas.right), 1.0) * (1.1 - value))[..., None]
    return picture


def orbs(canvas: Canvas) -> "Floats":
    """Draw lights out of focus over a soft gradient."""
    import numpy as np

    picture = canvas.colour(0.06 + 0.42 * canvas.noise(1.3)) * 0.9
    for _ in range(26):
        x, y, tone, size, power = canvas.rng.random(5, dtype=np.float32)
        x, y, radius = x * canvas.right, y * canvas.bottom, 0.03 + 0.15 * size**2
        rows, columns = canvas.window(x, y, radius * GLOW)
        away = np.sqrt((canvas.x[:, columns] - x) ** 2 + (canvas.y[rows] - y) ** 2) / radius
        edge = ((1 - away) * (3 + 14 * (1 - size))).clip(0, 1)
        disc = edge * (0.55 + 0.45 * away**4) + 0.3 * (1 - away / GLOW).clip(0, 1) ** 3
        tint = canvas.lut[int((0.4 + 0.58 * tone) * (LUT_SIZE - 1))]
        below = picture[rows, columns]
        below += (disc * (0.14 + 0.4 * power))[..., None] * tint * (1 - below * 0.6)
    return picture


@dataclass(frozen=True, slots=True)
class Scene:
    """A composition and the prompt words that ask for it."""

    name: str
    draw: Callable[[Canvas], "Floats"]
    words: frozenset[str]


def _scene(draw: Callable[[Canvas], "Floats"], words: str) -> Scene:
    return Scene(draw.__name__, draw, frozenset(words.split()))


SCENES = (
    _scene(silk, "silk abstract fluid ink smoke fabric dream portrait fashion marble paint liquid"),
    _scene(aurora, "aurora night polar winter snow arctic lighthouse moon cabin wolf northern"),
    _scene(
        ridges,
        "mountain mountains hill hills valley alps canyon forest landscape sunrise sunset dawn "
        "dusk fog mist castle village eagle volcano lion",
    ),
    _scene(
        waves,
        "sea ocean wave waves water lake river beach desert dune dunes sand whale ship boat "
        "harbor harbour island field meadow",
    ),
    _scene(
        nebula, "space galaxy nebula star stars planet cosmos astronaut cloud clouds storm fire"
    ),
    _scene(
        orbs,
        "light lights glow neon city street lantern bokeh flower flowers garden rain bubble "
        "party christmas candle firefly fireflies jellyfish robot",
    ),
)


def choose_scene(prompt: str, pick: int) -> Scene:
    """Return the scene the first known word of the prompt asks for, else number `pick`."""
    for word in prompt_words(prompt):
        for scene in SCENES:
            if word in scene.words:
                return scene
    return SCENES[pick % len(SCENES)]
