"""Timeouts, retries and sizes of a store: one value, picklable, with defaults for production."""

from dataclasses import dataclass
from enum import StrEnum

MIB = 1024 * 1024


class PutMode(StrEnum):
    """What a write does with an object that is there already: replace it, or fail."""

    OVERWRITE = "overwrite"
    CREATE = "create"


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a store talks to its service. Times in seconds, sizes in bytes.

    `read_timeout` starts anew with every piece received. A failed request is repeated
    `max_retries` times with doubling pauses from `backoff` on. Up to `single_put_bytes` an object
    is one request; above it goes up in parts of `part_bytes`, `parts_in_flight` at a time, which
    together bound the memory of one transfer; `large_transfers` such uploads run at a time, the
    others wait. `copy_limit_bytes` is what the service copies in one call (5 GB on S3).

    The body of a single request is hashed into its signature, always. For parts that would be a
    second hash of the same bytes, so `sign_parts` None does it only where nothing else guards them
    on the way: plain http to another machine. TLS and loopback need no more.

    `checksums` None adds x-amz-checksum-sha256, for parts the cheaper CRC-64, on AWS itself, which
    checks and keeps them. Other services answer 400 or ignore them.
    """

    connect_timeout: float = 30.0
    read_timeout: float = 300.0
    max_retries: int = 3
    backoff: float = 0.2
    single_put_bytes: int = 8 * MIB
    part_bytes: int = 8 * MIB
    parts_in_flight: int = 3
    large_transfers: int = 4
    copy_limit_bytes: int = 5_000_000_000
    sign_parts: bool | None = None
    checksums: bool | None = None
