import asyncio
import json
import os
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.errors import StorageUnavailableError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.storage.store import MediaStore
from genblaze_dagster.trust import BytesVerdict, Verdict, VerificationReport, verify
from genblaze_dagster.trust.files import Unreadable, local_files
from genblaze_dagster.trust.report import MAX_FINDINGS
from tests.cli.conftest import Shelf
from tests.support.s3 import S3Server
from tests.trust.conftest import KINDS, embedded, made_by, overwrite, write, write_sidecar

Media = Mapping[str, tuple[bytes, bytes]]
GIF = b"GIF89a\1\0\1\0\0\0\0;"


def counts_of(report: VerificationReport) -> dict[str, int]:
    """Return how many files ended how, without those no file ended with."""
    return {name: count for name, count in report.counts.items() if count}


def problems(report: VerificationReport) -> dict[str, str]:
    """Return the problem of each file that has one, by its name."""
    return {Path(finding.subject).name: finding.problem for finding in report.findings}


@pytest.fixture
def album(tmp_path: Path, media: Media) -> Path:
    """A folder of good files: every container embedded, one sidecar, folders in folders."""
    folder = tmp_path / "album"
    for kind in KINDS:
        embedded(folder / "deep" / "er" / f"a.{kind}", media[kind][0])
    write_sidecar(write(folder / "b.gif", GIF), made_by(GIF))
    write_sidecar(write(folder / "notes.txt", b"a story"), made_by(b"a story"))
    write(folder / "readme.txt", b"not media")
    write(folder / "package.json", b'{"name": "not a manifest", "scripts": {"run": "x"}}')
    write(folder / "broken.json", b"{")
    write(folder / ".a.png.1234.part", b"half")
    write(folder / ".git" / "x.png", media["png"][0])
    return folder


def test_every_file_below_a_folder_is_verified(album: Path) -> None:
    """Embedded or beside, at any depth; what is no media and hidden things do not count."""
    report = verify(album)
    assert report.kind == "folder"
    assert report.findings == ()
    assert counts_of(report) == {"verified": len(KINDS) + 2, "skipped": 3}
    assert report.verdict is Verdict.VERIFIED_UNSIGNED
    assert report.bytes is BytesVerdict.VERIFIED


def test_every_kind_of_trouble_is_told_apart(album: Path, media: Media, vectors: Path) -> None:
    """One file of each kind, and all of them are looked at."""
    pasted, ours = media["png"]
    embedded(album / "pasted.png", pasted, made_by(ours))
    write(album / "naked.png", ours)
    recoded = vectors / "genblaze" / "media" / "embedded" / "baseline.jpg"
    write(album / "recoded.jpg", recoded.read_bytes())
    damaged = embedded(album / "damaged.wav", media["wav"][0])
    damaged.write_bytes(damaged.read_bytes().replace(b'"run":', b'"run";'))
    write(album / "newer.json", b'{"canonical_hash": "x", "schema_version": "9.0", "run": {}}')
    pointer = {"canonical_hash": "x", "manifest_uri": "https://e.com/m", "schema_version": "1.5"}
    write(album / "pointed.png", ours)
    write(album / "pointed.png.genblaze.json", json.dumps(pointer).encode())
    report = verify(album)
    assert problems(report) == {
        "pasted.png": "differs",
        "naked.png": "without manifest",
        "recoded.jpg": "undecided",
        "damaged.wav": "manifest damaged",
        "newer.json": "undecided",
        "pointed.png": "undecided",
    }
    assert counts_of(report) == {
        "verified": len(KINDS) + 2,
        "differ": 1,
        "undecided": 3,
        "without_manifest": 1,
        "errors": 1,
        "skipped": 3,
    }
    assert report.verdict is Verdict.FAILED
    assert report.bytes is BytesVerdict.DIFFER


