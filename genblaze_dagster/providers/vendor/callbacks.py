"""Vendors' calls back: what is taken from a call, and what has to prove it first.

A call is a hint. Its signature is checked over the bytes that came, its ids and its state are kept,
and nothing else of it: whoever receives it asks the vendor for the truth. `Delivery` has the checks
that vendors share, among them the Standard Webhooks signature
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, Self, cast, runtime_checkable

import orjson

from genblaze_dagster.errors import WebhookError
from genblaze_dagster.net.webhooks import sign, signing_key
from genblaze_dagster.providers.protocol import JobState

MAX_BODY_BYTES: Final = 1024 * 1024
TOLERANCE: Final = timedelta(minutes=5)
"""How far a call's timestamp may be from now, either way."""

_MOST_SIGNATURES = 16
_SECONDS = re.compile(r"\d{1,12}", re.ASCII)
_DELIVERY_ID = re.compile(r"[\x21-\x7e]{1,200}")
_JOB_ID = re.compile(r"[A-Za-z0-9][\w.:-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Callback:
    """What is taken from a vendor's call.

    `delivery_id` is the same when the vendor calls again about the same thing. `state` is None when
    the call does not tell one we know. `submission_key` is set only when the call itself proves it;
    else the address that was called does.
    """

    vendor: str
    delivery_id: str
    job_id: str
    state: JobState | None
    submission_key: str | None = None


@runtime_checkable
class ReadsCallbacks(Protocol):
    """A provider that understands its vendor's calls."""

    proves_callbacks: bool
    """Whether `read_callback` by itself proves who called. Otherwise only the token of the address
    does, and a call without a valid one must be refused."""

    async def read_callback(
        self,
        headers: Mapping[str, str],
        body: bytes,
        *,
        now: datetime,
        query: Mapping[str, str] | None = None,
    ) -> Callback:
        """Check a call and return what it tells.

        Args:
            headers: names in any case.
            body: the bytes as they came.
            now: the time, with a zone.
            query: parameters of the address that was called. Some vendors' job ids are known only
                with what we wrote there (`app` of fal's), so pass them.

        Raises:
            WebhookError: a bad signature, too old, too large or malformed. `transient` when it
                could not be checked just now: the vendor should call again.
            ConfigError: what it would be checked with is not configured here, or not installed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """One call of a vendor, as it came: small enough, with header names in lower case."""

    vendor: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    query: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(
        cls, vendor: str, headers: Mapping[str, str], body: bytes, query: Mapping[str, str]
    ) -> Self:
        """Return it.

        Raises:
            WebhookError: the body is larger than 1 MiB.
        """
        lowered = {name.lower(): value for name, value in headers.items()}
        made = cls(vendor, lowered, body, query)
        if len(body) > MAX_BODY_BYTES:
            raise made.refused(f"the body is larger than {MAX_BODY_BYTES} bytes; nothing was read")
        return made

    def refused(self, fact: str, *, transient: bool = False) -> WebhookError:
        """Return the error for a call that is not believed; the fact holds nothing of the call."""
        return WebhookError(f"callback from {self.vendor}: {fact}", transient=transient)

    def header(self, name: str) -> str:
        """Return a header that must be there.

        Raises:
            WebhookError: it is not.
        """
        value = self.headers.get(name)
        if not value:
            raise self.refused(f"no header {name}; such a call does not come from {self.vendor}")
        return value

    def delivery_id(self, name: str) -> str:
        """Return the delivery id of a header.

        Raises:
            WebhookError: it is missing or not usable as one.
        """
        value = self.header(name)
        if _DELIVERY_ID.fullmatch(value) is None:
            raise self.refused(f"the header {name} is no id")
        return value

    def check_time(self, timestamp: str, now: datetime) -> None:
        """Refuse what was sent too long ago: it may be a recording of an earlier call.

        Args:
            timestamp: seconds since 1970, as text.
            now: the time, with a zone.

        Raises:
            WebhookError: too old, too new, or no time at all.
        """
        is_time = _SECONDS.fullmatch(timestamp) is not None
        age = abs(now.timestamp() - int(timestamp)) if is_time else None
        if age is None or age > TOLERANCE.total_seconds():
            raise self.refused(
                f"its time is not within {TOLERANCE.total_seconds():g} s of ours; check this "
                "machine's clock, or somebody replays an old call"
            )

    def is_signed(self, key: bytes) -> bool:
        """Whether the call has a Standard Webhooks signature of this key.

        Raises:
            WebhookError: headers are missing or malformed.
        """
        expected = sign(
            key,
            delivery_id=self.delivery_id("webhook-id"),
            timestamp=self.header("webhook-timestamp"),
            body=self.body,
        )
        given = self.header("webhook-signature").split()[:_MOST_SIGNATURES]
        wanted = expected.encode()
        return any([hmac.compare_digest(wanted, each.encode(errors="replace")) for each in given])

    def forged(self) -> WebhookError:
        """Return the error for a signature of another key, or over another body."""
        return self.refused(
            f"the signature is not one of {self.vendor}'s over this body; check the webhook "
            "secret, and that nothing between changes the body"
        )

    def document(self) -> dict[str, Any]:
        """Return the JSON object of the body.

        Raises:
            WebhookError: it is none.
        """
        try:
            found = orjson.loads(self.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self.refused("the body is no JSON object")
        return cast(dict[str, Any], found)

    def callback(
        self,
        job_id: object,
        state: JobState | None,
        *,
        delivery_id: str | None = None,
        submission_key: str | None = None,
        folder: str = "",
    ) -> Callback:
        """Return what is taken from the call.

        Args:
            job_id: what the body says.
            state: of the job.
            delivery_id: the vendor's; the body's digest when there is none.
            submission_key: when the call itself proves it.
            folder: what stands before the id in the ledger's job ids.

        Raises:
            WebhookError: the job id can be none.
        """
        if not isinstance(job_id, str) or _JOB_ID.fullmatch(job_id) is None:
            raise self.refused("the body names no job")
        made = delivery_id or hashlib.sha256(self.body).hexdigest()
        return Callback(self.vendor, made, folder + job_id, state, submission_key)


def webhook_key(given: str | None, variable: str) -> bytes | None:
    """Return the key of a webhook secret, the given one or the environment's; None without one.

    Raises:
        ConfigError: it is too short, or not base64; names the variable.
    """
    secret = (given or os.environ.get(variable) or "").strip()
    return signing_key(secret, named=f"webhook_secret ({variable})") if secret else None
