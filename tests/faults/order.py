"""What a worker process is told to do: plain data, passed as JSON or in the environment."""

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any, Self

ENVIRONMENT = "GENBLAZE_FAULTS_ORDER"

STEP = "picture"
PIPELINE = "faults"
ASSET_KEY = f"{PIPELINE}/{STEP}"
PRIVATE_MARK = "pr1vate-w0rds"
PROMPT = "a {subject} by the sea"
CALLBACK_SECRET = "of the harness, for callbacks"
PRIVATE_PROMPT = f"{PRIVATE_MARK} about {{subject}}"


@dataclass(frozen=True, slots=True)
class Park:
    """Where a worker of the harness stops: a point of `tests.faults.parking`, and for whom.

    `partition` None means: whoever comes first. It stops for `seconds`, by default until it is
    killed, or until there is a file `until`, and goes on then.
    """

    point: str
    partition: str | None = None
    seconds: float = 3600.0
    until: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """Everything a worker needs: where the world is, and what is to be made in it.

    Times are seconds, prices USD; `answer_timeout` is that of one request. `machine` is the host name the worker believes to be on.
    """

    vendor_url: str
    tls_port: int
    certificate: str
    api_key: str
    store_url: str
    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    ledger_url: str
    partitions: tuple[str, ...]
    scope: str
    model: str = "job"
    price: float = 0.04
    deduplicates: bool = False
    lists: bool = False
    callback_url: str | None = None
    private: bool = False
    index: bool = True
    max_retries: int = 0
    lease_seconds: float = 1.0
    timeout: float = 20.0
    answer_timeout: float = 5.0
    budget_usd: float | None = None
    on_ambiguous: str = "hold"
    machine: str | None = None
    park: Park | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def dumps(self) -> str:
        """Return the JSON form."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Self:
        """Read the JSON form."""
        fields = json.loads(text)
        fields["partitions"] = tuple(fields["partitions"])
        fields["park"] = Park(**fields["park"]) if fields["park"] else None
        return cls(**fields)

    @classmethod
    def from_environment(cls) -> Self:
        """Read it where a parent process has put it."""
        return cls.loads(os.environ[ENVIRONMENT])
