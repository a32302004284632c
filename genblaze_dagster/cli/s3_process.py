"""An S3 server process of our own for `demo --s3`, started on a free port and stopped by its id."""

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from genblaze_dagster.errors import MissingExtraError, StorageUnavailableError

_READY_SECONDS = 30.0
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo-secret"}


@contextlib.contextmanager
def s3_environment(bucket: str) -> Iterator[str]:
    """Start a server with an empty bucket, point the AWS variables at it, yield its URL.

    Raises:
        MissingExtraError: moto is not installed.
        StorageUnavailableError: the server does not start.
    """
    if importlib.util.find_spec("moto") is None:
        raise MissingExtraError("moto", "test")
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(  # noqa: S603 - our own interpreter, a fixed module
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wanted = {**_CREDENTIALS, "AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in wanted}
    try:
        _wait_until_open(process, port)
        os.environ.update(wanted)
        _create_bucket(url, bucket)
        yield url
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        process.terminate()
        process.wait(timeout=10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_open(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StorageUnavailableError(
                f"the S3 server process ended with {process.returncode} before it was ready"
            )
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise StorageUnavailableError(f"the S3 server was not ready within {_READY_SECONDS:g} s")


def _create_bucket(url: str, bucket: str) -> None:
    import boto3

    boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket=bucket)
