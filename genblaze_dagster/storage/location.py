"""Where a store is: its URL, endpoint, region and credentials, from arguments or environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.storage.credentials import (
    AwsConfigCredentials,
    Credentials,
    from_environment,
    given,
)
from genblaze_dagster.storage.keys import join_key
from genblaze_dagster.storage.urls import UrlSpace, aws_endpoint, clean_base

DEFAULT_B2_REGION = "us-west-004"
DEFAULT_S3_REGION = "us-east-1"

_B2_ENDPOINT = re.compile(r"https://s3\.([a-z0-9-]+)\.backblazeb2\.com")
_R2_HOST = ".r2.cloudflarestorage.com"


class Scheme(StrEnum):
    """The kinds of store, by URL scheme."""

    S3 = "s3"
    B2 = "b2"
    FILE = "file"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Location:
    """A bucket, directory or named memory, and the prefix inside it.

    `root` is the bucket name, the absolute directory or the memory's name.
    """

    scheme: Scheme
    root: str
    prefix: str

    @property
    def url(self) -> str:
        """The store's URL in normal form."""
        if self.scheme is Scheme.FILE:
            return Path(self.root, self.prefix).as_uri()
        return f"{self.scheme}://{join_key('', self.root, self.prefix)}"

    @property
    def is_remote(self) -> bool:
        """Whether objects are behind an S3 endpoint."""
        return self.scheme in (Scheme.S3, Scheme.B2)


@dataclass(frozen=True, slots=True)
class S3Access:
    """How to reach and sign for an S3 service; `endpoint` None is AWS, `credentials` None anonymous."""

    endpoint: str | None
    region: str
    credentials: Credentials | None
    verify_tls: bool = True

    @property
    def is_aws(self) -> bool:
        """Whether the service is AWS itself."""
        return self.endpoint is None or ".amazonaws.com" in self.endpoint

    @property
    def is_exposed(self) -> bool:
        """Whether requests leave this machine without TLS."""
        if self.endpoint is None or self.endpoint.startswith("https://"):
            return False
        host = urlsplit(self.endpoint).hostname or ""
        return host not in ("localhost", "::1") and not host.startswith("127.")

    @property
    def display_endpoint(self) -> str:
        """The endpoint as messages name it."""
        return self.endpoint or aws_endpoint(self.region)


def parse_location(url: str) -> Location:
    """Split a store URL.

    Raises:
        ConfigError: unknown scheme, no bucket or directory, or credentials in the URL.
    """
    try:
        # Brackets that hold no IP address make urlsplit itself fail.
        parts = urlsplit(url)
        scheme = Scheme(parts.scheme)
    except ValueError:
        raise ConfigError(
            "store URL must start with s3://, b2://, file:// or memory://; "
            "a directory is written file:///absolute/path"
        ) from None
    if "@" in parts.netloc:
        raise ConfigError(
            f"{scheme}:// store URL must not hold credentials; set variables or pass arguments"
        )
    if scheme is Scheme.FILE:
        return _directory(parts.netloc, parts.path)
    if parts.query or parts.fragment:
        raise ConfigError(f"{scheme}:// store URL must not have a query or fragment")
    root = parts.netloc
    if scheme is Scheme.B2 and not root:
        root = os.environ.get("B2_BUCKET", "")
    if not root:
        hint = "; or set B2_BUCKET" if scheme is Scheme.B2 else ""
        raise ConfigError(f"store URL has no bucket; write {scheme}://bucket/prefix{hint}")
    return Location(scheme, root, join_key("", unquote(parts.path)))


