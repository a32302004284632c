import io
import json
import random
import struct
from pathlib import Path

import pytest
from PIL import Image

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import jpeg, xmp
from genblaze_dagster.media.limits import IN_MEMORY_BYTES
from genblaze_dagster.media.source import Source
from tests.media.genblaze_cli import Genblaze
from tests.media.splicing import candidates, embedded, originals_of, payload_of, source_of

PAYLOAD = payload_of()
XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
FOREIGN = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>\xc3\xa9</rdf:RDF></x:xmpmeta>'
TRAILER = b'<?xpacket end="w"?>'
LARGE = payload_of("<&\u2713 " * 30_000)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def saved(mode: str = "RGB", **options: object) -> bytes:
    noise = random.Random(mode).randbytes(16 * len(mode))  # noqa: S311 - repeatable
    file = io.BytesIO()
    Image.frombytes(mode, (4, 4), noise).resize((64, 48)).save(file, "JPEG", **options)
    return file.getvalue()


def exif(description: str = "turned") -> bytes:
    tags = Image.Exif()
    tags[0x0112], tags[0x010E] = 6, description
    return tags.tobytes()


def behind_jfif(data: bytes, *segments: bytes) -> bytes:
    assert data[2:4] == b"\xff\xe0"
    return data[:20] + b"".join(segments) + data[20:]


def files() -> dict[str, bytes]:
    plain = saved()
    whole = segment(0xE1, XMP_NAME + FOREIGN + TRAILER)
    bare = segment(0xE1, XMP_NAME + FOREIGN)
    jfxx = segment(0xE0, b"JFXX\0\x10")
    photoshop = segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\0")
    camera = segment(0xE1, exif(FOREIGN.replace(b"\xc3\xa9", b"e").decode()))
    thumbnail = segment(0xE0, b"JFXX\0\x10" + FOREIGN + b"\xff\xd9")
    return {
        "plain.jpg": plain,
        "grey.jpg": saved("L"),
        "cmyk.jpg": saved("CMYK"),
        "progressive.jpg": saved(progressive=True, quality=95, subsampling=0),
        "restarts.jpg": saved(restart_marker_blocks=1),
        "exif.jpg": saved(exif=exif()),
        "icc.jpg": saved(icc_profile=bytes(70_000), comment=b"by hand"),
        "no_jfif.jpg": plain[:2] + plain[20:],
        "exif_only.jpg": plain[:2] + segment(0xE1, exif()) + plain[20:],
        "jfxx.jpg": behind_jfif(plain, jfxx, segment(0xE1, exif())),
        "foreign.jpg": behind_jfif(plain, whole, photoshop),
        "bare.jpg": behind_jfif(plain, photoshop, bare),
        "camera.jpg": behind_jfif(plain, camera),
        "thumbnail.jpg": behind_jfif(plain, thumbnail, segment(0xE1, exif())),
        "fill.jpg": behind_jfif(plain, b"\xff\xff", segment(0xE1, exif())),
        "tail.jpg": plain + b"behind the picture" + FOREIGN,
        "two.jpg": plain + plain,
        "cut.jpg": plain[:-50],
    }


FILES = files()
DECODABLE = sorted(FILES.keys() - {"cut.jpg"})
HIDING = {"bare.jpg", "camera.jpg", "thumbnail.jpg", "tail.jpg"}


def shown(data: bytes) -> tuple[str, object, object, bytes]:
    with Image.open(io.BytesIO(data)) as picture:
        kept = ("exif", "icc_profile", "comment", "jfif_density", "adobe", "progression")
        info = {key: picture.info.get(key) for key in kept}
        return picture.mode, picture.getexif().get(0x0112), info, picture.tobytes()


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_manifest_goes_in_and_out(name: str) -> None:
    """Every kind of JPEG, with any metadata, gives the manifest and then its own bytes again."""
    embedded(jpeg, FILES[name], PAYLOAD)


@pytest.mark.parametrize("name", DECODABLE)
def test_what_is_shown_stays(name: str) -> None:
    """No pixel is encoded again, and orientation, profile and comment are as before."""
    assert shown(embedded(jpeg, FILES[name], PAYLOAD)) == shown(FILES[name])


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("plain.jpg", 20),
        ("no_jfif.jpg", 2),
        ("exif.jpg", 20 + 2 + 2 + len(exif())),
        ("exif_only.jpg", 2 + 4 + len(exif())),
        ("jfxx.jpg", 20 + 10 + 4 + len(exif())),
        ("foreign.jpg", 20),
        ("camera.jpg", 20),
        ("thumbnail.jpg", 20),
        ("fill.jpg", 20),
    ],
)
def test_the_segment_follows_jfif_and_exif(name: str, place: int) -> None:
    """These stay first, unless XMP within them would hide the manifest."""
    data = embedded(jpeg, FILES[name], PAYLOAD)
    packet = xmp.packet(PAYLOAD)
    ours = segment(0xE1, XMP_NAME + packet)
    assert data == FILES[name][:place] + ours + FILES[name][place:]


