import io
import json
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutagen.id3 import APIC, COMM, ID3, TIT2, TPE1, TXXX

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import mp3
from genblaze_dagster.media.id3 import MAX_FRAMES, MAX_SIZE, pack_synchsafe
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.source import Source
from tests.media.corpus import decoded
from tests.media.corpus_sounds import encoded
from tests.media.genblaze_cli import Genblaze
from tests.media.splicing import edited, originals_of, source_of

LIMIT = 16 << 20
# Longer than 127 bytes, from where on both ways to write a size differ.
PAYLOAD = ('{"run":{"name":"<&> \u2713 \u00e9 \U0001f600 %s"}}' % ("x" * 300)).encode()
KEY = "TXXX:genblaze:manifest"
SOUND = encoded("mp3", "libmp3lame", "s16p", rate=44100, layout="mono")
ID3V1 = b"TAG" + b"a title".ljust(30, b"\0") + b"caf\xe9".ljust(90, b"\0") + b"2025\x0c"
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0) + bytes(8)


def frame(name: bytes, body: bytes, version: int = 4, flags: bytes = b"\0\0") -> bytes:
    size = pack_synchsafe(len(body)) if version == 4 else len(body).to_bytes(4)
    return name + size + flags + body


def tag(frames: bytes, version: int = 4, flags: int = 0) -> bytes:
    return b"ID3" + bytes([version, 0, flags]) + pack_synchsafe(len(frames)) + frames


def by_mutagen(version: int, padding: int | None = None) -> bytes:
    """Tag a file with a title, a comment, a cover, and text frames of our kind."""
    frames = ID3()
    frames.add(TIT2(encoding=1, text="T\u00ebst \u2713"))
    frames.add(TPE1(encoding=0, text="Caf\u00e9"))
    frames.add(COMM(encoding=1, lang="eng", desc="", text="a comment"))
    frames.add(APIC(encoding=0, mime="image/png", type=3, desc="", data=b"\xff\xe0\0" * 300))
    frames.add(TXXX(encoding=1, desc="replaygain_track_gain", text="-3 dB"))
    frames.add(TXXX(encoding=0, desc="notes", text="x" * 300))
    file = io.BytesIO(SOUND)
    frames.save(file, v2_version=version, padding=padding if padding is None else lambda _: padding)
    return file.getvalue()


BY_FFMPEG = tag(frame(b"TSSE", b"\x03Lavf62.12.102\0") + bytes(10)) + SOUND
FLAC = encoded("flac", "flac", "s16", rate=44100, layout="mono")

FILES = {
    "no-tag": SOUND,
    "id3v1": SOUND + ID3V1,
    "ape": SOUND + APE,
    "2.3": by_mutagen(3),
    "2.4": by_mutagen(4),
    "2.3-unpadded": by_mutagen(3, 0),
    "2.4-unpadded": by_mutagen(4, 0),
    "2.4-padded": by_mutagen(4, 5000) + APE + ID3V1,
    "2.3-all": by_mutagen(3, 7) + APE + ID3V1,
    "2.3-experimental": tag(frame(b"TIT2", b"\0T", 3), 3, 0x20) + SOUND,
    "2.2-names-in-2.3": tag(frame(b"TT2\0", b"\0T", 3) + frame(b"TP1\0", b"\0P", 3), 3) + SOUND,
    "small-frames": tag(frame(b"TIT2", b"\x03T") + frame(b"TPE1", b"\x03P")) + SOUND,
    "only-padding": tag(bytes(100)) + SOUND,
    "scraps": tag(frame(b"TIT2", b"\x03T") + b"too few") + SOUND,
    "two-tags": tag(frame(b"TIT2", b"\x03T")) + by_mutagen(3),
    "ffmpeg": BY_FFMPEG,
    "flac-behind": tag(frame(b"TIT2", b"\x03T")) + FLAC,
}
VARIANTS = pytest.mark.parametrize("data", FILES.values(), ids=FILES)


def embedded(data: bytes, payload: bytes = PAYLOAD) -> bytes:
    return edited(data, mp3.plan_embed(source_of(data), payload))


def undone(data: bytes) -> list[tuple[bytes, Original]]:
    """Return every original of a file, most likely first."""
    return [(edited(data, original.undo), original) for original in originals_of(data)]


def by_genblaze(genblaze: Genblaze, data: bytes, manifest: str, path: Path) -> bytes:
    path.write_bytes(data)
    assert genblaze.embed(path, manifest).method == "inline"
    return path.read_bytes()


@pytest.fixture(scope="module")
def genblaze() -> Iterator[Genblaze]:
    with Genblaze.running() as process:
        yield process


