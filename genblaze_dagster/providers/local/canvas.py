"""What the scenes draw with: coordinates, seeded smooth noise and a palette."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genblaze_dagster.providers.local.palettes import LUT_SIZE

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Canvas:
    """A picture to be drawn: its coordinates, its randomness and its colours.

    `x` is one row and `y` one column, so that they broadcast; the shorter side of the picture
    runs from 0 to 1. Everything is float32, RGB values run from 0 to 1.
    """

    x: "Floats"
    y: "Floats"
    rng: "Generator"
    lut: "Floats"

    @classmethod
    def create(cls, width: int, height: int, rng: "Generator", lut: "Floats") -> "Canvas":
        """Return a canvas of that many pixels."""
        import numpy as np

        short = min(width, height)
        x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / short
        y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / short
        return cls(x, y, rng, lut)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.x.shape[1], self.y.shape[0]

    @property
    def short(self) -> int:
        """The shorter side in pixels."""
        return min(self.size)

    @property
    def right(self) -> float:
        """The x of the right edge."""
        return self.x.shape[1] / self.short

    @property
    def bottom(self) -> float:
        """The y of the bottom edge."""
        return self.y.shape[0] / self.short

    @property
    def depth(self) -> "Floats":
        """One column from 0 at the top to 1 at the bottom."""
        return self.y / self.bottom

    def noise(self, cells: float, *, octaves: int = 1, stretch: float = 1.0) -> "Floats":
        """Return smooth noise around 0.5, `cells` bumps along the shorter side.

        `stretch` above 1 draws the bumps out horizontally.
        """
        import numpy as np
        from PIL import Image

        total = np.zeros((1, 1), dtype=np.float32)
        weight, weights = 1.0, 0.0
        for _ in range(octaves):
            columns = max(4, round(cells / stretch * self.right) + 3)
            rows = max(4, round(cells * self.bottom) + 3)
            bumps = Image.fromarray(self.rng.random((rows, columns), dtype=np.float32))
            layer = bumps.resize(self.size, Image.Resampling.BICUBIC)
            total = total + weight * np.asarray(layer)
            weights += weight
            weight, cells = weight * 0.5, cells * 2
        return total / np.float32(weights)

    def skyline(self, cells: float, *, octaves: int = 5) -> "Floats":
        """Return one row of noise around 0, rough enough for a mountain ridge."""
        import numpy as np

        total = np.zeros_like(self.x)
        weight = 1.0
        for _ in range(octaves):
            points = self.rng.random(round(cells * self.right) + 4, dtype=np.float32) - 0.5
            places = self.x[0] / self.right * (len(points) - 1)
            left = places.astype(np.int32).clip(0, len(points) - 2)
            ease = places - left
            ease = ease * ease * (3 - 2 * ease)
            total[0] += weight * (points[left] * (1 - ease) + points[left + 1] * ease)
            weight, cells = weight * 0.48, cells * 2
        return total

    def colour(self, value: "Floats") -> "Floats":
        """Return the palette's colour of each value (0 shadow, 1 light)."""
        import numpy as np

        return np.take(self.lut, (value * (LUT_SIZE - 1)).astype(np.int32), axis=0, mode="clip")

    def stars(self, count: int, above: float) -> "Floats":
        """Return the light of `count` stars in the upper part `above` (0 to 1) of the picture."""
        import numpy as np

        width, height = self.size
        light = np.zeros((height, width), dtype=np.float32)
        columns = self.rng.integers(1, width - 1, count)
        rows = self.rng.integers(1, max(2, int((height - 1) * above)), count)
        power = self.rng.random(count, dtype=np.float32) ** 3
        light[rows, columns] = power
        for step_y, step_x in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            np.maximum.at(light, (rows + step_y, columns + step_x), power * np.float32(0.3))
        return light

    def below(self, edge: "Floats") -> tuple[slice, "Floats"]:
        """Return the rows that reach below `edge` (one row of y) and how far each pixel is below.

        Working on those rows only halves the cost of a layered landscape.
        """
        top = max(0, int(edge.min() * self.short) - 2)
        rows = slice(min(top, self.size[1]), None)
        return rows, self.y[rows] - edge

    def inside(self, distance: "Floats") -> "Floats":
        """Return 1 where `distance` is positive and 0 where negative, with a soft edge."""
        return (distance * (self.short / 2) + 0.5).clip(0, 1)

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Return the rows and columns within `reach` of a point."""
        import numpy as np

        rows = np.searchsorted(self.y[:, 0], (y - reach, y + reach))
        columns = np.searchsorted(self.x[0], (x - reach, x + reach))
        return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))


def cover(picture: "Floats", colour: "Floats", share: "Floats") -> None:
    """Paint `colour` over `picture` in place, by `share` (0 to 1 per pixel)."""
    picture += (colour - picture) * share[..., None]
