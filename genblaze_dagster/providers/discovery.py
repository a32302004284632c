"""Provider classes that installed packages offer, by entry point."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from genblaze_dagster.net.redact import redact
from genblaze_dagster.providers.registry import ENTRY_POINT_GROUP, GENBLAZE_GROUP

_OURS = "genblaze-dagster"
_MAX_REASON = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BrokenEntryPoint:
    """A provider that a package declares but that cannot be had."""

    name: str
    group: str
    value: str
    package: str
    reason: str


def discover_providers(
    *, on_broken: Callable[[BrokenEntryPoint], None] | None = None
) -> dict[str, type[Any]]:
    """Import every installed provider class and return them by name, sorted.

    Of two with one name the first counts: ours, then the group `genblaze_dagster.providers` of
    other packages, then `genblaze.providers`. To get an instance of one, ask
    `resolve_provider(name)`, which imports nothing else.

    Args:
        on_broken: gets each entry point that cannot be imported or is no class; it is logged when
            left out.
    """
    report = on_broken or _log_broken
    found: dict[str, type[Any]] = {}
    for point in _declared():
        if point.name in found:
            continue
        loaded = _load(point)
        if isinstance(loaded, BrokenEntryPoint):
            report(loaded)
        else:
            found[point.name] = loaded
    return dict(sorted(found.items()))


def _declared() -> Iterator[EntryPoint]:
    yield from sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: _package(p) != _OURS)
    yield from entry_points(group=GENBLAZE_GROUP)


def _load(point: EntryPoint) -> type[Any] | BrokenEntryPoint:
    try:
        loaded = point.load()
    except (Exception, SystemExit) as exc:
        # A module that exits when imported must not take the program with it.
        return _broken(point, f"{type(exc).__name__}: {exc}")
    if not isinstance(loaded, type):
        return _broken(point, f"it is a {type(loaded).__name__}, not a class")
    return loaded


def _broken(point: EntryPoint, reason: str) -> BrokenEntryPoint:
    return BrokenEntryPoint(
        name=point.name,
        group=point.group,
        value=point.value,
        package=_package(point),
        reason=redact(reason, max_chars=_MAX_REASON),
    )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown package"


def _log_broken(broken: BrokenEntryPoint) -> None:
    _log.warning(
        "provider %r of %s (%s) cannot be used: %s",
        broken.name,
        broken.package,
        broken.value,
        broken.reason,
    )
