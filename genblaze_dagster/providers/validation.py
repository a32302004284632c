"""Is there such a model? The possible answers, and who gave them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Self


class ValidationOutcome(StrEnum):
    """How sure one can be that a model exists. Only NOT_FOUND is a reason to stop."""

    OK_AUTHORITATIVE = "ok_authoritative"
    OK_PROVISIONAL = "ok_provisional"
    UNKNOWN_PERMISSIVE = "unknown_permissive"
    NOT_FOUND = "not_found"


class ValidationSource(StrEnum):
    """Who says so: the user's registry, the vendor's list, a probe, a family's pattern, nobody."""

    USER = "user"
    DISCOVERY = "discovery"
    PROBE = "probe"
    FAMILY = "family"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The answer about one model; `suggested_slugs` are close names that do exist."""

    outcome: ValidationOutcome
    source: ValidationSource
    family_name: str | None = None
    detail: str | None = None
    suggested_slugs: tuple[str, ...] = ()

    @classmethod
    def ok_authoritative(
        cls,
        source: ValidationSource,
        *,
        family_name: str | None = None,
        detail: str | None = None,
    ) -> Self:
        """Somebody who knows says that the model exists."""
        return cls(ValidationOutcome.OK_AUTHORITATIVE, source, family_name, detail)

    @classmethod
    def ok_provisional(cls, *, family_name: str, detail: str | None = None) -> Self:
        """The name looks like those of a family."""
        return cls(ValidationOutcome.OK_PROVISIONAL, ValidationSource.FAMILY, family_name, detail)

    @classmethod
    def unknown_permissive(cls, *, detail: str | None = None) -> Self:
        """Nobody knows the model; the vendor will."""
        return cls(ValidationOutcome.UNKNOWN_PERMISSIVE, ValidationSource.FALLBACK, detail=detail)

    @classmethod
    def not_found(
        cls,
        source: ValidationSource,
        *,
        family_name: str | None = None,
        detail: str | None = None,
        suggested_slugs: tuple[str, ...] = (),
    ) -> Self:
        """Somebody who knows says that there is no such model."""
        return cls(ValidationOutcome.NOT_FOUND, source, family_name, detail, suggested_slugs)

    @property
    def is_ok(self) -> bool:
        """Whether somebody vouches for the model."""
        return self.outcome in (
            ValidationOutcome.OK_AUTHORITATIVE,
            ValidationOutcome.OK_PROVISIONAL,
        )

    @property
    def is_terminal_failure(self) -> bool:
        """Whether there is no point in asking the vendor."""
        return self.outcome is ValidationOutcome.NOT_FOUND


class LiveProbeResult(StrEnum):
    """What asking the vendor about one model gave."""

    LIVE = "live"
    DEAD = "dead"
    UNKNOWN = "unknown"


class DiscoverySupport(StrEnum):
    """Whether a vendor lists its models: all (NATIVE), some (PARTIAL), or not at all."""

    NATIVE = "native"
    PARTIAL = "partial"
    NONE = "none"


class DiscoveryStatus(StrEnum):
    """How asking the vendor for its models went; STALE is an old list that could not be renewed."""

    OK = "ok"
    STALE = "stale"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class DiscoveryResult:
    """The models a vendor lists; `fetched_at` is a Unix time in seconds."""

    status: DiscoveryStatus
    slugs: frozenset[str] = frozenset()
    fetched_at: float | None = None
    source_url: str | None = None
    detail: str | None = None

    @classmethod
    def ok(cls, slugs: Iterable[str], *, source_url: str | None = None) -> Self:
        """The vendor answered just now."""
        return cls(
            DiscoveryStatus.OK,
            frozenset(slugs),
            fetched_at=datetime.now(UTC).timestamp(),
            source_url=source_url,
        )

    @classmethod
    def failed(cls, detail: str, *, source_url: str | None = None) -> Self:
        """The vendor could not be asked; `detail` holds no key and no URL with one."""
        return cls(DiscoveryStatus.FAILED, source_url=source_url, detail=detail)

    @classmethod
    def unsupported(cls, *, detail: str | None = None) -> Self:
        """The vendor has no list."""
        return cls(DiscoveryStatus.UNSUPPORTED, detail=detail)
