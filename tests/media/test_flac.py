import io
import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutagen.flac import FLAC

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import flac
from genblaze_dagster.media.flac_blocks import MAX_BLOCK_BYTES, MAX_COMMENTS, read_blocks
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.source import Source
from tests.media.corpus import decoded
from tests.media.corpus_sounds import encoded
from tests.media.genblaze_cli import Genblaze
from tests.media.splicing import edited, originals_of, source_of

PAYLOAD = '{"canonical_hash":"","run":{"name":"<&> \u2713 \u00e9 \U0001f600"}}'.encode()
WHOLE = encoded("flac", "flac", "s16", rate=44100, layout="mono")
BLOCKS = list(read_blocks(Source(io.BytesIO(WHOLE))))
STREAM_INFO = WHOLE[8:42]
AUDIO = WHOLE[BLOCKS[-1].end :]


def comment_block(*comments: bytes, vendor: bytes = b"reference libFLAC 1.4.3 20230623") -> bytes:
    texts = (vendor, *comments)
    sized = [len(text).to_bytes(4, "little") + text for text in texts]
    return sized[0] + len(comments).to_bytes(4, "little") + b"".join(sized[1:])


def file_of(*blocks: tuple[int, bytes], audio: bytes = AUDIO) -> bytes:
    """Return a FLAC with these metadata blocks behind the stream info."""
    blocks = ((0, STREAM_INFO), *blocks)
    return (
        b"fLaC"
        + b"".join(
            bytes([kind | 0x80 * (number == len(blocks))]) + len(body).to_bytes(3) + body
            for number, (kind, body) in enumerate(blocks, 1)
        )
        + audio
    )


TAGS = (4, comment_block(b"TITLE=caf\xc3\xa9", b"artist=somebody", b"TITLE=again"))
PICTURE = (6, b"\0\0\0\3\0\0\0\x09image/png" + bytes(4) + bytes(16) + b"\0\0\0\5image")
SEEK_TABLE = (3, bytes(16) + b"\x12\0" + b"\xff" * 8 + bytes(10))
APPLICATION = (2, b"Test" + bytes(range(50)))

FILES = {
    "bare": file_of(),
    "ffmpeg": WHOLE,
    "tags": file_of(TAGS),
    "tags-padding": file_of(TAGS, (1, bytes(8192))),
    "padding-tags": file_of((1, bytes(100)), TAGS),
    "only-padding": file_of((1, bytes(4096))),
    "no-comments": file_of((4, comment_block())),
    "all": file_of(SEEK_TABLE, APPLICATION, TAGS, PICTURE, (1, bytes(300))),
    "all-but-tags": file_of(SEEK_TABLE, APPLICATION, PICTURE),
    "tags-last": file_of(PICTURE, SEEK_TABLE, (4, comment_block(b"GENBLAZE=no", b"EMPTY="))),
    "two-comment-blocks": file_of(TAGS, (4, comment_block(b"TITLE=second"))),
    "our-vendor": file_of((4, comment_block(b"TITLE=a", vendor=b"genblaze-dagster"))),
    "id3v1": file_of(TAGS) + b"TAG" + bytes(125),
    "no-sound": file_of(TAGS, audio=b""),
}
VARIANTS = pytest.mark.parametrize("data", FILES.values(), ids=FILES)


def embedded(data: bytes, payload: bytes = PAYLOAD) -> bytes:
    return edited(data, flac.plan_embed(source_of(data), payload))


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
    return (vectors / "genblaze/media/manifest/tagged.flac.json").read_text()


@VARIANTS
def test_embedding_is_read_and_undone_to_the_byte(data: bytes) -> None:
    """The text comes back, and the one original is certain and exact."""
    file = embedded(data)
    assert flac.read_payload(source_of(file)) == PAYLOAD
    ((original, how),) = undone(file)
    assert original == data
    assert how.certain
    assert embedded(data) == file


@VARIANTS
def test_embedding_changes_nothing_else(data: bytes) -> None:
    """Sound, other comments in their order, other blocks and padding stay as they were."""
    file = embedded(data)
    assert decoded("flac", file) == decoded("flac", data)
    before, after = FLAC(io.BytesIO(data)), FLAC(io.BytesIO(file))
    assert list(after.tags) == [("genblaze_manifest", PAYLOAD.decode()), *(before.tags or [])]
    assert [block.write() for block in after.metadata_blocks if block.code != 4] == [
        block.write() for block in before.metadata_blocks if block.code != 4
    ]
    if before.tags is not None:
        assert after.tags.vendor == before.tags.vendor
        assert len(after.metadata_blocks) == len(before.metadata_blocks)