def test_media_without_any_manifest_leaves_a_folder_undecided(album: Path, media: Media) -> None:
    """Good files do not vouch for one nobody speaks for."""
    write(album / "naked.png", media["png"][0])
    report = verify(album)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.bytes is BytesVerdict.UNDECIDED


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\xff\xff"]
)
def test_a_broken_file_ends_no_run(content: bytes, album: Path) -> None:
    """A file by the name of media with nothing in it is one finding."""
    write(album / "broken.png", content)
    report = verify(album)
    assert problems(report) == {"broken.png": "without manifest"}
    assert report.counts["verified"] == len(KINDS) + 2


def test_a_folder_without_media_is_not_called_verified(tmp_path: Path) -> None:
    """Nothing looked at means undecided, not verified."""
    write(tmp_path / "f" / "readme.txt", b"text")
    report = verify(tmp_path / "f")
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "nothing was verified" in report.why


def test_hash_only_looks_at_manifests(album: Path) -> None:
    """Other bytes go unnoticed and the report does not call them verified."""
    overwrite(album / "b.gif", 6, b"\7")
    report = verify(album, hash_only=True)
    assert report.verdict is Verdict.VERIFIED_UNSIGNED
    assert report.bytes is BytesVerdict.UNDECIDED
    assert verify(album).verdict is Verdict.FAILED


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_a_finding(album: Path) -> None:
    """A file and a folder without permission; the rest is verified."""
    (album / "b.gif").chmod(0)
    (album / "deep").chmod(0)
    report = verify(album)
    (album / "deep").chmod(0o755)
    assert problems(report) == {"b.gif": "cannot be read", "deep": "cannot be read"}
    assert report.verdict is Verdict.INCONCLUSIVE


def test_links_stay_inside_the_folder(album: Path, tmp_path: Path, media: Media) -> None:
    """A link to a file inside is followed; out of the folder, in circles and to folders is not."""
    outside = write(tmp_path / "outside" / "secret.png", media["png"][0])
    (album / "out.png").symlink_to(outside)
    (album / "outdir").symlink_to(outside.parent)
    (album / "loop").symlink_to(album)
    (album / "circle.png").symlink_to(album / "circle.png")
    (album / "gone.png").symlink_to(album / "not-there.png")
    os.mkfifo(album / "pipe.png")
    before = verify(album)
    assert before.findings == ()
    (album / "again.png").symlink_to(album / "deep" / "er" / "a.png")
    assert verify(album).counts["verified"] == before.counts["verified"] + 1


def test_a_folder_that_vanishes_is_named(tmp_path: Path) -> None:
    """What cannot be listed any more is an entry, not an end."""

    async def entries() -> list[object]:
        return [entry async for entry in local_files(tmp_path / "gone")]

    assert asyncio.run(entries()) == [Unreadable(tmp_path / "gone", "No such file or directory")]


def test_a_store_without_references_is_verified_file_by_file(
    sunk: Callable[..., Manifest], tmp_path: Path
) -> None:
    """What a sink wrote: every asset is led to its manifest, entries of the index are no media."""
    for number in range(3):
        sunk(GIF + bytes([number]), GIF + bytes([number, 7]), prompt=str(number))
    report = verify(tmp_path / "sunk")
    assert report.kind == "folder"
    assert report.findings == ()
    assert report.counts["verified"] == 3 + 6
    assert report.verdict is Verdict.VERIFIED_UNSIGNED
    victim = next((tmp_path / "sunk" / "genblaze" / "assets").rglob("*.png"))
    victim.write_bytes(b"other")
    report = verify(tmp_path / "sunk")
    assert report.counts["differ"] == 2, report.findings
    assert victim.name in problems(report)


def test_a_truncated_manifest_in_a_store_is_found(
    sunk: Callable[..., Manifest], tmp_path: Path
) -> None:
    """The name says that it was one, whatever is left of it."""
    sunk(GIF)
    (manifest,) = (tmp_path / "sunk" / "genblaze" / "manifests").iterdir()
    manifest.write_bytes(b"")
    report = verify(tmp_path / "sunk")
    assert report.verdict is Verdict.FAILED
    assert problems(report)[manifest.name] == "manifest damaged"


