"""What can go wrong, by name, and scenarios made of it: the same seed is always the same scenario."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.crashes import CRASHES, Crash
from tests.faults.invariants import Verdict
from tests.faults.provider import JOB_MODEL, ONE_CALL_MODEL
from tests.faults.simulator import Fault
from tests.faults.world import World

LARGE_BYTES = 150_000

VENDORS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "listing": {"lists": True},
    "deduplicating": {"deduplicates": True},
    "one-call": {},
    "deduplicating one-call": {"deduplicates": True},
}
"""Settings of the vendor. `listing` shows its jobs; `one-call` has none."""

STORES: Mapping[str, Mapping[str, Any]] = {
    "enforcing": {"create_only": "enforced"},
    "ignoring": {"create_only": "ignored"},
    "refusing": {"create_only": "refused"},
    "hiding": {"create_only": "enforced", "hides_missing": True},
}
"""How the store treats If-None-Match (412, ignored, 501), and 403 for what is missing."""

VENDOR_FAULTS: Mapping[str, Sequence[Fault]] = {
    "none": (),
    "slow": (Fault("submit", "slow:0.4"), Fault("poll", "slow:0.4"), Fault("media", "slow:0.4")),
    "dropped before accepting": (Fault("submit", "drop-before"),),
    "dropped after accepting": (Fault("submit", "drop-after"),),
    "answer breaks off": (Fault("submit", "reset-middle"),),
    "answers twice": (Fault("submit", "twice", 2), Fault("poll", "twice")),
    "retried by a proxy": (Fault("submit", "retried"),),
    "error in a 200": (Fault("submit", "error-in-200"),),
    "a web page for an answer": (Fault("submit", "garbage"),),
    "job fails": (Fault("submit", "fails"),),
    "flapping": (Fault("poll", "flapping", 3),),
    "429": (Fault("submit", "status-before:429", 2), Fault("poll", "status-before:429")),
    "500 before": (Fault("submit", "status-before:500"),),
    "500 after": (Fault("submit", "status-after:500"),),
    "502 before": (Fault("submit", "status-before:502"),),
    "502 after": (Fault("submit", "status-after:502"),),
    "503 before": (Fault("submit", "status-before:503"),),
    "503 after": (Fault("submit", "status-after:503"),),
    "polls fail": (Fault("poll", "status-before:503", 2), Fault("poll", "reset-middle")),
    "output late": (Fault("output", "missing"), Fault("output", "status-before:502")),
    "media breaks off": (Fault("media", "reset-middle", 2),),
    "media too long": (Fault("media", "long"),),
    "output expired once": (Fault("output", "expired"),),
    "said to have failed": (Fault("poll", "said-failed"),),
    "media missing once": (Fault("media", "missing"),),
    "media expired once": (Fault("media", "expired"),),
}

STORE_FAULTS: Mapping[str, Sequence[Fault]] = {
    "none": (),
    "slow": (Fault("put", "slow:0.3", 4), Fault("get", "slow:0.3", 2)),
    "503 burst": (Fault("put", "status-before:503", 6), Fault("get", "status-before:503", 2)),
    "500 after": (Fault("put manifest", "status-after:500"), Fault("put ref", "status-after:500")),
    "409": (Fault("put media", "conflict"), Fault("put manifest", "conflict")),
    "412 for a free key": (Fault("put media", "taken"),),
    "reset while sending": (Fault("put media", "reset-body", 2), Fault("part", "reset-body")),
    "reset after writing": (Fault("put", "drop-after", 2), Fault("complete", "drop-after")),
    "reset while reading": (Fault("get", "reset-middle", 2),),
    "truncated": (Fault("get", "truncated", 2),),
}

RECOVERIES = ("again", "elsewhere", "new scope")
"""The same command again; on another machine, when the lease is over; as another run's wish."""

_JOBS_ONLY = tuple(
    name
    for name, faults in VENDOR_FAULTS.items()
    if name == "job fails" or {fault.at for fault in faults} & {"poll", "output", "media"}
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One story: names from the tables above, and when the faults are.

    `faults_first` has them before the crash, which they may keep from happening; else they meet the
    recovery. `second` is where the first recovery is killed, too. `late` lets a request that was held reach its end after its sender was killed.
    """

    seed: int
    crash: str
    vendor: str
    vendor_fault: str
    store: str
    store_fault: str
    recovery: str
    faults_first: bool
    late: bool
    private: bool
    second: str | None = None

    @property
    def name(self) -> str:
        """Short, unique to the seed, and good for a file name."""
        return f"s{self.seed}"

    @property
    def point(self) -> Crash:
        """Where it is killed, if that is a point of every layer.

        Raises:
            KeyError: it is the point of one layer.
        """
        return CRASHES[self.crash]

    def describe(self) -> str:
        """Return what it is, for people."""
        when = "faults first" if self.faults_first else "faults in recovery"
        return (
            f"seed {self.seed}: kill {self.crash!r}; vendor {self.vendor}, {self.vendor_fault}; "
            f"store {self.store}, {self.store_fault}; {when}; recovery {self.recovery}"
            f"{', late' if self.late else ''}{', private' if self.private else ''}"
            f"{f'; a process is killed again {self.second!r}' if self.second else ''}"
        )

    def world(self) -> dict[str, Any]:
        """Return the arguments of `Harness.world`."""
        vendor = dict(VENDORS[self.vendor])
        if self.crash in CRASHES and self.point.is_large:
            vendor["media_bytes"] = LARGE_BYTES
        one_call = self.vendor.endswith("one-call")
        return {
            "vendor": vendor,
            "store": dict(STORES[self.store]),
            "model": ONE_CALL_MODEL if one_call else JOB_MODEL,
            "private": self.private,
            # A third layer of retries, between the policy's and running again.
            "max_retries": self.seed % 3,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a scenario in a layer.

    `reached` says whether the kill hit its point; `recovery_seconds` is from the end of the faults
    until the last partition was settled. `problems` must be empty.
    """

    scenario: Scenario
    layer: str
    reached: bool
    recovery_seconds: float
    verdict: Verdict
    problems: tuple[str, ...] = field(default=())


Layer = Callable[[Scenario, World], Outcome]

LAYERS: dict[str, Layer] = {}
"""Every way a user runs pipelines; a layer's module registers itself."""


def scenario(seed: int, *, crash: str | None = None, recovery: str | None = None) -> Scenario:
    """Return the scenario of a seed; what is given is not drawn."""
    draw = random.Random(seed)  # noqa: S311 - for the same story again, not for secrets
    names = list(CRASHES)
    crash = crash or names[seed % len(names)]
    one_call_possible = crash not in CRASHES or not CRASHES[crash].needs_job
    vendor = draw.choice([v for v in VENDORS if one_call_possible or not v.endswith("one-call")])
    return Scenario(
        seed=seed,
        crash=crash,
        vendor=vendor,
        vendor_fault=draw.choice([fault for fault in VENDOR_FAULTS if _fits(fault, vendor)]),
        store=draw.choice(list(STORES)),
        store_fault=draw.choice(list(STORE_FAULTS)),
        recovery=recovery or draw.choice(RECOVERIES),
        faults_first=draw.random() < 0.4,
        late=draw.random() < 0.4,
        private=draw.random() < 0.25,
        second=draw.choice(names) if draw.random() < 0.3 else None,
    )


def _fits(fault: str, vendor: str) -> bool:
    if fault == "retried by a proxy":
        # Of a vendor that bills both deliveries nobody could recover.
        return vendor.startswith("deduplicating")
    return not (fault in _JOBS_ONLY and vendor.endswith("one-call"))
