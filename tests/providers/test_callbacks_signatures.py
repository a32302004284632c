import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from genblaze_dagster.errors import ConfigError, WebhookError
from genblaze_dagster.net.webhooks import sign, signing_key
from genblaze_dagster.providers.fal import FalProvider
from genblaze_dagster.providers.openai import SoraProvider
from genblaze_dagster.providers.protocol import JobState
from genblaze_dagster.providers.replicate import ReplicateProvider
from genblaze_dagster.providers.vendor.callbacks import (
    MAX_BODY_BYTES,
    Callback,
    Delivery,
    ReadsCallbacks,
)
from genblaze_dagster.providers.vendor.fetched_keys import FetchedKeys

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LATE = timedelta(minutes=5, seconds=1)
API_KEY = "sk-wire-0123456789abcdef0123456789"
SECRET = "whsec_" + base64.b64encode(b"webhook secret of 24 byt").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"another one, of the same").decode()
ID = "764cabcf-b745-4b3e-ae38-1200304cf45b"
KEYS_PATH = "/.well-known/jwks.json"
SECRET_PATH = "/v1/webhooks/default/secret"


@dataclass
class Web:
    """What a vendor serves by path, changed by the test as it goes; `asked` has what was asked for."""

    answers: dict[str, Callable[[], httpx.Response]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._serve))

    def serve(self, path: str, answer: object, status: int = 200) -> None:
        self.answers[path] = lambda: httpx.Response(status, json=answer)

    def _serve(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        assert "authorization" not in request.headers or request.url.host == "api.replicate.com"
        return self.answers[request.url.path]()


def read(
    reader: ReadsCallbacks, headers: Mapping[str, str], body: bytes, **options: Any
) -> Callback:
    async def main() -> Callback:
        return await reader.read_callback(headers, body, **{"now": NOW, **options})

    return asyncio.run(main())


def standard_headers(
    body: bytes, *, secret: str = SECRET, at: datetime = NOW, delivery_id: str = "msg_1"
) -> dict[str, str]:
    timestamp = str(int(at.timestamp()))
    signature = sign(signing_key(secret), delivery_id=delivery_id, timestamp=timestamp, body=body)
    return {
        "Webhook-Id": delivery_id,
        "Webhook-Timestamp": timestamp,
        "Webhook-Signature": signature,
    }


def fal_headers(body: bytes, key: Ed25519PrivateKey, *, at: datetime = NOW) -> dict[str, str]:
    lines = (ID, "user_1", str(int(at.timestamp())), hashlib.sha256(body).hexdigest())
    return {
        "X-Fal-Webhook-Request-Id": lines[0],
        "X-Fal-Webhook-User-Id": lines[1],
        "X-Fal-Webhook-Timestamp": lines[2],
        "X-Fal-Webhook-Signature": key.sign("\n".join(lines).encode()).hex(),
    }


def jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    x = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "1"}


KEY = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"2" * 32)
FAL_BODY = json.dumps({"request_id": ID, "status": "OK", "payload": {"images": []}}).encode()
PREDICTION = json.dumps({"id": "gm3qorzdhgbfurvjtvhg6dckhu", "status": "succeeded"}).encode()
EVENT = json.dumps(
    {"object": "event", "type": "video.completed", "data": {"id": "video_1"}}
).encode()


def fal(web: Web | None = None) -> FalProvider:
    web = web or Web()
    web.answers.setdefault(KEYS_PATH, lambda: httpx.Response(200, json={"keys": [jwk(KEY)]}))
    return FalProvider(client=web.client())


def replicate(web: Web | None = None, **options: Any) -> ReplicateProvider:
    client = None if web is None else web.client()
    return ReplicateProvider(API_KEY, client=client, **{"webhook_secret": SECRET, **options})


def sora(**options: Any) -> SoraProvider:
    return SoraProvider(API_KEY, **{"webhook_secret": SECRET, **options})


