import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import httpx
import pytest

from genblaze_dagster.core.enums import Modality, StepType
from genblaze_dagster.errors import ConfigError, ProviderError, WebhookError
from genblaze_dagster.net.callbacks import CallbackEndpoint
from genblaze_dagster.provider_resources import (
    AssemblyAIResource,
    CalledBackResource,
    FalResource,
    LumaResource,
    OpenAIResource,
    ReplicateResource,
)
from genblaze_dagster.providers.assemblyai import CALLBACK_HEADER, AssemblyAIProvider
from genblaze_dagster.providers.capabilities import Capability, capabilities
from genblaze_dagster.providers.fal import FalProvider
from genblaze_dagster.providers.luma import LumaProvider
from genblaze_dagster.providers.openai import SoraProvider
from genblaze_dagster.providers.protocol import GenerationRequest, JobState, Provider
from genblaze_dagster.providers.registry import resolve_provider
from genblaze_dagster.providers.replicate import ReplicateProvider
from genblaze_dagster.providers.vendor.callbacks import Callback, ReadsCallbacks
from genblaze_dagster.providers.vendor.called_back import CalledBackProvider
from genblaze_dagster.providers.vendor.provider import VendorProvider
from tests.support.wire import input_media

API_KEY = "sk-wire-0123456789abcdef0123456789"
ENDPOINT = CallbackEndpoint("https://media.example.com/genblaze", "a secret of some length")
OTHER = "https://hooks.example.com/mine"
KEY = "0198c0de-0000-7000-8000-000000000001"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TRANSCRIPT = "5552493-16d8-42d8-8feb-c2a16b56f6e8"


@pytest.fixture(autouse=True)
def _no_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver of the person who runs the tests is not called."""
    for name in ("GENBLAZE_CALLBACK_URL", "GENBLAZE_CALLBACK_SECRET"):
        monkeypatch.delenv(name, raising=False)


@dataclass
class Wire:
    """A vendor that accepts everything; `sent` is the last submit."""

    sent: list[httpx.Request] = field(default_factory=list)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._serve))

    def _serve(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        return httpx.Response(201, json={"id": "job_1", "request_id": "job_1", "status": "queued"})

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.sent[-1].content)


def submitted(kind: type[VendorProvider], request: GenerationRequest, **options: Any) -> Wire:
    wire = Wire()

    async def main() -> None:
        async with wire.client() as client:
            provider: Provider = kind(API_KEY, client=client, **options)
            provider.validate(request)
            assert (await provider.submit(request)).job_id is not None

    asyncio.run(main())
    return wire


def address_in(wire: Wire) -> str | None:
    """Return where the vendor was told to call, wherever that vendor takes it."""
    query = parse_qs(wire.sent[-1].url.query.decode())
    if "fal_webhook" in query:
        (address,) = query["fal_webhook"]
        return address
    body = wire.body
    found = [body[name] for name in ("webhook", "webhook_url", "callback_url") if name in body]
    return found[0] if found else None


PICTURE = GenerationRequest(model="fal-ai/flux/schnell", prompt="a fox", idempotency_key=KEY)
REQUESTS: Mapping[str, tuple[type[VendorProvider], GenerationRequest]] = {
    "fal": (FalProvider, PICTURE),
    "replicate": (ReplicateProvider, replace(PICTURE, model="acme/paint")),
    "luma": (LumaProvider, replace(PICTURE, model="photon-1")),
    "assemblyai": (
        AssemblyAIProvider,
        GenerationRequest(
            model="universal-2",
            modality=Modality.TEXT,
            inputs=(input_media(b"", "audio/mpeg", public_url="https://example.com/a.mp3"),),
            idempotency_key=KEY,
        ),
    ),
}
each_vendor = pytest.mark.parametrize("vendor", REQUESTS)


@each_vendor
def test_each_submit_tells_the_vendor_its_own_address(vendor: str) -> None:
    """It names the submission, and its token is one that the receiver believes."""
    kind, request = REQUESTS[vendor]
    address = address_in(submitted(kind, request, callbacks=ENDPOINT))
    assert address is not None
    assert address.startswith(ENDPOINT.address(vendor, KEY))
    parts = urlsplit(address)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{ENDPOINT.url}/{vendor}"
    query = parse_qs(parts.query)
    assert query["submission"] == [KEY]
    ENDPOINT.verify(vendor, KEY, query["token"][0])
    later = replace(request, idempotency_key=f"{KEY}-1")
    assert address_in(submitted(kind, later, callbacks=ENDPOINT)) != address


@each_vendor
def test_the_environment_names_the_receiver(vendor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read when a request is sent; half of it is refused before anything is sent."""
    kind, request = REQUESTS[vendor]
    monkeypatch.setenv("GENBLAZE_CALLBACK_URL", ENDPOINT.url)
    with pytest.raises(ConfigError, match="GENBLAZE_CALLBACK_SECRET"):
        submitted(kind, request)
    monkeypatch.setenv("GENBLAZE_CALLBACK_SECRET", ENDPOINT.secret)
    given = address_in(submitted(kind, request, callbacks=ENDPOINT))
    assert address_in(submitted(kind, request)) == given


