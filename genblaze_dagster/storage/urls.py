"""Durable, public and presigned URLs of stored objects."""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import SplitResult, quote, unquote, urlsplit

from genblaze_dagster.errors import ConfigError

MAX_PRESIGN_SECONDS = 7 * 24 * 3600

_B2_HOST = re.compile(r"s3\.[a-z0-9-]+\.backblazeb2\.com")
_SECRET_PARAMETER = re.compile(
    r"(?i)\b(X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|Signature|AWSAccessKeyId)=[^&]*"
)


class URLPolicy(StrEnum):
    """Which URL of an object is handed out: AUTO takes the public one when there is a base."""

    AUTO = "auto"
    PUBLIC = "public"
    PRESIGNED = "presigned"


@dataclass(frozen=True, slots=True, repr=False)
class PresignedURL:
    """A URL that carries its own permission. Only `.url` holds the signature; text forms hide it.

    `method` is GET or PUT, `expires_in` the seconds it is valid, `headers` what the client should
    send with it.
    """

    url: str
    method: str
    expires_in: int
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return _SECRET_PARAMETER.sub(r"\1=[REDACTED]", self.url)

    def __repr__(self) -> str:
        return f"PresignedURL({str(self)!r}, method={self.method!r}, expires_in={self.expires_in})"


@dataclass(frozen=True, slots=True)
class UrlSpace:
    """The durable URLs of one bucket or directory: `base` + `/` + quoted object key.

    `base` is the service's own form, `public_base` the one handed out instead when set.
    """

    base: str
    public_base: str | None = None

    def durable_url(self, object_key: str) -> str:
        """Return the URL under which the object stays; it holds no credentials."""
        return f"{self.public_base or self.base}/{quote(object_key, safe='/')}"

    def object_key(self, url: str) -> str | None:
        """Return the object key of a URL of this space, None for any other; no network."""
        for base in (self.public_base, self.base):
            if base and (key := _key_below(base, url)) is not None:
                return key
        return None


def aws_endpoint(region: str) -> str:
    """Return the endpoint of AWS durable URLs: the classic global name for us-east-1."""
    if region == "us-east-1":
        return "https://s3.amazonaws.com"
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://s3.{region}.{suffix}"


def clean_base(url: str, name: str) -> str:
    """Return an endpoint or public base without its trailing slash.

    Raises:
        ConfigError: it is not a plain http(s) URL, or carries credentials or a query.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{name} must be an http:// or https:// URL with a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"{name} must not hold credentials, a query or a fragment; pass keys apart"
        )
    return url.rstrip("/")


def _key_below(base: str, url: str) -> str | None:
    ours, theirs = urlsplit(base), urlsplit(url)
    if not _same_service(ours, theirs):
        return None
    folder = unquote(ours.path) + "/"
    path = unquote(theirs.path)
    key = path.removeprefix(folder)
    if key == path or not key or any(segment in (".", "..") for segment in key.split("/")):
        return None
    return key


def _same_service(ours: SplitResult, theirs: SplitResult) -> bool:
    if {ours.scheme, theirs.scheme} - {"http", "https"} and ours.scheme != theirs.scheme:
        return False
    here, there = ours.netloc.lower(), theirs.netloc.lower()
    # A B2 bucket keeps its name when the endpoint's region was guessed wrong.
    return here == there or bool(_B2_HOST.fullmatch(here) and _B2_HOST.fullmatch(there))
