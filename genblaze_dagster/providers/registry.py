"""Providers by name: the built-in ones, registered ones, and entry points of other packages."""

import importlib
import threading
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from genblaze_dagster.errors import ConfigError, GenblazeError, UnknownProviderError
from genblaze_dagster.providers.catalogue import BUILT_IN
from genblaze_dagster.providers.protocol import Provider

ENTRY_POINT_GROUP = "genblaze_dagster.providers"
GENBLAZE_GROUP = "genblaze.providers"
"""Where packages for genblaze declare theirs."""

ProviderFactory = Callable[[], Any]
"""A provider class, or anything that returns a provider when called without arguments.

The provider may be written as in the genblaze guides; it is adapted.
"""

_registered: dict[str, ProviderFactory] = {}
_lock = threading.Lock()


def register_provider(name: str, factory: ProviderFactory) -> None:
    """Make a provider known under a name in this process; replaces an earlier one.

    Packages declare an entry point in the group `genblaze_dagster.providers` instead.
    """
    with _lock:
        _registered[name] = factory


def provider_names() -> tuple[str, ...]:
    """Return every known name, sorted. Nothing is imported."""
    with _lock:
        return tuple(sorted({*_registered, *BUILT_IN, *_installed()}))


def resolve_provider(name: str) -> Provider:
    """Return a new instance of the provider of that name, configured from the environment.

    A registered name wins over a built-in one, and that over other packages' entry points, of
    which those in the group `genblaze_dagster.providers` come before `genblaze.providers`.

    Raises:
        UnknownProviderError: no such name; lists close ones and how to add one.
        ConfigError: the provider cannot be imported or is not a provider.
    """
    factory = _factory(name)
    try:
        provider = factory()
    except TypeError as exc:
        raise ConfigError(
            f"provider {name!r} cannot be made without arguments; make it yourself and pass the "
            f"instance instead of the name: {exc}"
        ) from exc
    if isinstance(provider, Provider):
        return provider
    from genblaze_dagster.providers.adapter import adapt

    try:
        return adapt(provider)
    except ConfigError as exc:
        raise ConfigError(f"provider {name!r} cannot be used: {exc}") from exc


def _factory(name: str) -> ProviderFactory:
    with _lock:
        registered = _registered.get(name)
        built_in = BUILT_IN.get(name)
        installed = None if registered or built_in else _installed().get(name)
    if registered is not None:
        return registered
    if built_in is not None:
        module, _, attribute = built_in.partition(":")
        return getattr(importlib.import_module(module), attribute)
    if installed is None:
        raise _unknown(name)
    try:
        return installed.load()
    except GenblazeError:
        raise
    except Exception as exc:
        package = installed.dist.name if installed.dist else "unknown package"
        raise ConfigError(
            f"provider {name!r} of {package} ({installed.value}) cannot be imported: {exc}"
        ) from exc


@cache
def _installed() -> dict[str, EntryPoint]:
    # Reading the metadata of every installed package takes tens of milliseconds.
    groups = (GENBLAZE_GROUP, ENTRY_POINT_GROUP)
    return {point.name: point for group in groups for point in entry_points(group=group)}


def _unknown(name: str) -> UnknownProviderError:
    known = provider_names()
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return UnknownProviderError(
        f"provider {name!r} is not known; {hint}known: {', '.join(known)}. A package adds one by "
        f"an entry point in the group {ENTRY_POINT_GROUP!r}, a program by register_provider()"
    )
