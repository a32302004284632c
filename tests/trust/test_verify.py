import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

import genblaze_dagster.trust as trust
from genblaze_dagster.errors import (
    ConfigError,
    EmbeddingError,
    GenblazeError,
    NotFoundError,
    PointerSidecarError,
    SchemaError,
    UnsupportedSchemaVersionError,
)
from genblaze_dagster.media.embedding import embed
from genblaze_dagster.trust import Status, Verdict, averify, verify
from genblaze_dagster.trust.restored import restored_from
from tests.trust.conftest import embedded, made_by, write, write_sidecar

Media = Mapping[str, tuple[bytes, bytes]]


def test_a_path_a_text_and_a_url_name_the_same_file(media: Media, tmp_path: Path) -> None:
    """All forms of a local target give the same report, but for how the target is called."""
    path = embedded(tmp_path / "a b.png", media["png"][0])
    reports = [verify(target) for target in (path, str(path), path.as_uri())]
    assert [r.verdict for r in reports] == [Verdict.VERIFIED_UNSIGNED] * 3
    assert reports[0] == reports[1]
    assert reports[2].target == path.as_uri()


def test_it_works_inside_a_running_loop(media: Media, tmp_path: Path) -> None:
    """Notebooks and async code may call either form."""
    path = embedded(tmp_path / "a.png", media["png"][0])

    async def main() -> bool:
        return await averify(path) == verify(path)

    assert asyncio.run(main())


@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(b"", SchemaError, id="empty"),
        pytest.param(b"[]", SchemaError, id="array"),
        pytest.param(
            b'{"schema_version": "9.0", "run": {}}', UnsupportedSchemaVersionError, id="v9"
        ),
        pytest.param(
            b'{"manifest_uri": "https://e.com/m", "canonical_hash": "x"}',
            PointerSidecarError,
            id="pointer",
        ),
    ],
)
def test_a_file_that_cannot_be_compared_is_a_typed_error(
    content: bytes, error: type[GenblazeError], tmp_path: Path
) -> None:
    """A report is about a manifest; without one there is an error that says why."""
    with pytest.raises(error):
        verify(write(tmp_path / "m.json", content))


def test_missing_things_are_named(media: Media, tmp_path: Path) -> None:
    """No file, no manifest, no such kind of URL."""
    with pytest.raises(NotFoundError, match=r"gone\.png: no such file"):
        verify(tmp_path / "gone.png")
    with pytest.raises(EmbeddingError, match=r"naked\.png: holds no manifest"):
        verify(write(tmp_path / "naked.png", media["png"][0]))
    for url in ("https://cdn.example.com/a.png", "file://elsewhere/a.png", "s3://[x/a"):
        with pytest.raises(ConfigError):
            verify(url)


def test_a_signature_is_mentioned_and_not_believed(media: Media, tmp_path: Path) -> None:
    """Anything may stand in that field; this release says that it cannot tell."""
    data = media["png"][0]
    manifest = made_by(data)
    manifest.signature = "eyJhbGciOiJFZERTQSJ9..AAAA"
    report = verify(embedded(tmp_path / "a.png", data, manifest))
    (check,) = (c for c in report.checks if c.name == "signature_present")
    assert check.status is Status.SKIP
    assert "cannot check" in check.detail
    assert report.verdict is Verdict.VERIFIED_UNSIGNED
    plain = verify(embedded(tmp_path / "b.png", data))
    assert all(c.name != "signature_present" for c in plain.checks)


def test_hash_only_reads_no_media(media: Media, tmp_path: Path) -> None:
    """The file is not hashed, and the report says that nobody looked."""
    path = embedded(tmp_path / "a.png", media["png"][0])
    report = verify(path, hash_only=True)
    assert report.sha256 is None
    assert report.bytes == "cannot be decided"
    assert "not looked at" in report.why
    assert report.verdict is Verdict.VERIFIED_UNSIGNED


@pytest.mark.parametrize(
    "work", [averify, lambda path: restored_from(path, ())], ids=["whole", "original"]
)
def test_giving_up_does_not_wait_for_a_large_file(
    work: Callable[[Path], Awaitable[object]], media: Media, tmp_path: Path
) -> None:
    """400 GB take minutes to hash; who interrupts that is free at once."""
    film = media["mp4"][0]
    size = 400_000_000_000
    path = write(tmp_path / "film.mp4", film + b"\0\0\0\1free" + size.to_bytes(8))
    os.truncate(path, len(film) + size)
    embed(path, made_by(b"x"))
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(work(path), timeout=0.5))
    assert time.monotonic() - started < 60


def test_progress_is_told_in_bytes(media: Media, tmp_path: Path) -> None:
    """Whoever shows a bar learns what is read, how much of it, and when."""
    data = media["png"][0]
    told: list[tuple[str, int | None, bool]] = []
    read: list[int] = []

    @contextmanager
    def progress(description: str, *, total: int | None, in_bytes: bool = False):
        told.append((description, total, in_bytes))
        yield read.append

    path = write(tmp_path / "a.png", data)
    write_sidecar(path, made_by(data))
    verify(path, progress=progress)
    assert told == [("a.png", len(data), True)]
    assert sum(read) == len(data)


def test_texts_of_a_hostile_manifest_stay_short(media: Media, tmp_path: Path) -> None:
    """Ids and names of megabytes do not fill the report."""
    data = media["png"][0]
    manifest = made_by(data)
    step = manifest.run.steps[0]
    step.model = "m" * 1_000_000
    manifest.compute_hash()
    path = write(tmp_path / "a.png", data)
    write_sidecar(path, manifest)
    report = verify(path)
    assert report.verdict is Verdict.VERIFIED_UNSIGNED
    assert len(json.dumps(report.to_dict())) < 5000


@pytest.mark.parametrize(
    "url", ["https://[::1", "http://a:b:c/", "//", "file://[", "https://e.com:99999999/x", "\x00"]
)
def test_urls_that_are_none_break_nothing(url: str, shelf, tmp_path: Path) -> None:
    """What stands in a manifest's url is not trusted to be one."""
    document = json.loads(made_by(b"x").to_canonical_json())
    document["run"]["steps"][0]["assets"][0]["url"] = url
    path = write(tmp_path / "m.json", json.dumps(document).encode())
    shelf.add("p")
    assert verify(path, store=shelf.store).verdict is Verdict.INCONCLUSIVE
    assert verify(path, fetch=True).verdict is Verdict.INCONCLUSIVE


def test_the_library_brings_neither_command_line_nor_dagster(media: Media, tmp_path: Path) -> None:
    """Verifying a local file from Python imports no click, rich, dagster, httpx or obstore."""
    path = embedded(tmp_path / "a.png", media["png"][0])
    program = (
        "import sys; from genblaze_dagster.trust import verify;"
        f"assert verify({str(path)!r}).verdict == 'verified-unsigned';"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True
    )
    heavy = {"click", "rich", "dagster", "httpx", "obstore", "duckdb", "pyarrow", "sqlalchemy"}
    assert not heavy & set(done.stdout.split())


def test_every_name_of_the_package_is_there() -> None:
    """What `trust` says it has can be had, and nothing else."""
    for name in trust.__all__:
        assert getattr(trust, name) is not None
        assert name in dir(trust)
    with pytest.raises(AttributeError):
        trust.nothing_of_that_name  # noqa: B018