def s3_access(
    scheme: Scheme,
    *,
    endpoint_url: str | None,
    region: str | None,
    access_key_id: str | None,
    secret_access_key: str | None,
    session_token: str | None,
    resource: object | None,
) -> S3Access:
    """Resolve endpoint, region and credentials: arguments, then the S3 resource, then environment.

    `resource` is a dagster-aws S3Resource, looked at by attribute so that nothing imports it.

    Raises:
        ConfigError: a half of a key pair or a needed B2 variable is missing, or a URL is unusable.
    """
    settings = _resource_settings(resource)
    arguments = given(
        access_key_id,
        secret_access_key,
        session_token,
        names=("access_key_id", "secret_access_key"),
    )
    endpoint = endpoint_url or _text(settings, "endpoint_url")
    wanted_region = region or _text(settings, "region_name")
    if scheme is Scheme.B2:
        wanted_region = wanted_region or os.environ.get("B2_REGION") or DEFAULT_B2_REGION
        endpoint = endpoint or os.environ.get("B2_ENDPOINT_URL")
        endpoint = endpoint or f"https://s3.{wanted_region}.backblazeb2.com"
    else:
        endpoint = endpoint or _environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        wanted_region = wanted_region or _environment("AWS_REGION", "AWS_DEFAULT_REGION")
    if endpoint is not None:
        endpoint = clean_base(endpoint, "endpoint_url")
    elif settings.get("use_ssl") is False:
        raise ConfigError("use_ssl=False needs endpoint_url; give the http:// endpoint itself")
    credentials = arguments or _credentials(scheme, settings)
    return S3Access(
        endpoint=endpoint,
        region=wanted_region or _region_of(endpoint, credentials),
        credentials=credentials,
        verify_tls=settings.get("verify") is not False,
    )


def url_space(location: Location, access: S3Access | None, public_url_base: str | None) -> UrlSpace:
    """Return the space of durable URLs of a store.

    Raises:
        ConfigError: `public_url_base` is not a plain http(s) URL.
    """
    public = clean_base(public_url_base, "public_url_base") if public_url_base else None
    if access is None:
        bare = Location(location.scheme, location.root, "")
        return UrlSpace(bare.url, public)
    endpoint = access.endpoint or aws_endpoint(access.region)
    return UrlSpace(f"{endpoint}/{location.root}", public)


def _directory(host: str, path: str) -> Location:
    directory = url2pathname(path)
    if host not in ("", "localhost") or not os.path.isabs(directory):
        raise ConfigError("file:// store URL needs an absolute path: file:///absolute/path")
    return Location(Scheme.FILE, os.path.normpath(directory), "")


def _credentials(scheme: Scheme, settings: Mapping[str, object]) -> Credentials | None:
    if settings.get("use_unsigned_session") is True:
        return None
    profile = _text(settings, "profile_name")
    configured = given(
        _text(settings, "aws_access_key_id"),
        _text(settings, "aws_secret_access_key"),
        _text(settings, "aws_session_token"),
        names=("aws_access_key_id", "aws_secret_access_key"),
    )
    if configured is not None:
        return configured
    if profile is not None:
        return AwsConfigCredentials(profile)
    if scheme is Scheme.B2:
        found = from_environment("B2_KEY_ID", "B2_APP_KEY")
        if found is None:
            raise ConfigError(
                "Backblaze B2 needs an application key; set B2_KEY_ID and B2_APP_KEY, "
                "or pass access_key_id and secret_access_key"
            )
        return found
    return from_environment("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") or AwsConfigCredentials()


def _resource_settings(resource: object | None) -> dict[str, object]:
    names = (
        "endpoint_url",
        "region_name",
        "profile_name",
        "use_ssl",
        "verify",
        "use_unsigned_session",
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
    )
    return {} if resource is None else {name: getattr(resource, name, None) for name in names}


def _text(settings: Mapping[str, object], name: str) -> str | None:
    value = settings.get(name)
    return value if isinstance(value, str) and value else None


def _environment(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _region_of(endpoint: str | None, credentials: Credentials | None) -> str:
    if endpoint is not None:
        if match := _B2_ENDPOINT.fullmatch(endpoint):
            return match[1]
        if endpoint.endswith(_R2_HOST):
            return "auto"
    configured = credentials.region() if isinstance(credentials, AwsConfigCredentials) else None
    return configured or DEFAULT_S3_REGION
