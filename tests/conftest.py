import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.s3 import S3Server, start_s3_server

ROOT = Path(__file__).resolve().parent.parent

SCRUBBED = (
    "AWS_",
    "B2_",
    "ASSEMBLYAI_",
    "DECART_",
    "ELEVENLABS_",
    "FAL_",
    "GEMINI_",
    "GENBLAZE_CALLBACK",
    "GENBLAZE_PRICES",
    "GMI_",
    "GOOGLE_",
    "HUME_",
    "LMNT_",
    "LUMA",
    "NGC_",
    "NVIDIA_",
    "OPENAI_",
    "REPLICATE_",
    "RUNWAYML_",
    "STABILITY_",
    "GENBLAZE_STORE",
    "GENBLAZE_LEDGER",
    "GENBLAZE_SPOOL",
    "GENBLAZE_INPUT",
    "GENBLAZE_DAGSTER",
    "DAGSTER_",
)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"

# What a property takes on a busy machine says nothing about the property.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Golden data: GENBLAZE_VECTORS, else the shared folder beside the checkout, else our copy."""
    named = os.environ.get("GENBLAZE_VECTORS")
    if named:
        return Path(named)
    beside = ROOT.parent / "shared" / "vectors"
    return beside if beside.is_dir() else ROOT / "tests" / "data" / "vectors"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, endpoints and proxies of the person who runs the tests never reach them."""
    for name in list(os.environ):
        if name.startswith(SCRUBBED) or name in PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only loopback is contacted: any other connect fails the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple):
            host = str(address[0])
            if not (host.startswith("127.") or host in ("::1", "localhost")):
                raise AssertionError(f"a test tried to contact {host}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server process on a free loopback port."""
    with start_s3_server() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """A fresh, empty bucket."""
    name = f"media-{uuid.uuid4().hex[:12]}"
    s3_server.create_bucket(name)
    return name
