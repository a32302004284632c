import io
import json
import random
import struct
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import mp4
from genblaze_dagster.media.boxes import MAX_CHAIN, walk
from genblaze_dagster.media.containers import container_of_type, originals
from genblaze_dagster.media.edit import chunks, pieces
from genblaze_dagster.media.mp4 import MANIFEST_UUID, UNDO_UUID, plan_embed, read_payload
from genblaze_dagster.media.source import Source
from tests.media.corpus import decoded, files
from tests.media.genblaze_cli import Genblaze

CONTAINER = container_of_type("video/mp4")


def box(kind: bytes, *parts: bytes, wide: bool = False) -> bytes:
    body = b"".join(parts)
    if wide:
        return struct.pack(">I4sQ", 1, kind, len(body) + 16) + body
    return struct.pack(">I4s", len(body) + 8, kind) + body


def open_ended(kind: bytes, body: bytes) -> bytes:
    return bytes(4) + kind + body


def manifest_box(payload: bytes) -> bytes:
    return box(b"uuid", MANIFEST_UUID, payload)


FTYP = box(b"ftyp", b"isom\0\0\2\0isomiso2")
MOOV = box(b"moov", box(b"mvhd", bytes(100)))
MDAT = box(b"mdat", bytes(range(200)))
FILM = FTYP + MOOV + MDAT
OLD, NEW = b'{"old":"\xc3\xa9"}', b'{"new":1,"longer":"than the old one"}'
WAS_OPEN = box(b"uuid", UNDO_UUID, b"\1")
UNCHANGED = box(b"uuid", UNDO_UUID, b"\0")

FILMS = {
    "faststart": FILM,
    "movie last": FTYP + MDAT + MOOV,
    "long size": FTYP + box(b"mdat", bytes(50), wide=True) + MOOV,
    "fragmented": FTYP + MOOV + (box(b"moof", bytes(30)) + MDAT) * 3 + box(b"mfra", bytes(16)),
    "empty free at the end": FILM + box(b"free"),
    "foreign uuid at the end": FILM + box(b"uuid", bytes(16), b"of another program"),
    "open media": FTYP + MOOV + open_ended(b"mdat", bytes(200)),
    "open movie": FTYP + MDAT + open_ended(b"moov", MOOV[8:]),
    "open free": FILM + open_ended(b"free", b""),
    "record without a manifest": FILM + WAS_OPEN,
    "records without a manifest": FILM + WAS_OPEN + UNCHANGED,
    "swallowed manifest": FTYP + MOOV + open_ended(b"mdat", bytes(200) + manifest_box(OLD)),
}


def source_of(data: bytes) -> Source:
    return Source(io.BytesIO(data))


def edited(data: bytes, edit: mp4.Edit) -> bytes:
    source = source_of(data)
    return b"".join(chunks(source, pieces(source.size, edit)))


def embedded(data: bytes, payload: bytes) -> bytes:
    return edited(data, plan_embed(source_of(data), payload))


def undone(data: bytes) -> list[tuple[bytes, bool]]:
    """Return what the file may have been, and whether that is certain."""
    assert CONTAINER is not None
    found = originals(CONTAINER, source_of(data))
    return [(edited(data, original.undo), original.certain) for original in found]


@pytest.mark.parametrize("film", FILMS.values(), ids=FILMS)
def test_manifest_goes_in_and_out_of_every_layout(film: bytes) -> None:
    """What is embedded is read, and the first original is the film, with certainty."""
    data = embedded(film, NEW)
    assert read_payload(source_of(data)) == NEW
    assert undone(data)[0] == (film, True)
    assert embedded(film, NEW) == data


@pytest.mark.parametrize("film", FILMS.values(), ids=FILMS)
def test_layers_come_off_one_by_one(film: bytes) -> None:
    """A second and third manifest go in front of the first, and each one out gives the one before."""
    layers = [film]
    for payload in (OLD, NEW, b"{}"):
        layers.append(embedded(layers[-1], payload))
        assert read_payload(source_of(layers[-1])) == payload
    for above, below in zip(layers[:0:-1], layers[-2::-1], strict=True):
        assert undone(above)[0] == (below, True)