def test_the_packet_is_worded_as_genblaze_does_with_the_right_mark(vectors: Path) -> None:
    """Only the byte order mark differs from what genblaze writes for the same manifest."""
    media = vectors / "genblaze" / "media"
    theirs = (media / "embedded" / "baseline.jpg").read_bytes()
    ours = xmp.packet((media / "manifest" / "baseline.jpg.json").read_bytes())
    assert b'begin="\xef\xbb\xbf" id=' in ours
    assert ours.replace(b"\xef\xbb\xbf", b"\xc3\xaf\xc2\xbb\xc2\xbf", 1) in theirs


def test_manifests_form_layers() -> None:
    """A later manifest goes in front of an earlier one and comes out first."""
    for original in (FILES["foreign.jpg"], FILES["exif.jpg"]):
        first = embedded(jpeg, original, PAYLOAD)
        second = embedded(jpeg, first, payload_of("later"))
        third = embedded(jpeg, second, payload_of("still later"))
        assert candidates(third) == [second]
        assert candidates(second) == [first]
        assert candidates(first) == [original]


def test_the_longest_segment_is_used_up() -> None:
    """A packet that just fits is a segment; one byte more, and it stands behind the picture."""
    room = jpeg.MAX_SEGMENT_BYTES - len(XMP_NAME) - len(xmp.packet(b'""'))
    fits = b'"' + b"x" * room + b'"'
    data = embedded(jpeg, FILES["plain.jpg"], fits)
    assert data[20:24] == b"\xff\xe1\xff\xff"
    longer = b'"' + b"x" * (room + 1) + b'"'
    data = embedded(jpeg, FILES["plain.jpg"], longer)
    assert data == FILES["plain.jpg"] + xmp.packet(longer)
    assert originals_of(data)[0].removed == "the XMP packet behind the picture"


@pytest.mark.parametrize("name", sorted(FILES))
def test_long_manifests_go_behind_the_picture_or_are_refused(name: str) -> None:
    """Where XMP in the file would hide them, that is said instead of embedding in vain."""
    if name in HIDING:
        with pytest.raises(EmbeddingError, match="other XMP in the file would hide it"):
            jpeg.plan_embed(source_of(FILES[name]), LARGE)
    else:
        data = embedded(jpeg, FILES[name], LARGE)
        assert data.startswith(FILES[name])
        assert name == "cut.jpg" or shown(data) == shown(FILES[name])


def test_long_manifests_form_layers() -> None:
    """A long one goes in front of a long one; in front of a short one there is no room for it."""
    original = FILES["foreign.jpg"]
    first = embedded(jpeg, original, LARGE)
    second = embedded(jpeg, first, payload_of("later" * 20_000))
    third = embedded(jpeg, second, PAYLOAD)
    assert candidates(third) == [second]
    assert candidates(second) == [first]
    assert candidates(first) == [original]
    with pytest.raises(EmbeddingError, match="would hide it"):
        jpeg.plan_embed(source_of(third), LARGE)


def test_bytes_around_the_segment_survive_the_undo() -> None:
    """What somebody puts next to the manifest, or into its segment, is not removed with it."""
    original = FILES["plain.jpg"]
    data = embedded(jpeg, original, PAYLOAD)
    end = data.index(TRAILER) + len(TRAILER)
    extra = segment(0xFE, b"extra")
    for changed in (data[:end] + extra + data[end:], data[:20] + extra + data[20:]):
        (undone,) = candidates(changed)
        assert undone == original[:20] + extra + original[20:]
    ours = segment(0xE1, XMP_NAME + xmp.packet(PAYLOAD) + b" padding")
    assert originals_of(original[:20] + ours + original[20:]) == []
    reworded = data.replace(b'rdf:about=""', b'rdf:about=" "')
    assert originals_of(reworded) == []


def test_a_segment_in_another_place_is_not_certain() -> None:
    """What another program moved may have changed the rest as well."""
    data = FILES["plain.jpg"]
    ours = segment(0xE1, XMP_NAME + xmp.packet(PAYLOAD))
    moved = data[:2] + ours + data[2:]
    (original,) = originals_of(moved)
    assert not original.certain
    assert candidates(moved) == [data]


def test_genblaze_s_segment_comes_out_but_proves_nothing(vectors: Path) -> None:
    """It encodes the picture again, so what is left is not the original, except by luck."""
    media = vectors / "genblaze" / "media"
    cases = json.loads((media / "index.json").read_text())
    named = [case for case in cases if case.get("embedded", "").endswith(".jpg")]
    assert len(named) == 2
    for case in named:
        assert not case["removing_the_embed_recovers_original"]
        data = (media / case["embedded"]).read_bytes()
        (original,) = originals_of(data)
        assert (original.certain, original.removed) == (False, "its XMP segment")
        (undone,) = candidates(data)
        assert b"xap/1.0" not in undone
        assert shown(undone) == shown(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8", b"\xff\xd8\0\xe0", b"\x89PNG\r\n\x1a\n"],
    ids=["empty", "start", "no marker", "png"],
)
def test_files_that_do_not_begin_as_jpeg_are_refused(data: bytes) -> None:
    """Without a marker behind the first there is no place for a manifest."""
    for payload in (PAYLOAD, LARGE):
        with pytest.raises(EmbeddingError, match="marker"):
            jpeg.plan_embed(source_of(data), payload)


