"""URLs as schema 1.6 hashes them: the object they name, without the credentials to read it."""

from typing import Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from genblaze_dagster.errors import ManifestError

_CREDENTIALS: Final = frozenset(
    {
        "access_token",
        "authorization",
        "awsaccesskeyid",
        "expires",
        "expires_in",
        "expiry",
        "key-pair-id",
        "response-cache-control",
        "response-content-disposition",
        "response-content-encoding",
        "response-content-language",
        "response-content-type",
        "x-id",
    }
)
_CREDENTIAL_PREFIXES: Final = ("x-amz-", "x-goog-", "x-bz-")
_SAS: Final = frozenset(
    {"se", "sig", "skoid", "sks", "sktid", "skv", "sp", "spr", "sr", "srt", "ss", "st", "sv"}
)

# Names too common to drop anywhere: a marker tells which vendor's signature the query carries.
_BY_MARKER: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(("sv", "se", "sp", "sr", "ss", "srt"), _SAS),
    "key-pair-id": frozenset({"policy", "signature", "expires"}),
    "googleaccessid": frozenset({"googleaccessid", "expires", "signature"}),
    "awsaccesskeyid": frozenset({"signature"}),
}


def strip_credentials(url: str) -> str:
    """Return `url` without user info, fragment and signing parameters, its query sorted.

    Raises:
        ManifestError: `url` is not a URL (broken IPv6 address or port).
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise ManifestError(
            "an asset without a sha256 has a malformed url, so it cannot be identified"
        ) from None
    if ":" in host:
        host = f"[{host}]"
    netloc = host if port is None else f"{host}:{port}"
    query = "&".join(_encoded(pair) for pair in sorted(_kept(parts.query)))
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


def _kept(query: str) -> list[tuple[str, bool, str]]:
    pairs = [
        (unquote(name), bool(equals), unquote(value))
        for name, equals, value in (pair.partition("=") for pair in query.split("&") if pair)
    ]
    names = {name.lower() for name, _, _ in pairs}
    dropped = _CREDENTIALS.union(*(_BY_MARKER[name] for name in names & _BY_MARKER.keys()))
    return [
        pair
        for pair in pairs
        if pair[0].lower() not in dropped and not pair[0].lower().startswith(_CREDENTIAL_PREFIXES)
    ]


def _encoded(pair: tuple[str, bool, str]) -> str:
    name, has_value, value = pair
    name = quote(name, safe="")
    return f"{name}={quote(value, safe='')}" if has_value else name
