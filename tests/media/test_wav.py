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
from genblaze_dagster.media.containers import container_of_type, originals
from genblaze_dagster.media.edit import Edit, chunks, pieces
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.wav import plan_embed, read_payload
from tests.media.corpus import decoded, files
from tests.media.genblaze_cli import Genblaze

CONTAINER = container_of_type("audio/wav")


def chunk(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    declared = struct.pack("<I", len(body) if size is None else size)
    return kind + declared + body + b"\0" * (len(body) % 2)


def wav(*parts: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def manifest_list(payload: bytes, nuls: int = 1) -> bytes:
    return chunk(b"LIST", b"INFO" + chunk(b"IMFL", payload + bytes(nuls)))


OLD, NEW = b'{"old":"\xc3\xa9"}', b'{"new":1,"longer":"than the old one"}'
FMT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16))
FMT_8_BIT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8))
SAMPLES = random.Random(600).randbytes(400)  # noqa: S311 - repeatable, not secret
DATA = chunk(b"data", SAMPLES)
TITLE = chunk(b"LIST", b"INFO" + chunk(b"INAM", b"a title\0"))
UNKNOWN = 0xFFFF_FFFF

SOUNDS = {
    "plain": wav(FMT, DATA),
    "lists around": wav(TITLE, FMT, TITLE, DATA, TITLE, chunk(b"id3 ", b"ID3\4\0\0\0\0\0\0")),
    "odd": wav(FMT_8_BIT, chunk(b"data", SAMPLES[:41])),
    "odd, unpadded": wav(FMT_8_BIT, chunk(b"data", SAMPLES[:41])[:-1]),
    "odd, unpadded, counted": wav(FMT_8_BIT, chunk(b"data", SAMPLES[:41])[:-1], size=78),
    "odd chunk in front": wav(chunk(b"JUNK", b"odd"), FMT, DATA),
    "streamed": wav(FMT, chunk(b"data", SAMPLES, UNKNOWN), size=UNKNOWN),
    "streamed, 0": wav(FMT, chunk(b"data", SAMPLES, 0), size=0),
    "streamed, half": wav(FMT, chunk(b"data", SAMPLES, 0x7FFF_FFFF), size=0x7FFF_FFFF),
    "streamed, riff 0": wav(FMT, chunk(b"data", SAMPLES, UNKNOWN), size=0),
    "cut off": wav(FMT, chunk(b"data", SAMPLES, 1000), size=1044),
    "riff size too small": wav(FMT, DATA, size=36),
    "riff size of 1": wav(FMT, DATA, size=1),
    "riff size of the file": wav(FMT, DATA, size=len(wav(FMT, DATA))),
    "stray tail": wav(FMT, DATA) + b"12345",
    "ID3v1 tail": wav(FMT, DATA) + b"TAG" + bytes(125),
    "tail in the RIFF": wav(FMT, DATA, b"123"),
    "no samples": wav(FMT, chunk(b"data", b"")),
    "swallowed manifest": wav(FMT, chunk(b"data", SAMPLES + manifest_list(OLD), UNKNOWN)),
    "genblaze's manifest": wav(FMT, DATA, manifest_list(OLD)),
    "genblaze's, unpadded": wav(FMT_8_BIT, chunk(b"data", SAMPLES[:41])[:-1], manifest_list(OLD)),
    "manifest among titles": wav(
        FMT, chunk(b"LIST", b"INFO" + chunk(b"INAM", b"x\0") + chunk(b"IMFL", OLD)), DATA
    ),
}
EMPTY = ("no samples",)


def source_of(data: bytes) -> Source:
    return Source(io.BytesIO(data))


def edited(data: bytes, edit: Edit) -> bytes:
    source = source_of(data)
    return b"".join(chunks(source, pieces(source.size, edit)))


def embedded(data: bytes, payload: bytes) -> bytes:
    return edited(data, plan_embed(source_of(data), payload))


def undone(data: bytes) -> list[tuple[bytes, bool]]:
    """Return what the file may have been, and whether that is certain."""
    assert CONTAINER is not None
    found = originals(CONTAINER, source_of(data))
    return [(edited(data, original.undo), original.certain) for original in found]


@pytest.mark.parametrize("sound", SOUNDS.values(), ids=SOUNDS)
def test_manifest_goes_in_and_out_of_every_layout(sound: bytes) -> None:
    """What is embedded is read, layer above layer, and each undo is certain and exact."""
    layers = [sound]
    for payload in (OLD, NEW, b"{}"):
        layers.append(embedded(layers[-1], payload))
        assert read_payload(source_of(layers[-1])) == payload
        assert embedded(layers[-2], payload) == layers[-1]
    for above, below in zip(layers[:0:-1], layers[-2::-1], strict=True):
        assert undone(above)[0] == (below, True)