@dataclass(frozen=True)
class Signed:
    """A vendor that signs: who reads its calls, one of them, and how it is signed."""

    reader: Callable[[], ReadsCallbacks]
    body: bytes
    sign: Callable[..., dict[str, str]]
    forge: Callable[[bytes], dict[str, str]]
    expected: Callback


SIGNED = {
    "fal": Signed(
        fal,
        FAL_BODY,
        lambda body, **more: fal_headers(body, KEY, **more),
        lambda body: fal_headers(body, OTHER_KEY),
        Callback("fal", ID, ID, JobState.SUCCEEDED),
    ),
    "replicate": Signed(
        replicate,
        PREDICTION,
        standard_headers,
        lambda body: standard_headers(body, secret=OTHER_SECRET),
        Callback("replicate", "msg_1", "gm3qorzdhgbfurvjtvhg6dckhu", JobState.SUCCEEDED),
    ),
    "openai": Signed(
        sora,
        EVENT,
        standard_headers,
        lambda body: standard_headers(body, secret=OTHER_SECRET),
        Callback("openai", "msg_1", "video_1", JobState.SUCCEEDED),
    ),
}
each_signed = pytest.mark.parametrize("vendor", SIGNED.values(), ids=SIGNED.keys())


@each_signed
def test_a_signed_call_tells_its_job(vendor: Signed) -> None:
    """Delivery, job and state are taken from it; header names may be in any case."""
    headers = vendor.sign(vendor.body)
    reader = vendor.reader()
    assert isinstance(reader, ReadsCallbacks)
    assert reader.proves_callbacks
    assert read(reader, headers, vendor.body) == vendor.expected
    lowered = {name.lower(): value for name, value in headers.items()}
    assert read(vendor.reader(), lowered, vendor.body) == vendor.expected


@each_signed
def test_a_repeated_delivery_has_the_same_id(vendor: Signed) -> None:
    """A vendor that tries again signs with another time and means the same delivery."""
    again = vendor.sign(vendor.body, at=NOW + timedelta(minutes=2))
    found = read(vendor.reader(), again, vendor.body, now=NOW + timedelta(minutes=2))
    assert found == vendor.expected


@each_signed
def test_a_changed_body_is_refused(vendor: Signed) -> None:
    """One byte more and the signature is of something else."""
    with pytest.raises(WebhookError, match="signature") as caught:
        read(vendor.reader(), vendor.sign(vendor.body), vendor.body + b" ")
    assert not caught.value.transient


@each_signed
def test_the_signature_of_another_key_is_refused(vendor: Signed) -> None:
    """A call signed by somebody else is not the vendor's."""
    with pytest.raises(WebhookError, match="signature"):
        read(vendor.reader(), vendor.forge(vendor.body), vendor.body)


@each_signed
@pytest.mark.parametrize("shift", [-LATE, LATE], ids=["old", "from the future"])
def test_an_old_call_is_refused(vendor: Signed, shift: timedelta) -> None:
    """Five minutes either way; a recording of a good call is worth nothing later."""
    headers = vendor.sign(vendor.body, at=NOW + shift)
    with pytest.raises(WebhookError, match="time is not within 300 s"):
        read(vendor.reader(), headers, vendor.body)


@each_signed
def test_every_header_is_needed(vendor: Signed) -> None:
    """Without one of them the call is refused, naming the header."""
    headers = vendor.sign(vendor.body)
    for name in headers:
        rest = {other: value for other, value in headers.items() if other != name}
        with pytest.raises(WebhookError, match=name.lower()):
            read(vendor.reader(), rest, vendor.body)


@each_signed
@pytest.mark.parametrize("value", ["", "x", "v1,", "é", "\udcff", "0" * 128, " ".join("v1,x" * 99)])
def test_any_text_is_refused_as_a_header(vendor: Signed, value: str) -> None:
    """Whatever stands in a header, the call is refused and nothing else happens."""
    headers = vendor.sign(vendor.body)
    for name in headers:
        with pytest.raises(WebhookError):
            read(vendor.reader(), headers | {name: value}, vendor.body)


