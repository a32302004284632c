import io
import json
import random
import struct
from pathlib import Path

import pytest
from PIL import Image

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import webp, xmp
from genblaze_dagster.media.limits import IN_MEMORY_BYTES
from genblaze_dagster.media.source import Source
from tests.media.corpus_pictures import riff_chunk
from tests.media.genblaze_cli import Genblaze
from tests.media.splicing import candidates, embedded, originals_of, payload_of, source_of

PAYLOAD = payload_of()
LATER = payload_of("later")
FOREIGN = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>\xc3\xa9</rdf:RDF></x:xmpmeta>'
TRAILER = b'<?xpacket end="w"?>'


def picture(mode: str, seed: int, size: tuple[int, int] = (61, 33)) -> Image.Image:
    noise = random.Random(seed).randbytes(16 * len(mode))  # noqa: S311 - repeatable
    return Image.frombytes(mode, (4, 4), noise).resize(size)


def saved(mode: str = "RGB", seed: int = 0, **options: object) -> bytes:
    file = io.BytesIO()
    picture(mode, seed).save(file, "WEBP", **options)
    return file.getvalue()


def animated() -> bytes:
    frames = [picture("RGBA", seed) for seed in range(4)]
    options = {"append_images": frames[1:], "duration": [10, 20, 30, 40], "loop": 3}
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, **options)
    return file.getvalue()


def riff(*chunks: bytes, size: int | None = None, tail: bytes = b"") -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body + tail


def vp8x(flags: int) -> bytes:
    return riff_chunk(b"VP8X", bytes([flags, 0, 0, 0, 60, 0, 0, 32, 0, 0]))


def files() -> dict[str, bytes]:
    odd = next(data for seed in range(99) if (data := saved(seed=seed, lossless=True))[16] % 2)
    still, clear = odd[12:], saved("RGBA", lossless=True)[12:]
    exif = Image.Exif()
    exif[0x010E] = "e" * 40
    unpadded = still + riff_chunk(b"prVt", b"odd")[:-1]
    return {
        "lossy.webp": saved(),
        "odd.webp": odd,
        "lossless.webp": saved(lossless=True),
        "alpha.webp": saved("RGBA"),
        "alpha_lossless.webp": saved("RGBA", lossless=True),
        "animated.webp": animated(),
        "exif.webp": saved(exif=exif.tobytes()),
        "icc.webp": saved("RGBA", icc_profile=bytes(999)),
        "xmp.webp": saved(xmp=FOREIGN + TRAILER),
        "xmp_bare.webp": saved(xmp=FOREIGN),
        "xmp_twice.webp": riff(
            vp8x(4), still, riff_chunk(b"XMP ", FOREIGN + TRAILER), riff_chunk(b"XMP ", FOREIGN)
        ),
        "xmp_in_exif.webp": riff(vp8x(8), still, riff_chunk(b"EXIF", b"MM\0*" + FOREIGN)),
        "xmp_first.webp": riff(vp8x(4), riff_chunk(b"prVt", FOREIGN), still),
        "xmp_in_picture.webp": riff(still[:8] + still[8:-60] + FOREIGN[:60]),
        "extended.webp": riff(vp8x(0), still),
        "extended_alpha.webp": riff(vp8x(0x10), clear),
        "unknown.webp": riff(vp8x(0), still, riff_chunk(b"prVt", b"odd"), riff_chunk(b"ZZZZ", b"")),
        "unknown_simple.webp": riff(still, riff_chunk(b"prVt", b"even")),
        "unpadded.webp": riff(unpadded),
        "unpadded_counted.webp": riff(unpadded, size=len(unpadded) + 5),
        "pad_not_counted.webp": riff(unpadded, tail=b"\0"),
        "size_too_large.webp": riff(still, size=len(still) + 9999),
        "size_endless.webp": riff(still, size=0xFFFFFFFF),
        "size_to_a_chunk.webp": riff(still, riff_chunk(b"prVt", b"x"), size=len(still) + 4),
        "tail.webp": riff(still, tail=b"behind the RIFF" + FOREIGN),
        "unpadded_tail.webp": riff(unpadded, tail=b"behind the RIFF"),
        "two.webp": odd + odd,
        "unpadded_bare.webp": riff(vp8x(4), still, riff_chunk(b"XMP ", FOREIGN + b"..")[:-1]),
    }


