"""Is a file what its manifest says? Verification, as a library and for the command line."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genblaze_dagster.trust.report import BytesVerdict as BytesVerdict
    from genblaze_dagster.trust.report import Check as Check
    from genblaze_dagster.trust.report import CheckName as CheckName
    from genblaze_dagster.trust.report import Finding as Finding
    from genblaze_dagster.trust.report import Status as Status
    from genblaze_dagster.trust.report import Verdict as Verdict
    from genblaze_dagster.trust.report import VerificationReport as VerificationReport
    from genblaze_dagster.trust.verification import averify as averify
    from genblaze_dagster.trust.verification import verify as verify

_EXPORTS = {
    "report": (
        "BytesVerdict",
        "Check",
        "CheckName",
        "Finding",
        "Status",
        "Verdict",
        "VerificationReport",
    ),
    "verification": ("averify", "verify"),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOME, key=str.lower)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
