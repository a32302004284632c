import asyncio
import io
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.core.models import AudioMetadata, WordTiming
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.media_facts import sniffed
from genblaze_dagster.providers.protocol import Output
from genblaze_dagster.storage.store import MediaStore
from tests.support.providers import png
from tests.support.scripted import ScriptedProvider
from tests.support.steps import run, step

PNG = png("x")


async def _pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_type_is_proven_however_small_the_pieces_are(size: int) -> None:
    """A download may begin with a single byte; none of it is lost by looking at it."""

    async def body() -> tuple[str, bytes]:
        media_type, whole = await sniffed(_pieces(PNG, size), said="text/html")
        assert not isinstance(whole, bytes | Path)
        return media_type, b"".join([piece async for piece in whole])

    assert asyncio.run(body()) == ("image/png", PNG)


@pytest.mark.parametrize("is_file", [True, False], ids=["file", "bytes"])
def test_media_at_hand_is_looked_at_where_it_is(is_file: bool, tmp_path: Path) -> None:
    """Bytes and files are given back as they are."""
    source: bytes | Path = PNG
    if is_file:
        source = tmp_path / "picture"
        source.write_bytes(PNG)
    assert asyncio.run(sniffed(source)) == ("image/png", source)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("text/plain; charset=utf-8", "text/plain"),
        (None, "application/octet-stream"),
        (" ", "application/octet-stream"),
    ],
    ids=["said", "silent", "blank"],
)
def test_bytes_that_prove_nothing_are_what_they_were_said_to_be(
    said: str | None, expected: str
) -> None:
    """The Content-Type counts last, without its parameters."""
    assert asyncio.run(sniffed(b"hello", said=said))[0] == expected
    assert asyncio.run(sniffed(_pieces(b"", 1), said=said))[0] == expected


def spoken(store: MediaStore, ledger: Ledger, said: object) -> AudioMetadata:
    """The record of a second of stereo sound, made by a provider that says this of it."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(22_050)
        file.writeframes(b"\0" * 4 * 22_050)
    output = Output(data=sound.getvalue(), media_type="audio/wav", facts={"audio": said})
    outcome = run(store, ledger, step(ScriptedProvider(outputs=[output])))
    (asset,) = outcome.manifest.run.steps[-1].assets
    assert asset.duration == 1.0
    assert asset.audio is not None
    return asset.audio


@pytest.mark.parametrize("form", [AudioMetadata, dict])
def test_what_a_provider_says_is_added_to_what_the_bytes_prove(
    store: MediaStore, ledger: Ledger, form: Callable[..., Any]
) -> None:
    """Word timings take neither codec, channels nor sample rate away."""
    words = [WordTiming(word="a", start=0.0, end=0.5)]
    audio = spoken(store, ledger, form(word_timings=words))
    assert audio.word_timings == words
    assert (audio.codec, audio.channels, audio.sample_rate) == ("pcm_s16le", 2, 22_050)


def test_field_by_field_the_providers_word_goes_first(store: MediaStore, ledger: Ledger) -> None:
    """It may know better than a header; what it leaves open says nothing."""
    audio = spoken(store, ledger, AudioMetadata(codec="adpcm", channels=None))
    assert (audio.codec, audio.channels, audio.sample_rate) == ("adpcm", 2, 22_050)


def test_a_provider_that_says_nothing_takes_nothing_away(store: MediaStore, ledger: Ledger) -> None:
    """None is no fact."""
    assert spoken(store, ledger, None).channels == 2
