import asyncio
from collections.abc import Sequence

import pytest

from genblaze_dagster.errors import ProviderUnavailableError, UnsafeUrlError
from genblaze_dagster.net.ssrf import (
    PUBLIC_HTTPS,
    Target,
    UrlPolicy,
    blocked_reason,
    check_text,
    check_url,
)

BLOCKED = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.8",
    "192.0.0.9",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:224.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "not an address",
    "",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "192.0.1.1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:82a::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", BLOCKED)
def test_addresses_that_are_not_public_are_blocked(address: str) -> None:
    """Private, reserved, multicast, tunnelled and embedded internal addresses are refused."""
    assert blocked_reason(address) is not None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    """Public addresses pass, also inside IPv4-mapped and NAT64 ones."""
    assert blocked_reason(address) is None


REFUSED_URLS = [
    "http://example.com/x",
    "ftp://example.com/x",
    "file:///etc/passwd",
    "//example.com/x",
    "example.com/x",
    "",
    "https://",
    "https:///x",
    "https://user@example.com/x",
    "https://user:pw@example.com/x",
    "https://:@127.0.0.1/x",
    "https://example.com:80/x",
    "https://example.com:8443/x",
    "https://example.com:22/x",
    "https://localhost/x",
    "https://LOCALHOST/x",
    "https://localhost./x",
    "https://metadata.localhost/x",
    "https://metadata.localhost./x",
    "https://127.0.0.1/x",
    "https://127.0.0.1./x",
    "https://2130706433/x",
    "https://0x7f000001/x",
    "https://0x7f.0.0.1/x",
    "https://0177.0.0.1/x",
    "https://127.1/x",
    "https://169.254.169.254/latest/meta-data",
    "https://[::1]/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://[fe80::1%25eth0]/x",
    "https://[64:ff9b::7f00:1]/x",
    "https://\uff11\uff12\uff17.0.0.1/x",
    "https://exam ple.com/x",
    "https://example.com:99999/x",
    "https://./x",
    "https://../x",
]


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_urls_are_refused_by_their_text(url: str) -> None:
    """Scheme, user info, port, local names and every spelling of an address are judged early."""
    with pytest.raises(UnsafeUrlError):
        check_text(url)


def test_the_refusal_does_not_repeat_credentials() -> None:
    """Neither the password nor the query of a refused URL is in the message."""
    with pytest.raises(UnsafeUrlError) as caught:
        check_text("https://user:pa55word@example.com/x?X-Amz-Signature=abcdef")
    assert "pa55word" not in str(caught.value)
    assert "abcdef" not in str(caught.value)


def test_a_public_https_url_passes() -> None:
    """An ordinary URL gives its target; international names are encoded."""
    assert check_text("https://Example.com/x?y#z") == Target("https", "example.com", 443)
    assert check_text("https://bücher.example/x").host == "xn--bcher-kva.example"
    assert check_text("https://8.8.8.8/x").host == "8.8.8.8"


def test_ports_are_configurable() -> None:
    """A further port is allowed when the policy names it."""
    policy = UrlPolicy(ports=frozenset({443, 8443}))
    assert check_text("https://example.com:8443/x", policy).port == 8443
    with pytest.raises(UnsafeUrlError, match="allowed: 443, 8443"):
        check_text("https://example.com:80/x", policy)


def test_the_test_seam_admits_loopback_only() -> None:
    """`allow_loopback` admits http and any port on loopback, and nothing else that is private."""
    policy = UrlPolicy(allow_loopback=True)
    for url in ("http://127.0.0.1:1234/x", "http://localhost:1/x", "https://[::1]:9/x"):
        check_text(url, policy)
    for url in ("http://example.com/x", "https://10.0.0.1/x", "https://example.com:1/x"):
        with pytest.raises(UnsafeUrlError):
            check_text(url, policy)
    assert PUBLIC_HTTPS.allow_loopback is False


def answering(*addresses: str):
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


def test_a_name_is_refused_when_any_of_its_addresses_is() -> None:
    """One internal address among public ones is enough; the message does not repeat it."""
    asyncio.run(check_url("https://a.example/x", resolve=answering("8.8.8.8")))
    for bad in ("10.0.0.1", "::1", "169.254.169.254"):
        with pytest.raises(UnsafeUrlError) as caught:
            asyncio.run(check_url("https://a.example/x", resolve=answering("8.8.8.8", bad)))
        assert bad not in str(caught.value)


def test_a_name_without_address_is_not_unsafe_but_unavailable() -> None:
    """A name that does not resolve is a transient failure, and nothing was sent."""

    async def fail(host: str, port: int) -> Sequence[str]:
        raise OSError("no such host")

    for resolve in (fail, answering()):
        with pytest.raises(ProviderUnavailableError) as caught:
            asyncio.run(check_url("https://a.example/x", resolve=resolve))
        assert caught.value.sent is False


def test_the_system_resolver_is_used_by_default() -> None:
    """Numeric and local names go through the resolver of the system."""
    asyncio.run(check_url("http://localhost:1/x", allow_loopback=True))
    with pytest.raises(UnsafeUrlError):
        asyncio.run(check_url("https://127.0.0.1/x"))
    with pytest.raises((UnsafeUrlError, ProviderUnavailableError)):
        asyncio.run(check_url(f"https://{'a' * 64}.example/x"))