@each_signed
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 5000, b"{}", b'{"id": 1}'],
    ids=["empty", "cut", "list", "null", "no text", "deep", "no job", "no id"],
)
def test_a_signed_body_that_tells_no_job_is_refused(vendor: Signed, body: bytes) -> None:
    """The signature is right and the body is not what the vendor documents."""
    with pytest.raises(WebhookError, match=r"no JSON object|names no job"):
        read(vendor.reader(), vendor.sign(body), body)


@each_signed
def test_a_huge_body_is_refused(vendor: Signed) -> None:
    """More than 1 MiB is not even hashed."""
    body = b" " * (MAX_BODY_BYTES + 1)
    with pytest.raises(WebhookError, match="larger than"):
        read(vendor.reader(), vendor.sign(vendor.body), body)


@pytest.mark.parametrize("job_id", ["", "../../models", "a/b", "x" * 129, "a b", "\n", ".a"])
def test_only_ids_of_jobs_are_taken(job_id: str) -> None:
    """An id goes into addresses of polls, so one that would lead elsewhere is none."""
    body = json.dumps({"id": job_id, "status": "succeeded"}).encode()
    with pytest.raises(WebhookError, match="names no job") as caught:
        read(replicate(), standard_headers(body), body)
    assert not job_id or job_id not in str(caught.value)


def test_the_published_vector_of_standard_webhooks_is_accepted() -> None:
    """The example of the specification's own test suite, also among signatures of other keys."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": signature,
    }
    body = b'{"test": 2432232314}'
    key = signing_key(secret)
    assert Delivery.of("vendor", headers, body, {}).is_signed(key)
    rotated = {**headers, "webhook-signature": f"v1,{'A' * 43}= v1a,abc {signature}"}
    assert Delivery.of("vendor", rotated, body, {}).is_signed(key)
    second = {**headers, "webhook-signature": f"v2,{signature.removeprefix('v1,')}"}
    assert not Delivery.of("vendor", second, body, {}).is_signed(key)
    assert not Delivery.of("vendor", headers, body + b"\n", {}).is_signed(key)


def test_the_vector_of_openais_own_clients_is_accepted() -> None:
    """The event that the vendor's clients in all languages are tested with, to the byte."""
    headers = {
        "webhook-id": "wh_685c059ae39c8190af8c71ed1022a24d",
        "webhook-timestamp": "1750861210",
        "webhook-signature": "v1,gUAg4R2hWouRZqRQG4uJypNS8YK885G838+EHb4nKBY=",
    }
    body = (
        b'{"id": "evt_685c059ae3a481909bdc86819b066fb6", "object": "event", '
        b'"created_at": 1750861210, "type": "response.completed", "data": {"id": "resp_123"}}'
    )
    reader = sora(webhook_secret="whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c=")
    then = datetime.fromtimestamp(1750861210, UTC)
    found = read(reader, headers, body, now=then + timedelta(minutes=5))
    assert found == Callback("openai", headers["webhook-id"], "resp_123", None)
    with pytest.raises(WebhookError, match="time"):
        read(reader, headers, body, now=then + LATE)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("starting", JobState.QUEUED),
        ("processing", JobState.RUNNING),
        ("failed", JobState.FAILED),
        ("canceled", JobState.CANCELLED),
        ("aborted", JobState.CANCELLED),
        ("unheard-of", None),
    ],
)
def test_states_of_replicate(status: str, state: JobState | None) -> None:
    """Its words become our states; one that nobody knows is none."""
    body = json.dumps({"id": "p1", "status": status}).encode()
    assert read(replicate(), standard_headers(body), body).state is state


@pytest.mark.parametrize(
    ("event", "state"),
    [("video.failed", JobState.FAILED), ("batch.completed", None)],
)
def test_states_of_openai(event: str, state: JobState | None) -> None:
    """A project's webhook may be told of other things than videos; that is no error."""
    body = json.dumps({"type": event, "data": {"id": "other_1"}}).encode()
    found = read(sora(), standard_headers(body), body)
    assert (found.job_id, found.state) == ("other_1", state)


