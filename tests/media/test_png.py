import io
import json
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import png
from genblaze_dagster.media.limits import IN_MEMORY_BYTES
from genblaze_dagster.media.source import Source
from tests.media import corpus_pictures
from tests.media.corpus_pictures import png_chunk
from tests.media.genblaze_cli import Genblaze
from tests.media.splicing import candidates, embedded, originals_of, payload_of, source_of

PAYLOAD = payload_of()
LIMIT = 16 << 20


def saved(mode: str, **options: object) -> bytes:
    file = io.BytesIO()
    bands = len(Image.new(mode, (1, 1)).getbands())
    width = {"1": 1, "I;16": 2}.get(mode, bands)
    pixels = random.Random(mode).randbytes(64 * 48 * width)  # noqa: S311 - repeatable
    size = (64, 48)
    Image.frombytes(mode, size, pixels[: 384 if mode == "1" else None]).save(file, "PNG", **options)
    return file.getvalue()


def animated() -> bytes:
    frames = [Image.new("RGBA", (20, 10), (shade, 0, 9, 99)) for shade in (0, 90, 200)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], duration=[10, 20, 30])
    return file.getvalue()


def interlaced() -> bytes:
    """A picture in seven passes, of 16 bits a sample, which Pillow does not write."""
    for seed in range(100):
        data = corpus_pictures.png(random.Random(seed))  # noqa: S311 - repeatable
        if data[24:26] == b"\x10\x02" and data[28]:
            return data
    raise AssertionError("no such picture among the first hundred")


def files() -> dict[str, bytes]:
    plain = saved("RGB")
    return {
        **{f"{mode.lower()}.png": saved(mode) for mode in ("1", "L", "LA", "RGB", "RGBA", "I;16")},
        "palette.png": saved("P", transparency=3),
        "icc.png": saved("RGB", icc_profile=bytes(300), dpi=(72, 72)),
        "interlaced.png": interlaced(),
        "animated.png": animated(),
        "tail.png": plain + b"behind the end",
        "second.png": plain + plain,
        "unended.png": plain[:-12],
        "cut.png": plain[:-30],
        "no_chunks.png": plain[:33],
        "text.png": plain[:33] + png_chunk(b"iTXt", b"Comment\0\0\0\0\0hello") + plain[33:],
    }


FILES = files()
DECODABLE = sorted(FILES.keys() - {"cut.png", "no_chunks.png"})


def pixels(data: bytes) -> list[tuple[str, dict[str, object], bytes]]:
    with Image.open(io.BytesIO(data)) as picture:
        shown = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            info = {k: v for k, v in picture.info.items() if k != "genblaze:manifest"}
            shown.append((picture.mode, info, picture.tobytes()))
        return shown


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_manifest_goes_in_and_out(name: str) -> None:
    """Every kind of PNG, whole or cut off, gives the manifest and then its own bytes again."""
    data = embedded(png, FILES[name], PAYLOAD)
    assert data[37:58] == b"iTXt" + png.KEYWORD
    assert (data[:33], data[len(data) - len(FILES[name]) + 33 :]) == (
        FILES[name][:33],
        FILES[name][33:],
    )


@pytest.mark.parametrize("name", DECODABLE)
def test_what_is_shown_stays(name: str) -> None:
    """Pixels, frames and the metadata of others are those of the original."""
    assert pixels(embedded(png, FILES[name], PAYLOAD)) == pixels(FILES[name])


def test_pillow_reads_the_text() -> None:
    """The chunk is a well-formed text with the right checksum."""
    with Image.open(io.BytesIO(embedded(png, FILES["rgb.png"], PAYLOAD))) as picture:
        picture.verify()
        assert picture.info["genblaze:manifest"] == PAYLOAD.decode()


def test_manifests_form_layers() -> None:
    """A later manifest goes in front of an earlier one, wherever that is, and comes out first."""
    original = FILES["text.png"]
    moved = original[:-12] + embedded(png, original, PAYLOAD)[33 : 33 + 12 + 22 + len(PAYLOAD)]
    moved += original[-12:]
    for first in (embedded(png, original, PAYLOAD), moved):
        later = payload_of("later")
        second = embedded(png, first, later)
        assert candidates(second) == [first]
        assert candidates(first) == [original]


def test_only_a_chunk_in_its_place_is_certain() -> None:
    """One that another program moved, or wrote in its own way, proves nothing by its absence."""
    original = FILES["rgb.png"]
    ours = png_chunk(b"iTXt", png.KEYWORD + b"\0\0\0\0\0" + PAYLOAD)
    tagged = png_chunk(b"iTXt", png.KEYWORD + b"\0\0\0en\0\0" + PAYLOAD)
    for data, certain in (
        (original[:33] + ours + original[33:], True),
        (original[:33] + ours, True),
        (original[:33] + tagged + original[33:], False),
        (original[:-12] + ours + original[-12:], False),
        (original[:33] + png_chunk(b"prVt", b"") + ours + original[33:], False),
    ):
        (found,) = originals_of(data)
        assert (found.certain, found.removed) == (certain, "its iTXt chunk")