@each_vendor
def test_without_a_receiver_or_a_key_nothing_is_added(vendor: str) -> None:
    """The request is then the one that the vendor's own client sends."""
    kind, request = REQUESTS[vendor]
    plain = submitted(kind, request)
    assert address_in(plain) is None
    keyless = submitted(kind, replace(request, idempotency_key=""), callbacks=ENDPOINT)
    for other in (keyless, submitted(kind, replace(request, idempotency_key=""))):
        assert other.sent[-1].url == plain.sent[-1].url
        assert other.sent[-1].content == plain.sent[-1].content
    assert "webhook" not in plain.sent[-1].content.decode()


@each_vendor
def test_an_address_of_the_callers_own_wins(vendor: str) -> None:
    """What is asked for explicitly is called, and nothing of ours goes along."""
    kind, request = REQUESTS[vendor]
    options = {"fal": {"webhook_url": OTHER}, "replicate": {"webhook": OTHER}}.get(vendor, {})
    name = {"luma": "callback_url", "assemblyai": "webhook_url"}.get(vendor)
    asked = request if name is None else replace(request, params={name: OTHER})
    wire = submitted(kind, asked, callbacks=ENDPOINT, **options)
    assert address_in(wire) == OTHER
    request_text = f"{wire.sent[-1].url} {wire.sent[-1].content.decode()}"
    assert "gbcb_" not in request_text
    assert CALLBACK_HEADER not in request_text


@each_vendor
def test_a_refusal_that_repeats_the_address_does_not_show_it(vendor: str) -> None:
    """Vendors quote what they do not like; the error has their words without the token."""
    kind, request = REQUESTS[vendor]
    sent: list[str] = []

    def refuse(asked: httpx.Request) -> httpx.Response:
        sent.append(f"{asked.url} {asked.content.decode()}")
        said = f"cannot use {sent[-1]}"
        return httpx.Response(400, json={"detail": said, "title": said, "error": said})

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
            provider: Provider = kind(API_KEY, client=client, callbacks=ENDPOINT)
            await provider.submit(request)

    with pytest.raises(ProviderError) as caught:
        asyncio.run(main())
    assert "cannot use" in str(caught.value)
    token = ENDPOINT.token(vendor, KEY)
    assert token in sent[-1]
    assert token[5:] not in f"{caught.value!s} {caught.value!r}"


def test_replicate_calls_only_at_the_end() -> None:
    """Every new line of a log would be a call otherwise; the model's input stays what it was."""
    kind, request = REQUESTS["replicate"]
    body = submitted(kind, request, callbacks=ENDPOINT).body
    assert body["webhook_events_filter"] == ["completed"]
    assert body["input"] == {"prompt": "a fox"}