@pytest.mark.parametrize(
    ("status", "state"), [("OK", JobState.SUCCEEDED), ("ERROR", JobState.FAILED), ("?", None)]
)
def test_states_of_fal(status: str, state: JobState | None) -> None:
    """OK and ERROR, whatever the payload is."""
    body = json.dumps({"request_id": ID, "status": status, "payload": None}).encode()
    assert read(fal(), fal_headers(body, KEY), body).state is state


def test_fals_job_is_the_path_that_a_submit_gives() -> None:
    """The app stands in the address; any other text there leaves the bare id."""
    headers = fal_headers(FAL_BODY, KEY)
    for app, job_id in (
        ("fal-ai/flux", f"fal-ai/flux/requests/{ID}"),
        ("workflows/me/mine", f"workflows/me/mine/requests/{ID}"),
        ("../../models", ID),
        ("https://elsewhere", ID),
        ("", ID),
    ):
        found = read(fal(), headers, FAL_BODY, query={"app": app})
        assert found.job_id == job_id


def test_fals_keys_are_fetched_once_a_day_and_when_none_fits() -> None:
    """A call by a new key is believed once fal has published it; a forged one asks once a minute."""
    web = Web()
    web.serve(KEYS_PATH, {"keys": [jwk(KEY)]})
    reader = fal(web)
    good = fal_headers(FAL_BODY, KEY)

    async def main() -> None:
        for _ in range(3):
            await reader.read_callback(good, FAL_BODY, now=NOW)
        assert len(web.asked) == 1
        forged = fal_headers(FAL_BODY, OTHER_KEY)
        for _ in range(20):
            with pytest.raises(WebhookError, match="signature"):
                await reader.read_callback(forged, FAL_BODY, now=NOW)
        assert len(web.asked) == 1
        later = NOW + timedelta(minutes=2)
        web.serve(KEYS_PATH, {"keys": [jwk(KEY), jwk(OTHER_KEY)]})
        rotated = fal_headers(FAL_BODY, OTHER_KEY, at=later)
        await reader.read_callback(rotated, FAL_BODY, now=later)
        assert len(web.asked) == 2
        tomorrow = later + timedelta(hours=24)
        fresh = fal_headers(FAL_BODY, KEY, at=tomorrow)
        await reader.read_callback(fresh, FAL_BODY, now=tomorrow)
        assert len(web.asked) == 3

    asyncio.run(main())


def test_calls_at_once_fetch_the_keys_once() -> None:
    """The first asks, the others wait for its answer."""
    web = Web()
    reader = fal(web)
    headers = fal_headers(FAL_BODY, KEY)

    async def main() -> None:
        calls = (reader.read_callback(headers, FAL_BODY, now=NOW) for _ in range(20))
        assert len(set(await asyncio.gather(*calls))) == 1

    asyncio.run(main())
    assert web.asked == [KEYS_PATH]


def test_a_clock_that_is_set_back_does_not_keep_keys_from_being_asked_for() -> None:
    """What was fetched in what is now the future is fetched again."""
    web = Web()
    reader = fal(web)
    web.serve(KEYS_PATH, {"keys": [jwk(OTHER_KEY)]})
    before = NOW - timedelta(days=3)
    with pytest.raises(WebhookError, match="signature"):
        read(reader, fal_headers(FAL_BODY, KEY), FAL_BODY)
    web.serve(KEYS_PATH, {"keys": [jwk(KEY)]})
    read(reader, fal_headers(FAL_BODY, KEY, at=before), FAL_BODY, now=before)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"keys": []}, 200),
        ({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}, 200),
        ({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "%%%"}]}, 200),
        ({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "YWJj"}]}, 200),
        ({"keys": [{"kty": "OKP", "crv": "X25519", "x": jwk(KEY)["x"]}]}, 200),
        ({"keys": {"a": 1}}, 200),
        ([], 200),
        ({"keys": [jwk(KEY)]}, 503),
        ({"keys": [jwk(KEY)], "more": "x" * 100_000}, 200),
    ],
    ids=["none", "rsa", "no base64", "too short", "x25519", "no list", "list", "503", "huge"],
)
def test_a_call_that_cannot_be_checked_is_asked_for_again(answer: object, status: int) -> None:
    """Without a usable key the call is neither believed nor refused for good."""
    web = Web()
    web.serve(KEYS_PATH, answer, status)
    reader = fal(web)
    headers = fal_headers(FAL_BODY, KEY)
    for _ in range(3):
        with pytest.raises(WebhookError, match="call again") as caught:
            read(reader, headers, FAL_BODY)
        assert caught.value.transient
    # Not asked again at once, however many calls come.
    assert len(web.asked) == 1
    web.serve(KEYS_PATH, {"keys": [jwk(KEY)]})
    later = NOW + timedelta(seconds=6)
    assert read(reader, headers, FAL_BODY, now=later).job_id == ID


