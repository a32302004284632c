import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from genblaze_dagster.errors import WebhookError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import SubmissionState
from genblaze_dagster.net.webhooks import sign, signing_key
from genblaze_dagster.pipeline.callbacks import Received, Receiver
from genblaze_dagster.providers.fal import FalProvider
from genblaze_dagster.providers.luma import LumaProvider
from genblaze_dagster.providers.replicate import ReplicateProvider
from genblaze_dagster.providers.vendor.callbacks import ReadsCallbacks
from tests.providers.calling_vendor import ENDPOINT, MAKERS, ran, rows, running

KEY = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
SECRET = "whsec_" + base64.b64encode(b"webhook secret of 24 byt").decode()
BODIES: Mapping[str, Mapping[str, Any]] = {
    "fal": {"request_id": "job1", "status": "OK", "payload": {}},
    "replicate": {"id": "job1", "status": "succeeded"},
    "luma": {"id": "job1", "state": "completed"},
}


def headers_of(vendor: str, body: bytes, now: datetime) -> dict[str, str]:
    """Sign a call as the vendor does."""
    seconds = str(int(now.timestamp()))
    if vendor == "replicate":
        key = signing_key(SECRET)
        return {
            "webhook-id": "msg_1",
            "webhook-timestamp": seconds,
            "webhook-signature": sign(key, delivery_id="msg_1", timestamp=seconds, body=body),
        }
    if vendor == "fal":
        lines = ("job1", "user1", seconds, hashlib.sha256(body).hexdigest())
        names = ("request-id", "user-id", "timestamp")
        return {
            **{f"x-fal-webhook-{name}": line for name, line in zip(names, lines, strict=False)},
            "x-fal-webhook-signature": KEY.sign("\n".join(lines).encode()).hex(),
        }
    return {}


def keys(_: httpx.Request) -> httpx.Response:
    raw = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    x = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    return httpx.Response(200, json={"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]})


def call(folder: Path, vendor: str, address: str, body: bytes) -> Received:
    """Let the receiver have a call to that address."""
    client = httpx.AsyncClient(transport=httpx.MockTransport(keys))
    readers: dict[str, ReadsCallbacks] = {
        "fal": FalProvider(client=client),
        "replicate": ReplicateProvider(webhook_secret=SECRET),
        "luma": LumaProvider(),
    }
    now = datetime.now(UTC)

    async def main() -> Received:
        with Ledger(f"sqlite:///{folder / 'ledger.db'}") as ledger:
            receiver = Receiver(ledger, ENDPOINT, providers=readers)
            try:
                return await receiver.receive(
                    vendor,
                    query=urlsplit(address).query,
                    headers=headers_of(vendor, body, now),
                    body=body,
                    now=now,
                )
            finally:
                receiver.close()

    return asyncio.run(main())


@pytest.mark.parametrize("vendor", MAKERS)
def test_a_vendors_call_finds_the_job_of_a_lost_answer(vendor: str, tmp_path: Path) -> None:
    """Nobody saw the answer to the submit; the vendor's own call names job and submission."""
    body = json.dumps(BODIES[vendor]).encode()
    with running("lost") as wire:
        ran(vendor, wire, tmp_path, ENDPOINT)
        (held,) = rows(tmp_path)
        assert held.state is SubmissionState.HELD
        address = wire.said
        with pytest.raises(WebhookError):
            call(tmp_path, vendor, address.replace("gbcb_", "gbcb_x"), body)
        assert rows(tmp_path) == [held]
        received = call(tmp_path, vendor, address, body)
        assert received.outcome.is_found
        assert not call(tmp_path, vendor, address, body).outcome.is_new
        wire.ends = "failed" if vendor == "luma" else "succeeded"
        ran(vendor, wire, tmp_path, ENDPOINT)
    (row,) = rows(tmp_path)
    # Resumed by that job, and fetched where loopback can be fetched from: sent once, paid once.
    ended = SubmissionState.FAILED if vendor == "luma" else SubmissionState.STORED
    assert (wire.submits, row.state) == (1, ended)
    folder = "fal-ai/flux/requests/" if vendor == "fal" else ""
    assert row.job_id == f"{folder}job1"