def test_list_goes_to_the_end_of_a_file_in_order() -> None:
    """It is the last chunk then, with two NULs; the RIFF size grows by it, and nothing else."""
    ours = manifest_list(NEW, nuls=2)
    assert embedded(SOUNDS["plain"], NEW) == wav(FMT, DATA, ours)
    assert embedded(SOUNDS["odd"], NEW) == wav(FMT_8_BIT, chunk(b"data", SAMPLES[:41]), ours)


def test_list_goes_in_front_of_the_sound_of_others() -> None:
    """One list is put in and the RIFF size grows by it, unless it is unknown; nothing else."""
    ours = manifest_list(NEW)
    tail = SOUNDS["stray tail"]
    assert embedded(tail, NEW) == wav(FMT, ours, DATA) + b"12345"
    streamed = embedded(SOUNDS["streamed"], NEW)
    assert streamed == wav(FMT, ours, chunk(b"data", SAMPLES, UNKNOWN), size=UNKNOWN)
    assert embedded(wav(FMT, ours, DATA), OLD) == wav(FMT, manifest_list(OLD), ours, DATA)
    at_the_end = wav(FMT, DATA, manifest_list(OLD, nuls=2))
    assert embedded(at_the_end, NEW) == wav(FMT, ours, DATA, manifest_list(OLD, nuls=2))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no plain RIFF"),
        (b"RF64" + wav(FMT, DATA)[4:], "no plain RIFF"),
        (b"BW64" + wav(FMT, DATA)[4:], "no plain RIFF"),
        (b"RIFX" + wav(FMT, DATA)[4:], "no plain RIFF"),
        (wav(FMT), "no data chunk"),
        (wav(FMT, chunk(b"JUNK", b"", 5000), DATA), "no data chunk"),
        (wav(chunk(b"JUNK", b"odd")[:-1], TITLE, FMT, DATA), "lacks its pad byte"),
        (wav(FMT, DATA, size=UNKNOWN - 30), "RIFF size"),
    ],
    ids=["empty", "RF64", "BW64", "RIFX", "no data", "cut", "unpadded", "size"],
)
def test_sounds_that_cannot_carry_it_are_refused(data: bytes, reason: str) -> None:
    """The reason is given; nothing is guessed about broken files."""
    with pytest.raises(EmbeddingError, match=reason):
        plan_embed(source_of(data), NEW)


def test_longest_manifest_is_the_one_readers_accept() -> None:
    """Readers count the NULs behind the text, so two bytes less than 16 MiB go in."""
    longest = b" " * ((16 << 20) - 2)
    assert read_payload(source_of(embedded(SOUNDS["plain"], longest))) == longest
    with pytest.raises(EmbeddingError, match="limit in a WAV is 16777214"):
        plan_embed(source_of(SOUNDS["plain"]), longest + b" ")


def test_file_that_genblaze_could_not_read_is_refused(tmp_path: Path) -> None:
    """genblaze reads WAV files of up to 500 MiB."""
    path = tmp_path / "large.wav"
    path.write_bytes(SOUNDS["streamed"])
    with path.open("r+b") as file:
        file.truncate(500 << 20)
    with Source.open(path) as source, pytest.raises(EmbeddingError, match="524288"):
        plan_embed(source, NEW)


@pytest.mark.parametrize(
    "ours",
    [
        chunk(b"LIST", b"INFO" + chunk(b"IMFL", NEW + b"\0") + chunk(b"ICMT", b"evil")),
        chunk(b"LIST", b"INFO" + chunk(b"ICMT", b"evil") + chunk(b"IMFL", NEW + b"\0")),
        chunk(b"LIST", b"INFO" + chunk(b"IMFL", NEW + b"\0evil")),
        chunk(b"LIST", b"INFO" + chunk(b"IMFL", NEW + b"\0") + b"evil"),
        chunk(b"LIST", b"INFO" + chunk(b"IMFL", NEW)),
        chunk(b"LIST", b"INFO" + chunk(b"IMFL", NEW + bytes(20))),
    ],
    ids=["entry behind", "entry before", "behind NUL", "loose bytes", "no NUL", "NULs"],
)
@pytest.mark.parametrize("behind", [True, False])
def test_lists_that_hold_anything_else_stay(ours: bytes, behind: bool) -> None:
    """Only a list just as genblaze and we write it is taken out: no foreign byte goes with it."""
    data = wav(FMT, DATA, ours) if behind else wav(FMT, ours, DATA)
    assert read_payload(source_of(data)) is not None
    assert all(b"evil" in original for original, _ in undone(data))
    exact = [original for original, certain in undone(data) if certain]
    assert exact in ([], [wav(FMT, DATA)])
    if data != embedded(wav(FMT, DATA), NEW):
        assert exact == []


@pytest.mark.parametrize("size", [0, 10, 0x7FFF_FFFF, UNKNOWN])
def test_riff_sizes_that_make_no_sense_do_no_harm(size: int) -> None:
    """An older list below any RIFF size gives originals that are real files, or none."""
    data = wav(FMT, DATA, manifest_list(OLD), size=size)
    found = undone(data)
    assert all(original[8:] == wav(FMT, DATA)[8:] for original, _ in found)
    assert len(found) == (0 if size == 10 else 1)


