import base64
import hashlib
import hmac
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from genblaze_dagster.errors import ConfigError, WebhookError
from genblaze_dagster.net.callbacks import CallbackEndpoint
from genblaze_dagster.net.redact import REDACTED, find_secret, redact

SECRET = "a secret of some length"
KEY = "0198c0de-0000-7000-8000-000000000001"
URL = "https://media.example.com/genblaze"


@pytest.fixture(autouse=True)
def _no_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver of the person who runs the tests is not called."""
    for name in ("GENBLAZE_CALLBACK_URL", "GENBLAZE_CALLBACK_SECRET"):
        monkeypatch.delenv(name, raising=False)


def endpoint(url: str = URL, secret: str = SECRET) -> CallbackEndpoint:
    return CallbackEndpoint(url, secret)


def token_of(address: str) -> str:
    (token,) = parse_qs(urlsplit(address).query)["token"]
    return token


def test_an_address_names_vendor_and_submission_and_proves_both() -> None:
    """The token is the HMAC-SHA256 of vendor and key, base64url, behind a mark of its own."""
    address = urlsplit(endpoint().address("fal", KEY))
    assert f"{address.scheme}://{address.netloc}{address.path}" == f"{URL}/fal"
    query = parse_qs(address.query)
    digest = hmac.new(SECRET.encode(), f"fal\n{KEY}".encode(), hashlib.sha256).digest()
    expected = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert query == {"submission": [KEY], "token": [f"gbcb_{expected}"]}
    endpoint().verify("fal", KEY, query["token"][0])


@pytest.mark.parametrize(
    ("vendor", "key", "secret"),
    [
        ("replicate", KEY, SECRET),
        ("fal", KEY + "-1", SECRET),
        ("fal", KEY, SECRET + "!"),
        ("fal", "", SECRET),
    ],
    ids=["vendor", "key", "secret", "no key"],
)
def test_a_token_is_good_for_nothing_else(vendor: str, key: str, secret: str) -> None:
    """Of another vendor, submission or secret it is refused, and not repeated."""
    token = token_of(endpoint().address("fal", KEY))
    with pytest.raises(WebhookError) as caught:
        endpoint(secret=secret).verify(vendor, key, token)
    assert token not in str(caught.value)


@pytest.mark.parametrize("token", ["", "x", "\udcff", "é" * 48, "gbcb_" + "A" * 43, "x" * 100_000])
def test_any_text_is_refused_as_a_token(token: str) -> None:
    """Whatever stands in a query is compared, never an error of another kind."""
    with pytest.raises(WebhookError):
        endpoint().verify("fal", KEY, token)


def test_a_key_may_hold_anything() -> None:
    """A key is quoted in the address and comes back as it was."""
    key = "a b&submission=c/ü?#"
    query = parse_qs(urlsplit(endpoint().address("fal", key)).query)
    assert query["submission"] == [key]
    endpoint().verify("fal", key, query["token"][0])


def test_a_secret_may_be_written_as_those_of_webhooks_are() -> None:
    """Behind whsec_ stands base64 of the key, as in Standard Webhooks."""
    written = "whsec_" + base64.b64encode(SECRET.encode()).decode()
    assert endpoint(secret=written).address("fal", KEY) == endpoint().address("fal", KEY)


@pytest.mark.parametrize(
    "url",
    [
        URL + "/",
        "https://media.example.com",
        "https://media.example.com:8443/a/b",
        "https://media.example.com/~me/v1.2/gen_blaze-x/.../@a+b:(c)",
        "http://127.0.0.1:8000/genblaze",
        "http://localhost:8000",
    ],
)
def test_where_a_receiver_may_be(url: str) -> None:
    """Any https address on any port, and loopback without TLS; a slash at the end is no part."""
    assert endpoint(url).address("fal", KEY).startswith(url.rstrip("/") + "/fal?submission=")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "media.example.com",
        "http://media.example.com",
        "https://",
        "https://10.0.0.1/x",
        "https://user:hunter22@media.example.com",
        "https://media.example.com/?key=hunter22",
        "https://media.example.com/#hunter22",
        "https://media.example.com/a b",
        "https://media.example.com/ü",
        "https://media.example.com/a%20b",
        "https://media.example.com/{vendor}",
        "https://media.example.com/a|b",
        "https://media.example.com/a/../b",
        "https://media.example.com/./b",
        "https://media.example.com:99999",
    ],
)
def test_where_a_receiver_cannot_be(url: str) -> None:
    """What vendors cannot reach, or what holds more than an address, is refused by its setting."""
    with pytest.raises(ConfigError, match=r"GENBLAZE_CALLBACK_URL") as caught:
        endpoint(url)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("secret", ["", "tiny", "whsec_c2hvcnQ=", "whsec_%%%"])
def test_a_weak_secret_is_refused(secret: str) -> None:
    """Less than 16 bytes, or what is no base64, is no secret; the message does not show it."""
    with pytest.raises(ConfigError, match=r"GENBLAZE_CALLBACK_SECRET") as caught:
        endpoint(secret=secret)
    assert not secret or secret not in str(caught.value)


def test_the_environment_names_both_or_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without both variables there is no receiver; with one the other is asked for."""
    assert CallbackEndpoint.from_environment() is None
    monkeypatch.setenv("GENBLAZE_CALLBACK_URL", URL)
    with pytest.raises(ConfigError, match=r"^GENBLAZE_CALLBACK_SECRET is not set"):
        CallbackEndpoint.from_environment()
    monkeypatch.setenv("GENBLAZE_CALLBACK_SECRET", f" {SECRET}\n")
    assert CallbackEndpoint.from_environment() == endpoint()
    monkeypatch.delenv("GENBLAZE_CALLBACK_URL")
    with pytest.raises(ConfigError, match=r"^GENBLAZE_CALLBACK_URL is not set"):
        CallbackEndpoint.from_environment()


def test_an_endpoint_does_not_show_its_secret() -> None:
    """The repr is the URL alone."""
    assert repr(endpoint()) == f"CallbackEndpoint(url='{URL}')"


@pytest.mark.parametrize(
    "written",
    [
        "{}",
        "POST https://queue.fal.run/fal-ai/flux?fal_webhook={quoted}",
        '{{"webhook": "{escaped}"}}',
        "webhook_auth_header_value: {key}.{token}",
        "the token {token} was refused",
        "path/{token}/end",
    ],
)
def test_an_address_never_gets_into_a_log(written: str) -> None:
    """Whole, quoted inside of another URL, escaped in JSON or as a header: its token is taken out."""
    address = endpoint().address("fal", KEY)
    token = token_of(address)
    text = written.format(
        address,
        quoted=quote(address, safe=""),
        escaped=address.replace("&", "\\u0026"),
        key=KEY,
        token=token,
    )
    assert token in text
    cleaned = redact(text)
    assert REDACTED in cleaned
    assert token[5:] not in cleaned
    assert find_secret({"params": [text]}) == "params[0]"


def test_secrets_of_webhooks_never_get_into_a_log() -> None:
    """A whsec_ secret is known by its shape."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert redact(f"bad secret {secret}.") == f"bad secret {REDACTED}."