FILES = files()
# What Pillow does not open, because sizes or a pad byte are wrong, others may.
UNOPENED = {
    "pad_not_counted.webp",
    "size_endless.webp",
    "size_too_large.webp",
    "unpadded.webp",
    "unpadded_bare.webp",
    "unpadded_counted.webp",
    "unpadded_tail.webp",
    "xmp_in_picture.webp",
}


def shown(data: bytes) -> list[tuple[str, object, object, object, bytes]]:
    with Image.open(io.BytesIO(data)) as image:
        frames = []
        for number in range(image.n_frames):
            image.seek(number)
            kept = ("icc_profile", "exif", "loop", "duration", "background", "timestamp")
            info = {key: image.info.get(key) for key in kept}
            frames.append((image.mode, image.size, image.n_frames, info, image.tobytes()))
        return frames


def chunk_names(data: bytes) -> list[bytes]:
    end, at, names = 8 + int.from_bytes(data[4:8], "little"), 12, []
    while at < end:
        names.append(data[at : at + 4])
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    assert at == end
    return names


def test_the_cases_are_what_their_names_say() -> None:
    """The encoder made odd and even pictures, with and without the extended header."""
    assert FILES["odd.webp"][16] % 2 == 1
    assert FILES["alpha.webp"][12:16] == b"VP8X"
    assert FILES["alpha_lossless.webp"][12:16] == b"VP8L"
    assert len(shown(FILES["animated.webp"])) == 4
    assert FILES["xmp_in_picture.webp"].count(b"<x:xmpmeta") == 1
    assert len(FILES["unpadded.webp"]) % 2 == len(FILES["unpadded_bare.webp"]) % 2 == 1
    for name in UNOPENED:
        with pytest.raises(OSError, match=r".+"):
            shown(FILES[name])


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_manifest_goes_in_and_out(name: str) -> None:
    """Every kind of WebP, well-formed or not, gives the manifest and then its own bytes again."""
    embedded(webp, FILES[name], PAYLOAD)


@pytest.mark.parametrize("name", sorted(FILES.keys() - UNOPENED))
def test_what_is_shown_stays(name: str) -> None:
    """Pixels, frames, durations, profile and Exif are those of the original."""
    assert shown(embedded(webp, FILES[name], PAYLOAD)) == shown(FILES[name])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lossy.webp", b"VP8X VP8  XMP  GBUN"),
        ("alpha.webp", b"VP8X ALPH VP8  XMP  GBUN"),
        ("xmp.webp", b"VP8X VP8  XMP  XMP  GBUN"),
        ("xmp_bare.webp", b"VP8X VP8  XMP  GBUN XMP "),
        ("xmp_twice.webp", b"VP8X VP8L XMP  XMP  GBUN XMP "),
        ("xmp_in_exif.webp", b"VP8X VP8L XMP  GBUN EXIF"),
        ("xmp_in_picture.webp", b"VP8X XMP  GBUN VP8L"),
        ("unpadded.webp", b"VP8X VP8L prVt XMP  GBUN"),
        ("size_to_a_chunk.webp", b"VP8X VP8L XMP  GBUN"),
    ],
)
def test_the_packet_is_the_last_chunk_that_is_not_hidden(name: str, expected: bytes) -> None:
    """It stands at the end of the RIFF, or in front of XMP that genblaze cannot pass over."""
    data = embedded(webp, FILES[name], PAYLOAD)
    assert b" ".join(chunk_names(data)) == expected
    assert data[20] & 0x04


@pytest.mark.parametrize("name", ["lossy.webp", "alpha_lossless.webp"])
def test_the_extended_header_says_what_the_picture_says(name: str) -> None:
    """Canvas and alpha of the inserted chunk are those of the picture, and nothing else is set."""
    data = embedded(webp, FILES[name], PAYLOAD)
    assert data[12:30] == vp8x(0x14 if "alpha" in name else 0x04)
    assert webp.read_facts(source_of(data)) == {"width": 61, "height": 33}


def test_what_stands_behind_the_riff_stays_there() -> None:
    """Foreign bytes at the end of the file are not taken into the RIFF."""
    data = embedded(webp, FILES["tail.webp"], PAYLOAD)
    tail = b"behind the RIFF" + FOREIGN
    assert data.endswith(tail)
    assert 8 + int.from_bytes(data[4:8], "little") == len(data) - len(tail)


