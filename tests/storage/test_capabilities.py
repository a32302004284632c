"""What a store can do and why it cannot be used: by behaviour, with a remedy, leaking nothing."""

import asyncio
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from genblaze_dagster.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)
from genblaze_dagster.storage.capabilities import CreateOnly
from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.options import MIB, PutMode, StoreOptions
from genblaze_dagster.storage.refs import read_ref
from genblaze_dagster.storage.store import MediaStore
from tests.storage.faults import Answer, FaultServer, Request
from tests.support.s3 import S3Server, free_port

Faulty = Callable[..., MediaStore]
PLACEMENT = Placement("r", "a")


@contextmanager
def _mounted(path: Path, options: str) -> Iterator[None]:
    """A tmpfs at a directory for the length of a block."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def _refuse_conditions(request: Request) -> Answer | None:
    """As Backblaze B2 answers."""
    return Answer(501, "NotImplemented") if "if-none-match" in request.headers else None


def _hide_missing(faults: FaultServer) -> Callable[[Request], Answer | None]:
    """As a service answers keys that may not list."""

    def hide(request: Request) -> Answer | None:
        looks = request.method in ("HEAD", "GET") and "list-type" not in request.query
        return Answer(403, "AccessDenied") if looks and request.key not in faults.objects else None

    return hide


def test_an_enforcing_service_is_recognised(faulty: Faulty, faults: FaultServer) -> None:
    """Written twice, refused once, first content kept; asked only once per bucket."""
    store = faulty()
    found = asyncio.run(store.probe())
    assert found.create_only_behaviour is CreateOnly.ENFORCED
    assert found.create_only
    assert faults.objects == {}
    count = len(faults.requests)
    asyncio.run(store.probe())
    assert len(faults.requests) == count


def test_a_service_that_ignores_the_condition_is_recognised(
    faulty: Faulty, faults: FaultServer
) -> None:
    """A 200 to the second write means ignored, as on Google Cloud Storage."""
    faults.supports_create_only = False
    found = asyncio.run(faulty().probe())
    assert found.create_only_behaviour is CreateOnly.IGNORED
    assert not found.create_only


def test_a_refusal_that_replaced_the_object_is_not_believed(
    faulty: Faulty, faults: FaultServer
) -> None:
    """A service that says 412 and writes anyway does not keep the promise."""

    def lie(request: Request) -> Answer | None:
        if request.is_object_write and request.key in faults.objects:
            faults.objects[request.key] = (request.body, {})
            return Answer(412, "PreconditionFailed")
        return None

    faults.rule = lie
    assert asyncio.run(faulty().probe()).create_only_behaviour is CreateOnly.IGNORED


def test_a_service_without_conditional_writes_is_recognised(
    faulty: Faulty, faults: FaultServer
) -> None:
    """501 on the condition, success without it, as on Backblaze B2; no retries are wasted."""
    faults.rule = _refuse_conditions
    found = asyncio.run(faulty(max_retries=3).probe())
    assert found.create_only_behaviour is CreateOnly.REFUSED
    assert sum("if-none-match" in request.headers for request in faults.requests) == 1


def test_a_hiccup_does_not_look_like_a_missing_feature(faulty: Faulty, faults: FaultServer) -> None:
    """A 503 on the first try is tried again before anything is concluded."""
    hiccup = iter([Answer(503, "SlowDown")])
    faults.rule = lambda r: next(hiccup, None) if r.is_object_write else None
    assert asyncio.run(faulty(max_retries=1).probe()).create_only


@pytest.mark.parametrize("behaviour", ["ignored", "refused"])
def test_create_works_without_conditional_writes(
    faulty: Faulty, faults: FaultServer, behaviour: str
) -> None:
    """Where the service cannot, the key is looked up first; nothing is replaced."""
    if behaviour == "refused":
        faults.rule = _refuse_conditions
    else:
        faults.supports_create_only = False
    store = faulty()

    async def body() -> None:
        await store.put("k", b"first", media_type=None, mode=PutMode.CREATE)
        with pytest.raises(AlreadyExistsError):
            await store.put("k", b"second", media_type=None, mode=PutMode.CREATE)
        for already_there in (False, True):
            stored = await store.put_media(
                b"media", media_type=None, extension=None, placement=PLACEMENT
            )
            assert stored.already_there is already_there

    asyncio.run(body())
    assert faults.objects["k"][0] == b"first"


def test_a_store_that_hides_missing_objects_is_understood(
    faulty: Faulty, faults: FaultServer
) -> None:
    """403 for every missing object, as for B2 keys that may not list, means missing."""
    faults.rule = _hide_missing(faults)
    store = faulty()

    async def body() -> None:
        assert await store.head("nothing") is None
        with pytest.raises(NotFoundError, match="nothing"):
            await store.get("nothing")
        with pytest.raises(NotFoundError, match="nothing"):
            await anext(store.stream("nothing"))
        assert await read_ref(store, "picture", None) is None
        assert (await store.probe()).hides_missing
        await store.put("k", b"x", media_type=None)
        assert await store.head("k") is not None
        assert await store.get("k") == b"x"
        assert [piece async for piece in store.stream("k")] == [b"x"]

    asyncio.run(body())


def test_the_first_thing_asked_of_a_store_that_hides_may_be_a_read(
    faulty: Faulty, faults: FaultServer
) -> None:
    """Nothing is known about the store yet when a missing object is read."""
    faults.rule = _hide_missing(faults)
    with pytest.raises(NotFoundError):
        asyncio.run(faulty().get("nothing"))


def test_what_nobody_may_write_cannot_be_asked_what_403_means(
    faulty: Faulty, faults: FaultServer
) -> None:
    """A key that may only read some objects is told that reading is denied, not that none is there."""
    faults.rule = lambda _: Answer(403, "AccessDenied")
    with pytest.raises(AccessDeniedError, match="secret"):
        asyncio.run(faulty().get("secret"))


def test_a_forbidden_look_up_is_an_error_where_missing_is_404(
    faulty: Faulty, faults: FaultServer
) -> None:
    """403 for one object of a store that says 404 for missing ones proves nothing about it."""
    faults.rule = lambda r: Answer(403, "AccessDenied") if r.key == "secret" else None
    store = faulty()

    async def body() -> None:
        with pytest.raises(AccessDeniedError, match="secret"):
            await store.head("secret")
        with pytest.raises(AccessDeniedError, match="secret"):
            await store.get("secret")
        with pytest.raises(AccessDeniedError, match="secret"):
            await anext(store.stream("secret"))

    asyncio.run(body())


@pytest.mark.parametrize("status_code", [(403, "SignatureDoesNotMatch"), (401, "Unauthorized")])
def test_wrong_credentials_are_named(
    faulty: Faulty, faults: FaultServer, status_code: tuple[int, str]
) -> None:
    """The check says that the credentials are refused and shows none of them."""
    faults.rule = lambda _: Answer(*status_code)
    with pytest.raises(AccessDeniedError, match="refuses the credentials") as caught:
        asyncio.run(faulty().check_access())
    shown = "".join(traceback.format_exception(caught.value))
    for secret in ("a-secret-nobody-should-see", "AKIAQUOTED", "AKIATESTTESTTEST0000"):
        assert secret not in shown


def test_a_read_only_bucket_is_named(faulty: Faulty, faults: FaultServer) -> None:
    """Listing works and writing does not: the check says so; without `write` it passes."""
    faults.rule = lambda r: Answer(403, "AccessDenied") if r.is_object_write else None
    store = faulty()
    with pytest.raises(AccessDeniedError, match="read but not written"):
        asyncio.run(store.check_access())
    asyncio.run(store.check_access(write=False))


def test_a_bucket_nobody_may_use_is_named(faulty: Faulty, faults: FaultServer) -> None:
    """When nothing is allowed the message names what the key needs."""
    faults.rule = lambda _: Answer(403, "AccessDenied")
    for write in (True, False):
        with pytest.raises(AccessDeniedError, match="access denied"):
            asyncio.run(faulty().check_access(write=write))


@pytest.mark.parametrize("write", [True, False])
def test_a_missing_bucket_is_named(s3_server: S3Server, quick: StoreOptions, write: bool) -> None:
    """A real server without the bucket: NotFoundError that speaks of the bucket."""
    store = MediaStore(
        "s3://no-such-bucket-here",
        endpoint_url=s3_server.url,
        access_key_id="test",
        secret_access_key="test",
        options=quick,
    )
    with pytest.raises(NotFoundError, match="bucket does not exist"):
        asyncio.run(store.check_access(write=write))
    with pytest.raises(NotFoundError, match="bucket does not exist"):
        asyncio.run(store.put("k", b"x", media_type=None))


def test_an_unreachable_endpoint_is_named(quick: StoreOptions) -> None:
    """Nothing listens: transient, with the endpoint and without a query."""
    store = MediaStore(
        "s3://bucket",
        endpoint_url=f"http://127.0.0.1:{free_port()}",
        access_key_id="a",
        secret_access_key="b",
        options=quick,
    )
    with pytest.raises(StorageUnavailableError, match=r"127\.0\.0\.1") as caught:
        asyncio.run(store.check_access())
    assert caught.value.transient
    assert "?" not in str(caught.value)


def test_a_wrong_region_is_named(faulty: Faulty, faults: FaultServer) -> None:
    """A redirect without an address is S3's way of saying: another region."""
    faults.rule = lambda _: Answer(301, "PermanentRedirect")
    with pytest.raises(StorageError, match="another region"):
        asyncio.run(faulty().check_access())


