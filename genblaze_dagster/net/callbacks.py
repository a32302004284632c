"""Where vendors call us back when a job is over, and what proves which submission a call is about.

Every submission has an address of its own: its key, and a token that only this deployment can make.
A vendor that signs nothing is believed for the token alone, so an address is a secret like a key:
it goes to the vendor and nowhere else.
"""

import base64
import hashlib
import hmac
import os
import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlencode, urlsplit

from genblaze_dagster.errors import ConfigError, UnsafeUrlError, WebhookError
from genblaze_dagster.net.redact import strip_url
from genblaze_dagster.net.ssrf import UrlPolicy, check_text
from genblaze_dagster.net.webhooks import signing_key

URL_VARIABLE: Final = "GENBLAZE_CALLBACK_URL"
SECRET_VARIABLE: Final = "GENBLAZE_CALLBACK_SECRET"  # noqa: S105 - the name of a secret, not one
SUBMISSION: Final = "submission"
"""Query parameter of an address with the key of its submission."""
TOKEN: Final = "token"  # noqa: S105 - the name of a parameter
"""Query parameter of an address with the proof that it is ours."""

# Tells a token by its shape, wherever and however encoded it turns up; see `net.redact`.
_MARK = "gbcb_"
# Vendors, proxies and servers escape, decode and shorten other paths, each in its own way, and a
# call would not arrive.
_PLAIN = re.compile(r"[A-Za-z]+://[\w.:\[\]-]+(/(?!\.{1,2}(/|$))[\w.~!$&'()*+,;=:@-]*)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class CallbackEndpoint:
    """The receiver of vendors' calls, and the secret that its addresses are made with.

    Args:
        url: where it is reached from outside, such as `https://media.example.com/genblaze`, with a
            path that nobody has to escape; http for loopback only.
        secret: makes the tokens; `whsec_` and base64, or any text of 16 bytes or more. The same
            wherever generations are submitted and calls are received.

    Raises:
        ConfigError: either cannot be used.
    """

    url: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _checked(self.url))
        self._key()

    @classmethod
    def from_environment(cls) -> Self | None:
        """Return the one that GENBLAZE_CALLBACK_URL and GENBLAZE_CALLBACK_SECRET name, if any.

        Raises:
            ConfigError: only one of them is set, or one cannot be used.
        """
        url, secret = (os.environ.get(name, "").strip() for name in (URL_VARIABLE, SECRET_VARIABLE))
        if not url and not secret:
            return None
        if not url or not secret:
            there, missing = (URL_VARIABLE, SECRET_VARIABLE)[:: 1 if url else -1]
            raise ConfigError(f"{missing} is not set, but {there} is; set both, or neither")
        return cls(url, secret)

    def address(self, vendor: str, key: str) -> str:
        """Return where a vendor calls about one submission; a secret.

        Args:
            vendor: as in the catalogue: `fal`, `replicate`, ...
            key: the request's `idempotency_key`.
        """
        query = urlencode({SUBMISSION: key, TOKEN: self.token(vendor, key)})
        return f"{self.url}/{vendor}?{query}"

    def token(self, vendor: str, key: str) -> str:
        """Return the proof that an address, or a header, with this key is ours; a secret."""
        about = f"{vendor}\n{key}".encode("utf-8", "surrogatepass")
        digest = hmac.digest(self._key(), about, hashlib.sha256)
        return _MARK + base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def verify(self, vendor: str, key: str, token: str) -> None:
        """Check that an address which was called is one of ours.

        Raises:
            WebhookError: the token was made for another vendor, key or secret.
        """
        given = token.encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(self.token(vendor, key).encode(), given):
            raise WebhookError(
                "callback: its address was not made here, or with another secret; check "
                f"{SECRET_VARIABLE} where generations are submitted and where calls are received"
            )

    def _key(self) -> bytes:
        return signing_key(self.secret, named=f"CallbackEndpoint.secret ({SECRET_VARIABLE})")


def _checked(url: str) -> str:
    """Return a base URL without slashes at its end."""
    subject = f"CallbackEndpoint.url ({URL_VARIABLE})"
    try:
        parts = urlsplit(url)
        port = parts.port
        check_text(url, UrlPolicy(frozenset({port or 443}), allow_loopback=True))
    except UnsafeUrlError as exc:
        raise ConfigError(f"{subject}: {exc}; vendors call it over the internet") from None
    except ValueError:
        raise ConfigError(f"{subject}: not a valid URL") from None
    if _PLAIN.fullmatch(url) is None:
        raise ConfigError(
            f"{subject}: {strip_url(url)} has a query, a fragment, a part . or .., or characters "
            "that do not stand for themselves in a path; give https://host/path with letters, "
            "digits, dots and hyphens"
        )
    return url.rstrip("/")