@pytest.fixture(scope="module")
def manifest(vectors: Path) -> str:
    return (vectors / "genblaze/media/manifest/no_tag.mp3.json").read_text()


@VARIANTS
def test_embedding_is_read_and_undone_to_the_byte(data: bytes) -> None:
    """The text comes back, in ASCII from 2.3, and the one original is certain and exact."""
    file = embedded(data)
    found = mp3.read_payload(source_of(file))
    assert found is not None
    assert json.loads(found) == json.loads(PAYLOAD)
    assert found == PAYLOAD or (data[3] == 3 and found.isascii())
    ((original, how),) = undone(file)
    assert original == data
    assert how.certain
    assert embedded(data) == file


@VARIANTS
def test_embedding_changes_nothing_else(data: bytes) -> None:
    """Sound, other frames, padding and everything behind the sound stay as they were."""
    file = embedded(data)
    form = "flac" if b"fLaC" in data else "mp3"
    assert decoded(form, file) == decoded(form, data)
    if data[:3] != b"ID3":
        assert file.endswith(data)
        assert len(file) == len(data) + 20 + len(b"\x03genblaze:manifest\0" + PAYLOAD)
        return
    before, after = ID3(io.BytesIO(data)), ID3(io.BytesIO(file))
    assert after.version == before.version
    assert [found for found in after if found != KEY] == list(before)
    assert all(after[found] == before[found] for found in before)
    assert after.size - before.size == len(file) - len(data)


@VARIANTS
def test_layers_come_off_one_by_one(data: bytes) -> None:
    """A manifest on top of others is the one that is read, and each is taken out alone."""
    layers = [data]
    for number in range(3):
        layers.append(embedded(layers[-1], b'{"layer":%d}' % number))
    for number in (2, 1, 0):
        found = mp3.read_payload(source_of(layers[number + 1]))
        assert found == b'{"layer":%d}' % number
        assert ID3(io.BytesIO(layers[number + 1]))[KEY].text[0].encode() == found
        ((original, how),) = undone(layers[number + 1])
        assert original == layers[number]
        assert how.certain


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("encoding", [0, 1, 3])
def test_an_older_frame_of_another_writer_comes_second(version: int, encoding: int) -> None:
    """Whatever encoding it has and wherever it is, mutagen and we read the new text first."""
    frames = ID3(io.BytesIO(by_mutagen(version, 0)))
    frames.add(TXXX(encoding=encoding, desc="genblaze:manifest", text='{"old":true}'))
    file = io.BytesIO(SOUND)
    frames.save(file, v2_version=version)
    data = file.getvalue()
    new = embedded(data)
    assert json.loads(mp3.read_payload(source_of(new)) or b"") == json.loads(PAYLOAD)
    texts = ID3(io.BytesIO(new))[KEY].text
    assert [json.loads(text) for text in texts] == [json.loads(PAYLOAD), {"old": True}]
    assert undone(new)[0][0] == data


def test_a_compressed_frame_comes_second() -> None:
    """mutagen inflates it, and we pass it over; both read ours, which is in front of it."""
    body = zlib.compress(b'\x03genblaze:manifest\0{"old":true}')
    data = tag(frame(b"TXXX", bytes(4) + body, flags=b"\0\x09")) + SOUND
    assert mp3.read_payload(source_of(data)) is None
    file = embedded(data)
    assert ID3(io.BytesIO(file))[KEY].text == [PAYLOAD.decode(), '{"old":true}']
    assert mp3.read_payload(source_of(file)) == PAYLOAD
    assert undone(file)[0][0] == data


def test_frames_under_their_old_name_are_older_ones_too() -> None:
    """mutagen reads `TXX` in 2.3 as `TXXX`, so do we, and ours goes in front of it."""
    old = frame(b"TXX\0", b'\0genblaze:manifest\0{"old":true}', 3)
    data = tag(frame(b"TT2\0", b"\0T", 3) + old + bytes(20), 3) + SOUND
    assert mp3.read_payload(source_of(data)) == b'{"old":true}'
    assert undone(data) == []
    file = embedded(data)
    assert len(ID3(io.BytesIO(file))[KEY].text) == 2
    assert json.loads(ID3(io.BytesIO(file))[KEY].text[0]) == json.loads(PAYLOAD)
    assert undone(file)[0][0] == data


def test_genblaze_reads_what_we_embed(genblaze: Genblaze, manifest: str, tmp_path: Path) -> None:
    """Its command line prints our manifest, and of its own behind ours or in our place only one."""
    path = tmp_path / "a.mp3"
    older = json.dumps(json.loads(manifest) | {"canonical_hash": "0" * 64})
    for name, data in FILES.items():
        for base in (data, by_genblaze(genblaze, data, older, path)):
            path.write_bytes(embedded(base, manifest.encode()))
            assert genblaze.extract(path) == manifest, name
            again = by_genblaze(genblaze, path.read_bytes(), older, path)
            assert again.count(b"genblaze:manifest\0") == 1, name
            assert mp3.read_payload(source_of(again)) == genblaze.extract(path).encode(), name