@VARIANTS
def test_layers_come_off_one_by_one(data: bytes) -> None:
    """A manifest on top of others is the one that is read, and each is taken out alone."""
    layers = [data]
    for number in range(3):
        layers.append(embedded(layers[-1], b'{"layer":%d}' % number))
    for number in (2, 1, 0):
        found = flac.read_payload(source_of(layers[number + 1]))
        assert found == b'{"layer":%d}' % number
        assert FLAC(io.BytesIO(layers[number + 1]))["GENBLAZE_MANIFEST"][0].encode() == found
        ((original, how),) = undone(layers[number + 1])
        assert original == layers[number]
        assert how.certain


def test_genblaze_reads_what_we_embed(genblaze: Genblaze, manifest: str, tmp_path: Path) -> None:
    """Its command line prints our manifest, and of its own behind ours or in our place only one."""
    path = tmp_path / "a.flac"
    older = json.dumps(json.loads(manifest) | {"canonical_hash": "0" * 64})
    for name, data in FILES.items():
        for base in (data, by_genblaze(genblaze, data, older, path)):
            path.write_bytes(embedded(base, manifest.encode()))
            assert genblaze.extract(path) == manifest, name
            again = by_genblaze(genblaze, path.read_bytes(), older, path)
            assert again.upper().count(b"GENBLAZE_MANIFEST=") == 1, name
            assert flac.read_payload(source_of(again)) == genblaze.extract(path).encode(), name


RECOVERABLE = {
    "bare": file_of(),
    "ffmpeg": WHOLE,
    "tags": file_of(TAGS),
    "no-comments": file_of((4, comment_block())),
    "all-but-tags": file_of(SEEK_TABLE, APPLICATION, PICTURE),
    **{
        f"{name}-{amount}": file_of(*blocks, (1, bytes(amount)))
        for name, blocks in (("tags", (PICTURE, TAGS)), ("none", ()))
        for amount in (4096, 8192, 65536)
    },
}


@pytest.mark.parametrize("data", RECOVERABLE.values(), ids=RECOVERABLE)
def test_originals_of_what_genblaze_embeds_are_found(
    data: bytes, genblaze: Genblaze, manifest: str, tmp_path: Path
) -> None:
    """With comments or without, with the usual padding or none, they come back, never certain."""
    file = by_genblaze(genblaze, data, manifest, tmp_path / "a.flac")
    found = undone(file)
    assert data in [original for original, _ in found]
    assert not any(how.certain for _, how in found)
    replaced = by_genblaze(genblaze, embedded(data), manifest, tmp_path / "a.flac")
    assert data in [original for original, _ in undone(replaced)]


def test_padding_of_mutagen_is_found(genblaze: Genblaze, manifest: str, tmp_path: Path) -> None:
    """A file that was tagged with mutagen has its padding again, whatever mutagen makes of it."""
    path = tmp_path / "a.flac"
    path.write_bytes(file_of())
    tags = FLAC(path)
    tags["title"] = "a title"
    tags.save()
    data = path.read_bytes()
    assert data in [original for original, _ in undone(by_genblaze(genblaze, data, manifest, path))]


def test_originals_of_the_vectors_are_found(vectors: Path) -> None:
    """Where genblaze's vectors say that the original can be had, it is among ours."""
    folder = vectors / "genblaze/media"
    recoverable = 0
    for entry in json.loads((folder / "index.json").read_text()):
        if not entry.get("embedded", "").endswith(".flac"):
            continue
        found = [original for original, _ in undone((folder / entry["embedded"]).read_bytes())]
        if entry["removing_the_embed_recovers_original"]:
            assert (folder / entry["original"]).read_bytes() in found
            recoverable += 1
    assert recoverable == 1


GENBLAZE_COMMENT = b"GENBLAZE_MANIFEST=" + PAYLOAD
ZEROS = (1, bytes(1024))


@pytest.mark.parametrize(
    "blocks",
    [
        ((4, comment_block(GENBLAZE_COMMENT, vendor=b"Mutagen 1.48.1")), (1, bytes(9) + b"HIDDEN")),
        ((4, comment_block(GENBLAZE_COMMENT, vendor=b"Mutagen HIDDEN")), ZEROS),
        ((4, comment_block(GENBLAZE_COMMENT, b"A=HIDDEN", vendor=b"Mutagen 1.48.1")), ZEROS),
        ((4, comment_block(GENBLAZE_COMMENT, b"GENBLAZE_MANIFEST=HIDDEN")), ZEROS),
        ((4, comment_block(GENBLAZE_COMMENT) + b"HIDDEN"), ZEROS),
        ((4, comment_block(GENBLAZE_COMMENT)), (2, b"HIDDEN"), ZEROS),
        ((4, comment_block(b"genblaze_manifest=" + PAYLOAD, vendor=b"HIDDEN")),),
    ],
    ids=["padding", "vendor", "comment", "manifest", "behind", "block", "our-key"],
)
def test_what_is_hidden_around_a_manifest_is_not_dropped(
    blocks: tuple[tuple[int, bytes], ...],
) -> None:
    """No original lacks bytes that neither we nor genblaze write."""
    file = file_of(*blocks)
    assert flac.read_payload(source_of(file)) == PAYLOAD
    assert all(b"HIDDEN" in original for original, _ in undone(file))