def test_chunk_without_its_checksum_at_the_very_end_comes_out() -> None:
    """A file that was cut right behind the text is still given back."""
    original = FILES["no_chunks.png"]
    data = embedded(png, original, PAYLOAD)
    for missing in (1, 4):
        assert candidates(data[:-missing]) == [original]


def test_bytes_around_the_chunk_survive_the_undo() -> None:
    """What somebody adds next to the manifest is not taken for a part of it."""
    data = embedded(png, FILES["rgb.png"], PAYLOAD)
    end = 33 + 12 + 22 + len(PAYLOAD)
    extra = png_chunk(b"prVt", b"extra")
    assert candidates(data[:end] + extra + data[end:]) == [
        FILES["rgb.png"][:33] + extra + FILES["rgb.png"][33:]
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        FILES["rgb.png"][:32],
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"CgBI", bytes(4)) + FILES["rgb.png"][8:],
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", bytes(14)) + FILES["rgb.png"][33:],
        b"\xff" + FILES["rgb.png"][1:],
    ],
    ids=["empty", "signature", "short", "apple", "long header", "other signature"],
)
def test_files_that_do_not_begin_as_png_are_refused(data: bytes) -> None:
    """Without a whole IHDR chunk in front there is no place for a manifest."""
    with pytest.raises(EmbeddingError, match="IHDR"):
        png.plan_embed(source_of(data), PAYLOAD)


def test_manifests_go_in_up_to_what_readers_take() -> None:
    """genblaze and we count the whole chunk: 16 MiB with its 22 bytes of header go in, not more."""
    largest = b'"' + b" " * (LIMIT - 24) + b'"'
    data = embedded(png, FILES["rgb.png"], largest)
    assert len(data) == len(FILES["rgb.png"]) + 12 + LIMIT
    with pytest.raises(EmbeddingError, match="limit in a PNG is 16777194"):
        png.plan_embed(source_of(FILES["rgb.png"]), largest + b" ")


def test_files_above_what_genblaze_takes_are_refused(tmp_path: Path) -> None:
    """A picture that would be above 500 MiB with its manifest gets none, and costs nothing."""
    path = tmp_path / "large.png"
    path.write_bytes(FILES["rgb.png"])
    added = 12 + 22 + len(PAYLOAD)
    with path.open("r+b") as file:
        file.truncate(IN_MEMORY_BYTES - added)
    with Source.open(path) as source:
        assert len(png.plan_embed(source, PAYLOAD)) == 1
    with path.open("r+b") as file:
        file.truncate(IN_MEMORY_BYTES - added + 1)
    with Source.open(path) as source, pytest.raises(EmbeddingError, match="524288001 bytes"):
        png.plan_embed(source, PAYLOAD)


def test_checksum_is_over_type_and_text() -> None:
    """The four bytes behind the text are its CRC-32, as everywhere in PNG."""
    data = embedded(png, FILES["rgb.png"], PAYLOAD)
    end = 33 + 8 + 22 + len(PAYLOAD)
    assert data[end : end + 4] == struct.pack(">I", zlib.crc32(data[37:end]))


def test_genblaze_reads_ours(tmp_path: Path) -> None:
    """Each file gives genblaze the manifest that was put in last."""
    with Genblaze.running() as genblaze:
        for name, original in FILES.items():
            later = payload_of(name)
            for payload, data in (
                (PAYLOAD, embedded(png, original, PAYLOAD)),
                (later, embedded(png, embedded(png, original, PAYLOAD), later)),
            ):
                path = tmp_path / name
                path.write_bytes(data)
                assert genblaze.extract(path).encode() == payload, name


def test_what_genblaze_embedded_comes_out(vectors: Path) -> None:
    """All PNG files of genblaze give their certain original."""
    media = vectors / "genblaze" / "media"
    cases = json.loads((media / "index.json").read_text())
    named = [case for case in cases if case.get("embedded", "").endswith(".png")]
    assert len(named) == 3
    for case in named:
        data = (media / case["embedded"]).read_bytes()
        assert candidates(data) == [(media / case["original"]).read_bytes()]
        assert originals_of(data)[0].certain


def test_ours_is_what_genblaze_writes(vectors: Path) -> None:
    """Embedding the same manifest makes the same file, to the byte."""
    media = vectors / "genblaze" / "media"
    for name in ("plain.png", "alpha.png", "chunks.png"):
        payload = (media / "manifest" / f"{name}.json").read_bytes()
        ours = embedded(png, (media / "original" / name).read_bytes(), payload)
        assert ours == (media / "embedded" / name).read_bytes()