@pytest.mark.parametrize("name", ["no-tag", "ape", "ffmpeg", "2.4", "2.4-padded"])
def test_originals_of_what_genblaze_embeds_are_found(
    name: str, genblaze: Genblaze, manifest: str, tmp_path: Path
) -> None:
    """Untagged files, and tags of ffmpeg's and mutagen's, come back, though never for certain."""
    data = FILES[name].removesuffix(ID3V1)
    file = by_genblaze(genblaze, data, manifest, tmp_path / "a.mp3")
    found = undone(file)
    assert data in [original for original, _ in found]
    assert not any(how.certain for _, how in found)


def test_originals_of_the_vectors_are_found(vectors: Path) -> None:
    """Where genblaze's vectors say that the original can be had, it is among ours."""
    folder = vectors / "genblaze/media"
    recoverable = 0
    for entry in json.loads((folder / "index.json").read_text()):
        if not entry.get("embedded", "").endswith(".mp3"):
            continue
        found = [original for original, _ in undone((folder / entry["embedded"]).read_bytes())]
        if entry["removing_the_embed_recovers_original"]:
            assert (folder / entry["original"]).read_bytes() in found
            recoverable += 1
    assert recoverable == 1


GENBLAZE_FRAME = frame(b"TXXX", b"\x03genblaze:manifest\0" + PAYLOAD + b"\0")


@pytest.mark.parametrize(
    "frames",
    [
        GENBLAZE_FRAME + frame(b"TIT2", b"\x03HIDDEN") + bytes(1024),
        frame(b"PRIV", b"HIDDEN") + GENBLAZE_FRAME + bytes(1024),
        GENBLAZE_FRAME + bytes(50) + b"HIDDEN" + bytes(968),
        frame(b"TXXX", b"\x03genblaze:manifest\0" + PAYLOAD + b"\0HIDDEN\0") + bytes(1024),
        frame(b"TXXX", b"\x03genblaze:manifest\0" + PAYLOAD + b"\0HIDDEN"),
        GENBLAZE_FRAME * 2 + frame(b"TXXX", b"\x03genblaze:manifest\0HIDDEN") + bytes(9),
    ],
    ids=["frame-behind", "frame-before", "padding", "text", "unpadded-text", "manifest"],
)
def test_what_is_hidden_around_a_manifest_is_not_dropped(frames: bytes) -> None:
    """No original lacks bytes that neither we nor genblaze write."""
    file = tag(frames) + SOUND
    assert mp3.read_payload(source_of(file)) == PAYLOAD
    for original, how in undone(file):
        assert b"HIDDEN" in original
        assert not how.certain


def test_ours_is_certain_only_as_we_write_it() -> None:
    """A changed file is certainly not the one that was embedded into, and a moved frame unsure."""
    data = FILES["2.4"]
    file = embedded(data)
    changed = file[:-100] + b"\0" + file[-99:]
    ((original, how),) = undone(changed)
    assert how.certain
    assert original != data
    ours = file[file.index(b"TXXX") : file.index(b"TXXX", file.index(b"genblaze"))]
    moved = tag(ours + file[10 : file.index(b"TXXX")] + bytes(10)) + SOUND
    assert [how.certain for _, how in undone(moved)] == [False]


UNSYNCHRONISED = tag(frame(b"TIT2", b"\0T", 3), 3, 0x80) + SOUND


