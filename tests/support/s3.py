"""A moto S3 server as a process of its own, so that subprocesses reach it too."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ACCESS_KEY = "test"
SECRET_KEY = "test"


@dataclass(frozen=True)
class S3Server:
    url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    def create_bucket(self, name: str) -> None:
        """Create a bucket; the server checks no signature."""
        request = urllib.request.Request(
            f"{self.url}/{name}",
            method="PUT",
            headers={
                "Authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/us-east-1/s3/aws4_request"
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200

    def environment(self) -> dict[str, str]:
        """Environment with which clients of any kind reach this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def start_s3_server() -> Iterator[S3Server]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url)
        yield S3Server(url)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"S3 server ended with {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError("S3 server was not ready within 120 s")