def test_lying_segment_lengths_do_not_move_the_manifest_into_a_segment() -> None:
    """A JFIF segment that does not end at a marker is not passed over."""
    plain = FILES["plain.jpg"]
    for length in (0, 1, 2, 5, 15, 17, 0xFFFF):
        data = plain[:4] + length.to_bytes(2) + plain[6:]
        assert embedded(jpeg, data, PAYLOAD)[:4] == b"\xff\xd8\xff\xe1"


def test_files_above_what_genblaze_takes_are_refused(tmp_path: Path) -> None:
    """A picture that would be above 500 MiB with its manifest gets none."""
    path = tmp_path / "large.jpg"
    path.write_bytes(FILES["plain.jpg"])
    with path.open("r+b") as file:
        file.truncate(IN_MEMORY_BYTES - 100)
    with Source.open(path) as source, pytest.raises(EmbeddingError, match="up to 524288000"):
        jpeg.plan_embed(source, PAYLOAD)


def test_manifests_above_the_limit_are_refused() -> None:
    """More than 16 MiB of text, or 32 MiB of escapes, would not be read back."""
    for payload in (b'"' + b" " * (16 << 20), b'"' + b"&" * (7 << 20)):
        with pytest.raises(EmbeddingError, match="limits are 16777216 and 33554432"):
            jpeg.plan_embed(source_of(FILES["plain.jpg"]), payload)


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        ("&lt;&gt;&amp;", "<>&"),
        ("&amp;lt;&amp;amp;", "&lt;&amp;"),
        ("&quot;&#39;&#x2713;&eacute;", "\"'\u2713\u00e9"),
        ("&#xD800;&#x110000;&zzz;& &", "\ufffd\ufffd&zzz;& &"),
    ],
    ids=["ours", "escaped escapes", "of others", "of nothing"],
)
def test_escapes_of_all_writers_are_read(escaped: str, text: str) -> None:
    """Ours in the quick way, and with others whatever genblaze would understand."""
    data = FOREIGN.replace(b"\xc3\xa9", f"<mf:manifest>{escaped}</mf:manifest>".encode()) + TRAILER
    assert jpeg.read_payload(source_of(data)) == text.encode()


@pytest.mark.parametrize(
    ("escaped", "message"),
    [
        ("&#" + "9" * 5000 + ";", "character that cannot be"),
        ("&quot;" * 200_001, "200001 character references"),
    ],
    ids=["digits", "many"],
)
def test_escapes_that_take_forever_are_refused(escaped: str, message: str) -> None:
    """Numbers of thousands of digits and millions of references are typed errors."""
    data = FOREIGN.replace(b"\xc3\xa9", f"<mf:manifest>{escaped}</mf:manifest>".encode()) + TRAILER
    with pytest.raises(EmbeddingError, match=message):
        jpeg.read_payload(source_of(data))


PACKETS = {
    "whole foreign packet": FOREIGN + TRAILER,
    "foreign packet without a trailer": FOREIGN + b"\xff\xfe",
    "foreign packet that is not UTF-8": FOREIGN.replace(b"\xc3", b"\xff") + TRAILER,
    "manifest without an end": FOREIGN.replace(b"\xc3\xa9", b"<mf:manifest>") + TRAILER,
    "manifest outside of a packet": FOREIGN + TRAILER + b"<mf:manifest>{}</mf:manifest>",
}


@pytest.mark.parametrize("name", list(PACKETS))
def test_the_first_manifest_in_a_packet_is_read(name: str) -> None:
    """What stands in front of it makes no difference, and is what genblaze would pass over too."""
    data = FILES["plain.jpg"] + PACKETS[name] + xmp.packet(PAYLOAD)
    assert jpeg.read_payload(source_of(data)) == PAYLOAD


def test_more_packets_than_any_program_writes_are_refused() -> None:
    """A file of nothing but packets does not keep a reader busy."""
    data = FILES["plain.jpg"] + (FOREIGN + TRAILER) * 1001
    with pytest.raises(EmbeddingError, match="more than 1000 XMP packets"):
        jpeg.read_payload(source_of(data))
    # In front of them a manifest is found, and leads back.
    embedded(jpeg, data, PAYLOAD)


def test_genblaze_reads_ours(tmp_path: Path) -> None:
    """Each file gives genblaze the manifest that was put in last, short or long."""
    with Genblaze.running() as genblaze:
        for name, original in FILES.items():
            made = [(PAYLOAD, embedded(jpeg, original, PAYLOAD))]
            made.append((payload_of(name), embedded(jpeg, made[0][1], payload_of(name))))
            if name not in HIDING:
                made.append((LARGE, embedded(jpeg, original, LARGE)))
                later = payload_of(name * 10_000)
                made.append((later, embedded(jpeg, made[-1][1], later)))
            for payload, data in made:
                path = tmp_path / name
                path.write_bytes(data)
                assert genblaze.extract(path).encode() == payload, name