REFUSED = {
    "2.2": (b"ID3\2\0\0\0\0\0\x20" + bytes(32) + SOUND, "version"),
    "cut-header": (b"ID3\4", "version"),
    "2.3-unsynchronised": (UNSYNCHRONISED, "unsynchronised"),
    "2.4-unsynchronised": (tag(frame(b"TIT2", b"\3T"), 4, 0x80) + SOUND, "unsynchronised"),
    "extended": (tag(bytes(10) + frame(b"TIT2", b"\0T", 3), 3, 0x40) + SOUND, "extended header"),
    "footer": (tag(frame(b"TIT2", b"\3T"), 4, 0x10) + SOUND, "footer"),
    "unknown-flag": (tag(frame(b"TIT2", b"\3T"), 4, 0x01) + SOUND, "cannot be added"),
    "empty": (tag(b"") + SOUND, "empty"),
    "size-in-eight-bits": (b"ID3\4\0\0\0\0\x80\x40" + bytes(64) + SOUND, "broken size"),
    "cut": (tag(bytes(4096))[:2000], "end of the file"),
    "plain-sizes": (
        tag(frame(b"APIC", b"\1" * 200, 3) + frame(b"TIT2", b"\3T")) + SOUND,
        "differently",
    ),
    "leftovers": (tag(frame(b"TIT2", b"\3T") + b"leftover bytes") + SOUND, "no padding"),
    "endless-frame": (tag(b"TIT2\0\0\x0f\0\0\0" + bytes(40), 3) + SOUND, "no padding"),
    "many-frames": (tag(frame(b"TIT2", b"") * (MAX_FRAMES + 2)) + SOUND, "no padding"),
    "wav": (b"RIFF\0\0\0\0WAVEfmt ", "no MP3"),
    "flac": (FLAC, "no MP3"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_tags_that_take_no_frame_are_refused(data: bytes, reason: str) -> None:
    """Layouts that cannot be restored, or that readers would not understand, say why."""
    with pytest.raises(EmbeddingError, match=reason):
        mp3.plan_embed(source_of(data), PAYLOAD)


def test_an_unsynchronised_manifest_is_read_and_left_alone() -> None:
    """What another writer made of the tag is not known, so no original is offered."""
    body = b"\0genblaze:manifest\0" + b"{}"
    data = tag(frame(b"TXXX", body, 3), 3, 0x80) + SOUND
    assert mp3.read_payload(source_of(data)) == b"{}"
    assert undone(data) == []


def test_a_full_tag_takes_no_frame(tmp_path: Path) -> None:
    """A tag near 256 MB, the largest there is, is refused at no cost."""
    path = tmp_path / "a.mp3"
    with path.open("wb") as file:
        file.write(b"ID3\4\0\0" + pack_synchsafe(MAX_SIZE - 10))
        file.truncate(MAX_SIZE + 100)
    with Source.open(path) as source, pytest.raises(EmbeddingError, match="its limit"):
        mp3.plan_embed(source, PAYLOAD)


@pytest.mark.parametrize("version", [3, 4])
def test_manifests_are_limited_by_their_text(version: int) -> None:
    """Exactly 16 MiB goes in and comes out; above that is refused, escapes of 2.3 counted in."""
    data = tag(frame(b"TIT2", b"\0T", version), version) + SOUND
    largest = b'"' + b"x" * (LIMIT - 2) + b'"'
    file = embedded(data, largest)
    assert mp3.read_payload(source_of(file)) == largest
    assert undone(file)[0][0] == data
    with pytest.raises(EmbeddingError, match="limit"):
        mp3.plan_embed(source_of(data), largest + b" ")
    accented = '"{}"'.format("\u00e9" * (LIMIT // 6 + 1)).encode()
    if version == 3:
        with pytest.raises(EmbeddingError, match="limit"):
            mp3.plan_embed(source_of(data), accented)
    else:
        assert mp3.read_payload(source_of(embedded(data, accented))) == accented


def test_a_manifest_above_the_limit_is_refused_by_readers() -> None:
    """17 MiB, which genblaze embeds, are not handed out, and no original is made of them."""
    body = b"\x03genblaze:manifest\0" + b"x" * (LIMIT + 1)
    file = tag(frame(b"TXXX", body)) + SOUND
    for reader in (mp3.read_payload, lambda source: list(mp3.originals(source))):
        with pytest.raises(EmbeddingError, match="limit"):
            reader(source_of(file))


@pytest.mark.parametrize("text", [b"PRIV", b"TXXX"], ids=["private", "text"])
def test_thousands_of_frames_are_gone_through_in_no_time(text: bytes) -> None:
    """The most frames that are looked at, and all originals with them, take a fraction of a second."""
    file = tag(frame(text, b"\3a\0b") * (MAX_FRAMES - 1) + GENBLAZE_FRAME + bytes(9)) + SOUND
    started = time.thread_time()
    assert len(undone(file)) == 4
    assert time.thread_time() - started < 5


@pytest.mark.parametrize(
    ("frames", "count"),
    [
        (frame(b"TXXX", b"\0genblaze:manifest\0" + b"x\xe9" * (LIMIT // 3)), 0),
        (frame(b"PRIV", b"x") + GENBLAZE_FRAME + bytes(LIMIT), 4),
        (frame(b"PRIV", b"x") + GENBLAZE_FRAME + bytes(LIMIT + 1), 0),
    ],
    ids=["latin-1", "padding", "endless-padding"],
)
def test_large_tags_take_bounded_memory(frames: bytes, count: int) -> None:
    """Text in the costliest encoding and padding up to the limit take a few times their size."""
    file = tag(frames) + SOUND
    tracemalloc.start()
    assert len(undone(file)) == count
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 256 << 20