@pytest.fixture(scope="module")
def genblaze() -> Iterator[Genblaze]:
    with Genblaze.running() as process:
        yield process


@pytest.fixture(scope="module")
def manifest(vectors: Path) -> bytes:
    """The text of a real manifest."""
    return (vectors / "genblaze/media/manifest/plain.wav.json").read_bytes()


@pytest.fixture(scope="module")
def older(vectors: Path) -> bytes:
    """The text of another one."""
    return (vectors / "genblaze/media/manifest/list_info.wav.json").read_bytes()


def test_genblaze_reads_every_layout(
    genblaze: Genblaze, manifest: bytes, older: bytes, tmp_path: Path
) -> None:
    """Its command finds ours in all of them, also in front of an older one of ours."""
    path = tmp_path / "sound.wav"
    for sound in SOUNDS.values():
        for below in (sound, embedded(sound, older)):
            path.write_bytes(embedded(below, manifest))
            assert genblaze.extract(path).encode() == manifest


def test_ours_goes_in_front_of_genblazes(
    genblaze: Genblaze, manifest: bytes, older: bytes, tmp_path: Path
) -> None:
    """In what genblaze embedded into, even where nobody reads it, ours is read and comes out."""
    path = tmp_path / "sound.wav"
    for name, sound in SOUNDS.items():
        path.write_bytes(sound)
        assert genblaze.embed(path, older.decode()).method == "inline", name
        below = path.read_bytes()
        data = embedded(below, manifest)
        assert undone(data)[0] == (below, True), name
        path.write_bytes(data)
        assert genblaze.extract(path).encode() == manifest, name


def test_what_genblaze_does_is_undone_where_it_can_be(
    genblaze: Genblaze, manifest: bytes, tmp_path: Path
) -> None:
    """The original is among those tried, with any usual RIFF size, if genblaze dropped nothing."""
    path = tmp_path / "sound.wav"
    lost = {
        *("lists around", "stray tail", "tail in the RIFF", "cut off", "streamed, half"),
        *("riff size too small", "riff size of 1", "riff size of the file", "ID3v1 tail"),
        *("genblaze's manifest", "genblaze's, unpadded", "manifest among titles", "no samples"),
    }
    for name, sound in SOUNDS.items():
        path.write_bytes(sound)
        assert genblaze.embed(path, manifest.decode()).method == "inline", name
        found = undone(path.read_bytes())
        assert (sound in [original for original, _ in found]) == (name not in lost), name
        assert not any(certain for _, certain in found), name


def test_originals_of_the_vectors_are_found(vectors: Path) -> None:
    """What genblaze made of each file is undone, but for the list it deleted."""
    media = vectors / "genblaze" / "media"
    cases = [
        case
        for case in json.loads((media / "index.json").read_text())
        if Path(case.get("embedded", "")).suffix == ".wav"
    ]
    assert len(cases) == 3
    for case in cases:
        data = (media / case["embedded"]).read_bytes()
        assert read_payload(source_of(data)) == (media / case["manifest"]).read_bytes()
        digests = [sha256(original).hexdigest() for original, _ in undone(data)]
        expected = "list_info" not in case["embedded"]
        assert (case["original_sha256"] in digests) == expected, case["embedded"]


def test_samples_stay_the_same(vectors: Path) -> None:
    """Sounds decode to the same samples with a manifest, and with two."""
    folder = vectors / "genblaze/media/original"
    found = [(file.name, file.read_bytes()) for file in sorted(folder.glob("*.wav"))]
    assert len(found) == 3
    found += [(name, data) for name, data in SOUNDS.items() if name not in EMPTY]
    found += files("wav", 20, seed=601)
    for name, data in found:
        once = embedded(data, OLD)
        frames = decoded("wav", data)
        assert frames, name
        assert decoded("wav", once) == frames, name
        assert decoded("wav", embedded(once, NEW)) == frames, name


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        (wav(FMT, chunk(b"junk", b"") * 250_000, DATA), True),
        (wav(FMT, chunk(b"LIST", b"INFO" + chunk(b"ICMT", b"") * 9_000) * 100, DATA), True),
        (wav(FMT, manifest_list(b"{}") * 150_000, DATA), False),
        (wav(FMT, chunk(b"data", b"LISTINFOIMFL" * 300_000, UNKNOWN)), False),
    ],
    ids=["chunks", "entries", "manifests", "swallowed"],
)
def test_files_of_nothing_but_chunks_are_done_with_soon(data: bytes, refused: bool) -> None:
    """Hundreds of thousands of headers cost little, or are not followed to their end."""
    assert CONTAINER is not None
    source = source_of(data)
    started = time.thread_time()
    read_payload(source)
    list(originals(CONTAINER, source))
    if refused:
        with pytest.raises(EmbeddingError, match="no data chunk"):
            plan_embed(source, NEW)
    else:
        plan_embed(source, NEW)
    # One second; looking back at each of 250,000 headers would take a quarter of an hour.
    assert time.thread_time() - started < 20