def test_fals_address_says_the_app_of_its_jobs() -> None:
    """A call of fal's names the request alone; with the app it is the path that a submit gives."""
    address = address_in(submitted(FalProvider, PICTURE, callbacks=ENDPOINT))
    assert address is not None
    assert parse_qs(urlsplit(address).query)["app"] == ["fal-ai/flux"]


def test_fals_direct_calls_have_no_address() -> None:
    """A call that waits for its result is not called back about."""
    wire = Wire()

    async def main() -> None:
        async with wire.client() as client:
            provider = FalProvider(API_KEY, client=client, callbacks=ENDPOINT, sync=True)
            with pytest.raises(ProviderError):
                await provider.submit(PICTURE)

    asyncio.run(main())
    assert address_in(wire) is None


@pytest.mark.parametrize(
    ("request_", "is_called"),
    [
        (replace(PICTURE, model="ray-2", modality=Modality.VIDEO), True),
        (
            GenerationRequest(
                model="ray-2",
                modality=Modality.VIDEO,
                step_type=StepType.UPSCALE,
                params={"generation_id": "g1", "resolution": "4k"},
                idempotency_key=KEY,
            ),
            True,
        ),
        (replace(PICTURE, model="uni-1"), False),
    ],
    ids=["video", "upscale", "successor"],
)
def test_luma_is_told_where_it_can_call(request_: GenerationRequest, is_called: bool) -> None:
    """Dream Machine takes an address with each generation; its successor takes none."""
    wire = submitted(LumaProvider, request_, callbacks=ENDPOINT, agents_api_key=API_KEY)
    assert (address_in(wire) is not None) == is_called


def test_an_address_of_the_callers_own_is_https() -> None:
    """A prediction would travel in the clear otherwise."""
    with pytest.raises(ConfigError, match="https"):
        ReplicateProvider(API_KEY, webhook="http://hooks.example.com")


def read(reader: ReadsCallbacks, headers: Mapping[str, str], body: object) -> Callback:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(reader.read_callback(headers, content, now=NOW))


@pytest.mark.parametrize(
    ("state", "ours"),
    [
        ("dreaming", JobState.RUNNING),
        ("completed", JobState.SUCCEEDED),
        ("failed", JobState.FAILED),
        ("unheard-of", None),
    ],
)
def test_luma_says_what_became_of_a_generation(state: str, ours: JobState | None) -> None:
    """Nothing proves the call but its address; a delivery is known by its body."""
    reader = LumaProvider(callbacks=ENDPOINT)
    assert isinstance(reader, ReadsCallbacks)
    assert not reader.proves_callbacks
    told = {"id": "g1", "state": state, "assets": {"video": "https://example.com/v.mp4"}}
    found = read(reader, {}, told)
    assert (found.vendor, found.job_id, found.state) == ("luma", "g1", ours)
    assert found.submission_key is None
    assert read(reader, {}, told).delivery_id == found.delivery_id
    assert read(reader, {}, {**told, "state": "x"}).delivery_id != found.delivery_id


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": "../x"}', b" " * (2**20 + 1)])
def test_luma_says_nothing_that_can_be_used(body: bytes) -> None:
    """Anybody may post anything to an address; what names no job is refused."""
    with pytest.raises(WebhookError, match="luma"):
        read(LumaProvider(), {}, body)


def test_assemblyai_brings_the_header_it_was_given() -> None:
    """Its value names the submission and proves it, besides the address."""
    kind, request = REQUESTS["assemblyai"]
    body = submitted(kind, request, callbacks=ENDPOINT).body
    headers = {body["webhook_auth_header_name"].title(): body["webhook_auth_header_value"]}
    reader = AssemblyAIProvider(callbacks=ENDPOINT)
    for status, state in (("completed", JobState.SUCCEEDED), ("error", JobState.FAILED)):
        found = read(reader, headers, {"transcript_id": TRANSCRIPT, "status": status})
        assert found == Callback("assemblyai", found.delivery_id, TRANSCRIPT, state, KEY)
    # A receiver that was given its secret in another way checks the address.
    assert not reader.proves_callbacks
    assert read(AssemblyAIProvider(), headers, {"transcript_id": TRANSCRIPT}).submission_key == KEY


