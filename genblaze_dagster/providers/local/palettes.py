"""Colour palettes of the local pictures: five stops from shadow to light, chosen by the prompt."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LUT_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Palette:
    """A named gradient of sRGB colours and the prompt words that ask for it."""

    name: str
    stops: tuple[str, ...]
    words: frozenset[str]

    def lut(self) -> "NDArray[np.floating]":
        """Return the gradient as `LUT_SIZE` RGB rows, each channel 0 to 1."""
        import numpy as np

        stops = np.array([list(bytes.fromhex(stop)) for stop in self.stops]) / 255.0
        places = np.linspace(0.0, len(self.stops) - 1.0, LUT_SIZE)
        # Mixed in squared (about linear) light: an sRGB mix of two strong colours turns grey.
        channels = [np.interp(places, range(len(self.stops)), stops[:, c] ** 2) for c in range(3)]
        return np.sqrt(np.stack(channels, axis=-1)).astype(np.float32)


def _palette(name: str, stops: str, words: str) -> Palette:
    return Palette(name, tuple(stops.split()), frozenset(words.split()))


PALETTES = (
    _palette(
        "ember",
        "1a0b2e 6b1d5c d1495b f2a65a fff1d0",
        "sunset sunrise dusk dawn fire evening autumn warm red orange phoenix lava volcano dragon",
    ),
    _palette(
        "lagoon",
        "031926 0b4f6c 1a936f 88d4ab f3ffe1",
        "sea ocean water lake river wave waves fish whale underwater blue harbor harbour ship boat",
    ),
    _palette(
        "moss",
        "0d1b12 23422f 5c7f3c c2c86b fbf6d9",
        "forest tree trees jungle garden green leaf leaves moss fern meadow spring fox frog",
    ),
    _palette(
        "neon",
        "08041c 3a0ca3 b5179e f72585 ffd6e8",
        "neon cyberpunk city street synth disco robot pink magenta arcade future futuristic",
    ),
    _palette(
        "glacier",
        "071a33 1f4e79 5fa8d3 bee9e8 ffffff",
        "ice snow winter glacier frost arctic polar cold penguin mountain mountains alps cloud",
    ),
    _palette(
        "dune",
        "23120b 7a3e1d c9803e edc988 fff6e0",
        "desert sand dune dunes gold golden canyon camel pyramid wheat honey lion amber brown",
    ),
    _palette(
        "orchid",
        "140a26 432371 8e4ec6 e29bd6 fff0f7",
        "violet purple lavender magic fairy dream orchid twilight wizard crystal unicorn",
    ),
    _palette(
        "polaris",
        "020814 0b2545 13778b 4fe0b0 e9fff4",
        "night aurora star stars space galaxy moon cosmos nebula planet lighthouse astronaut",
    ),
    _palette(
        "blossom",
        "2b1a2f 8a3b5e e67a8b f9c6b8 fffaf0",
        "flower flowers blossom rose petal cherry love sweet cake peach butterfly bird cat",
    ),
    _palette(
        "graphite",
        "0b0d10 2c343c 66727f b4bdc4 f6f4ef",
        "black white grey gray fog mist rain storm noir stone steel silver concrete charcoal",
    ),
)


def prompt_words(prompt: str) -> list[str]:
    """Return the words of a prompt in order, in lower case."""
    return re.findall(r"[a-z]+", prompt.lower())


def choose_palette(prompt: str, pick: int) -> Palette:
    """Return the palette most words of the prompt ask for, else number `pick` of the list."""
    words = set(prompt_words(prompt))
    best = max(PALETTES, key=lambda palette: len(palette.words & words))
    return best if best.words & words else PALETTES[pick % len(PALETTES)]
