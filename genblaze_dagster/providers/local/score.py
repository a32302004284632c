"""The sound of the local provider: a short progression of warm chords with plucked notes over it."""

from typing import TYPE_CHECKING

from genblaze_dagster.providers.local.palettes import prompt_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

# Chords as semitones above the tonic, root first; every progression comes home.
BRIGHT = (
    ((0, 4, 7, 14), (9, 12, 16, 19), (5, 9, 12, 16), (7, 11, 14, 19)),
    ((0, 4, 7, 11), (5, 9, 12, 16), (2, 5, 9, 12), (7, 11, 14, 17)),
    ((0, 7, 14, 16), (4, 7, 11, 14), (5, 9, 12, 19), (0, 4, 7, 12)),
)
DARK = (
    ((0, 3, 7, 14), (8, 12, 15, 19), (3, 7, 10, 14), (10, 14, 17, 19)),
    ((0, 3, 7, 10), (5, 8, 12, 15), (8, 12, 15, 19), (7, 10, 14, 17)),
    ((0, 7, 10, 15), (-2, 5, 10, 14), (-4, 3, 8, 12), (0, 3, 7, 12)),
)
DARK_WORDS = frozenset(
    prompt_words(
        "dark night storm rain fog mist sad winter noir shadow ruins lonely moon horror ghost "
        "cold space nebula cosmos deep abyss gothic melancholy"
    )
)
BRIGHT_WORDS = frozenset(
    prompt_words(
        "bright happy sun sunny sunrise dawn summer spring party joy dance light flower flowers "
        "gold golden garden love warm morning festival"
    )
)

CHORD_SECONDS = 1.8
TAIL_SECONDS = 1.2
"""How long a chord rings into the next one."""


def compose(
    prompt: str, rng: "Generator", *, duration: float, sample_rate: int, channels: int
) -> "NDArray[np.int16]":
    """Return the music as 16-bit samples of shape (frames, channels), `duration` in seconds."""
    import numpy as np

    frames = round(duration * sample_rate)
    chords = _progression(prompt, rng)
    tonic = 110.0 * 2 ** (int(rng.integers(-3, 6)) / 12)
    count = max(1, round(duration / CHORD_SECONDS))
    length = duration / count
    mix = np.zeros((2, frames), dtype=np.float32)
    for number in range(count):
        chord = chords[number % len(chords)]
        pitches = [tonic * 2 ** (step / 12) for step in chord]
        _pad(mix, pitches, start=number * length, length=length, sample_rate=sample_rate)
        _plucks(mix, pitches, rng, start=number * length, length=length, sample_rate=sample_rate)
    _echo(mix, sample_rate)
    _fade(mix, sample_rate)
    peak = float(np.abs(mix).max()) or 1.0
    samples = np.tanh(mix * np.float32(1.1 / peak)) * np.float32(0.89)
    if channels == 1:
        samples = samples.mean(axis=0, keepdims=True)
    return np.ascontiguousarray((samples.T * 32767).astype(np.int16))


def _progression(prompt: str, rng: "Generator") -> tuple[tuple[int, ...], ...]:
    words = set(prompt_words(prompt))
    mood = len(words & BRIGHT_WORDS) - len(words & DARK_WORDS)
    pick = int(rng.integers(0, 6))
    if mood == 0:
        return (BRIGHT + DARK)[pick]
    return (BRIGHT if mood > 0 else DARK)[pick % 3]


def _tone(pitch: float, frames: int, sample_rate: int) -> "Floats":
    """Return a sine of `pitch` Hz; the phase is reduced first, float32 sines lose it otherwise."""
    import numpy as np

    cycles = np.arange(frames) * (pitch / sample_rate)
    return np.sin(((cycles - np.floor(cycles)) * (2 * np.pi)).astype(np.float32))


def _pad(
    mix: "Floats", pitches: list[float], *, start: float, length: float, sample_rate: int
) -> None:
    import numpy as np

    first = round(start * sample_rate)
    frames = min(round((length + TAIL_SECONDS) * sample_rate), mix.shape[1] - first)
    seconds = np.arange(frames, dtype=np.float32) / sample_rate
    swell = np.minimum(seconds / np.float32(0.35 * length), 1)
    ring = np.minimum((length + TAIL_SECONDS - seconds) / TAIL_SECONDS, 1).clip(0, 1)
    envelope = swell * swell * (3 - 2 * swell) * ring * ring
    part = mix[:, first : first + frames]
    part += _tone(pitches[0] / 2, frames, sample_rate) * envelope * np.float32(0.5)
    for number, pitch in enumerate(pitches):
        # A pair of slightly different pitches left and right is what makes it wide and slow.
        for side, detune in ((0, 0.9985), (1, 1.0015)):
            voice = _tone(pitch * detune, frames, sample_rate)
            voice = voice + np.float32(0.22) * voice * voice * voice
            part[side] += voice * envelope * np.float32(0.3 - 0.04 * number)


def _plucks(
    mix: "Floats",
    pitches: list[float],
    rng: "Generator",
    *,
    start: float,
    length: float,
    sample_rate: int,
) -> None:
    import numpy as np

    order = rng.permutation(len(pitches))
    for step in range(6):
        first = round((start + length * step / 6) * sample_rate)
        frames = min(round(0.9 * sample_rate), mix.shape[1] - first)
        pitch = pitches[order[step % len(pitches)]] * (4 if step % 3 == 2 else 2)
        strength, pan = 0.14 + 0.12 * rng.random(), 0.2 + 0.6 * rng.random()
        seconds = np.arange(frames, dtype=np.float32) / sample_rate
        decay = np.exp(-5.5 * seconds) * np.minimum(seconds * 250, 1)
        bell = _tone(pitch, frames, sample_rate)
        bell = (bell + 0.25 * _tone(pitch * 3.01, frames, sample_rate) * decay) * decay
        mix[0, first : first + frames] += bell * np.float32(strength * (1 - pan))
        mix[1, first : first + frames] += bell * np.float32(strength * pan)


def _echo(mix: "Floats", sample_rate: int) -> None:
    """Add three fading repeats that change sides, in place."""
    import numpy as np

    dry = mix.copy()
    for seconds, level in ((0.11, 0.3), (0.23, 0.22), (0.37, 0.15)):
        delay = round(seconds * sample_rate)
        if delay < mix.shape[1]:
            mix[:, delay:] += dry[::-1, :-delay] * np.float32(level)


def _fade(mix: "Floats", sample_rate: int) -> None:
    """Fade in and out in place, so that a player's cut is never a click."""
    import numpy as np

    for seconds, end in ((0.015, False), (0.6, True)):
        frames = min(round(seconds * sample_rate), mix.shape[1] // 2)
        ramp = np.sin(np.linspace(0, np.pi / 2, frames, dtype=np.float32)) ** 2
        if end:
            mix[:, mix.shape[1] - frames :] *= ramp[::-1]
        else:
            mix[:, :frames] *= ramp
