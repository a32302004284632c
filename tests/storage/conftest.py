import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.options import MIB, StoreOptions
from genblaze_dagster.storage.store import MediaStore
from tests.storage.faults import FaultServer, fault_server
from tests.support.s3 import S3Server, free_port

KIB = 1024
DISCARD_SERVER = Path(__file__).resolve().parents[2] / "bench" / "discard_s3.py"

# No waiting in tests, and "large" begins early. S3 parts have at least 5 MiB.
QUICK = StoreOptions(
    connect_timeout=60, max_retries=0, backoff=0.01, single_put_bytes=64 * KIB, part_bytes=5 * MIB
)


@pytest.fixture
def quick() -> StoreOptions:
    """Options without retries, and with a small limit for single requests."""
    return QUICK


@pytest.fixture
def placement() -> Placement:
    """Where the test media belongs."""
    return Placement(
        run_id="01890000-0000-7000-8000-000000000001",
        asset_id="aa000000-0000-4000-8000-000000000001",
        created_at=datetime(2026, 11, 20, 9, 0, tzinfo=UTC),
    )


@pytest.fixture(params=["s3", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MediaStore:
    """The same empty store in a bucket of a real S3 server, a directory, and memory."""
    if request.param == "memory":
        return MediaStore(f"memory://{uuid.uuid4().hex}/media", options=QUICK)
    if request.param == "file":
        return MediaStore((tmp_path / "a store").as_uri(), options=QUICK)
    server = request.getfixturevalue("s3_server")
    bucket = request.getfixturevalue("s3_bucket")
    return MediaStore(
        f"s3://{bucket}/media",
        endpoint_url=server.url,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        options=QUICK,
    )


@pytest.fixture
def faults() -> Iterator[FaultServer]:
    """An S3 server that misbehaves on request."""
    with fault_server() as server:
        yield server


@pytest.fixture
def faulty(faults: FaultServer) -> Callable[..., MediaStore]:
    """Make stores on the fault server, each in a bucket of its own so that nothing is cached."""

    def make(prefix: str = "", **options: object) -> MediaStore:
        fields = {name: getattr(QUICK, name) for name in StoreOptions.__slots__}
        return MediaStore(
            f"s3://b{uuid.uuid4().hex}/{prefix}",
            endpoint_url=faults.url,
            access_key_id="AKIATESTTESTTEST0000",
            secret_access_key="a-secret-nobody-should-see",
            options=StoreOptions(**(fields | options)),
        )

    return make


@pytest.fixture
def discarding_s3() -> Iterator[str]:
    """URL of an S3 server process that counts bytes and keeps none."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(DISCARD_SERVER), str(port)])
    try:
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def checking_s3() -> Iterator[str]:
    """URL of an S3 server process that verifies and keeps checksums; bucket `checked` exists."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "ministack"],
        env={**os.environ, "GATEWAY_PORT": str(port), "SERVICES": "s3", "LOG_LEVEL": "ERROR"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port)
        server = S3Server(f"http://127.0.0.1:{port}")
        server.create_bucket("checked")
        yield server.url
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port} after 120 s")
