"""Ask whether a model exists: the registry, then the vendor's list, then a probe.

Answers of the vendor are believed for a time. That the vendor cannot be asked is never a reason to
refuse a model.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.providers.validation import (
    DiscoveryResult,
    DiscoveryStatus,
    DiscoverySupport,
    LiveProbeResult,
    ValidationResult,
    ValidationSource,
)

if TYPE_CHECKING:
    from genblaze_dagster.providers.model_spec import FamilyProbe, ModelFamily
    from genblaze_dagster.providers.models import ModelRegistry

_log = logging.getLogger(__name__)

# An answer that is this many seconds old still counts as one of now, and a vendor that could not be
# asked is left alone for as long: many models are checked in a row.
_MOMENT = 30.0
# Close names are looked for among that many, none longer than that.
_COMPARED = 1000
_COMPARED_CHARS = 80


class ProbeCache:
    """What probing models gave, for a time; of too many the longest unused goes.

    Args:
        ttl: seconds an answer is believed; 0 keeps nothing.
        max_entries: how many answers are kept.
        clock: seconds that only grow.

    Raises:
        ConfigError: a negative number.
    """

    def __init__(
        self,
        *,
        ttl: float = 3600.0,
        max_entries: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if ttl < 0 or max_entries < 0:
            raise ConfigError(
                f"a probe cache has a ttl of {ttl} s and {max_entries} entries; give 0 or more"
            )
        self._ttl = ttl
        self._max_entries = max_entries
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, LiveProbeResult]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, model_id: str) -> LiveProbeResult | None:
        """Return what is known about a model, None when nothing is any more."""
        with self._lock:
            entry = self._entries.get(model_id)
            if entry is None:
                return None
            if self._clock() - entry[0] >= self._ttl:
                del self._entries[model_id]
                return None
            self._entries.move_to_end(model_id)
            return entry[1]

    def put(self, model_id: str, result: LiveProbeResult) -> None:
        """Keep an answer; UNKNOWN is none."""
        if result is LiveProbeResult.UNKNOWN:
            return
        with self._lock:
            self._entries[model_id] = (self._clock(), result)
            self._entries.move_to_end(model_id)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)


class ModelChecks:
    """Checks the models of one provider; safe to use from many threads. Blocks while it asks.

    Args:
        models: the provider's registry.
        discover: asks the vendor for its models; None when it has no list.
        support: whether the list is complete.
        probe: asks the vendor about one model of a family; by default the family's own probe is
            called with the name.
        ttl: seconds that answers of the vendor are believed.
        max_entries: how many answers about single models are kept.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        models: "ModelRegistry",
        *,
        discover: Callable[[], DiscoveryResult] | None = None,
        support: DiscoverySupport = DiscoverySupport.NONE,
        probe: "Callable[[FamilyProbe, str], LiveProbeResult] | None" = None,
        ttl: float = 3600.0,
        max_entries: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._discover = discover
        self._support = DiscoverySupport.NONE if discover is None else support
        self._ask = probe or _call_probe
        self._ttl = ttl
        self._clock = clock
        self._probes = ProbeCache(ttl=ttl, max_entries=max_entries, clock=clock)
        self._list: tuple[float, DiscoveryResult] | None = None
        # Held while the vendor is asked, so that eight threads ask once.
        self._asking = threading.Lock()

    def discover_models(self, *, max_age_seconds: float | None = None) -> DiscoveryResult:
        """Return the vendor's models; of an answer younger than `max_age_seconds`, that one.

        Never raises: a failure is a result, STALE when an older list is there.
        """
        discover = self._discover
        if discover is None:
            return DiscoveryResult.unsupported(detail="the vendor has no list of models")
        max_age = self._ttl if max_age_seconds is None else max_age_seconds
        with self._asking:
            if self._list is not None:
                age = self._clock() - self._list[0]
                is_good = self._list[1].status is DiscoveryStatus.OK
                if age < (max_age if is_good else min(max_age, _MOMENT)):
                    return self._list[1]
            fresh = _discovered(discover)
            if fresh.status is not DiscoveryStatus.OK and self._list and self._list[1].slugs:
                fresh = replace(self._list[1], status=DiscoveryStatus.STALE, detail=fresh.detail)
            self._list = (self._clock(), fresh)
            return fresh

    def validate(self, model_id: str, *, refresh: bool = False) -> ValidationResult:
        """Say whether there is such a model.

        Args:
            model_id: any name the registry knows, or another.
            refresh: ask the vendor even about a registered model, and now.
        """
        if not refresh and self._models.is_registered(model_id):
            return check_model(self._models, model_id)
        listed = None
        if self._support is not DiscoverySupport.NONE:
            listed = self.discover_models(
                max_age_seconds=min(_MOMENT, self._ttl) if refresh else None
            )
        return check_model(
            self._models,
            model_id,
            discovery=listed,
            support=self._support,
            probe=lambda family, name: self._probe(family, name, refresh=refresh),
            vendor_first=refresh,
        )

    def _probe(self, family: "ModelFamily", model_id: str, *, refresh: bool) -> LiveProbeResult:
        if family.probe is None:
            return LiveProbeResult.UNKNOWN
        known = None if refresh else self._probes.get(model_id)
        if known is not None:
            return known
        try:
            found = LiveProbeResult(self._ask(family.probe, model_id))
        except Exception as exc:
            _log.warning("%s: its probe raised %s; taken as unknown", model_id, type(exc).__name__)
            return LiveProbeResult.UNKNOWN
        self._probes.put(model_id, found)
        return found