@pytest.mark.parametrize(
    "answer", [Answer(507, "StorageFull"), Answer(403, body=b"Storage cap exceeded")]
)
def test_a_full_bucket_is_named(faulty: Faulty, faults: FaultServer, answer: Answer) -> None:
    """A storage limit of the service is StorageFullError."""
    faults.rule = lambda r: answer if r.is_object_write else None
    with pytest.raises(StorageFullError, match="free space"):
        asyncio.run(faulty().check_access())


def test_a_missing_directory_is_created_by_writing_only(tmp_path: Path) -> None:
    """Reading a mistyped path names it and does not create it, writing does."""
    directory = tmp_path / "new" / "store"
    store = MediaStore(directory.as_uri())
    with pytest.raises(NotFoundError, match="directory does not exist"):
        asyncio.run(store.check_access(write=False))
    assert not directory.exists()
    asyncio.run(store.check_access())
    assert directory.is_dir()


def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path) -> None:
    """The message says that it is a file."""
    (tmp_path / "file").write_text("x")
    for url in ((tmp_path / "file").as_uri(), (tmp_path / "file" / "below").as_uri()):
        with pytest.raises(StorageError, match="not a directory"):
            asyncio.run(MediaStore(url).check_access())


@not_as_root
def test_an_unwritable_directory_is_named(tmp_path: Path) -> None:
    """Permission bits that forbid writing are AccessDeniedError with the remedy."""
    tmp_path.chmod(0o500)
    with pytest.raises(AccessDeniedError, match="let this user write"):
        asyncio.run(MediaStore(tmp_path.as_uri()).check_access())