def test_a_vendor_that_does_not_tell_its_keys_keeps_nobody_waiting() -> None:
    """Who calls listens for some seconds: all are asked to call again, after one question."""
    asked: list[bytes] = []

    async def silent() -> list[bytes]:
        asked.append(b"keys")
        await asyncio.Event().wait()
        return asked

    async def main() -> list[object]:
        keys, call = FetchedKeys(silent, seconds=0.2), Delivery.of("vendor", {}, b"", {})
        at_once = (
            keys.have(call, lambda _: True, now=NOW + timedelta(milliseconds=10 * number))
            for number in range(20)
        )
        async with asyncio.timeout(50):
            return [*await asyncio.gather(*at_once, return_exceptions=True)]

    for refusal in asyncio.run(main()):
        assert isinstance(refusal, WebhookError)
        assert refusal.transient
    assert len(asked) == 1


def test_replicates_secret_is_asked_for_when_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The argument, else the variable, else Replicate itself, kept and asked for again when it fails."""
    web = Web()
    web.serve(SECRET_PATH, {"key": SECRET})
    reader = replicate(web, webhook_secret=None)
    headers = standard_headers(PREDICTION)
    for _ in range(2):
        assert read(reader, headers, PREDICTION).delivery_id == "msg_1"
    assert web.asked == [SECRET_PATH]
    monkeypatch.setenv("REPLICATE_WEBHOOK_SIGNING_SECRET", OTHER_SECRET)
    with pytest.raises(WebhookError, match="signature"):
        read(reader, headers, PREDICTION)
    read(reader, standard_headers(PREDICTION, secret=OTHER_SECRET), PREDICTION)
    assert web.asked == [SECRET_PATH]


@pytest.mark.parametrize("answer", [{}, {"key": None}, {"key": "whsec_%"}, {"key": "x"}])
def test_a_secret_replicate_does_not_tell_is_asked_for_again(answer: object) -> None:
    """An answer without a usable secret leaves the call unchecked, and shows none of itself."""
    web = Web()
    web.serve(SECRET_PATH, answer)
    with pytest.raises(WebhookError, match="call again") as caught:
        read(replicate(web, webhook_secret=None), standard_headers(PREDICTION), PREDICTION)
    assert caught.value.transient


def test_openais_secret_has_to_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can be asked for it, so its absence is a setting to mend; a bad one names the variable."""
    headers = standard_headers(EVENT)
    with pytest.raises(ConfigError, match="OPENAI_WEBHOOK_SECRET"):
        read(sora(webhook_secret=None), headers, EVENT)
    monkeypatch.setenv("OPENAI_WEBHOOK_SECRET", "whsec_%%%")
    with pytest.raises(ConfigError, match="OPENAI_WEBHOOK_SECRET"):
        read(sora(webhook_secret=None), headers, EVENT)
    monkeypatch.setenv("OPENAI_WEBHOOK_SECRET", SECRET)
    assert read(sora(webhook_secret=None), headers, EVENT).job_id == "video_1"