@pytest.mark.parametrize(
    "value",
    ["", KEY, f"{KEY}.", f"{KEY}.x", "." + ENDPOINT.token("assemblyai", KEY), "é", "." * 10_000],
)
def test_another_header_of_assemblyais_is_refused(value: str) -> None:
    """A token of another submission, or none, proves nothing."""
    with pytest.raises(WebhookError):
        read(
            AssemblyAIProvider(callbacks=ENDPOINT),
            {CALLBACK_HEADER: value},
            {"transcript_id": TRANSCRIPT, "status": "completed"},
        )


def test_assemblyais_other_calls_are_refused() -> None:
    """A call about redacted audio names no transcript."""
    headers = {CALLBACK_HEADER: f"{KEY}.{ENDPOINT.token('assemblyai', KEY)}"}
    with pytest.raises(WebhookError, match="names no job"):
        read(AssemblyAIProvider(callbacks=ENDPOINT), headers, {"status": "redacted_audio_ready"})


@pytest.mark.parametrize(
    "one", sorted(capabilities(), key=lambda one: one.name), ids=lambda one: one.name
)
def test_what_is_said_of_calls_back_is_what_the_class_does(one: Capability) -> None:
    """The README says of exactly those that read calls that they are called."""
    provider = resolve_provider(one.name)
    assert one.traits.webhooks == isinstance(provider, ReadsCallbacks)
    assert one.names_submission == isinstance(provider, CalledBackProvider)
    assert (one.calls_back == "-") == (not one.traits.webhooks)


@pytest.mark.parametrize("kind", [FalResource, ReplicateResource, LumaResource, AssemblyAIResource])
def test_a_resource_names_the_receiver(kind: type[CalledBackResource]) -> None:
    """Both settings make it, the secret is one to Dagster, and one alone is refused."""
    resource = kind(api_key=API_KEY, callback_url=ENDPOINT.url, callback_secret=ENDPOINT.secret)
    provider = resource.get_provider()
    assert isinstance(provider, CalledBackProvider)
    assert provider.callbacks == ENDPOINT
    assert ENDPOINT.secret not in repr(resource)
    assert ENDPOINT.secret not in repr(provider)
    alone = kind(api_key=API_KEY, callback_url=ENDPOINT.url)
    with pytest.raises(ConfigError, match="callback_secret"):
        alone.get_provider()
    plain = kind(api_key=API_KEY).get_provider()
    assert isinstance(plain, CalledBackProvider)
    assert plain.callbacks is None


def test_a_resource_takes_its_secrets_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With dg.EnvVar the definitions hold names only."""
    monkeypatch.setenv("MY_CALLBACK_SECRET", ENDPOINT.secret)
    resource = FalResource(
        api_key=API_KEY,
        callback_url=ENDPOINT.url,
        callback_secret=dg.EnvVar("MY_CALLBACK_SECRET"),
    )
    assert ENDPOINT.secret not in str(resource)
    with dg.build_resources({"fal": resource}) as built:
        provider = built.fal.get_provider()
    assert provider.callbacks == ENDPOINT


def test_resources_hold_the_secrets_of_signatures() -> None:
    """Of OpenAI's providers only that of videos has calls to check."""
    secret = "whsec_d2ViaG9vayBzZWNyZXQgb2YgMjQgYnl0"
    resource = OpenAIResource(api_key=API_KEY, webhook_secret=secret)
    assert isinstance(resource.provider_named("openai-sora"), SoraProvider)
    assert not isinstance(resource.provider_named("openai-dalle"), ReadsCallbacks)
    replicate = ReplicateResource(api_key=API_KEY, webhook_secret=secret)
    for each, name in ((resource, "openai-sora"), (replicate, "replicate")):
        assert secret not in repr(each)
        assert secret not in repr(each.provider_named(name))