def test_ours_is_certain_only_as_we_write_it() -> None:
    """A changed file is certainly not the one that was embedded into, and a moved comment unsure."""
    data = FILES["tags"]
    file = embedded(data)
    changed = file[:-100] + bytes([file[-100] ^ 1]) + file[-99:]
    ((original, how),) = undone(changed)
    assert how.certain
    assert original != data
    moved = file_of((4, comment_block(b"TITLE=a", b"genblaze_manifest=" + PAYLOAD)))
    assert [how.certain for _, how in undone(moved)] == [False]


REFUSED = {
    "id3-in-front": (b"ID3\4\0\0\0\0\0\0" + WHOLE, "signature"),
    "empty": (b"", "signature"),
    "no-blocks": (b"fLaC", "stream info"),
    "no-stream-info": (b"fLaC\x84\0\0\x08" + bytes(8) + AUDIO, "stream info"),
    "short-stream-info": (b"fLaC\x80\0\0\x21" + bytes(33) + AUDIO, "stream info"),
    "cut": (file_of(TAGS, (1, bytes(500)))[:400], "lead to the audio"),
    "cut-in-header": (file_of(TAGS, (1, bytes(500)))[:45], "lead to the audio"),
    "no-sync": (file_of(TAGS, audio=b"\0\0" + AUDIO), "lead to the audio"),
    "wrong-size": (
        file_of(PICTURE, TAGS).replace(b"\x06\0\0", b"\x06\0\1", 1),
        "lead to the audio",
    ),
    "endless-blocks": (b"fLaC\0\0\0\x22" + STREAM_INFO + b"\1\0\0\0" * 2000, "lead to the audio"),
    "extra-bytes": (file_of((4, comment_block(b"A=b") + bytes(4))), "that it counts"),
    "too-few": (file_of((4, comment_block()[:-4] + b"\5\0\0\0")), "that it counts"),
    "too-many": (file_of((4, comment_block(*[b"A=b"] * (MAX_COMMENTS + 1)))), "that it counts"),
    "endless-vendor": (file_of((4, b"\xff\xff\xff\xff" + bytes(20))), "that it counts"),
    "no-rate": (file_of(TAGS).replace(STREAM_INFO[10:13], bytes(3)), "no sample rate"),
    "two-seek-tables": (file_of(SEEK_TABLE, SEEK_TABLE, TAGS), "can have once"),
    "short-picture": (file_of((6, PICTURE[1][:-1]), TAGS), "its picture"),
    "long-picture": (file_of((6, PICTURE[1] + b"\0"), TAGS), "its picture"),
    "emptied": (file_of((4, comment_block(vendor=b"genblaze-dagster"))), "emptied"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_files_that_take_no_comment_are_refused(data: bytes, reason: str) -> None:
    """Metadata that is broken, or could not be restored, says why; nothing else comes of it."""
    with pytest.raises(EmbeddingError, match=reason):
        flac.plan_embed(source_of(data), PAYLOAD)
    assert flac.read_payload(source_of(data)) is None
    assert list(flac.originals(source_of(data))) == []


@pytest.mark.parametrize("data", [FILES["bare"], FILES["tags"]], ids=["new-block", "old-block"])
def test_a_block_holds_16_mib_and_no_more(data: bytes) -> None:
    """The largest manifest that fits goes in and comes out; one more byte is refused."""
    probe = embedded(data)
    block = next(block for block in read_blocks(source_of(probe)) if block.type == 4)
    largest = b'"' + b"x" * (MAX_BLOCK_BYTES - (block.end - block.body) + len(PAYLOAD) - 2) + b'"'
    file = embedded(data, largest)
    assert flac.read_payload(source_of(file)) == largest
    assert undone(file)[0][0] == data
    with pytest.raises(EmbeddingError, match="the limit is 16777215"):
        flac.plan_embed(source_of(data), largest + b" ")


def test_thousands_of_comments_are_gone_through_in_no_time() -> None:
    """The most comments that are looked at, and all originals with them, take a fraction of a second."""
    comments = comment_block(*[b"A=b"] * (MAX_COMMENTS - 1), GENBLAZE_COMMENT)
    file = file_of((4, comments), ZEROS)
    started = time.thread_time()
    assert len(undone(file)) == 6
    assert time.thread_time() - started < 5


def test_large_padding_takes_bounded_memory() -> None:
    """The largest padding there is costs a few times its size."""
    file = file_of((4, comment_block(GENBLAZE_COMMENT)), (1, bytes(MAX_BLOCK_BYTES - 100)))
    tracemalloc.start()
    source = source_of(file)
    assert len(list(flac.originals(source))) == 6
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 128 << 20