def check_model(
    models: "ModelRegistry",
    model_id: str,
    *,
    discovery: DiscoveryResult | None = None,
    support: DiscoverySupport = DiscoverySupport.NONE,
    probe: "Callable[[ModelFamily, str], LiveProbeResult] | None" = None,
    vendor_first: bool = False,
) -> ValidationResult:
    """Say whether there is such a model, with what is at hand.

    Args:
        models: the provider's registry.
        model_id: any name.
        discovery: the vendor's list, if it was asked for.
        support: whether that list is complete.
        probe: asks about one model of a family.
        vendor_first: believe the vendor more than what is registered.
    """
    registered = _registered(models, model_id)
    if registered is not None and not vendor_first:
        return registered
    answer = _listed(models, model_id, discovery, support) or _probed(models, model_id, probe)
    if answer is not None:
        return answer
    if registered is not None:
        return registered
    detail = "known to come and go; ask discover_models()" if models.is_unstable(model_id) else None
    match = models.match_family(model_id)
    if match is None:
        return ValidationResult.unknown_permissive(detail=detail)
    if match.family.discovery_required and detail is None:
        detail = "not confirmed by a list of the vendor"
    return ValidationResult.ok_provisional(family_name=match.family.name, detail=detail)


def _registered(models: "ModelRegistry", model_id: str) -> ValidationResult | None:
    if not models.is_registered(model_id):
        return None
    detail = None
    if models.is_deprecated(model_id):
        detail = f"deprecated; use {models.resolve_canonical(model_id)}"
    return ValidationResult.ok_authoritative(ValidationSource.USER, detail=detail)


def _listed(
    models: "ModelRegistry",
    model_id: str,
    discovery: DiscoveryResult | None,
    support: DiscoverySupport,
) -> ValidationResult | None:
    if discovery is None or not discovery.slugs:
        return None
    match = models.match_family(model_id)
    family_name = match.family.name if match is not None else None
    if not discovery.slugs.isdisjoint((model_id, models.resolve_canonical(model_id))):
        return ValidationResult.ok_authoritative(
            ValidationSource.DISCOVERY, family_name=family_name
        )
    is_complete = support is DiscoverySupport.NATIVE or (
        match is not None and match.family.discovery_required
    )
    # An old list may miss what is new, so its silence says nothing.
    if discovery.status is not DiscoveryStatus.OK or not is_complete:
        return None
    return ValidationResult.not_found(
        ValidationSource.DISCOVERY,
        family_name=family_name,
        detail="the vendor does not list it",
        suggested_slugs=_close(model_id, discovery.slugs),
    )


def _probed(
    models: "ModelRegistry",
    model_id: str,
    probe: "Callable[[ModelFamily, str], LiveProbeResult] | None",
) -> ValidationResult | None:
    match = models.match_family(model_id)
    if probe is None or match is None:
        return None
    found = probe(match.family, match.spec.model_id)
    if found is LiveProbeResult.LIVE:
        return ValidationResult.ok_authoritative(
            ValidationSource.PROBE, family_name=match.family.name
        )
    if found is LiveProbeResult.DEAD:
        return ValidationResult.not_found(
            ValidationSource.PROBE,
            family_name=match.family.name,
            detail="the vendor says there is no such model",
            suggested_slugs=_close(model_id, match.family.example_slugs),
        )
    return None


def _discovered(discover: Callable[[], DiscoveryResult]) -> DiscoveryResult:
    try:
        return discover()
    except Exception as exc:
        # Its message may hold a URL with a key.
        _log.warning("listing the models failed: %s", type(exc).__name__)
        return DiscoveryResult.failed(type(exc).__name__)


def _close(model_id: str, names: Iterable[str]) -> tuple[str, ...]:
    short = [name for name in sorted(names) if len(name) <= _COMPARED_CHARS][:_COMPARED]
    return tuple(get_close_matches(model_id[:_COMPARED_CHARS], short, n=3, cutoff=0.6))


def _call_probe(probe: "FamilyProbe", model_id: str) -> LiveProbeResult:
    return probe(model_id)
