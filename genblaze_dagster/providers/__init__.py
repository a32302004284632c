"""Providers: one interface, one module or package per vendor. Names are imported on first use."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genblaze_dagster.providers.local import LocalProvider
    from genblaze_dagster.providers.openai import DalleProvider
    from genblaze_dagster.providers.protocol import (
        GenerationRequest,
        InputMedia,
        JobState,
        JobStatus,
        Output,
        Provider,
        Result,
        Submission,
    )
    from genblaze_dagster.providers.registry import register_provider, resolve_provider

_EXPORTS = {
    "DalleProvider": "openai",
    "GenerationRequest": "protocol",
    "InputMedia": "protocol",
    "JobState": "protocol",
    "JobStatus": "protocol",
    "LocalProvider": "local",
    "Output": "protocol",
    "Provider": "protocol",
    "Result": "protocol",
    "Submission": "protocol",
    "register_provider": "registry",
    "resolve_provider": "registry",
}

__all__ = [
    "DalleProvider",
    "GenerationRequest",
    "InputMedia",
    "JobState",
    "JobStatus",
    "LocalProvider",
    "Output",
    "Provider",
    "Result",
    "Submission",
    "register_provider",
    "resolve_provider",
]


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