def test_box_is_appended_and_nothing_else_changes() -> None:
    """An ordinary film gets one box with a 32-bit size at its end, the one genblaze writes."""
    assert embedded(FILM, NEW) == FILM + manifest_box(NEW)
    assert embedded(FILM + manifest_box(OLD), NEW) == FILM + manifest_box(NEW) + manifest_box(OLD)


def test_box_of_open_size_gets_one_and_a_record_of_it() -> None:
    """The last box is closed, and the record stands beside the manifest, also under a newer one."""
    film = FTYP + MOOV + open_ended(b"mdat", bytes(99))
    closed = FTYP + MOOV + box(b"mdat", bytes(99))
    data = embedded(film, OLD)
    assert data == closed + WAS_OPEN + manifest_box(OLD)
    assert embedded(data, NEW) == closed + manifest_box(NEW) + WAS_OPEN + manifest_box(OLD)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ftyp"),
        (MOOV + FILM, "ftyp"),
        (FILM[:-1], "cut off"),
        (FILM + b"12345", "5 bytes at its end"),
        (FILM + bytes(3) + b"\7free", "8 bytes at its end"),
        (FILM + bytes(3) + b"\1free" + bytes(8), "16 bytes at its end"),
        (FTYP + MOOV + manifest_box(OLD) + MDAT, "media behind an older manifest"),
        (FTYP + MOOV + manifest_box(OLD) + box(b"moof") + MDAT, "media behind an older manifest"),
        (FTYP + box(b"free") * MAX_CHAIN, "more than 99998 boxes side by side"),
    ],
    ids=["empty", "no ftyp", "cut", "junk", "small size", "long 0", "moves", "moves moof", "many"],
)
def test_films_that_cannot_carry_it_are_refused(data: bytes, reason: str) -> None:
    """The reason is given; nothing is guessed about broken files."""
    with pytest.raises(EmbeddingError, match=reason):
        plan_embed(source_of(data), NEW)


def test_open_box_that_is_too_large_for_a_size_is_refused(tmp_path: Path) -> None:
    """32 bits hold the size of the last box, or nothing is changed."""
    path = tmp_path / "large.mp4"
    path.write_bytes(FTYP + MOOV + open_ended(b"mdat", b""))
    start = len(FTYP + MOOV)
    with path.open("r+b") as file:
        file.truncate(start + 0xFFFF_FFFF)
    with Source.open(path) as source:
        assert plan_embed(source, NEW)[0] == mp4.Splice(start, 4, b"\xff\xff\xff\xff")
    with path.open("r+b") as file:
        file.truncate(start + 0x1_0000_0000)
    with Source.open(path) as source, pytest.raises(EmbeddingError, match="4294967296 bytes"):
        plan_embed(source, NEW)


def test_longest_manifest_is_the_one_readers_accept() -> None:
    """16 MiB go in; one byte more is refused."""
    limit = 16 << 20
    assert read_payload(source_of(embedded(FILM, b" " * limit))) == b" " * limit
    with pytest.raises(EmbeddingError, match="limit in an MP4 is 16777216"):
        plan_embed(source_of(FILM), b" " * (limit + 1))


EVIL = b"bytes somebody else put there"


@pytest.mark.parametrize(
    "data",
    [
        FILM + box(b"uuid", UNDO_UUID, b"\1", EVIL) + manifest_box(NEW),
        FILM + box(b"uuid", UNDO_UUID, EVIL) + manifest_box(NEW),
        FILM + box(b"free", EVIL) + WAS_OPEN + manifest_box(NEW) + box(b"free", EVIL),
        FILM + box(b"uuid", UNDO_UUID, b"\0") + box(b"free", EVIL) + manifest_box(NEW),
        FILM + box(b"free", MANIFEST_UUID, EVIL) + manifest_box(NEW),
        FILM + manifest_box(NEW) + box(b"free", MANIFEST_UUID, EVIL),
        FILM + manifest_box(NEW) + open_ended(b"free", MANIFEST_UUID + EVIL),
        FILM + manifest_box(NEW) + manifest_box(EVIL),
        FILM + manifest_box(NEW) + EVIL,
        FILM + box(b"uuid", UNDO_UUID, EVIL) + WAS_OPEN + manifest_box(NEW) + UNCHANGED,
        FTYP + MOOV + open_ended(b"mdat", EVIL + manifest_box(NEW)),
        FTYP + MOOV + open_ended(b"mdat", manifest_box(NEW) + EVIL + manifest_box(NEW)),
    ],
)
def test_foreign_bytes_survive_every_undo(data: bytes) -> None:
    """Whatever records and boxes say, an undo takes out nothing but what is known as ours."""
    found = undone(data)
    assert found
    assert all(EVIL in original for original, _ in found)