@pytest.mark.parametrize("name", sorted(FILES))
def test_manifests_form_layers(name: str) -> None:
    """A later manifest goes in front of an earlier one and comes out first."""
    first = embedded(webp, FILES[name], PAYLOAD)
    second = embedded(webp, first, LATER)
    third = embedded(webp, second, PAYLOAD)
    assert candidates(third) == [second]
    assert candidates(second) == [first]
    assert candidates(first) == [FILES[name]]


def test_long_manifests_fit() -> None:
    """There is no limit of 64 KB in a RIFF."""
    for name in ("animated.webp", "xmp_bare.webp"):
        long = payload_of("<&\u2713 " * 40_000)
        assert len(long) > 200_000
        assert shown(embedded(webp, FILES[name], long)) == shown(FILES[name])


BROKEN = {
    "empty": (b"", "does not begin as a WebP"),
    "64 bits": (b"RF64" + FILES["lossy.webp"][4:], "does not begin as a WebP"),
    "no chunks": (riff(), "no chunks"),
    "size of 0": (riff(FILES["odd.webp"][12:], size=0), "no chunks"),
    "cut": (FILES["lossy.webp"][:-10], "middle of a chunk"),
    "size too small": (riff(FILES["odd.webp"][12:], size=100), "middle of a chunk"),
    "stray bytes": (riff(FILES["odd.webp"][12:], b"stray"), "outside of its chunks"),
    "long header": (riff(riff_chunk(b"VP8X", bytes(12)), FILES["odd.webp"][12:]), "wrong size"),
    "XMP header": (riff(riff_chunk(b"VP8X", b"<x:xmpmeta")), "XMP in its header"),
    "alpha first": (riff(riff_chunk(b"ALPH", bytes(12)), FILES["odd.webp"][12:]), "with a picture"),
    "no lossy picture": (riff(riff_chunk(b"VP8 ", bytes(12))), "with a picture"),
    "no lossless picture": (riff(riff_chunk(b"VP8L", b"\x2f")), "with a picture"),
    "endless": (riff(vp8x(0), *[riff_chunk(b"junk", b"")] * 50_000), "more than 50000 chunks"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_files_whose_chunks_do_not_add_up_are_refused(name: str) -> None:
    """Each with its reason; nothing is guessed where an undo could not be exact."""
    data, message = BROKEN[name]
    with pytest.raises(EmbeddingError, match=message):
        webp.plan_embed(source_of(data), PAYLOAD)


def test_files_above_what_genblaze_takes_are_refused(tmp_path: Path) -> None:
    """A picture that would be above 500 MiB with its manifest gets none."""
    path = tmp_path / "large.webp"
    path.write_bytes(FILES["lossy.webp"])
    with path.open("r+b") as file:
        file.truncate(IN_MEMORY_BYTES - 100)
    with Source.open(path) as source, pytest.raises(EmbeddingError, match="up to 524288000"):
        webp.plan_embed(source, PAYLOAD)


def test_a_lying_record_never_gives_the_original() -> None:
    """Other contents are the record of another file, or of none."""
    outcomes = set()
    for name in ("unpadded.webp", "extended.webp", "xmp_bare.webp", "tail.webp"):
        data = embedded(webp, FILES[name], PAYLOAD)
        start = data.index(b"GBUN") + 4
        for at in range(start, start + 12):
            for value in {*range(9), 0x10, 0x7F, 0x80, 0xFF} - {data[at]}:
                found = candidates(data[:at] + bytes([value]) + data[at + 1 :])
                assert FILES[name] not in found
                outcomes.add(len(found))
    assert outcomes == {0, 1}


def test_a_record_of_another_length_is_not_ours() -> None:
    """Longer, shorter and empty records give no original."""
    data = embedded(webp, FILES["lossy.webp"], PAYLOAD)
    start = data.index(b"GBUN")
    for body in (b"", bytes(7), data[start + 8 : start + 16] + b"\0\0", bytes(100_000)):
        changed = data[:start] + riff_chunk(b"GBUN", body)
        size = struct.pack("<I", len(changed) - 8)
        assert originals_of(changed[:4] + size + changed[8:]) == []


def test_changes_to_what_was_put_in_are_not_undone_with_it() -> None:
    """Header, pad byte and sizes of ours that were changed make the file nobody's."""
    data = embedded(webp, FILES["unpadded.webp"], PAYLOAD)
    pad = data.index(b"XMP ") - 1
    for at in (4, 5, 20, 21, 24, 27, pad, data.index(b"W5M0"), data.index(b"GBUN") + 9):
        changed = data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :]
        assert originals_of(changed) == []


def test_changes_to_the_picture_are_certain() -> None:
    """A changed picture comes out changed, and there is no other original."""
    original = FILES["lossy.webp"]
    data = embedded(webp, original, PAYLOAD)
    changed = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    (found,) = originals_of(changed)
    assert found.certain
    assert candidates(changed) == [original[:82] + bytes([original[82] ^ 1]) + original[83:]]


def test_chunks_that_others_add_survive_the_undo() -> None:
    """A chunk behind the record is not removed with it."""
    extra = riff_chunk(b"prVt", b"more")
    data = embedded(webp, FILES["lossy.webp"], PAYLOAD)
    grown = struct.pack("<I", len(data) - 8 + len(extra))
    for undone in candidates(data[:4] + grown + data[8:] + extra):
        assert undone.endswith(extra)


def test_without_the_record_the_guesses_are_those_for_genblaze() -> None:
    """When another program dropped our record, nothing is certain but the original is tried."""
    for name in ("lossy.webp", "extended.webp", "xmp_twice.webp"):
        data = embedded(webp, FILES[name], PAYLOAD)
        start = data.index(b"GBUN")
        dropped = data[:start] + data[start + 16 :]
        dropped = dropped[:4] + struct.pack("<I", len(dropped) - 8) + dropped[8:]
        assert FILES[name] in candidates(dropped)
        assert not any(original.certain for original in originals_of(dropped))


def test_what_genblaze_embedded_comes_out_where_it_can(vectors: Path) -> None:
    """Its original is among the guesses wherever taking the packet out recovers it."""
    media = vectors / "genblaze" / "media"
    cases = json.loads((media / "index.json").read_text())
    named = [case for case in cases if case.get("embedded", "").endswith(".webp")]
    assert len(named) == 4
    recovered = 0
    for case in named:
        data = (media / case["embedded"]).read_bytes()
        original = (media / case["original"]).read_bytes()
        found = candidates(data)
        assert len(found) == 3
        assert not any(guess.certain for guess in originals_of(data))
        assert (original in found) == case["removing_the_embed_recovers_original"]
        recovered += original in found
        assert all(shown(guess) == shown(data) for guess in found)
    assert recovered == 1


def test_a_changed_header_of_genblaze_s_is_not_dropped() -> None:
    """The chunk is only left out where it says no more than the picture and the packet do."""
    still = FILES["lossy.webp"][12:]
    packet = riff_chunk(b"XMP ", xmp.packet(PAYLOAD))
    assert len(candidates(riff(vp8x(4), still, packet))) == 3
    for flags in (0x0C, 0x14, 0x06):
        assert len(candidates(riff(vp8x(flags), still, packet))) == 2
    wrong_size = riff(vp8x(4), still, packet, size=9999)
    assert candidates(wrong_size) == []


@pytest.mark.parametrize(
    "chunks",
    [
        (riff_chunk(b"XMP ", xmp.packet(PAYLOAD)),),
        (FILES["lossy.webp"][12:], riff_chunk(b"XMP ", xmp.packet(PAYLOAD))),
        (vp8x(4), riff_chunk(b"prVt", xmp.packet(PAYLOAD))),
        (vp8x(4), riff_chunk(b"XMP ", xmp.packet(PAYLOAD) + b" ")),
        (vp8x(4), riff_chunk(b"XMP ", b" " + xmp.packet(PAYLOAD))),
        (riff_chunk(b"VP8X", bytes(8)), riff_chunk(b"XMP ", xmp.packet(PAYLOAD))),
    ],
    ids=["first", "simple", "other chunk", "byte behind", "byte in front", "short header"],
)
def test_packets_in_other_places_are_read_and_not_taken_out(chunks: tuple[bytes, ...]) -> None:
    """Nobody known puts them there, so nobody knows what was there before."""
    data = riff(*chunks)
    assert webp.read_payload(source_of(data)) == PAYLOAD
    assert originals_of(data) == []


def test_genblaze_reads_ours(tmp_path: Path) -> None:
    """Each file gives genblaze the manifest that was put in last."""
    long = payload_of("\U0001f3a8" * 60_000)
    with Genblaze.running() as genblaze:
        for name, original in FILES.items():
            first = embedded(webp, original, PAYLOAD)
            for payload, data in (
                (PAYLOAD, first),
                (LATER, embedded(webp, first, LATER)),
                (long, embedded(webp, original, long)),
            ):
                path = tmp_path / name
                path.write_bytes(data)
                assert genblaze.extract(path).encode() == payload, name