def test_a_named_store_knows_files_without_a_manifest(
    shelf: Shelf, album: Path, tmp_path: Path
) -> None:
    """Loose copies, under any name, are found by their bytes; the index is read once for all."""
    for number in range(3):
        write(album / f"copy-{number}.bin", shelf.add(f"p{number}").data)
    shelf.index()
    assert verify(album).counts["without_manifest"] == 3
    report = verify(album, store=shelf.store)
    assert report.findings == ()
    assert report.counts["verified"] == len(KINDS) + 2 + 3
    assert report.counts["skipped"] == 3


class TestS3:
    """Prefixes of a bucket on a real S3 server."""

    @pytest.fixture
    def bucket(self, s3_server: S3Server, s3_bucket: str, monkeypatch) -> MediaStore:
        for name, value in s3_server.environment().items():
            monkeypatch.setenv(name, value)
        return MediaStore(f"s3://{s3_bucket}")

    @staticmethod
    def upload(store: MediaStore, folder: Path, prefix: str) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                run_sync(store.put(key, path.read_bytes(), media_type=None))

    def test_a_prefix_is_verified_like_a_folder(self, bucket: MediaStore, album: Path) -> None:
        """Every object below it, with the same counts, and nothing is left on disk."""
        write(album / "empty.txt", b"")
        self.upload(bucket, album, "some/album")
        report = verify(f"{bucket.url}/some/album")
        assert report.findings == ()
        assert counts_of(report) == {"verified": len(KINDS) + 2, "skipped": 4}
        run_sync(bucket.put("some/album/b.gif", b"other", media_type=None))
        report = verify(f"{bucket.url}/some/album")
        (finding,) = report.findings
        assert finding.subject == f"{bucket.url}/some/album/b.gif"
        assert report.verdict is Verdict.FAILED

    def test_a_sink_written_bucket_is_verified(
        self, bucket: MediaStore, sunk: Callable[..., Manifest], tmp_path: Path
    ) -> None:
        """From the bucket down, and from a folder inside the store."""
        sunk(GIF, GIF + b"2")
        self.upload(bucket, tmp_path / "sunk", "x")
        assert counts_of(verify(bucket.url))["verified"] == 3
        assert verify(bucket.url).verdict is Verdict.VERIFIED_UNSIGNED
        assert counts_of(verify(f"{bucket.url}/x/genblaze/assets")) == {"verified": 2}

    def test_a_store_that_goes_away_ends_the_run(self, bucket: MediaStore, album: Path) -> None:
        """An unreachable store is no property of the files in it."""
        from tests.support.s3 import free_port

        with pytest.raises(StorageUnavailableError):
            verify(f"{bucket.url}/x", endpoint_url=f"http://127.0.0.1:{free_port()}")


def test_many_files_take_no_more_memory_than_few(tmp_path: Path) -> None:
    """Listing, queue and findings are bounded: 2,000 files cost what 200 do."""

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.dat").write_bytes(b"no media")
        # What threads of earlier tests allocate is counted too; it does not come twice.
        return min(measured(folder, count) for _ in range(2))

    def measured(folder: Path, count: int) -> int:
        tracemalloc.start()
        assert verify(folder).counts["skipped"] == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(50)
    assert peak(2000) < peak(200) + 200_000


@pytest.mark.slow
def test_a_hundred_thousand_problems_are_counted_and_bounded(tmp_path: Path) -> None:
    """Far more problems than are kept: the counts are whole, the report stays small."""
    folder = tmp_path / "many"
    for number in range(100_000):
        if number % 1000 == 0:
            (folder / str(number)).mkdir(parents=True)
            where = folder / str(number)
        (where / f"{number}.png").write_bytes(b"x")
    tampered = write_sidecar(write(folder / "z.gif", GIF), made_by(b"other"))
    report = verify(folder)
    assert report.counts["without_manifest"] == 100_000
    assert report.findings_left_out == 100_000 - MAX_FINDINGS
    assert problems(report)[tampered.name.removesuffix(".genblaze.json")] == "differs"