def test_lying_records_are_not_believed() -> None:
    """A record is used only if embedding again gives this very file."""
    plain = FILM + manifest_box(NEW)
    # "Nothing was changed" is not said to a film for which that goes without saying.
    data = FILM + UNCHANGED + manifest_box(NEW)
    assert undone(data) == [(FILM + UNCHANGED, False)]
    # The box in front was not the last one.
    data = FILM + WAS_OPEN + manifest_box(NEW) + box(b"free")
    assert undone(data) == [(FILM + WAS_OPEN + box(b"free"), False)]
    # A record elsewhere says nothing.
    data = FTYP + WAS_OPEN + MOOV + MDAT + manifest_box(NEW)
    assert undone(data)[0] == (FTYP + WAS_OPEN + MOOV + MDAT, True)
    assert undone(plain)[0] == (FILM, True)


def test_unfinished_appends_are_no_manifests_and_make_nothing_certain() -> None:
    """What a killed embed leaves is not read as a manifest, and a difference proves nothing then."""
    draft = open_ended(b"free", MANIFEST_UUID + NEW)
    for unfinished in (draft, open_ended(b"free", MANIFEST_UUID + bytes(24) + manifest_box(NEW))):
        assert read_payload(source_of(FILM + unfinished)) is None
        assert undone(FILM + unfinished) == []
    data = FILM + manifest_box(OLD) + draft
    assert read_payload(source_of(data)) == OLD
    assert undone(data) == [(FILM + draft, False)]


def test_swallowed_manifests_come_out() -> None:
    """What genblaze appended to an open box is cut off, once or altogether; neither is certain."""
    film = FTYP + MOOV + open_ended(b"mdat", bytes(200))
    once = film + manifest_box(OLD)
    twice = once + manifest_box(NEW)
    assert undone(once) == [(film, False)]
    assert undone(twice) == [(once, False), (film, False)]


@pytest.fixture(scope="module")
def genblaze() -> Iterator[Genblaze]:
    with Genblaze.running() as process:
        yield process


@pytest.fixture(scope="module")
def manifest(vectors: Path) -> bytes:
    """The text of a real manifest."""
    return (vectors / "genblaze/media/manifest/faststart.mp4.json").read_bytes()


@pytest.fixture(scope="module")
def older(vectors: Path) -> bytes:
    """The text of another one."""
    return (vectors / "genblaze/media/manifest/audio.m4a.json").read_bytes()


def test_genblaze_reads_every_layout(
    genblaze: Genblaze, manifest: bytes, older: bytes, tmp_path: Path
) -> None:
    """Its command finds ours in all of them, also in front of an older one."""
    path = tmp_path / "film.mp4"
    for film in FILMS.values():
        for below in (film, embedded(film, older)):
            path.write_bytes(embedded(below, manifest))
            assert genblaze.extract(path).encode() == manifest


def test_what_genblaze_embeds_over_ours_is_undone(
    genblaze: Genblaze, manifest: bytes, older: bytes, tmp_path: Path
) -> None:
    """It replaces our manifest and leaves our record, so that the film still comes back."""
    path = tmp_path / "film.mp4"
    for name in ("faststart", "open media"):
        path.write_bytes(embedded(FILMS[name], older))
        assert genblaze.embed(path, manifest.decode()).method == "inline"
        data = path.read_bytes()
        assert data == embedded(FILMS[name], manifest)
        assert undone(data)[0] == (FILMS[name], True)