@needs_root
def test_a_read_only_file_system_is_named(tmp_path: Path) -> None:
    """A read-only mount is AccessDeniedError with the remedy."""
    with (
        _mounted(tmp_path, "ro,size=1m"),
        pytest.raises(AccessDeniedError, match="Read-only file system"),
    ):
        asyncio.run(MediaStore(tmp_path.as_uri()).check_access())


@needs_root
@pytest.mark.parametrize("size", [2 * MIB, 12 * MIB], ids=["one request", "parts"])
def test_a_full_disk_is_named_and_nothing_remains(tmp_path: Path, size: int) -> None:
    """ENOSPC half way: StorageFullError, what was there before stays, and no trace of the new."""
    with _mounted(tmp_path, "size=1m"):
        store = MediaStore(tmp_path.as_uri())
        asyncio.run(store.put("old", b"x" * 1000, media_type=None))
        with pytest.raises(StorageFullError, match="No space left"):
            asyncio.run(
                store.put_media(bytes(size), media_type=None, extension=None, placement=PLACEMENT)
            )
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert [path.name for path in files] == ["old"]
        assert asyncio.run(store.get("old")) == b"x" * 1000


LIMITED = """
import asyncio, resource, sys
from genblaze_dagster.errors import StorageFullError
from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.store import MediaStore

store = MediaStore(sys.argv[1])
asyncio.run(store.probe())
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
for size in (2_000_000, 12_000_000):
    try:
        asyncio.run(store.put_media(
            bytes(size), media_type=None, extension=None, placement=Placement("r", "a")
        ))
    except StorageFullError as exc:
        print(exc)
"""


def test_a_file_size_limit_is_named_and_nothing_remains(tmp_path: Path) -> None:
    """The process's own limit: StorageFullError for one request and for parts, no file left."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path.as_uri()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("File too large") == 2, done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
