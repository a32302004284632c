"""fal's calls back: an Ed25519 signature by one of the keys that fal publishes.

https://docs.fal.ai/model-apis/model-endpoints/webhooks. Four lines are signed: request id, user
id, seconds since 1970, and the SHA-256 of the body in hex; the signature is hex too. fal tries ten
times in two hours, each time with the same request id. It names no key, so each is tried; the set
is to be kept for a day at most. The body says `OK` or `ERROR`, and `request_id` without the app
that a job's path begins with; so our address says it.
"""

import binascii
import hashlib
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from genblaze_dagster.errors import MissingExtraError, ProviderUnavailableError
from genblaze_dagster.net.client import HttpClient, request
from genblaze_dagster.providers.fal.jobs import is_path
from genblaze_dagster.providers.protocol import JobState
from genblaze_dagster.providers.vendor.callbacks import Callback, Delivery
from genblaze_dagster.providers.vendor.fetched_keys import FetchedKeys

APP = "app"
"""Query parameter of an address with the job's app: owner and alias of the model."""
KEYS_URL = "https://rest.fal.ai/.well-known/jwks.json"

_STATES = {"OK": JobState.SUCCEEDED, "ERROR": JobState.FAILED}
_SIGNATURE = re.compile(r"[0-9a-fA-F]{128}")
_KEY_BYTES = 32
_MOST_KEYS = 16
_MOST_KEY_BYTES = 64 * 1024


class FalCallbacks:
    """Checks and reads fal's calls; it keeps fal's public keys.

    Args:
        client: an HTTP client for tests; by default the one the whole process shares.
    """

    def __init__(self, client: HttpClient | None = None) -> None:
        self._client = client
        self._keys = FetchedKeys(self._fetch)

    async def read(self, delivery: Delivery, now: datetime) -> Callback:
        """Return what a call tells; its job is a path where the address says the app."""
        delivery_id = delivery.delivery_id("x-fal-webhook-request-id")
        delivery.check_time(delivery.header("x-fal-webhook-timestamp"), now)
        if not await self._keys.have(delivery, _checker(delivery), now=now):
            raise delivery.forged()
        told = delivery.document()
        folder = f"{delivery.query.get(APP)}/requests/"
        return delivery.callback(
            told.get("request_id"),
            _STATES.get(str(told.get("status"))),
            delivery_id=delivery_id,
            folder=folder if is_path(f"{folder}id") else "",
        )

    async def _fetch(self) -> Sequence[bytes]:
        answer = await request(
            "GET", KEYS_URL, provider="fal", client=self._client, max_bytes=_MOST_KEY_BYTES
        )
        try:
            keys = _keys_of(answer.json()) if answer.status == 200 else ()
        except ValueError:
            keys = ()
        if not keys:
            raise ProviderUnavailableError(
                f"fal: {KEYS_URL} answers no key (HTTP {answer.status})",
                provider="fal",
                http_status=answer.status,
            )
        return keys


def _checker(delivery: Delivery) -> Callable[[bytes], bool]:
    """Return what tells whether a public key made the signature of a call."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as exc:
        raise MissingExtraError("cryptography", "callbacks") from exc
    given = delivery.header("x-fal-webhook-signature")
    if _SIGNATURE.fullmatch(given) is None:
        raise delivery.forged()
    names = ("request-id", "user-id", "timestamp")
    parts = [delivery.header(f"x-fal-webhook-{name}") for name in names]
    digest = hashlib.sha256(delivery.body).hexdigest()
    signed = "\n".join((*parts, digest)).encode(errors="replace")

    def fits(key: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(given), signed)
        except (InvalidSignature, ValueError):
            return False
        return True

    return fits


def _keys_of(answer: object) -> Sequence[bytes]:
    """Return the Ed25519 keys of a JSON Web Key Set; others in it are for somebody else."""
    listed: object = cast(Mapping[str, Any], answer).get("keys") if isinstance(answer, dict) else ()
    found: list[bytes] = []
    for key in cast(list[Any], listed)[:_MOST_KEYS] if isinstance(listed, list) else ():
        about = cast(Mapping[str, Any], key) if isinstance(key, dict) else {}
        if about.get("kty") == "OKP" and about.get("crv") == "Ed25519":
            found.append(_decoded(str(about.get("x"))))
    return [key for key in found if len(key) == _KEY_BYTES]


def _decoded(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""