def test_free_box_that_genblaze_drops_is_put_back(
    genblaze: Genblaze, manifest: bytes, tmp_path: Path
) -> None:
    """genblaze loses 8 bytes at the end of a film; if they were an empty box, it is found."""
    film = FILM + box(b"free")
    path = tmp_path / "film.mp4"
    path.write_bytes(film)
    assert genblaze.embed(path, manifest.decode()).method == "inline"
    assert path.read_bytes() == FILM + manifest_box(manifest)
    assert undone(path.read_bytes()) == [(FILM, True), (film, False)]


def test_originals_of_the_vectors_are_found(vectors: Path) -> None:
    """What genblaze made of each film is undone, but for a freeform atom."""
    media = vectors / "genblaze" / "media"
    cases = [
        case
        for case in json.loads((media / "index.json").read_text())
        if Path(case.get("embedded", "")).suffix in (".mp4", ".m4a")
    ]
    assert len(cases) == 5
    for case in cases:
        data = (media / case["embedded"]).read_bytes()
        assert read_payload(source_of(data)) == (media / case["manifest"]).read_bytes()
        digests = [sha256(original).hexdigest() for original, _ in undone(data)]
        if "freeform" in case["embedded"]:
            assert digests == []
        else:
            assert case["original_sha256"] in digests, case["embedded"]


def test_frames_stay_the_same(vectors: Path) -> None:
    """Films and sounds decode to the same frames with a manifest, and with two."""
    folder = vectors / "genblaze/media/original"
    names = ("faststart.mp4", "moov_last.mp4", "mdat_size0.mp4", "audio.m4a")
    found = [(name, (folder / name).read_bytes()) for name in names]
    for container in ("mp4", "mov", "m4a"):
        found += files(container, 3, seed=501)
    for name, data in found:
        once = embedded(data, OLD)
        frames = decoded(Path(name).suffix[1:], data)
        assert frames
        assert decoded(Path(name).suffix[1:], once) == frames, name
        assert decoded(Path(name).suffix[1:], embedded(once, NEW)) == frames, name


def check_many_boxes(unit: bytes) -> None:
    data = FTYP + unit * (MAX_CHAIN - 8) + manifest_box(OLD)
    assert CONTAINER is not None
    source = source_of(data)
    for call in (
        lambda: read_payload(source),
        lambda: list(originals(CONTAINER, source)),
        lambda: plan_embed(source, NEW),
    ):
        started = time.thread_time()
        assert call()
        assert time.thread_time() - started < 15


def test_film_of_nothing_but_records_is_done_with_soon() -> None:
    """As many boxes as are read, all as if they were ours, cost no more than a look at each."""
    check_many_boxes(WAS_OPEN)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [box(b"free"), box(b"uuid", bytes(16)), box(b"free", MANIFEST_UUID), manifest_box(b"{}")],
    ids=["free", "uuid", "scraps", "manifests"],
)
def test_films_of_nothing_but_boxes_are_done_with_soon(unit: bytes) -> None:
    """The same for other kinds of boxes."""
    check_many_boxes(unit)


def test_random_chains_of_our_own_boxes_are_undone() -> None:
    """Property: whatever of ours is in a film, in whatever order, embedding can be undone."""
    rng = random.Random(502)  # noqa: S311 - repeatable, not secret
    parts = [
        WAS_OPEN,
        UNCHANGED,
        manifest_box(OLD),
        box(b"free"),
        box(b"free", MANIFEST_UUID, OLD),
        box(b"uuid", UNDO_UUID),
        box(b"uuid", MANIFEST_UUID, OLD, wide=True),
        MOOV,
    ]
    for _ in range(600):
        film = FTYP + MDAT + b"".join(rng.choices(parts, k=rng.randrange(7)))
        last = list(walk(source_of(film), 0, len(film)))[-1]
        if rng.random() < 0.3 and last.body - last.start == 8:
            film = film[: last.start] + bytes(4) + film[last.start + 4 :]
        data = embedded(film, NEW)
        assert read_payload(source_of(data)) == NEW
        assert undone(data)[0] == (film, True)
