"""Which URLs this process may contact on behalf of someone else.

Downloads, redirects, webhooks and inputs by URL come from vendors and users. They may only reach
public addresses over https. `net.guarded` applies the address rules again at the moment of
connecting, so a name that resolves differently the second time gains nothing.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)

import httpx

from genblaze_dagster.errors import ProviderUnavailableError, UnsafeUrlError
from genblaze_dagster.net.redact import strip_url

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host name and port to IP addresses in text form; raises OSError when there are none."""

# IANA special-purpose registries, besides loopback, link-local and multicast, which are told
# apart below. `is_global` knows most of them, but which depends on the Python release.
_BLOCKED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",
    )
)
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
# Inside global unicast: IETF protocols with Teredo and ORCHID, documentation, 6to4.
_BLOCKED_V6 = tuple(
    IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
_NAT64 = IPv6Network("64:ff9b::/96")
_V4_COMPATIBLE = IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """What a guarded request may reach.

    `ports` are the TCP ports allowed. `allow_loopback` is for tests and development servers: it
    also admits loopback addresses, there on any port and over plain http.
    """

    ports: frozenset[int] = frozenset({443})
    allow_loopback: bool = False


PUBLIC_HTTPS = UrlPolicy()


@dataclass(frozen=True, slots=True)
class Target:
    """Scheme, ASCII host and port of a URL that passed the rules about its text."""

    scheme: str
    host: str
    port: int


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """Return the addresses the system resolver gives, in its order.

    Raises:
        OSError: the name does not resolve.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def check_url(
    url: str,
    *,
    allow_loopback: bool = False,
    ports: frozenset[int] = PUBLIC_HTTPS.ports,
    resolve: Resolver = resolve_host,
) -> None:
    """Refuse a URL that is not https to a public address; resolves its host once.

    Raises:
        UnsafeUrlError: the URL, or any address its host resolves to, is refused.
        ProviderUnavailableError: the host does not resolve.
    """
    policy = UrlPolicy(ports=ports, allow_loopback=allow_loopback)
    target = check_text(url, policy)
    try:
        await allowed_addresses(target.host, target.port, policy, resolve)
    except OSError as exc:
        raise ProviderUnavailableError(
            f"{strip_url(url)}: the host does not resolve; check its spelling and DNS", sent=False
        ) from exc


def check_text(url: str | httpx.URL, policy: UrlPolicy = PUBLIC_HTTPS) -> Target:
    """Apply every rule that needs no network, and return where the URL leads.

    Raises:
        UnsafeUrlError: scheme, user info, host, port or a literal address is refused.
    """
    shown = strip_url(str(url))
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii").lower()
    except (httpx.InvalidURL, UnicodeError, ValueError) as exc:
        raise UnsafeUrlError(f"{shown}: not a valid URL") from exc
    if not host or "%" in host:
        raise UnsafeUrlError(f"{shown}: a host name or address without a zone is required")
    if parsed.userinfo:
        raise UnsafeUrlError(f"{shown}: user name or password in a URL; pass them as headers")
    loopback = policy.allow_loopback and _names_loopback(host)
    if parsed.scheme != "https" and not (loopback and parsed.scheme == "http"):
        raise UnsafeUrlError(f"{shown}: only https is allowed")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    if port not in policy.ports and not loopback:
        allowed = ", ".join(map(str, sorted(policy.ports)))
        raise UnsafeUrlError(f"{shown}: port {port} is not allowed; allowed: {allowed}")
    if not loopback:
        _refuse_local_name(host, shown)
    return Target(parsed.scheme, host, port)


async def allowed_addresses(
    host: str, port: int, policy: UrlPolicy, resolve: Resolver = resolve_host
) -> Sequence[str]:
    """Resolve a host once and return its addresses when all of them may be contacted.

    Raises:
        UnsafeUrlError: at least one address is refused.
        OSError: the host does not resolve.
    """
    try:
        addresses = await resolve(host, port)
    except UnicodeError as exc:
        raise UnsafeUrlError(f"{host}: not a valid host name") from exc
    if not addresses:
        raise OSError(f"{host} has no address")
    for address in addresses:
        reason = blocked_reason(address)
        if reason is not None and not (policy.allow_loopback and reason == "loopback"):
            # The address stays out of the message: it would map an internal network.
            raise UnsafeUrlError(f"{host}: resolves to a {reason} address; only public ones")
    return addresses


def blocked_reason(address: str) -> str | None:
    """Return why an IP address must not be contacted (`loopback`, ...), None when it may.

    Addresses that carry an IPv4 address inside (mapped, compatible, NAT64) are judged by it;
    tunnels whose exit cannot be known (6to4, Teredo) are refused.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return "malformed"
    return _blocked_v4(ip) if isinstance(ip, IPv4Address) else _blocked_v6(ip)


def _blocked_v4(ip: IPv4Address) -> str | None:
    if ip.is_loopback:
        return "loopback"
    if ip.is_link_local:
        return "link-local"
    if ip.is_multicast:
        return "multicast"
    if not ip.is_global or any(ip in network for network in _BLOCKED_V4):
        return "private or reserved"
    return None


def _blocked_v6(ip: IPv6Address) -> str | None:
    if ip.is_loopback:
        return "loopback"
    if ip.is_link_local or ip.is_site_local:
        return "link-local"
    if ip.is_multicast:
        return "multicast"
    if ip.ipv4_mapped is not None:
        return _blocked_v4(ip.ipv4_mapped)
    if ip in _NAT64 or ip in _V4_COMPATIBLE:
        return _blocked_v4(IPv4Address(int(ip) & 0xFFFFFFFF))
    if ip not in _GLOBAL_UNICAST_V6 or any(ip in network for network in _BLOCKED_V6):
        return "private or reserved"
    return None if ip.is_global else "private or reserved"


def _refuse_local_name(host: str, shown: str) -> None:
    name = host.rstrip(".")
    if not name or name == "localhost" or name.endswith(".localhost"):
        raise UnsafeUrlError(f"{shown}: local host names are not allowed")
    reason = _literal_reason(name)
    if reason is not None:
        raise UnsafeUrlError(f"{shown}: a {reason} address; only public ones are allowed")


def _names_loopback(host: str) -> bool:
    name = host.rstrip(".")
    return name == "localhost" or name.endswith(".localhost") or _literal_reason(name) == "loopback"


def _literal_reason(name: str) -> str | None:
    """Judge a host that is an address, in any spelling the C library would accept."""
    try:
        return blocked_reason(str(ip_address(name)))
    except ValueError:
        pass
    try:
        # Decimal, octal, hexadecimal and shortened IPv4: 2130706433, 0177.1, 0x7f.0.0.1.
        return blocked_reason(socket.inet_ntoa(socket.inet_aton(name)))
    except (OSError, UnicodeError):
        return None
